"""Words, their neighbours, positions and segments."""

import dataclasses

import keras
import numpy as np
import pytest

from mobilebert_tf.modeling.encoder import MobileBertEmbeddings
from tests.modeling.conftest import numpy

# Two-wide words 1, 2, 3 in a vocabulary of four; 0 is [PAD].
WORDS = np.array([[0.5, 0.25], [1, 10], [2, 20], [3, 30]], "float32")


def embeddings_of_words(config, **changes):
    """An embedding layer that shows the concatenated words unchanged."""
    config = dataclasses.replace(
        config, vocab_size=4, embedding_size=2, hidden_size=6, **changes
    )
    layer = MobileBertEmbeddings(config)
    layer.build()
    for variable in layer.weights:
        variable.assign(np.zeros(variable.shape))
    layer.word_embeddings.assign(WORDS)
    layer.projection.kernel.assign(np.eye(6))
    layer.norm.gamma.assign(np.ones(6))
    return layer


def call(layer, ids, segments=None):
    ids = np.array([ids], "int32")
    segments = np.zeros_like(ids) if segments is None else np.array([segments])
    return numpy(layer(ids, segments))[0]


def test_released_trigram_has_the_next_word_first(small_config):
    layer = embeddings_of_words(small_config)
    assert call(layer, [1, 2, 3]).tolist() == [
        [2, 20, 1, 10, 0, 0],
        [3, 30, 2, 20, 1, 10],
        [0, 0, 3, 30, 2, 20],
    ]


def test_other_trigram_order(small_config):
    layer = embeddings_of_words(
        small_config, trigram_order="previous_current_next"
    )
    assert call(layer, [1, 2, 3]).tolist() == [
        [0, 0, 1, 10, 2, 20],
        [1, 10, 2, 20, 3, 30],
        [2, 20, 3, 30, 0, 0],
    ]


def test_single_token(small_config):
    layer = embeddings_of_words(small_config)
    assert call(layer, [3]).tolist() == [[0, 0, 3, 30, 0, 0]]


def test_last_token_sees_the_padding(small_config):
    """As in the release: padding is a word like any other to its neighbour."""
    layer = embeddings_of_words(small_config)
    assert call(layer, [1, 2, 0])[1].tolist() == [0.5, 0.25, 2, 20, 1, 10]


def test_zeroed_pad_row_hides_the_padding(small_config):
    layer = embeddings_of_words(small_config, zero_pad_embedding=True)
    padded, bare = call(layer, [1, 2, 0, 0]), call(layer, [1, 2])
    assert padded[:2].tolist() == bare.tolist()
    # The stored row stays, for the masked LM head reads it too.
    assert numpy(layer.word_embeddings)[0].tolist() == [0.5, 0.25]


def test_positions_and_segments_are_added(small_config, rng):
    layer = embeddings_of_words(small_config)
    positions = rng.standard_normal((24, 6)).astype("float32")
    segments = rng.standard_normal((2, 6)).astype("float32")
    plain = call(layer, [1, 2, 3])
    layer.position_embeddings.assign(positions)
    layer.segment_embeddings.assign(segments)
    found = call(layer, [1, 2, 3], [0, 1, 1])
    expected = plain + positions[:3] + segments[[0, 1, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_too_long_a_sequence_is_refused(small_config):
    layer = embeddings_of_words(small_config)
    assert call(layer, [1] * 24).shape == (24, 6)
    with pytest.raises(ValueError, match="at most 24 tokens"):
        call(layer, [1] * 25)


def test_dropout_in_training_only(small_config):
    layer = embeddings_of_words(small_config, hidden_dropout_prob=0.5)
    ids = np.array([[1, 2, 3, 1]], "int32")
    plain = numpy(layer(ids, np.zeros_like(ids)))
    dropped = numpy(layer(ids, np.zeros_like(ids), training=True))
    kept = dropped != 0
    assert 0 < (kept & (plain != 0)).sum() < (plain != 0).sum()
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept])


def test_survives_its_config(small_config):
    layer = embeddings_of_words(small_config)
    again = MobileBertEmbeddings.from_config(layer.get_config())
    assert again.config == layer.config


def test_initial_values_are_a_truncated_normal(small_config):
    config = dataclasses.replace(
        small_config, vocab_size=4000, initializer_range=0.1
    )
    layer = MobileBertEmbeddings(config)
    layer.build()
    table = numpy(layer.word_embeddings)
    # Keras cuts at two deviations, which narrows the spread to 0.88.
    assert abs(table).max() <= 0.2
    assert 0.085 < table.std() < 0.091
    words, kernel = layer.word_embeddings, layer.projection.kernel
    both = (
        keras.ops.reshape(words, (-1,))[:99],
        keras.ops.reshape(kernel, (-1,))[:99],
    )
    assert not np.array_equal(numpy(both[0]), numpy(both[1]))
