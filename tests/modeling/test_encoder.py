"""Embeddings, and what the encoder promises whatever its weights."""

import dataclasses

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.modeling.encoder import MobileBertEmbeddings
from tests import tiny
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


def test_first_blocks_only(encoder, batch):
    whole = encoder(batch)
    for number in (0, 1, 2):
        output = encoder(batch, num_blocks=number)
        assert len(output.feature_maps) == number + 1
        assert len(output.attention_logits) == number
        assert len(output.attention_probs) == number
        for found, expected in zip(
            output.feature_maps, whole.feature_maps[: number + 1], strict=True
        ):
            assert np.array_equal(numpy(found), numpy(expected))
        last = numpy(whole.feature_maps[number])
        assert np.array_equal(numpy(output.sequence_output), last)
        assert np.array_equal(numpy(output.pooled_output), last[:, 0])
    for number in (-1, 3):
        with pytest.raises(ValueError, match="between 0 and 2"):
            encoder(batch, num_blocks=number)


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


def test_ids_of_any_type(small_config):
    """Above 256, bfloat16 would round a float id to a neighbouring word."""
    config = dataclasses.replace(small_config, vocab_size=400)
    with tiny.policy("mixed_bfloat16"):
        task = mb.MobileBertForSequenceClassification(config, ["no", "yes"])
    ids = np.arange(300, 310, dtype="int32")[None]
    expected = numpy(task({"input_ids": ids}))
    for dtype in ("int64", "float32"):
        found = numpy(task({"input_ids": ids.astype(dtype)}))
        assert np.array_equal(found, expected)


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


def test_float16_is_refused(small_config):
    for policy in ("float16", "mixed_float16"):
        with tiny.policy(policy):
            for model in (mb.MobileBertEncoder, mb.MobileBertForPretraining):
                with pytest.raises(ValueError, match="use mixed_bfloat16"):
                    model(small_config)


@pytest.mark.parametrize("norm", ["no_norm", "layer_norm"])
def test_mixed_bfloat16_is_close(small_config, batch, norm):
    config = dataclasses.replace(small_config, normalization_type=norm)
    exact = mb.MobileBertForPretraining(config)
    with tiny.policy("mixed_bfloat16"):
        mixed = mb.MobileBertForPretraining(config)
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


def embed(layer, ids):
    ids = np.array([ids], "int32")
    return numpy(layer(ids, np.zeros_like(ids)))[0]


def test_released_trigram_has_the_next_word_first(small_config):
    layer = embeddings_of_words(small_config)
    assert embed(layer, [1, 2, 3]).tolist() == [
        [2, 20, 1, 10, 0, 0],
        [3, 30, 2, 20, 1, 10],
        [0, 0, 3, 30, 2, 20],
    ]


def test_zeroed_pad_row_hides_the_padding(small_config):
    layer = embeddings_of_words(small_config, zero_pad_embedding=True)
    padded, bare = embed(layer, [1, 2, 0, 0]), embed(layer, [1, 2])
    assert padded[:2].tolist() == bare.tolist()
    # The stored row stays, for the masked LM head reads it too.
    assert numpy(layer.word_embeddings)[0].tolist() == [0.5, 0.25]


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
