"""Fake quantisation against NumPy and tfmot; its training; its losses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.rounding import FakeQuantization, WeightRounding
from tests.mobile.conftest import build_step, take, train
from tests.mobile.networks import classifier, random_batch, small_config


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def inputs_of(arrays) -> dict[str, np.ndarray]:
    return {name: rows for name, rows in arrays.items() if name != "labels"}


def test_kernels_round_to_127_steps_a_channel(rng):
    kernel = rng.normal(0.0, [0.01, 1.0, 0.0, 30.0], (16, 4))
    kernel = kernel.astype(np.float32)
    found = WeightRounding().kernel(tf.constant(kernel)).numpy()
    scale = np.abs(kernel).max(0) / 127.0
    scale[2] = 1.0
    steps = found / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert np.abs(found - kernel).max(0) == pytest.approx(
        np.abs(np.round(kernel / scale) * scale - kernel).max(0), abs=1e-6
    )
    assert np.abs(steps).max() == pytest.approx(127.0)


def test_activations_round_to_256_steps_around_an_exact_zero(rng):
    tensor = rng.normal(0.5, 1.0, (50, 8)).astype(np.float32)
    low, high = np.float32(-1.3), np.float32(2.9)
    rounding = FakeQuantization({"x": tf.constant([low, high])})
    found = rounding.activation("x", tf.constant(tensor)).numpy()
    scale = (high - low) / 255.0
    zero_point = np.round(-low / scale)
    steps = np.clip(np.round(tensor / scale) + zero_point, 0, 255)
    wanted = (steps - zero_point) * scale
    # Ties may fall to either side.
    assert np.mean(np.abs(found - wanted) < 1e-5) > 0.99
    assert np.abs(found - wanted).max() < 1.01 * scale
    assert rounding.activation("x", tf.zeros(3)).numpy().tolist() == [0, 0, 0]


class TfmotLayer:
    """What tfmot's quantisers ask of a layer: raw variables on request."""

    def add_weight(self, name, shape=(), initializer=None, trainable=False):
        value = 0.0 if initializer is None else initializer.value
        shape = () if shape is None else (shape,) if shape else ()
        return tf.Variable(tf.fill(shape, value), trainable, name=name)


@pytest.mark.filterwarnings("ignore")
def test_numbers_are_those_of_tfmot(rng):
    tfmot = pytest.importorskip("tensorflow_model_optimization")
    quantizers = tfmot.quantization.keras.quantizers
    kernel = tf.constant(rng.normal(0.0, 0.3, (24, 6)), tf.float32)
    last = quantizers.LastValueQuantizer(
        num_bits=8, per_axis=True, symmetric=True, narrow_range=True
    )
    weights = last.build(kernel.shape, "kernel", TfmotLayer())
    wanted = last(kernel, training=True, weights=weights)
    np.testing.assert_array_equal(WeightRounding().kernel(kernel), wanted)

    config = small_config(num_hidden_layers=1)
    quantized = QuantizationAwareModel(
        deployment_model(classifier(config, rng))
    )
    quantized.calibrate([random_batch(config, rng) for _ in range(3)])
    for is_symmetric in (False, True):
        all_values = quantizers.AllValuesQuantizer(
            num_bits=8,
            per_axis=False,
            symmetric=is_symmetric,
            narrow_range=False,
        )
        weights = all_values.build((), "tensor", TfmotLayer())
        tensors = tf.constant(rng.normal(0.3, 1.0, (4, 9, 5)), tf.float32)
        for tensor in tensors:
            all_values(tensor, training=True, weights=weights)
        wanted = all_values(tensors, training=False, weights=weights)
        limits = quantized._usable(
            np.full(len(quantized._names), tensors.numpy().min()),
            np.full(len(quantized._names), tensors.numpy().max()),
        )
        index = int(np.argmax(quantized._symmetric == is_symmetric))
        rounding = FakeQuantization({"x": tf.constant(limits[index])})
        found = rounding.activation("x", tensors)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_ranges_are_the_extremes_over_all_batches(rng):
    config = small_config(num_hidden_layers=1)
    model = classifier(config, rng)
    quantized = QuantizationAwareModel(deployment_model(model))
    assert not quantized.is_calibrated
    batches = [random_batch(config, rng) for _ in range(3)]
    quantized.calibrate(iter(batches))
    assert quantized.is_calibrated
    ranges = dict(zip(quantized._names, quantized.ranges.numpy(), strict=True))
    logits = np.concatenate([model(batch) for batch in batches])
    wanted = [min(logits.min(), 0.0), max(logits.max(), 0.0)]
    np.testing.assert_allclose(ranges["head"], wanted, rtol=1e-4)
    table = model.encoder.embeddings.word_embeddings.numpy()
    assert ranges["embeddings/words"].tolist() == [table.min(), table.max()]
    low, high = ranges["block_00/attention/value"]
    assert -low / high == pytest.approx(128.0 / 127.0)


def test_calibration_refuses_nothing_and_nan(rng):
    config = small_config(num_hidden_layers=1)
    model = classifier(config, rng)
    with pytest.raises(ValueError, match="at least one batch"):
        QuantizationAwareModel(deployment_model(model)).calibrate([])
    model.encoder.blocks[0].attention.query.bias.assign(np.full(32, np.nan))
    quantized = QuantizationAwareModel(deployment_model(model))
    with pytest.raises(ValueError, match="attention/query is not finite"):
        quantized.calibrate([random_batch(config, rng)])


