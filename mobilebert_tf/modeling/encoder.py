"""The encoder: embeddings, a stack of blocks, and the pooler."""

from typing import Any, NamedTuple

import keras
from keras import ops

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.folder import PretrainedModel
from mobilebert_tf.modeling.layers import (
    ConfiguredLayer,
    MobileBertBlock,
    attention_mask,
    build_dense,
    build_norm,
    truncated_normal,
)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertEmbeddings(ConfiguredLayer):
    """Narrow word embeddings, each joined with those of its neighbours.

    The word table is only E wide. Each embedding is concatenated with those of
    both neighbours (zeros beyond the ends) and the result, 3E wide, projected
    to D, which equals a convolution of width 3. Position and segment
    embeddings are added, then norm and dropout.

    Padding is not masked here: the last real token sees the embedding of the
    [PAD] that follows, as in the release. `zero_pad_embedding` removes that.

    Call arguments:
        input_ids: int32 [B, S].
        segment_ids: int32 [B, S].

    Returns:
        [B, S, D].

    Reference:
        Sun et al. 2020, section 3.4.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.projection = None
        if config.trigram_input or config.embedding_size != config.hidden_size:
            self.projection = build_dense(
                config.hidden_size, config, "projection"
            )
        self.norm = build_norm(config)
        self.dropout = keras.layers.Dropout(
            config.hidden_dropout_prob, name="dropout"
        )

    def build(self, input_shape=None):
        config = self.config
        self.word_embeddings = self._add_table(
            "word_embeddings", config.vocab_size, config.embedding_size
        )
        self.segment_embeddings = self._add_table(
            "segment_embeddings", config.type_vocab_size, config.hidden_size
        )
        self.position_embeddings = self._add_table(
            "position_embeddings",
            config.max_position_embeddings,
            config.hidden_size,
        )
        if self.projection is not None:
            width = config.embedding_size * (3 if config.trigram_input else 1)
            self.projection.build((None, width))
        self.norm.build((None, None, config.hidden_size))

    def _add_table(self, name, rows, width):
        return self.add_weight(
            name=name,
            shape=(rows, width),
            initializer=truncated_normal(self.config),
        )

    def call(self, input_ids, segment_ids, training=None):
        positions = self._positions(input_ids)  # [S, D]
        words = ops.take(self.word_embeddings, input_ids, axis=0)  # [B, S, E]
        if self.config.zero_pad_embedding:
            is_word = ops.cast(ops.not_equal(input_ids, 0), words.dtype)
            words = words * ops.expand_dims(is_word, -1)
        if self.config.trigram_input:
            words = self._with_neighbours(words)  # [B, S, 3E]
        features = words
        if self.projection is not None:
            features = self.projection(words)  # [B, S, D]
        features = features + ops.take(
            self.segment_embeddings, segment_ids, axis=0
        )
        features = features + positions
        return self.dropout(self.norm(features), training=training)

    def _positions(self, input_ids):
        length = input_ids.shape[1]
        if length is None:  # TensorFlow; too many tokens fail in the sum
            return self.position_embeddings[: ops.shape(input_ids)[1]]
        if not isinstance(length, int):  # a symbol of JAX's shape inference
            rows = ops.arange(length)
            return ops.take(self.position_embeddings, rows, axis=0)
        return self.position_embeddings[:length]

    def _with_neighbours(self, words):
        following = ops.pad(words[:, 1:], ((0, 0), (0, 1), (0, 0)))
        preceding = ops.pad(words[:, :-1], ((0, 0), (1, 0), (0, 0)))
        if self.config.trigram_order == "next_current_previous":
            return ops.concatenate((following, words, preceding), axis=-1)
        return ops.concatenate((preceding, words, following), axis=-1)


class EncoderOutput(NamedTuple):
    """Outputs of an encoder.

    Attributes:
        sequence_output: [B, S, D], the last feature map.
        pooled_output: [B, D], the tanh pooler's output, or the raw [CLS]
            vector where the config has no pooler. The raw vector of a NoNorm
            student is large (the published weights reach 2.5e7).
        feature_maps: the embedding output, then the output of each block;
            [B, S, D] each.
        attention_logits: of each block, scaled and masked, before softmax;
            [B, N, S, S] each.
        attention_probs: the same after softmax, before dropout.
    """

    sequence_output: Any
    pooled_output: Any
    feature_maps: tuple
    attention_logits: tuple
    attention_probs: tuple


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertEncoder(PretrainedModel):
    """The whole encoder, of a teacher or a student.

    Its weights exist as soon as it is constructed.

    Call arguments:
        inputs: a dict with `input_ids` [B, S] and, optionally, `input_mask`
            [B, S] (1 for real tokens; all ones when absent) and `segment_ids`
            [B, S] (zeros when absent), or Hugging Face's `attention_mask` and
            `token_type_ids`.
        num_blocks: number of blocks to run, from below; None runs all.

    Returns:
        An `EncoderOutput`. With `num_blocks`, `sequence_output` is the last
        feature map that was computed.

    Raises:
        ValueError: the dtype policy is float16, the inputs do not fit, a
            sequence is longer than the position table, or there are fewer
            than `num_blocks` blocks.

    Example:
        >>> config = MobileBertConfig.from_preset("mobilebert_small")
        >>> encoder = MobileBertEncoder(config)
        >>> ids = keras.ops.ones((2, 16), "int32")
        >>> encoder({"input_ids": ids}).sequence_output.shape
        (2, 16, 128)
    """

    architecture = "MobileBertModel"

    def __init__(self, config: MobileBertConfig, name="encoder", **kwargs):
        super().__init__(config, name=name, **kwargs)
        if self.compute_dtype == "float16":
            raise ValueError(
                "float16 cannot hold MobileBERT's activations, which have no "
                "norm to bound them and reach 2.5e7; use mixed_bfloat16"
            )
        self.embeddings = MobileBertEmbeddings(config, name="embeddings")
        self.blocks = [
            MobileBertBlock(config, name=f"block_{index:02d}")
            for index in range(config.num_hidden_layers)
        ]
        self.pooler = None
        if config.classifier_activation:
            self.pooler = build_dense(config.hidden_size, config, "pooler")
        self.build()

    def build(self, input_shape=None):
        self.embeddings.build()
        for block in self.blocks:
            block.build()
        if self.pooler is not None:
            self.pooler.build((None, self.config.hidden_size))

    def call(self, inputs, training=None, num_blocks=None):
        blocks = self._first_blocks(num_blocks)
        # Keras' symbolic build may hand over floats where ids are declared.
        input_ids = ops.cast(inputs["input_ids"], "int32")
        input_mask = inputs.get("input_mask")
        if input_mask is None:
            input_mask = ops.ones_like(input_ids)
        segment_ids = inputs.get("segment_ids")
        if segment_ids is None:
            segment_ids = ops.zeros_like(input_ids)
        mask = attention_mask(
            input_mask,
            self.config.attention_mask_form,
            self.config.attention_mask_value,
            self.compute_dtype,
        )
        embedded = self.embeddings(
            input_ids, ops.cast(segment_ids, "int32"), training=training
        )
        feature_maps, logits, probs = [embedded], [], []
        width, length = self.config.hidden_size, ops.shape(input_ids)[1]
        rows = ops.reshape(embedded, (-1, width))  # [B * S, D]
        for block in blocks:
            rows, attention_logits, attention_probs = block(
                rows, mask, training=training
            )
            feature_maps.append(ops.reshape(rows, (-1, length, width)))
            logits.append(attention_logits)
            probs.append(attention_probs)
        pooled_output = feature_maps[-1][:, 0]
        if self.pooler is not None:
            pooled_output = ops.tanh(self.pooler(pooled_output))
        return EncoderOutput(
            feature_maps[-1],
            pooled_output,
            tuple(feature_maps),
            tuple(logits),
            tuple(probs),
        )

    def _first_blocks(self, num_blocks):
        if num_blocks is None:
            return self.blocks
        if not 0 <= num_blocks <= len(self.blocks):
            raise ValueError(
                f"num_blocks must be between 0 and {len(self.blocks)}. "
                f"Received: {num_blocks}"
            )
        return self.blocks[:num_blocks]
