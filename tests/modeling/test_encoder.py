"""Embeddings, and what the encoder promises whatever its weights."""

import dataclasses

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.modeling.encoder import MobileBertEmbeddings
from tests.tiny import numpy

# Small enough to be all rounding, large enough for float32.
SAME = {"rtol": 0, "atol": 1e-6}


@pytest.fixture
def encoder(small_config, rng):
    encoder = mb.MobileBertEncoder(small_config)
    for variable in encoder.weights:
        # Larger than the initial ones, so that nothing hides in small numbers.
        variable.assign(0.3 * rng.standard_normal(variable.shape))
    return encoder


def test_output_is_named_and_complete(encoder, batch):
    output = encoder(batch)
    assert output._fields == (
        "sequence_output",
        "pooled_output",
        "feature_maps",
        "attention_logits",
        "attention_probs",
    )
    assert [m.shape for m in output.feature_maps] == [(3, 10, 32)] * 3
    assert [a.shape for a in output.attention_logits] == [(3, 4, 10, 10)] * 2
    assert [a.shape for a in output.attention_probs] == [(3, 4, 10, 10)] * 2
    last = numpy(output.feature_maps[-1])
    assert np.array_equal(numpy(output.sequence_output), last)
    # Without a pooler, the [CLS] vector itself.
    assert np.array_equal(numpy(output.pooled_output), last[:, 0])
    for probs in output.attention_probs:
        np.testing.assert_allclose(numpy(probs).sum(-1), 1.0, rtol=1e-5)


def test_pooler(small_config, batch):
    config = dataclasses.replace(small_config, classifier_activation=True)
    encoder = mb.MobileBertEncoder(config)
    output = encoder(batch)
    kernel, bias = (numpy(v) for v in encoder.pooler.weights)
    first = numpy(output.sequence_output)[:, 0]
    np.testing.assert_allclose(
        numpy(output.pooled_output), np.tanh(first @ kernel + bias), **SAME
    )


@pytest.mark.parametrize("num_blocks", [0, 1, 2])
def test_first_blocks_only(encoder, batch, num_blocks):
    whole = encoder(batch)
    output = encoder(batch, num_blocks=num_blocks)
    assert len(output.feature_maps) == num_blocks + 1
    assert len(output.attention_logits) == num_blocks
    assert len(output.attention_probs) == num_blocks
    for found, expected in zip(
        output.feature_maps, whole.feature_maps[: num_blocks + 1], strict=True
    ):
        assert np.array_equal(numpy(found), numpy(expected))
    last = numpy(whole.feature_maps[num_blocks])
    assert np.array_equal(numpy(output.sequence_output), last)
    assert np.array_equal(numpy(output.pooled_output), last[:, 0])


@pytest.mark.parametrize("num_blocks", [-1, 3])
def test_impossible_number_of_blocks(encoder, batch, num_blocks):
    with pytest.raises(ValueError, match="between 0 and 2"):
        encoder(batch, num_blocks=num_blocks)


def test_mask_and_segments_are_optional(encoder, batch):
    ids = batch["input_ids"]
    full = {
        "input_ids": ids,
        "input_mask": np.ones_like(ids),
        "segment_ids": np.zeros_like(ids),
    }
    expected = numpy(encoder(full).sequence_output)
    found = numpy(encoder({"input_ids": ids}).sequence_output)
    assert np.array_equal(found, expected)


def test_other_entries_are_ignored(encoder, batch):
    expected = numpy(encoder(batch).sequence_output)
    found = encoder(batch | {"masked_lm_ids": np.zeros((3, 4), "int32")})
    assert np.array_equal(numpy(found.sequence_output), expected)


@pytest.mark.parametrize("dtype", ["int64", "float32"])
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_ids_of_any_type(small_config, dtype, policy):
    """Above 256, bfloat16 would round a float id to a neighbouring word."""
    keras.config.set_dtype_policy(policy)
    try:
        encoder = mb.MobileBertEncoder(
            dataclasses.replace(small_config, vocab_size=400)
        )
        task = mb.MobileBertForSequenceClassification(
            encoder.config, label_names=["no", "yes"]
        )
    finally:
        keras.config.set_dtype_policy("float32")
    ids = np.arange(300, 310, dtype="int32")[None]
    for model in (lambda x: encoder(x).sequence_output, task):
        expected = numpy(model({"input_ids": ids}))
        found = numpy(model({"input_ids": ids.astype(dtype)}))
        assert np.array_equal(found, expected)


