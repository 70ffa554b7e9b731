"""A pre-training task of seconds, for the tests of steps and devices.

Run as a program, it trains on two devices or as one of several processes:
`python -m tests.training.toy_pretraining KIND FOLDER`.
"""

import contextlib
import sys

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.training.devices import open_devices
from mobilebert_tf.training.optimizers import Lamb, WarmupPolynomialDecay
from mobilebert_tf.training.options import DeviceOptions, StepOptions
from mobilebert_tf.training.pretraining import pretraining_loss
from mobilebert_tf.training.step import TrainStep
from tests import tiny

NUM_STEPS = 6
PREDICTIONS = 4
# Batch sizes and step options. Two devices share five examples unevenly, and
# one of them gets none of one.
MIRRORED = {
    5: StepOptions(),
    1: StepOptions(),
    12: StepOptions(accumulation_steps=3, steps_per_execution=4),
}
MULTI_WORKER = {6: StepOptions()}


@contextlib.contextmanager
def eagerly():
    """For a few steps, tracing would take most of the time."""
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(False)


def batch(step, batch_size=6):
    """A batch whose first half has no masked position, the last one many."""
    rng = np.random.default_rng(step)
    used = rng.integers(0, PREDICTIONS + 1, (batch_size, 1))
    used[: batch_size // 2] = 0
    used[-1] = PREDICTIONS
    examples = tiny.pretraining_batch(
        step, rng.integers(6, 13, batch_size), 12, PREDICTIONS
    )
    weights = (np.arange(PREDICTIONS) < used).astype("float32")
    return examples | {"masked_lm_weights": weights}


def build_model(dropout=0.0):
    keras.utils.set_random_seed(1)
    config = tiny.student_config(
        num_hidden_layers=1,
        num_feedforward_networks=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return tiny.pretraining_model(config)


def build_step(model, options=StepOptions()):
    """LAMB whose clipping is active: the norms are above 0.1."""
    optimizer = Lamb(
        WarmupPolynomialDecay(1e-2, 20, 3), global_clipnorm=0.1, decay_rate=0.01
    )
    return TrainStep(
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


def values(variables):
    return [variable.numpy() for variable in variables]


def check_spoilt_step(step, model, batch_size):
    """A step with a loss of NaN changes nothing, on no device."""
    variables = [*model.variables, *step.optimizer.variables]
    before = values(variables)
    spoilt = batch(0, batch_size)
    spoilt["masked_lm_weights"] *= np.float32(np.nan)
    found, _ = step.run([spoilt])
    assert np.isnan(found.numpy()[0, 0])
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, variable.path)


def run_case(distribution, options, batch_size, path):
    """Trains, checks that all devices agree, and writes values and weights."""
    with distribution.scope():
        model = build_model()
        step = build_step(model, options)
    rows = train(step, batch_size)
    for variable in model.trainable_variables:
        copies = distribution.strategy.experimental_local_results(
            variable.value
        )
        for copy in copies:
            np.testing.assert_array_equal(copy.numpy(), copies[0].numpy())
    weights = {v.path: v.numpy() for v in model.trainable_variables}
    if not distribution.spans_processes:
        check_spoilt_step(step, model, batch_size)
    np.savez(path, rows=rows, **weights)


def check_dropout(distribution):
    """Replicas draw masks of their own; the first draws one device's."""
    with distribution.scope():
        dropout = keras.layers.Dropout(0.5, seed=3)

    @tf.function(autograph=False)
    def mask(ones):
        return distribution.run(lambda x: dropout(x, training=True), ones)

    ones = np.ones((2, 64), "float32")
    ones = distribution.distribute({"ones": ones})["ones"]
    results = distribution.strategy.experimental_local_results
    masks = [values(results(mask(ones))) for _ in range(8)]
    alone = keras.layers.Dropout(0.5, seed=3)
    for first, second in masks:
        expected = alone(np.ones((1, 64), "float32"), training=True)
        np.testing.assert_array_equal(first, expected)
        assert 10 < (first != second).sum() < 54, (first, second)
    # Nor does any replica repeat a mask of another step.
    drawn = {part.tobytes() for parts in masks for part in parts}
    assert len(drawn) == 8 * 2
    first, second = values(results(dropout.variables[0].value))
    np.testing.assert_array_equal(first, second)


def main(kind, folder):
    num_devices, cases = {
        "mirrored": (2, MIRRORED),
        "multi_worker": (1, MULTI_WORKER),
    }[kind]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * num_devices,
    )
    distribution = open_devices(DeviceOptions(kind))
    if kind == "mirrored":
        check_dropout(distribution)
        assert distribution.total(3) == 3
    else:
        # The chief counts as 5, the other as 2.
        assert distribution.total(5 if distribution.is_chief else 2) == 7
    for size, options in cases.items():
        run_case(distribution, options, size, f"{folder}/{size}.npz")


if __name__ == "__main__":
    main(*sys.argv[1:])
