"""One small task, a model that learned it, and its files, for all tests."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.config import inputs_of
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.options import INTEGER_KINDS, KINDS
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.modeling.losses import (
    classification_loss,
    kl_divergence,
    mean,
)
from mobilebert_tf.tasks.task import Task
from tests import tiny

LENGTH = 20


def take(arrays, rows) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in arrays.items()}


def counting_examples(num: int, rng) -> dict[str, np.ndarray]:
    """Do pieces 4 to 23 or pieces 24 to 43 occur more often?

    Other pieces do not count. Close calls make it a task on which errors of
    rounding would show.
    """
    lengths = rng.integers(10, LENGTH + 1, num)
    mask = np.arange(LENGTH) < lengths[:, None]
    ids = rng.integers(4, 64, (num, LENGTH)) * mask
    ids[:, 0] = 2
    first = ((ids >= 4) & (ids < 24)).sum(1)
    second = ((ids >= 24) & (ids < 44)).sum(1)
    arrays = {
        "input_ids": ids,
        "input_mask": mask,
        "segment_ids": np.zeros_like(ids),
        "labels": first > second,
    }
    decided = first != second
    return {name: a[decided].astype(np.int32) for name, a in arrays.items()}


class CountingTask(Task):
    """What the phone's stages need to know of counting pieces."""

    title = "Counter"
    chosen_by = ("accuracy",)
    # Nothing here reads, encodes, opens or writes.
    model_class_name = read = open = encode_splits = encode = None
    answers = write = None

    def __init__(self, **splits):
        self.splits = splits

    def loss(self, outputs, batch):
        return classification_loss(outputs, batch["labels"])

    def distillation_loss(self, outputs, teacher_outputs, batch, temperature):
        return mean(kl_divergence(outputs, teacher_outputs, temperature))

    def metrics(self, outputs, split):
        labels = self.splits[split]["labels"]
        return {"accuracy": float((outputs.argmax(-1) == labels).mean())}


def train(compute_loss, variables, optimizer, arrays, num_steps, seed):
    """Takes compiled, clipped steps on random batches; returns their losses."""
    optimizer.build(variables)
    rng = np.random.default_rng(seed)

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            loss = compute_loss(batch)
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply(gradients, variables)
        return loss

    return [
        float(step(take(arrays, rng.integers(0, len(arrays["labels"]), 64))))
        for _ in range(num_steps)
    ]


@pytest.fixture(scope="session")
def train_arrays():
    return counting_examples(8000, np.random.default_rng(1))


@pytest.fixture(scope="session")
def test_arrays():
    return counting_examples(1000, np.random.default_rng(2))


@pytest.fixture(scope="session")
def calibration(train_arrays):
    """Four labelled batches of 64."""
    begins = range(0, 256, 64)
    return [take(train_arrays, slice(b, b + 64)) for b in begins]


@pytest.fixture(scope="session")
def trained(train_arrays):
    """A two-block student that has learned the task."""
    keras.utils.set_random_seed(3)
    model = tiny.classifier(("second", "first"), attention_mask_value=-10000.0)
    train(
        lambda batch: classification_loss(
            model(inputs_of(batch), training=True), batch["labels"]
        ),
        [variable.value for variable in model.trainable_variables],
        keras.optimizers.Adam(3e-3),
        train_arrays,
        300,
        4,
    )
    return model


@pytest.fixture(scope="session")
def make_quantized(trained, calibration):
    """Returns a maker of equalised, calibrated, untrained networks."""
    even = equalize(fold(trained), calibration)
    ranges = calibrate(even, calibration)
    return lambda: Quantized(even, ranges)


@pytest.fixture(scope="session")
def quantized(make_quantized, trained, train_arrays) -> Quantized:
    """The same student after forty steps of quantisation-aware training."""
    network, task = make_quantized(), CountingTask()

    def compute_loss(batch):
        inputs = inputs_of(batch)
        return task.terms(network(inputs), batch, trained(inputs))["loss"]

    optimizer = keras.optimizers.Adam(3e-4)
    variables = network.trainable_variables
    train(compute_loss, variables, optimizer, train_arrays, 40, 5)
    return network


@pytest.fixture(scope="session")
def files(trained, make_quantized, quantized, calibration, tmp_path_factory):
    """Kind to .tflite file of the trained student."""
    folder, folded = tmp_path_factory.mktemp("tflite"), fold(trained)
    networks = dict(
        zip(INTEGER_KINDS, (make_quantized(), quantized), strict=True)
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no accelerated delegate")
        return {
            kind: export(
                networks.get(kind, folded),
                folder / f"{kind}.tflite",
                LENGTH,
                kind,
                calibration=calibration[:1],
            )
            for kind in KINDS
        }
