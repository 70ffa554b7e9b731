"""What sits on the encoder: pre-training heads and task heads."""

import keras
from keras import ops

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.configured import ConfiguredLayer
from mobilebert_tf.modeling.dense import (
    activation_function,
    build_dense,
    truncated_normal,
)


def gather_positions(sequence, positions):
    """Picks the feature vectors at `positions`.

    Args:
        sequence: [B, S, D].
        positions: int [B, P].

    Returns:
        [B, P, D].
    """
    length, width = ops.shape(sequence)[1], sequence.shape[-1]
    batch = ops.arange(ops.shape(positions)[0], dtype="int32")
    rows = ops.cast(positions, "int32") + batch[:, None] * length
    flat = ops.reshape(sequence, (-1, width))
    return ops.take(flat, rows, axis=0)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MaskedLMHead(ConfiguredLayer):
    """Predicts word pieces, through the transposed word embedding table.

    The table is only E wide and the transformed feature D: the missing D - E
    columns are this layer's `extra_output_weights`. The norm here is a true
    layer norm even in NoNorm models, and the activation the model's own.

    Args:
        config: a `MobileBertConfig`.

    Call arguments:
        features: [..., D].
        word_embeddings: the encoder's table, [V, E].

    Returns:
        `masked_lm_logits`, [..., V].
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.transform = build_dense(
            config.hidden_size, config.initializer_range, "transform"
        )
        self.activation = activation_function(config.hidden_act)
        self.norm = keras.layers.LayerNormalization(
            epsilon=config.layer_norm_eps, name="norm"
        )

    def build(self, input_shape=None):
        config = self.config
        self.transform.build((None, config.hidden_size))
        self.norm.build((None, config.hidden_size))
        self.extra_output_weights = None
        extra_width = config.hidden_size - config.embedding_size
        if extra_width:
            self.extra_output_weights = self.add_weight(
                name="extra_output_weights",
                shape=(config.vocab_size, extra_width),
                initializer=truncated_normal(config.initializer_range),
            )
        self.bias = self.add_weight(
            name="bias", shape=(config.vocab_size,), initializer="zeros"
        )

    def call(self, features, word_embeddings):
        hidden = self.norm(self.activation(self.transform(features)))
        width = self.config.embedding_size
        table = ops.cast(word_embeddings, hidden.dtype)
        # Two products spare the concatenation of two V-row tables.
        logits = ops.matmul(hidden[..., :width], ops.transpose(table))
        if self.extra_output_weights is not None:
            logits = logits + ops.matmul(
                hidden[..., width:], ops.transpose(self.extra_output_weights)
            )
        return logits + self.bias


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class ProjectionHead(keras.layers.Layer):
    """Dropout and one dense layer: the head of every task but masked LM.

    Args:
        units: number of classes, or 2 for answer spans.
        dropout_prob: dropout before the dense layer.
        initializer_range: standard deviation of its kernel.

    Call arguments:
        features: [..., D].
        training: whether dropout is on.

    Returns:
        Logits, [..., units], in float32.
    """

    def __init__(
        self,
        units: int,
        dropout_prob: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "units": units,
            "dropout_prob": dropout_prob,
            "initializer_range": initializer_range,
        }
        self.dropout = keras.layers.Dropout(dropout_prob, name="dropout")
        self.dense = build_dense(units, initializer_range, "dense")

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, features, training=None):
        logits = self.dense(self.dropout(features, training=training))
        return ops.cast(logits, "float32")

    def get_config(self):
        return super().get_config() | self._settings
