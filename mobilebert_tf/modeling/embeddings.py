"""From token ids to the first feature map (paper, section 3.4)."""

import keras
from keras import ops

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.configured import ConfiguredLayer
from mobilebert_tf.modeling.dense import build_dense, truncated_normal
from mobilebert_tf.modeling.norm import build_norm


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertEmbeddings(ConfiguredLayer):
    """Narrow word embeddings, widened by a view of the neighbouring words.

    A table only E wide is looked up; each embedding is concatenated with those
    of both neighbours (zeros beyond the ends), and the 3E wide result projected
    to D. This equals a convolution of width 3. Position and segment embeddings
    are added, then norm and dropout.

    Padding is not masked here: the last real token sees the embedding of the
    [PAD] that follows, as in the release. `zero_pad_embedding` removes that.

    Args:
        config: a `MobileBertConfig`.

    Call arguments:
        input_ids: int32 [B, S].
        segment_ids: int32 [B, S].
        training: whether dropout is on.

    Returns:
        The embedding output, [B, S, D].

    Raises:
        ValueError: if S exceeds `max_position_embeddings`.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.projection = None
        if config.trigram_input or config.embedding_size != config.hidden_size:
            self.projection = build_dense(
                config.hidden_size, config.initializer_range, "projection"
            )
        self.norm = build_norm(config.normalization_type, config.layer_norm_eps)
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
            initializer=truncated_normal(self.config.initializer_range),
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
        longest = self.config.max_position_embeddings
        if length is None:  # TensorFlow; too long a sequence fails in the sum
            return self.position_embeddings[: ops.shape(input_ids)[1]]
        if not isinstance(length, int):  # a symbol of JAX's shape inference
            rows = ops.arange(length)
            return ops.take(self.position_embeddings, rows, axis=0)
        if length > longest:
            raise ValueError(
                f"sequences must have at most {longest} tokens "
                f"(max_position_embeddings). Received: {length}"
            )
        return self.position_embeddings[:length]

    def _with_neighbours(self, words):
        following = ops.pad(words[:, 1:], ((0, 0), (0, 1), (0, 0)))
        preceding = ops.pad(words[:, :-1], ((0, 0), (1, 0), (0, 0)))
        if self.config.trigram_order == "next_current_previous":
            return ops.concatenate((following, words, preceding), axis=-1)
        return ops.concatenate((preceding, words, following), axis=-1)