def test_content_of_the_padding_is_invisible(encoder, batch, rng):
    """Beyond the first [PAD], whose word the last real token sees."""
    other = batch["input_ids"].copy()
    other[1, 8:] = rng.integers(1, 50, 2)
    other[2, 5:] = rng.integers(1, 50, 5)
    one = encoder(batch)
    two = encoder(batch | {"input_ids": other})
    real = batch["input_mask"].astype(bool)
    for found, expected in zip(two.feature_maps, one.feature_maps, strict=True):
        found, expected = numpy(found), numpy(expected)
        np.testing.assert_allclose(found[real], expected[real], **SAME)
    changed = numpy(two.sequence_output) - numpy(one.sequence_output)
    assert np.abs(changed[~real]).max() > 0.1


@pytest.mark.parametrize("zero_pad_embedding", [False, True])
def test_amount_of_padding(small_config, encoder, batch, zero_pad_embedding):
    """One [PAD] or many are alike; none at all only if its row is zeroed."""
    padded = mb.MobileBertEncoder(
        dataclasses.replace(small_config, zero_pad_embedding=zero_pad_embedding)
    )
    padded.set_weights(encoder.get_weights())
    bare, one, many = (
        numpy(
            padded(
                {name: value[1:2, :n] for name, value in batch.items()}
            ).sequence_output
        )[:, :7]
        for n in (7, 8, 10)
    )
    np.testing.assert_allclose(one, many, **SAME)
    same = np.allclose(bare, many, **SAME)
    assert same == zero_pad_embedding


def test_sequences_do_not_see_each_other(encoder, batch):
    whole = numpy(encoder(batch).sequence_output)
    alone = {name: value[1:2] for name, value in batch.items()}
    found = numpy(encoder(alone).sequence_output)
    np.testing.assert_allclose(found, whole[1:2], **SAME)


def test_dropout_in_training_only(small_config, batch):
    config = dataclasses.replace(small_config, hidden_dropout_prob=0.5)
    encoder = mb.MobileBertEncoder(config)
    plain, again = (numpy(encoder(batch).sequence_output) for _ in range(2))
    assert np.array_equal(plain, again)
    dropped = encoder(batch, training=True)
    # After the embeddings, and in each block's output bottleneck.
    for found, expected in zip(
        dropped.feature_maps, encoder(batch).feature_maps, strict=True
    ):
        assert not np.allclose(numpy(found), numpy(expected))


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_float16_is_refused(small_config, policy):
    keras.config.set_dtype_policy(policy)
    try:
        with pytest.raises(ValueError, match="use mixed_bfloat16"):
            mb.MobileBertEncoder(small_config)
        with pytest.raises(ValueError, match="use mixed_bfloat16"):
            mb.MobileBertForPretraining(small_config)
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("norm", ["no_norm", "layer_norm"])
def test_mixed_bfloat16_is_close(small_config, batch, norm):
    config = dataclasses.replace(small_config, normalization_type=norm)
    exact = mb.MobileBertForPretraining(config)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = mb.MobileBertForPretraining(config)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.get_weights())
    assert {str(v.dtype) for v in mixed.weights} == {"float32"}
    output = mixed.encoder(batch)
    assert keras.backend.standardize_dtype(output.sequence_output.dtype) == (
        "bfloat16"
    )
    expected = numpy(exact.encoder(batch).sequence_output)
    found = numpy(keras.ops.cast(output.sequence_output, "float32"))
    assert np.isfinite(found).all()
    # bfloat16 keeps eight bits: 1/256 each time, over some twenty steps.
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()
    for name, logits in mixed(batch).items():
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        assert np.isfinite(numpy(logits)).all(), name


