"""Steps are shares of the weights, whatever their channels are scaled by."""

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.mobile.quantization import RelativeAdamW, typical_sizes
from mobilebert_tf.training.optimizers import AdamW


def variables(**arrays) -> dict[str, tf.Variable]:
    return {
        name.replace("_", "/"): tf.Variable(np.asarray(array, np.float32))
        for name, array in arrays.items()
    }


def size(sizes, name) -> np.ndarray:
    return np.prod(np.broadcast_arrays(*sizes[name]), axis=0)


def test_sizes_are_those_of_rows_and_columns():
    weights = variables(
        a_kernel=[[3.0, 4.0], [0.0, 0.0]],
        a_bias=[2.0, -2.0],
        b_kernel=[[1.0, 10.0], [-1.0, 10.0]],
        b_bias=[0.0, 0.0],
        gamma=[3.0, 4.0],
    )
    sizes = typical_sizes(weights)
    # Rows 5 / sqrt 2 and 0, columns 3 / sqrt 2 and 4 / sqrt 2, all of it 2.5.
    np.testing.assert_allclose(
        size(sizes, "a/kernel"), [[3.0, 4.0], [0.0, 0.0]], rtol=1e-6
    )
    columns = np.array([3.0, 4.0]) / np.sqrt(2)
    np.testing.assert_allclose(
        size(sizes, "a/bias"), columns * 2.0 / 2.5, rtol=1e-6
    )
    np.testing.assert_allclose(
        size(sizes, "b/kernel"), [[1.0, 10.0], [1.0, 10.0]], rtol=1e-6
    )
    # Of a bias that is zero, what a kernel's is.
    np.testing.assert_allclose(size(sizes, "b/bias"), [1.0, 10.0], rtol=1e-6)
    np.testing.assert_allclose(size(sizes, "gamma"), np.sqrt(12.5), rtol=1e-6)


def test_the_first_step_is_the_rate_times_the_size(rng):
    weights = variables(a_kernel=rng.normal(size=(5, 3)), a_bias=np.ones(3))
    sizes = typical_sizes(weights)
    before = {name: weight.numpy() for name, weight in weights.items()}
    optimizer = RelativeAdamW(
        0.01, weights, sizes, decay_rate=0.0, bias_correction=True
    )
    gradients = [
        tf.constant(rng.choice([-1.0, 1.0], weight.shape), tf.float32)
        for weight in weights.values()
    ]
    optimizer.apply(gradients, list(weights.values()))
    for gradient, (name, weight) in zip(
        gradients, weights.items(), strict=True
    ):
        np.testing.assert_allclose(
            before[name] - weight,
            0.01 * gradient.numpy() * size(sizes, name),
            rtol=1e-4,
        )


@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_a_rescaled_channel_trains_as_before(kind, rng):
    """Only relative steps do not care how a channel is scaled."""
    inputs = rng.normal(size=(64, 8)).astype(np.float32)
    kernel = rng.normal(size=(8, 4)).astype(np.float32)
    targets = inputs @ rng.normal(size=(8, 4)).astype(np.float32)
    scales = np.array([1, 1, 1, 1, 1e-2, 1e-2, 1e2, 1e2], np.float32)

    def trained(scale):
        weights = variables(a_kernel=kernel * scale[:, None])
        variable = weights["a/kernel"]
        optimizer = AdamW(0.02, decay_rate=0.0, bias_correction=True)
        if kind == "relative":
            optimizer = RelativeAdamW(
                0.02,
                weights,
                typical_sizes(weights),
                decay_rate=0.0,
                bias_correction=True,
            )
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
