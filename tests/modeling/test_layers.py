"""Small layers: norms, activations, masks, gathering."""

import keras
import numpy as np
import pytest

from mobilebert_tf.modeling.layers import (
    FeedForward,
    InputBottleneck,
    MobileBertBlock,
    MultiHeadSelfAttention,
    NoNorm,
    OutputBottleneck,
    attention_mask,
)
from mobilebert_tf.modeling.models import ProjectionHead, gather_positions
from tests import tiny
from tests.tiny import numpy


def test_no_norm_is_a_scale_and_a_shift():
    layer = NoNorm()
    layer.build((None, 3))
    inputs = np.array([[1.0, -2.0, 1e6]], "float32")
    assert numpy(layer(inputs)).tolist() == inputs.tolist()
    layer.gamma.assign([2.0, 0.5, 0.0])
    layer.beta.assign([0.0, 1.0, 7.0])
    assert numpy(layer(inputs)).tolist() == [[2.0, 0.0, 7.0]]


def test_attention_drops_probabilities_in_training_only(rng):
    config = tiny.student_config(attention_probs_dropout_prob=0.5)
    layer = MultiHeadSelfAttention(config)
    inputs = rng.standard_normal((5, 16)).astype("float32")
    mask = attention_mask(np.ones((1, 5)), "additive", -1e4, "float32")
    plain, _, probs = layer(inputs, inputs, inputs, mask)
    again, _, _ = layer(inputs, inputs, inputs, mask)
    dropped, _, reported = layer(inputs, inputs, inputs, mask, training=True)
    assert np.array_equal(numpy(plain), numpy(again))
    assert not np.allclose(numpy(plain), numpy(dropped))
    # What is reported, and transferred, are the probabilities themselves.
    np.testing.assert_allclose(numpy(reported), numpy(probs), rtol=1e-6)


def dropped_layers(**changes) -> list[str]:
    """Layers of a block whose outputs training changes, input unchanged.

    Each layer is called on its own with the input that it has in the block.
    """
    config = tiny.student_config(hidden_dropout_prob=0.5, **changes)
    block = MobileBertBlock(config)
    block.build()
    inputs = np.ones((8, 32), "float32")
    narrow = np.ones((8, config.intra_bottleneck_size), "float32")
    found = []

    def check(name, layer, *arguments):
        plain = numpy(layer(*arguments))
        if not np.array_equal(plain, numpy(layer(*arguments, training=True))):
            found.append(name)

    if config.use_bottleneck:
        check("input", block.input_bottleneck, inputs)
        check("output", block.output_bottleneck, narrow, inputs)
    check("attention", block.attention_dropout, narrow)
    for index, feed_forward in enumerate(block.feed_forwards):
        check(f"feed forward {index}", feed_forward, narrow)
    return found


def test_where_a_block_drops():
    """With bottlenecks in the output bottleneck only, as in the release.

    Plain BERT drops behind attention and in its (last) feed-forward network.
    """
    assert dropped_layers() == ["output"]
    bert = {"use_bottleneck": False, "intra_bottleneck_size": 32}
    assert dropped_layers(**bert) == ["attention", "feed forward 1"]


def test_dropout_in_a_bottleneck_spares_the_residual():
    """Norm(Dropout(Dense(y)) + x): half of Dense(y) is zero, x is whole."""
    layer = OutputBottleneck(tiny.student_config(hidden_dropout_prob=0.5))
    inputs = np.ones((40, 16), "float32")
    block_input = np.full((40, 32), 7.0, "float32")
    plain = numpy(layer(inputs, block_input)) - 7.0
    dropped = numpy(layer(inputs, block_input, training=True)) - 7.0
    zero = np.abs(dropped) < 1e-6
    assert 0.4 < zero.mean() < 0.6
    np.testing.assert_allclose(dropped[~zero], 2 * plain[~zero], atol=1e-5)


def test_gathered_positions(rng):
    sequence = rng.standard_normal((2, 5, 3)).astype("float32")
    positions = np.array([[4, 0, 0, 2], [1, 1, 3, 4]], "int32")
    found = numpy(gather_positions(sequence, positions))
    expected = np.stack([sequence[row][positions[row]] for row in range(2)])
    assert np.array_equal(found, expected)


@pytest.mark.parametrize(
    "build",
    [
        lambda config: NoNorm(name="a"),
        InputBottleneck,
        OutputBottleneck,
        MultiHeadSelfAttention,
        lambda config: FeedForward(config, 0.3, name="b"),
        lambda config: ProjectionHead(config, 3, 0.3, name="c"),
    ],
)
def test_layers_survive_serialisation(build):
    layer = build(tiny.student_config(layer_norm_eps=1e-6))
    config = keras.saving.serialize_keras_object(layer)
    again = keras.saving.deserialize_keras_object(config)
    assert type(again) is type(layer)
    assert again.get_config() == layer.get_config()
