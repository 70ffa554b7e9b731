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


@pytest.mark.parametrize("activation", ["relu", "linear"])
def test_a_quantised_dense_layer_is_tfmots(activation, rng):
    """tfmot's wrapper around a dense layer, inputs and outputs quantised."""
    keras = pytest.importorskip("tf_keras")
    layer = keras.layers.Dense(6, activation=activation, input_shape=(10,))
    model = keras.Sequential([layer])
    kernel = rng.normal(0.0, 0.4, (10, 6)).astype(np.float32)
    bias = rng.normal(0.0, 0.1, 6).astype(np.float32)
    layer.set_weights([kernel, bias])
    wrapped = tfmot.quantization.keras.quantize_model(model)
    inputs = rng.normal(0.2, 1.0, (32, 10)).astype(np.float32)
    exact = np.maximum(
        inputs @ kernel + bias, 0 if activation == "relu" else -np.inf
    )
    limits = {"in": inputs, "out": exact}
    ranges = {
        name: usable_ranges(np.array([[x.min(), x.max()]]), [False])[0]
        for name, x in limits.items()
    }
    # The wrapper keeps its ranges in variables; give it ours.
    for variable in wrapped.variables:
        for part, name in (
            ("quantize_layer/quantize_layer", "in"),
            ("post_activation", "out"),
        ):
            if part in variable.name and variable.name.endswith("_min:0"):
                variable.assign(ranges[name][0])
            if part in variable.name and variable.name.endswith("_max:0"):
                variable.assign(ranges[name][1])
    wanted = wrapped(inputs, training=False).numpy()

    rounding = FakeQuantization({n: tf.constant(r) for n, r in ranges.items()})
    rows = rounding.activation("in", tf.constant(inputs))
    outputs = rows @ rounding.kernel(tf.constant(kernel)) + bias
    if activation == "relu":
        outputs = tf.nn.relu(outputs)
    found = rounding.activation("out", outputs).numpy()
    step = (ranges["out"][1] - ranges["out"][0]) / 255.0
    assert np.abs(found - wanted).max() <= 1.01 * step
    assert np.mean(np.abs(found - wanted) < 1e-5) > 0.99
    assert np.abs(found - exact).max() > 0.2 * step
