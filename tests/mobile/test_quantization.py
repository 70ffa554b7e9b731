"""Fake quantisation against NumPy; its training, rates and ranges."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import (
    Quantized,
    RangeFollower,
    RelativeAdamW,
    build_optimizer,
    keep_better,
    typical_sizes,
)
from mobilebert_tf.mobile.rounding import FakeQuantization, WeightRounding
from mobilebert_tf.training.optimizers import AdamW
from tests import tiny
from tests.mobile.conftest import CountingTask, inputs_of, train
from tests.mobile.test_folding import random_classifier


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


def test_all_weights_are_trained_and_ranges_are_not(make_quantized):
    quantized = make_quantized()
    names = [variable.name for variable in quantized.trainable_variables]
    assert names == sorted(f"{name}:0" for name in quantized.folded.arrays)
    assert not quantized.ranges.trainable


def test_activations_without_a_range_are_one_line(make_quantized):
    folded = fold(tiny.classifier())
    with pytest.raises(InputError) as error:
        Quantized(folded, {})
    number = len(make_quantized().names)
    assert str(error.value) == (
        "int8 export, embeddings/words: expected ranges calibrated on real "
        f"examples, found none for {number} of {number} activations"
    )
    ranges = calibrate(folded, [tiny.batch()])
    ranges["head"] = (0.0, np.nan)
    with pytest.raises(InputError, match=f"head: .* none for 1 of {number} "):
        Quantized(folded, ranges)


def test_training_stays_finite_and_accurate(
    make_quantized, train_arrays, test_arrays
):
    for learning_rate in (1e-4, 1e-3):
        quantized, task = make_quantized(), CountingTask()
        losses = train(
            lambda batch: task.loss(quantized(inputs_of(batch)), batch),
            quantized.trainable_variables,
            keras.optimizers.Adam(learning_rate),
            train_arrays,
            20,
            seed=1,
        )
        assert np.isfinite(losses).all()
        logits = quantized(inputs_of(test_arrays)).numpy()
        accuracy = (logits.argmax(1) == test_arrays["labels"]).mean()
        assert accuracy > 0.95, learning_rate


def test_ranges_follow_the_weights(rng):
    folded = fold(random_classifier(rng, num_hidden_layers=1))
    batches = [tiny.batch(rng) for _ in range(3)]
    quantized = Quantized(folded, calibrate(folded, batches))
    follower = RangeFollower(quantized, batches[0])
    begin = quantized.ranges.numpy()
    # Weights that stay leave the ranges where they are.
    follower.follow()
    np.testing.assert_allclose(quantized.ranges, begin, rtol=1e-6)
    for part in ("kernel", "bias"):
        weight = quantized.weights[f"head/{part}"]
        weight.assign(1.5 * weight)
    follower.follow(rate=0.5)
    wanted = begin.copy()
    wanted[quantized.names.index("head")] *= 1.25
    np.testing.assert_allclose(quantized.ranges, wanted, rtol=1e-5)
    # What is not finite moves nothing, not even back.
    weight.assign(np.full(3, np.nan))
    follower.follow(rate=1.0)
    np.testing.assert_allclose(quantized.ranges, wanted, rtol=1e-5)


@pytest.mark.parametrize(("factor", "followed"), [(100.0, 2.0), (0.01, 0.5)])
def test_ranges_follow_to_twice_or_half_the_calibrated_ones(
    factor, followed, rng
):
    folded = fold(random_classifier(rng, num_hidden_layers=1))
    batch = tiny.batch(rng)
    quantized = Quantized(folded, calibrate(folded, [batch]))
    follower, begin = RangeFollower(quantized, batch), quantized.ranges.numpy()
    for part in ("kernel", "bias"):
        weight = quantized.weights[f"head/{part}"]
        weight.assign(factor * weight)
    for _ in range(2):
        follower.follow(rate=1.0)
    wanted = begin.copy()
    wanted[quantized.names.index("head")] *= followed
    np.testing.assert_allclose(quantized.ranges, wanted, rtol=1e-5)


def test_ranges_follow_in_the_first_half_and_then_freeze(
    make_quantized, calibration, monkeypatch
):
    follower, calls = RangeFollower(make_quantized(), calibration[0]), []
    monkeypatch.setattr(follower, "follow", lambda: calls.append(True))

    def steps_measured(start):
        steps = []
        for step in follower.batches(range(start, 60), start, 60):
            if calls:
                steps.append(step)
                calls.clear()
        return steps

    assert steps_measured(0) == [10, 20]
    # A run that is resumed at step 15 measures what is left.
    assert steps_measured(15) == [20]


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing(make_quantized):
    weights = make_quantized().weights
    optimizer = build_optimizer(weights, typical_sizes(weights), 1e-3, 100)
    rates = [float(optimizer._learning_rate(step)) for step in range(101)]
    assert np.argmax(rates) in (9, 10)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[50] == pytest.approx(5e-4)
    assert rates[100] == 0.0


def test_a_training_that_increased_the_loss_is_undone(
    make_quantized, trained, calibration
):
    quantized, task = make_quantized(), CountingTask()

    def compute_loss(batch):
        return task.terms(quantized(inputs_of(batch)), batch)

    def state():
        variables = [*quantized.trainable_variables, quantized.ranges]
        return [variable.numpy() for variable in variables]

    before = state()
    assert keep_better(quantized, before, calibration, compute_loss)
    head, ranges = quantized.weights["head/kernel"], quantized.ranges
    good, good_ranges = head.numpy(), ranges.numpy()
    for bad in (-good, np.full_like(good, np.nan)):
        head.assign(bad)
        ranges.assign(2.0 * good_ranges)
        assert not keep_better(quantized, before, calibration, compute_loss)
        np.testing.assert_array_equal(head, good)
        np.testing.assert_array_equal(ranges, good_ranges)
    # From a worse one it is kept.
    head.assign(-good)
    worse = state()
    head.assign(good)
    assert keep_better(quantized, worse, calibration, compute_loss)
    np.testing.assert_array_equal(head, good)


def variables(**arrays) -> dict[str, tf.Variable]:
    return {
        name.replace("_", "/"): tf.Variable(np.asarray(array, np.float32))
        for name, array in arrays.items()
    }


def size(sizes, name) -> np.ndarray:
    return np.prod(np.broadcast_arrays(*sizes[name]), axis=0)


def test_sizes_are_those_of_rows_and_columns():
    sizes = typical_sizes(
        variables(
            a_kernel=[[3.0, 4.0], [0.0, 0.0]],
            a_bias=[2.0, -2.0],
            b_kernel=[[1.0, 10.0], [-1.0, 10.0]],
            b_bias=[0.0, 0.0],
            gamma=[3.0, 4.0],
        )
    )
    # Rows 5 / sqrt 2 and 0, columns 3 / sqrt 2 and 4 / sqrt 2, all of it 2.5.
    for name, wanted in {
        "a/kernel": [[3.0, 4.0], [0.0, 0.0]],
        "a/bias": np.array([3.0, 4.0]) / np.sqrt(2) * 2.0 / 2.5,
        "b/kernel": [[1.0, 10.0], [1.0, 10.0]],
        # A bias of zeros has the size of its kernel.
        "b/bias": [1.0, 10.0],
        "gamma": np.sqrt(12.5),
    }.items():
        np.testing.assert_allclose(size(sizes, name), wanted, rtol=1e-6)


def test_the_first_step_is_the_rate_times_the_size(rng):
    weights = variables(a_kernel=rng.normal(size=(5, 3)), a_bias=np.ones(3))
    sizes = typical_sizes(weights)
    before = {name: weight.numpy() for name, weight in weights.items()}
    optimizer = RelativeAdamW(
        0.01, weights, sizes, decay_rate=0.0, bias_correction=True
    )
    gradients = {
        name: rng.choice([-1.0, 1.0], weight.shape).astype(np.float32)
        for name, weight in weights.items()
    }
    optimizer.apply(
        [tf.constant(gradient) for gradient in gradients.values()],
        list(weights.values()),
    )
    for name, weight in weights.items():
        moved = before[name] - weight.numpy()
        wanted = 0.01 * gradients[name] * size(sizes, name)
        np.testing.assert_allclose(moved, wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_a_rescaled_channel_trains_as_before(kind, rng):
    """Only relative steps do not depend on how a channel is scaled."""
    inputs = rng.normal(size=(64, 8)).astype(np.float32)
    kernel = rng.normal(size=(8, 4)).astype(np.float32)
    targets = inputs @ rng.normal(size=(8, 4)).astype(np.float32)
    scales = np.array([1, 1, 1, 1, 1e-2, 1e-2, 1e2, 1e2], np.float32)

    def trained(scale):
        weights = variables(a_kernel=kernel * scale[:, None])
        variable = weights["a/kernel"]
        settings = {"decay_rate": 0.0, "bias_correction": True}
        optimizer = AdamW(0.02, **settings)
        if kind == "relative":
            sizes = typical_sizes(weights)
            optimizer = RelativeAdamW(0.02, weights, sizes, **settings)
        for _ in range(20):
            with tf.GradientTape() as tape:
                outputs = (inputs / scale) @ variable
                loss = tf.reduce_mean(tf.square(outputs - targets))
            optimizer.apply(tape.gradient(loss, [variable]), [variable])
        return float(loss), variable.numpy() / scale[:, None]

    start = float(np.mean((inputs @ kernel - targets) ** 2))
    loss, weights = trained(np.ones(8, np.float32))
    rescaled_loss, rescaled = trained(scales)
    moved = np.abs(weights - kernel).mean()
    apart = np.abs(rescaled - weights).mean()
    assert loss < 0.95 * start
    if kind == "relative":
        assert rescaled_loss < 0.95 * start
        assert apart < 0.4 * moved
    else:
        assert apart > 0.8 * moved