def test_loss_is_half_labels_half_float_model(calibrated, trained, test_arrays):
    quantized = calibrated()
    batch = take(test_arrays, slice(0, 32))
    terms = {
        name: float(term)
        for name, term in quantized.compute_loss(batch).items()
    }
    log_probs = log_softmax(quantized(**inputs_of(batch)).numpy())
    task = -log_probs[np.arange(32), batch["labels"]].mean()
    teacher = np.exp(log_softmax(trained(inputs_of(batch)).numpy()))
    distillation = -(teacher * log_probs).sum(-1).mean()
    assert terms["task_loss"] == pytest.approx(task, rel=1e-4)
    assert terms["distillation_loss"] == pytest.approx(distillation, rel=1e-4)
    assert terms["loss"] == pytest.approx((task + distillation) / 2, rel=1e-4)
    alone = QuantizationAwareModel(quantized.deployment)
    alone.ranges.assign(quantized.ranges)
    terms = alone.compute_loss(batch)
    assert list(terms) == ["loss"]
    assert float(terms["loss"]) == pytest.approx(task, rel=1e-4)


def test_regression_and_spans_have_losses(rng):
    config = small_config(num_hidden_layers=1)
    scorer = mb.MobileBertForSequenceClassification(config, ["score"])
    batch = random_batch(config, rng)
    quantized = QuantizationAwareModel(deployment_model(scorer), scorer)
    quantized.calibrate([batch])
    labels = np.array([0.5, -1.0, 2.0, 0.0], np.float32)
    terms = quantized.compute_loss(batch | {"labels": labels})
    wanted = np.square(quantized(**batch).numpy()[:, 0] - labels).mean()
    assert float(terms["task_loss"]) == pytest.approx(wanted, rel=1e-5)
    spans = mb.MobileBertForQuestionAnswering(config)
    quantized = QuantizationAwareModel(deployment_model(spans), spans)
    quantized.calibrate([batch])
    positions = {
        "start_positions": np.array([0, 1, 2, 1]),
        "end_positions": np.array([2, 2, 2, 1]),
    }
    terms = quantized.compute_loss(batch | positions)
    log_probs = log_softmax(np.moveaxis(quantized(**batch).numpy(), -1, 0))
    wanted = np.mean(
        [
            -log_probs[kind][np.arange(4), rows].mean()
            for kind, rows in enumerate(positions.values())
        ]
    )
    assert float(terms["task_loss"]) == pytest.approx(wanted, rel=1e-5)


def test_tags_have_losses_and_features_have_none(rng):
    config = small_config(num_hidden_layers=1)
    batch = random_batch(config, rng)
    tagger = mb.MobileBertForTokenClassification(config, ["a", "b"])
    quantized = QuantizationAwareModel(deployment_model(tagger), tagger)
    quantized.calibrate([batch])
    tags = {
        "labels": rng.integers(0, 2, batch["input_ids"].shape),
        "label_weights": batch["input_mask"] * (batch["input_ids"] % 2),
    }
    terms = quantized.compute_loss(batch | tags)
    log_probs = log_softmax(quantized(**batch).numpy())
    counted = tags["label_weights"] > 0
    own = np.take_along_axis(log_probs, tags["labels"][..., None], -1)[..., 0]
    wanted = -own[counted].mean()
    assert float(terms["task_loss"]) == pytest.approx(wanted, rel=1e-5)
    teacher = np.exp(log_softmax(np.asarray(tagger(batch))))
    wanted = -np.sum(teacher * log_probs, axis=-1)[counted].mean()
    assert float(terms["distillation_loss"]) == pytest.approx(wanted, rel=1e-5)
    encoder = mb.MobileBertEncoder(config)
    quantized = QuantizationAwareModel(deployment_model(encoder))
    quantized.calibrate([batch])
    with pytest.raises(ValueError, match="Received: features"):
        quantized.compute_loss(batch)


def test_the_teacher_and_the_ranges_are_not_trained(calibrated, trained):
    quantized = calibrated()
    names = {variable.name for variable in quantized.trainable_variables}
    assert names == {f"{name}:0" for name in quantized.deployment.weights}
    kept = {id(variable) for variable in quantized.variables}
    assert id(quantized.ranges) in kept
    assert not kept & {id(v.value) for v in trained.variables}


def test_training_stays_finite_and_accurate(
    calibrated, train_arrays, test_arrays
):
    quantized = calibrated()
    variables = quantized.trainable_variables
    begin = [variable.numpy() for variable in variables]
    optimizer = keras.optimizers.Adam(1e-4)
    step = build_step(
        lambda batch: quantized.compute_loss(batch)["loss"],
        variables,
        optimizer,
    )
    for seed in range(3):
        for learning_rate in (1e-4, 1e-3):
            for variable, value in zip(variables, begin, strict=True):
                variable.assign(value)
            for slot in optimizer.variables:
                slot.assign(tf.zeros_like(slot.value))
            optimizer.learning_rate.assign(learning_rate)
            losses = train(step, train_arrays, 20, seed)
            assert np.isfinite(losses).all()
            logits = quantized(**inputs_of(test_arrays)).numpy()
            accuracy = (logits.argmax(1) == test_arrays["labels"]).mean()
            assert accuracy > 0.95, (seed, learning_rate)