def test_unknown_length_in_a_functional_model(encoder, batch):
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name) for name in batch
    }
    output = encoder(inputs)
    assert output.sequence_output.shape == (None, None, 32)
    model = keras.Model(inputs, output.sequence_output)
    np.testing.assert_allclose(
        numpy(model(batch)), numpy(encoder(batch).sequence_output), **SAME
    )


def test_keras_file_round_trip(encoder, batch, tmp_path):
    path = tmp_path / "encoder.keras"
    encoder.save(path)
    again = keras.models.load_model(path)
    assert type(again) is mb.MobileBertEncoder
    assert again.config == encoder.config
    found, expected = again(batch), encoder(batch)
    assert found._fields == expected._fields
    assert np.array_equal(
        numpy(found.sequence_output), numpy(expected.sequence_output)
    )


def test_weights_exist_once_constructed(small_config):
    encoder = mb.MobileBertEncoder(small_config)
    assert encoder.built
    assert encoder.trainable_weights == encoder.weights
    assert len(encoder.weights) == 7 + 2 * 34


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


def embed(layer, ids, segments=None):
    ids = np.array([ids], "int32")
    segments = np.zeros_like(ids) if segments is None else np.array([segments])
    return numpy(layer(ids, segments))[0]


def test_released_trigram_has_the_next_word_first(small_config):
    layer = embeddings_of_words(small_config)
    assert embed(layer, [1, 2, 3]).tolist() == [
        [2, 20, 1, 10, 0, 0],
        [3, 30, 2, 20, 1, 10],
        [0, 0, 3, 30, 2, 20],
    ]


def test_other_trigram_order(small_config):
    layer = embeddings_of_words(
        small_config, trigram_order="previous_current_next"
    )
    assert embed(layer, [1, 2, 3]).tolist() == [
        [0, 0, 1, 10, 2, 20],
        [1, 10, 2, 20, 3, 30],
        [2, 20, 3, 30, 0, 0],
    ]


def test_single_token(small_config):
    layer = embeddings_of_words(small_config)
    assert embed(layer, [3]).tolist() == [[0, 0, 3, 30, 0, 0]]


def test_last_token_sees_the_padding(small_config):
    """As in the release: padding is a word like any other to its neighbour."""
    layer = embeddings_of_words(small_config)
    assert embed(layer, [1, 2, 0])[1].tolist() == [0.5, 0.25, 2, 20, 1, 10]


def test_zeroed_pad_row_hides_the_padding(small_config):
    layer = embeddings_of_words(small_config, zero_pad_embedding=True)
    padded, bare = embed(layer, [1, 2, 0, 0]), embed(layer, [1, 2])
    assert padded[:2].tolist() == bare.tolist()
    # The stored row stays, for the masked LM head reads it too.
    assert numpy(layer.word_embeddings)[0].tolist() == [0.5, 0.25]


def test_positions_and_segments_are_added(small_config, rng):
    layer = embeddings_of_words(small_config)
    positions = rng.standard_normal((24, 6)).astype("float32")
    segments = rng.standard_normal((2, 6)).astype("float32")
    plain = embed(layer, [1, 2, 3])
    layer.position_embeddings.assign(positions)
    layer.segment_embeddings.assign(segments)
    found = embed(layer, [1, 2, 3], [0, 1, 1])
    expected = plain + positions[:3] + segments[[0, 1, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_too_long_a_sequence_is_refused(small_config):
    layer = embeddings_of_words(small_config)
    assert embed(layer, [1] * 24).shape == (24, 6)
    with pytest.raises(ValueError, match="at most 24 tokens"):
        embed(layer, [1] * 25)


def test_embeddings_drop_behind_the_norm_in_training_only(small_config):
    layer = embeddings_of_words(small_config, hidden_dropout_prob=0.5)
    # With a beta, the order of norm and dropout shows.
    layer.norm.beta.assign(np.ones(6))
    ids = np.array([[1, 2, 3, 1]], "int32")
    plain = numpy(layer(ids, np.zeros_like(ids)))
    dropped = numpy(layer(ids, np.zeros_like(ids), training=True))
    kept = dropped != 0
    assert 0 < (kept & (plain != 0)).sum() < (plain != 0).sum()
    np.testing.assert_allclose(dropped[kept], 2 * plain[kept])


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
