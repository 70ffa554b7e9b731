"""The linear maps that narrow a block's input and widen its output again."""

import keras

from mobilebert_tf.modeling.dense import build_dense
from mobilebert_tf.modeling.norm import build_norm


class _Bottleneck(keras.layers.Layer):
    """A dense layer and the norm behind it."""

    def __init__(
        self,
        units: int,
        normalization_type: str = "no_norm",
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = units
        self.normalization_type = normalization_type
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.dense = build_dense(units, initializer_range, "dense")
        self.norm = build_norm(normalization_type, layer_norm_eps)

    def build(self, input_shape, *unused_shapes):
        self.dense.build(input_shape)
        self.norm.build((None, self.units))

    def get_config(self):
        return super().get_config() | {
            "units": self.units,
            "normalization_type": self.normalization_type,
            "layer_norm_eps": self.layer_norm_eps,
            "initializer_range": self.initializer_range,
        }


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class InputBottleneck(_Bottleneck):
    """Norm(Dense(x)): D to I. No activation, dropout or residual.

    Call arguments:
        inputs: [B * S, D].

    Returns:
        [B * S, I].
    """

    def call(self, inputs):
        return self.norm(self.dense(inputs))


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class OutputBottleneck(_Bottleneck):
    """Norm(Dropout(Dense(y)) + x): I to D, with the block's own input x.

    Args:
        hidden_dropout_prob: dropout before the residual sum.

    Call arguments:
        inputs: [B * S, I].
        block_input: [B * S, D].
        training: whether dropout is on.

    Returns:
        [B * S, D].
    """

    def __init__(self, units: int, hidden_dropout_prob: float = 0.0, **kwargs):
        super().__init__(units, **kwargs)
        self.hidden_dropout_prob = hidden_dropout_prob
        self.dropout = keras.layers.Dropout(hidden_dropout_prob, name="dropout")

    def call(self, inputs, block_input, training=None):
        outputs = self.dropout(self.dense(inputs), training=training)
        return self.norm(outputs + block_input)

    def get_config(self):
        return super().get_config() | {
            "hidden_dropout_prob": self.hidden_dropout_prob
        }
