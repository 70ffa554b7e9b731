"""Small layers: norms, activations, masks, gathering."""

import math

import keras
import numpy as np
import pytest

from mobilebert_tf.config import ACTIVATIONS
from mobilebert_tf.modeling.layers import (
    FeedForward,
    InputBottleneck,
    MultiHeadSelfAttention,
    NoNorm,
    OutputBottleneck,
    activation_function,
    attention_mask,
    build_norm,
)
from mobilebert_tf.modeling.models import ProjectionHead, gather_positions
from tests.modeling.conftest import numpy


def test_no_norm_is_a_scale_and_a_shift():
    layer = NoNorm()
    layer.build((None, 3))
    inputs = np.array([[1.0, -2.0, 1e6]], "float32")
    assert numpy(layer(inputs)).tolist() == inputs.tolist()
    layer.gamma.assign([2.0, 0.5, 0.0])
    layer.beta.assign([0.0, 1.0, 7.0])
    assert numpy(layer(inputs)).tolist() == [[2.0, 0.0, 7.0]]


def test_layer_norm_has_the_config_s_epsilon():
    layer = build_norm("layer_norm", 3.0)
    # Mean 0, variance 1: divided by sqrt(1 + 3).
    found = numpy(layer(np.array([[1.0, -1.0]], "float32")))
    np.testing.assert_allclose(found, [[0.5, -0.5]], rtol=1e-6)


def test_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="Received: 'batch_norm'"):
        build_norm("batch_norm", 1e-12)


@pytest.mark.parametrize(
    "name, at_minus_one, at_eight",
    [
        ("relu", 0.0, 8.0),
        ("relu6", 0.0, 6.0),
        ("gelu", -0.1588080, 8.0),
        ("gelu_erf", -0.1586553, 8.0),
        ("tanh", math.tanh(-1.0), math.tanh(8.0)),
        ("linear", -1.0, 8.0),
    ],
)
def test_activations(name, at_minus_one, at_eight):
    found = numpy(activation_function(name)(np.array([-1.0, 8.0], "float32")))
    np.testing.assert_allclose(found, [at_minus_one, at_eight], atol=2e-7)


def test_every_activation_of_the_config_exists():
    for name in ACTIVATIONS:
        activation_function(name)


def test_additive_mask():
    factor, addend = attention_mask([[1, 0]], "additive", -10000.0, "float32")
    assert factor is None
    assert numpy(addend).tolist() == [[[[0.0, -10000.0]]]]


def test_multiply_add_mask():
    factor, addend = attention_mask([[1, 0]], "multiply_add", -6.0, "float32")
    assert numpy(factor).tolist() == [[[[1.0, 0.0]]]]
    assert numpy(addend).tolist() == [[[[0.0, -6.0]]]]


def test_masked_logit_is_the_value_itself_under_multiply_add(rng):
    layer = MultiHeadSelfAttention(2, 8)
    inputs = rng.standard_normal((5, 8)).astype("float32")
    mask = attention_mask([[1, 1, 0, 1, 0]], "multiply_add", -6.0, "float32")
    _, logits, probs = layer(inputs, inputs, inputs, mask)
    logits, probs = numpy(logits), numpy(probs)
    assert (logits[..., [2, 4]] == -6.0).all()
    assert (logits[..., [0, 1, 3]] != -6.0).all()
    assert (probs[..., [2, 4]] > 0).all()
    np.testing.assert_allclose(probs.sum(-1), 1.0, rtol=1e-6)


def test_attention_drops_probabilities_in_training_only(rng):
    layer = MultiHeadSelfAttention(2, 8, attention_probs_dropout_prob=0.5)
    inputs = rng.standard_normal((5, 8)).astype("float32")
    mask = attention_mask(np.ones((1, 5)), "additive", -1e4, "float32")
    plain, _, probs = layer(inputs, inputs, inputs, mask)
    again, _, _ = layer(inputs, inputs, inputs, mask)
    dropped, _, reported = layer(inputs, inputs, inputs, mask, training=True)
    assert np.array_equal(numpy(plain), numpy(again))
    assert not np.allclose(numpy(plain), numpy(dropped))
    # What is reported, and transferred, are the probabilities themselves.
    np.testing.assert_allclose(numpy(reported), numpy(probs), rtol=1e-6)


def test_bottlenecks_build_themselves(rng):
    inputs = rng.standard_normal((5, 8)).astype("float32")
    narrow = InputBottleneck(4)(inputs)
    assert narrow.shape == (5, 4)
    bottleneck = OutputBottleneck(8)
    found = numpy(bottleneck(narrow, inputs))
    kernel = numpy(bottleneck.dense.kernel)
    expected = numpy(narrow) @ kernel + inputs
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_gathered_positions(rng):
    sequence = rng.standard_normal((2, 5, 3)).astype("float32")
    positions = np.array([[4, 0, 0, 2], [1, 1, 3, 4]], "int32")
    found = numpy(gather_positions(sequence, positions))
    expected = np.stack([sequence[row][positions[row]] for row in range(2)])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "layer",
    [
        NoNorm(name="a"),
        InputBottleneck(4, "layer_norm", 1e-6, 0.01, name="b"),
        OutputBottleneck(4, 0.3, normalization_type="no_norm", name="c"),
        FeedForward(4, 6, "relu6", 0.3, "layer_norm", 1e-6, 0.01, name="d"),
        MultiHeadSelfAttention(2, 4, 0.3, 0.01, name="e"),
        ProjectionHead(3, 0.3, 0.01, name="f"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_survive_serialisation(layer):
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
