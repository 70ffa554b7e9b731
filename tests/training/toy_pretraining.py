"""A pre-training task of a second, for the tests of step and strategies.

Run as a program, it is one process of a distributed training:
`python -m tests.training.toy_pretraining KIND DEVICES OPTIONS FILE`.
"""

import dataclasses
import json
import sys

import keras
import numpy as np
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.training.devices import open_distribution
from mobilebert_tf.training.optimizers import Lamb, WarmupPolynomialDecay
from mobilebert_tf.training.pretraining import pretraining_loss
from mobilebert_tf.training.step import StepOptions, build_train_step

NUM_STEPS = 10
VOCAB_SIZE, LENGTH, PREDICTIONS = 50, 12, 4


def batch(step, batch_size=6):
    """A batch whose first examples have no masked position, others many."""
    rng = np.random.default_rng(step)
    shape = (batch_size, LENGTH)
    lengths = rng.integers(6, LENGTH + 1, (batch_size, 1))
    used = rng.integers(0, PREDICTIONS + 1, (batch_size, 1))
    used[: batch_size // 2] = 0
    used[-1] = PREDICTIONS
    predictions = (batch_size, PREDICTIONS)
    return {
        "input_ids": rng.integers(5, VOCAB_SIZE, shape).astype("int32"),
        "input_mask": (np.arange(LENGTH) < lengths).astype("int32"),
        "segment_ids": rng.integers(0, 2, shape).astype("int32"),
        "masked_lm_positions": rng.integers(0, 6, predictions).astype("int32"),
        "masked_lm_ids": rng.integers(5, VOCAB_SIZE, predictions).astype(
            "int32"
        ),
        "masked_lm_weights": (np.arange(PREDICTIONS) < used).astype("float32"),
        "next_sentence_labels": rng.integers(0, 2, (batch_size, 1)).astype(
            "int32"
        ),
    }


def build_model(dropout=0.0):
    keras.utils.set_random_seed(1)
    config = dataclasses.replace(
        mb.MobileBertConfig.from_preset("mobilebert_small"),
        vocab_size=VOCAB_SIZE,
        num_hidden_layers=1,
        num_feedforward_networks=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return mb.MobileBertForPretraining(config)


def build_step(model, options=StepOptions()):
    """LAMB whose clipping is active: the norms are above 1."""
    optimizer = Lamb(
        WarmupPolynomialDecay(1e-2, 20, 3), global_clipnorm=0.1, decay_rate=0.01
    )
    return build_train_step(
        pretraining_loss(model), model.trainable_variables, optimizer, options
    )


def train(step, batch_size=6, num_steps=NUM_STEPS):
    """Takes the steps; returns their values, [steps, names]."""
    rows, size = [], step.options.steps_per_execution
    for start in range(0, num_steps, size):
        numbers = range(start, min(start + size, num_steps))
        batches = [batch(number, batch_size) for number in numbers]
        rows.append(step.run(batches)[0].numpy())
    return np.concatenate(rows)


def main(kind, devices, options, batch_size, path):
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(devices),
    )
    distribution = open_distribution(kind)
    with distribution.scope():
        model = build_model()
        step = build_step(model, StepOptions(**json.loads(options)))
    rows = train(step, int(batch_size))
    for variable in model.trainable_variables:
        copies = distribution.strategy.experimental_local_results(
            variable.value
        )
        for copy in copies:
            np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())
    weights = {v.path: v.numpy() for v in model.trainable_variables}
    np.savez(path, rows=rows, **weights)


if __name__ == "__main__":
    main(*sys.argv[1:])
