"""NoNorm, the paper's element-wise stand-in for layer norm (section 3.3)."""

import keras


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class NoNorm(keras.layers.Layer):
    """Computes `gamma * h + beta` over the last axis, without statistics.

    Removing the statistics halves the latency on a phone, and makes the
    network linear between its activations, so that a deployed graph can fold
    every NoNorm into a neighbouring dense layer.

    Call arguments:
        inputs: a tensor of any shape [..., W].

    Returns:
        A tensor of the same shape.

    Reference:
        Sun et al. 2020, "Operational optimizations".
    """

    def build(self, input_shape):
        width = (input_shape[-1],)
        self.gamma = self.add_weight(
            name="gamma", shape=width, initializer="ones"
        )
        self.beta = self.add_weight(
            name="beta", shape=width, initializer="zeros"
        )

    def call(self, inputs):
        return inputs * self.gamma + self.beta

    def compute_output_shape(self, input_shape):
        return input_shape


def build_norm(
    normalization_type: str, layer_norm_eps: float, name: str = "norm"
) -> keras.layers.Layer:
    """Returns the norm layer that a config names.

    Raises:
        ValueError: if there is no such norm.
    """
    if normalization_type == "no_norm":
        return NoNorm(name=name)
    if normalization_type == "layer_norm":
        return keras.layers.LayerNormalization(
            epsilon=layer_norm_eps, name=name
        )
    raise ValueError(
        "normalization_type must be 'no_norm' or 'layer_norm'. "
        f"Received: {normalization_type!r}"
    )
