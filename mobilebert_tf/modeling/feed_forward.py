"""One of the feed-forward networks that a block stacks (paper, section 3.2)."""

import keras

from mobilebert_tf.modeling.dense import activation_function, build_dense
from mobilebert_tf.modeling.norm import build_norm


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class FeedForward(keras.layers.Layer):
    """Norm(Dropout(Dense(act(Dense(y)))) + y): I to M and back.

    Args:
        intra_bottleneck_size: I.
        intermediate_size: M.
        hidden_act: activation, by the config's names.
        hidden_dropout_prob: dropout before the residual sum. Zero inside
            bottleneck blocks, which drop only in the output bottleneck.
        normalization_type, layer_norm_eps, initializer_range: as in the config.

    Call arguments:
        inputs: [B * S, I].
        training: whether dropout is on.

    Returns:
        [B * S, I].
    """

    def __init__(
        self,
        intra_bottleneck_size: int,
        intermediate_size: int,
        hidden_act: str = "relu",
        hidden_dropout_prob: float = 0.0,
        normalization_type: str = "no_norm",
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._settings = {
            "intra_bottleneck_size": intra_bottleneck_size,
            "intermediate_size": intermediate_size,
            "hidden_act": hidden_act,
            "hidden_dropout_prob": hidden_dropout_prob,
            "normalization_type": normalization_type,
            "layer_norm_eps": layer_norm_eps,
            "initializer_range": initializer_range,
        }
        self.intermediate_dense = build_dense(
            intermediate_size, initializer_range, "intermediate_dense"
        )
        self.activation = activation_function(hidden_act)
        self.output_dense = build_dense(
            intra_bottleneck_size, initializer_range, "output_dense"
        )
        self.dropout = keras.layers.Dropout(hidden_dropout_prob, name="dropout")
        self.norm = build_norm(normalization_type, layer_norm_eps)

    def build(self, input_shape):
        self.intermediate_dense.build(input_shape)
        self.output_dense.build((None, self._settings["intermediate_size"]))
        self.norm.build(input_shape)

    def call(self, inputs, training=None):
        hidden = self.activation(self.intermediate_dense(inputs))
        outputs = self.dropout(self.output_dense(hidden), training=training)
        return self.norm(outputs + inputs)

    def get_config(self):
        return super().get_config() | self._settings
