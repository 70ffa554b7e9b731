"""Our fake quantisation against tensorflow-model-optimization's own layers."""

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.mobile.calibration import usable_ranges
from mobilebert_tf.mobile.rounding import FakeQuantization, WeightRounding

tfmot = pytest.importorskip("tensorflow_model_optimization")
quantizers = tfmot.quantization.keras.quantizers

pytestmark = pytest.mark.filterwarnings("ignore")


class TfmotLayer:
    """What tfmot's quantisers ask of a layer: raw variables on request."""

    def add_weight(self, name, shape=(), initializer=None, trainable=False):
        value = 0.0 if initializer is None else initializer.value
        shape = () if shape is None else (shape,) if shape else ()
        return tf.Variable(tf.fill(shape, value), trainable, name=name)


def quantized_by(quantizer, tensor, weights=None):
    weights = weights or quantizer.build(tensor.shape, "tensor", TfmotLayer())
    return quantizer(tensor, training=True, weights=weights), weights


def weight_quantizer():
    return quantizers.LastValueQuantizer(
        num_bits=8, per_axis=True, symmetric=True, narrow_range=True
    )


def activation_quantizer(is_symmetric):
    return quantizers.AllValuesQuantizer(
        num_bits=8, per_axis=False, symmetric=is_symmetric, narrow_range=False
    )


def test_kernels_are_rounded_alike(rng):
    kernel = tf.constant(rng.normal(0.0, 0.3, (24, 6)), tf.float32)
    wanted, _ = quantized_by(weight_quantizer(), kernel)
    np.testing.assert_array_equal(WeightRounding().kernel(kernel), wanted)


@pytest.mark.parametrize("is_symmetric", [False, True])
def test_ranges_of_several_batches_are_alike(is_symmetric, rng):
    tensors = tf.constant(rng.normal(0.3, 1.0, (4, 9, 5)), tf.float32)
    quantizer, weights = activation_quantizer(is_symmetric), None
    for tensor in tensors:
        _, weights = quantized_by(quantizer, tensor, weights)
    wanted = quantizer(tensors, training=False, weights=weights)
    limits = np.array([[tensors.numpy().min(), tensors.numpy().max()]])
    ranges = usable_ranges(limits, [is_symmetric])
    rounding = FakeQuantization({"x": tf.constant(ranges[0])})
    found = rounding.activation("x", tensors)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_quantised_dense_layer_is_tfmots(rng):
    """tfmot's wrapper around a tf_keras layer, inputs and outputs quantised."""
    keras = pytest.importorskip("tf_keras")
    dense = keras.layers.Dense(6, "relu", name="dense", input_shape=(10,))
    kernel = rng.uniform(-0.9, 0.9, (10, 6)).astype(np.float32)
    # tfmot's default is one scale per kernel: all columns reach as far.
    kernel[rng.integers(0, 10, 6), np.arange(6)] = [1, -1, 1, 1, -1, 1]
    bias = rng.normal(0.0, 0.1, 6).astype(np.float32)
    layer = tfmot.quantization.keras.quantize_model(keras.Sequential([dense]))
    inputs = rng.normal(0.2, 1.0, (32, 10)).astype(np.float32)
    exact = np.maximum(inputs @ kernel + bias, 0.0)
    limits = [[x.min(), x.max()] for x in (inputs, exact, kernel)]
    ranges = usable_ranges(np.array(limits), [False, False, False])
    # tfmot keeps weights and ranges in variables; give it ours.
    parts = ("quantize_layer/quantize_layer", "post_activation", "kernel")
    for variable in layer.variables:
        for part, (low, high) in zip(parts, ranges, strict=True):
            if variable.name.endswith(f"{part}_min:0"):
                variable.assign(low)
            if variable.name.endswith(f"{part}_max:0"):
                variable.assign(high)
        if variable.name == "dense/kernel:0":
            variable.assign(kernel)
        if variable.name == "dense/bias:0":
            variable.assign(bias)
    wanted = layer(inputs, training=False).numpy()

    rounding = FakeQuantization({"in": ranges[0], "out": ranges[1]})
    rows = rounding.activation("in", tf.constant(inputs))
    outputs = rows @ rounding.kernel(tf.constant(kernel)) + bias
    found = rounding.activation("out", tf.nn.relu(outputs)).numpy()
    step = (ranges[1][1] - ranges[1][0]) / 255.0
    assert np.abs(found - wanted).max() <= 1.01 * step
    assert np.mean(np.abs(found - wanted) < 1e-5) > 0.98
    # Rounding is no small change here.
    assert np.abs(found - exact).max() > step
