"""A layer made from a `MobileBertConfig`, which travels when it is saved.

NoNorm, the paper's element-wise stand-in for layer norm (section 3.3).

The dense layer every other layer is made of, and its activations.

Multi-head self-attention with separate inputs for query, key and value.

The linear maps that narrow a block's input and widen its output again.

One of the feed-forward networks that a block stacks (paper, section 3.2).

One MobileBERT block: the rooms of figure 1, in their order.

Shape legend of the package:

    B batch    S sequence length    P masked positions    V vocabulary
    E embedding width    D feature map width (inter-block)
    I width inside a block (intra-block)    M feed-forward inner width
    N heads    H = I / N head width    L blocks    C classes
"""

import math
from collections.abc import Callable

import keras
from keras import ops

from mobilebert_tf.config import MobileBertConfig


class ConfiguredLayer(keras.layers.Layer):
    """Keeps the config it was constructed with.

    Args:
        config: a `MobileBertConfig`.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def get_config(self):
        return super().get_config() | {"config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config):
        config["config"] = MobileBertConfig(**config["config"])
        return cls(**config)


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


def activation_function(name: str) -> Callable:
    """Returns the activation that the config calls `name`.

    `gelu` is the tanh approximation, as in the release; `gelu_erf` is exact.
    """
    return {
        "relu": ops.relu,
        "relu6": ops.relu6,
        "gelu": _gelu_tanh,
        "gelu_erf": _gelu_erf,
        "tanh": ops.tanh,
        "linear": _identity,
    }[name]


def build_dense(
    units: int, initializer_range: float, name: str
) -> keras.layers.Dense:
    """Returns a linear dense layer initialised as the release does.

    Each layer gets an initializer of its own: one Keras initializer object
    draws the same numbers every time it is called.
    """
    return keras.layers.Dense(
        units,
        kernel_initializer=truncated_normal(initializer_range),
        name=name,
    )


def truncated_normal(stddev: float) -> keras.initializers.Initializer:
    """Returns a fresh truncated normal initializer."""
    return keras.initializers.TruncatedNormal(stddev=stddev)


def _gelu_tanh(inputs):
    return ops.gelu(inputs, approximate=True)


def _gelu_erf(inputs):
    return ops.gelu(inputs, approximate=False)


def _identity(inputs):
    return inputs


def attention_mask(input_mask, form: str, value: float, dtype):
    """Prepares `input_mask` once for all blocks.

    Only keys are masked; what a padded query computes is nobody's input.

    Args:
        input_mask: int32 [B, S], 1 for real tokens.
        form: `additive` or `multiply_add` (see `MobileBertConfig`).
        value: what a masked logit receives.
        dtype: the dtype of the attention logits.

    Returns:
        A pair (factor or None, addend), each [B, 1, 1, S]: a block computes
        `attention_logits * factor + addend`.
    """
    keep = ops.cast(input_mask, dtype)[:, None, None, :]
    addend = (1.0 - keep) * value
    return (keep if form == "multiply_add" else None), addend


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MultiHeadSelfAttention(keras.layers.Layer):
    """Scaled dot-product attention; value may be wider than query and key.

    Works on flat rows, [B * S, W], because a rank-2 dense layer is one matrix
    product on every backend; only the attention itself needs B and S apart.

    Args:
        num_heads: N.
        intra_bottleneck_size: I, width of query, key, value and output.
        attention_probs_dropout_prob: dropout on the probabilities.
        initializer_range: standard deviation of the kernels.

    Call arguments:
        query_input, key_input, value_input: [B * S, W], any widths.
        mask: what `attention_mask` returned.
        training: whether dropout is on.

    Returns:
        A triple: the attention output [B * S, I], before residual and norm;
        `attention_logits` [B, N, S, S], scaled and masked; and
        `attention_probs` [B, N, S, S], before dropout.
    """

    def __init__(
        self,
        num_heads: int,
        intra_bottleneck_size: int,
        attention_probs_dropout_prob: float = 0.0,
        initializer_range: float = 0.02,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.intra_bottleneck_size = intra_bottleneck_size
        self.head_size = intra_bottleneck_size // num_heads
        self.attention_probs_dropout_prob = attention_probs_dropout_prob
        self.initializer_range = initializer_range
        self.query, self.key, self.value, self.output_dense = (
            build_dense(intra_bottleneck_size, initializer_range, name)
            for name in ("query", "key", "value", "output_dense")
        )
        self.dropout = keras.layers.Dropout(
            attention_probs_dropout_prob, name="dropout"
        )

    def build(self, query_input_shape, key_input_shape, value_input_shape):
        self.query.build(query_input_shape)
        self.key.build(key_input_shape)
        self.value.build(value_input_shape)
        self.output_dense.build((None, self.intra_bottleneck_size))

    def call(self, query_input, key_input, value_input, mask, training=None):
        factor, addend = mask
        length = ops.shape(addend)[-1]

        def heads(rows, axes):  # [B * S, I] -> [B, S, N, H] -> axes
            shape = (-1, length, self.num_heads, self.head_size)
            return ops.transpose(ops.reshape(rows, shape), axes)

        query = heads(self.query(query_input), (0, 2, 1, 3))  # [B, N, S, H]
        key = heads(self.key(key_input), (0, 2, 3, 1))  # [B, N, H, S]
        value = heads(self.value(value_input), (0, 2, 1, 3))  # [B, N, S, H]
        attention_logits = ops.matmul(query, key) * (
            1.0 / math.sqrt(self.head_size)
        )
        if factor is not None:
            attention_logits = attention_logits * factor
        attention_logits = attention_logits + addend
        attention_probs = ops.softmax(attention_logits, axis=-1)
        dropped = self.dropout(attention_probs, training=training)
        context = ops.matmul(dropped, value)  # [B, N, S, H]
        context = ops.reshape(
            ops.transpose(context, (0, 2, 1, 3)),
            (-1, self.intra_bottleneck_size),
        )
        return self.output_dense(context), attention_logits, attention_probs

    def get_config(self):
        return super().get_config() | {
            "num_heads": self.num_heads,
            "intra_bottleneck_size": self.intra_bottleneck_size,
            "attention_probs_dropout_prob": self.attention_probs_dropout_prob,
            "initializer_range": self.initializer_range,
        }


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


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertBlock(ConfiguredLayer):
    """Input bottleneck, attention, feed-forward stack, output bottleneck.

    The residual around attention adds the *bottlenecked* input, the one around
    the whole block adds the block input itself. Query and key read, by config,
    a bottleneck of their own (released student), the input bottleneck (TINY),
    or the block input (teacher, and the student as the paper draws it); value
    reads the block input except in TINY.

    Args:
        config: a `MobileBertConfig`.

    Call arguments:
        block_input: [B * S, D].
        mask: what `attention.attention_mask` returned.
        training: whether dropout is on.

    Returns:
        A triple: the feature map [B * S, D], and `attention_logits` and
        `attention_probs`, [B, N, S, S].

    Reference:
        Sun et al. 2020, figure 1 and section 3.1 to 3.3.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        norm = {
            "normalization_type": config.normalization_type,
            "layer_norm_eps": config.layer_norm_eps,
        }
        shared = norm | {"initializer_range": config.initializer_range}
        intra = config.intra_bottleneck_size
        # Bottleneck blocks drop once, in the output bottleneck.
        inner_dropout = (
            0.0 if config.use_bottleneck else config.hidden_dropout_prob
        )
        self.input_bottleneck = self.shared_qk_bottleneck = None
        self.output_bottleneck = None
        if config.use_bottleneck:
            self.input_bottleneck = InputBottleneck(
                intra, name="input_bottleneck", **shared
            )
            self.output_bottleneck = OutputBottleneck(
                config.hidden_size,
                config.hidden_dropout_prob,
                name="output_bottleneck",
                **shared,
            )
        if config.attention_source == "shared":
            self.shared_qk_bottleneck = InputBottleneck(
                intra, name="shared_qk_bottleneck", **shared
            )
        self.attention = MultiHeadSelfAttention(
            config.num_attention_heads,
            intra,
            config.attention_probs_dropout_prob,
            config.initializer_range,
            name="attention",
        )
        self.attention_dropout = keras.layers.Dropout(
            inner_dropout, name="attention_dropout"
        )
        self.attention_norm = build_norm(name="attention_norm", **norm)
        last = config.num_feedforward_networks - 1
        self.feed_forwards = [
            FeedForward(
                intra,
                config.intermediate_size,
                config.hidden_act,
                inner_dropout if ffn_index == last else 0.0,
                name=f"feed_forward_{ffn_index}",
                **shared,
            )
            for ffn_index in range(config.num_feedforward_networks)
        ]

    def build(self, input_shape=None):
        config = self.config
        wide = (None, config.hidden_size)
        narrow = (None, config.intra_bottleneck_size)
        if self.input_bottleneck is not None:
            self.input_bottleneck.build(wide)
            self.output_bottleneck.build(narrow)
        if self.shared_qk_bottleneck is not None:
            self.shared_qk_bottleneck.build(wide)
        query_key = wide if config.attention_source == "input" else narrow
        value = narrow if config.attention_source == "bottleneck" else wide
        self.attention.build(query_key, query_key, value)
        self.attention_norm.build(narrow)
        for feed_forward in self.feed_forwards:
            feed_forward.build(narrow)

    def call(self, block_input, mask, training=None):
        if self.input_bottleneck is None:
            narrow = query_key = value = block_input
        else:
            narrow = self.input_bottleneck(block_input)  # [B * S, I]
            query_key = value = block_input
            if self.shared_qk_bottleneck is not None:
                query_key = self.shared_qk_bottleneck(block_input)
            elif self.config.attention_source == "bottleneck":
                query_key = value = narrow
        attended, attention_logits, attention_probs = self.attention(
            query_key, query_key, value, mask, training=training
        )
        attended = self.attention_dropout(attended, training=training)
        hidden = self.attention_norm(attended + narrow)  # [B * S, I]
        for feed_forward in self.feed_forwards:
            hidden = feed_forward(hidden, training=training)
        if self.output_bottleneck is not None:
            hidden = self.output_bottleneck(
                hidden, block_input, training=training
            )
        return hidden, attention_logits, attention_probs
