"""One small task learned once, and the files made from it, for all tests."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.export import KINDS, export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.modeling.losses import classification_loss
from tests.mobile.networks import small_config

LENGTH = 20
CALIBRATION_EXAMPLES = 256


def counting_task(num: int, rng) -> dict[str, np.ndarray]:
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


def take(arrays, rows) -> dict[str, np.ndarray]:
    return {name: array[rows] for name, array in arrays.items()}


def build_step(compute_loss, variables, optimizer):
    """A compiled training step, clipped as fine-tuning is."""
    optimizer.build(variables)

    @tf.function
    def step(batch):
        with tf.GradientTape() as tape:
            loss = compute_loss(batch)
        gradients = tape.gradient(loss, variables)
        gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
        optimizer.apply(gradients, variables)
        return loss

    return step


def train(step, arrays, num_steps, seed, size=64) -> list[float]:
    """Takes steps on random batches; returns their losses."""
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(num_steps):
        batch = take(arrays, rng.integers(0, len(arrays["labels"]), size))
        batch = {name: tf.constant(rows) for name, rows in batch.items()}
        losses.append(float(step(batch)))
    return losses


@pytest.fixture(scope="session")
def train_arrays():
    return counting_task(8000, np.random.default_rng(1))


@pytest.fixture(scope="session")
def test_arrays():
    return counting_task(1000, np.random.default_rng(2))


@pytest.fixture(scope="session")
def trained(train_arrays) -> mb.MobileBertForSequenceClassification:
    """A two-block student that has learned the task."""
    keras.utils.set_random_seed(3)
    config = small_config(
        num_hidden_layers=2,
        attention_mask_value=-10000.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
    )
    model = mb.MobileBertForSequenceClassification(config, ["second", "first"])

    def compute_loss(batch):
        return classification_loss(model(batch, training=True), batch["labels"])

    optimizer = keras.optimizers.Adam(2e-3)
    variables = [v.value for v in model.trainable_variables]
    train(build_step(compute_loss, variables, optimizer), train_arrays, 250, 4)
    return model


def train_under_quantization(quantized, train_arrays) -> None:
    """Trains a calibrated model for 40 steps."""
    step = build_step(
        lambda batch: quantized.compute_loss(batch)["loss"],
        quantized.trainable_variables,
        keras.optimizers.Adam(3e-4),
    )
    train(step, train_arrays, 40, 5)


@pytest.fixture(scope="session")
def calibrated(trained, train_arrays):
    """Returns a maker of calibrated, untrained quantised models."""

    def make() -> QuantizationAwareModel:
        quantized = QuantizationAwareModel(deployment_model(trained), trained)
        quantized.calibrate(
            take(train_arrays, slice(begin, begin + 64))
            for begin in range(0, CALIBRATION_EXAMPLES, 64)
        )
        return quantized

    return make


@pytest.fixture(scope="session")
def quantized(calibrated, train_arrays) -> QuantizationAwareModel:
    """The same student after quantisation-aware training."""
    model = calibrated()
    train_under_quantization(model, train_arrays)
    return model


@pytest.fixture(scope="session")
def files(
    trained, calibrated, quantized, train_arrays, tmp_path_factory
) -> dict:
    """Kind to .tflite file of the trained student."""
    folder = tmp_path_factory.mktemp("tflite")
    models = {"int8": calibrated(), "int8_qat": quantized}
    for kind in KINDS:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "no accelerated delegate")
            export_tflite(
                trained,
                kind,
                folder / f"{kind}.tflite",
                max_seq_length=LENGTH,
                quantized=models.get(kind),
                calibration=[take(train_arrays, slice(0, 64))],
            )
    return {kind: folder / f"{kind}.tflite" for kind in KINDS}
