"""The layers of a MobileBERT block: figure 1 of the paper.

Inside a block, tensors are flat rows, [B * S, width]: a dense layer of rank 2
is one matrix product on every backend.

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
    """A layer made from a `MobileBertConfig`, which is saved with it."""

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

    It replaces layer norm. On a phone this halves the latency, and it keeps
    the network linear between its activations, so that a deployed graph can
    fold every NoNorm into a neighbouring dense layer.

    Call arguments:
        inputs: [..., W].

    Returns:
        [..., W].

    Reference:
        Sun et al. 2020, section 3.3, "Operational optimizations".
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
    config: MobileBertConfig, name: str = "norm"
) -> keras.layers.Layer:
    """Returns the kind of norm that `config` names."""
    if config.normalization_type == "no_norm":
        return NoNorm(name=name)
    return keras.layers.LayerNormalization(
        epsilon=config.layer_norm_eps, name=name
    )


def build_dense(
    units: int, config: MobileBertConfig, name: str
) -> keras.layers.Dense:
    """Returns a linear dense layer initialised as the release does."""
    return keras.layers.Dense(
        units, kernel_initializer=truncated_normal(config), name=name
    )


def truncated_normal(
    config: MobileBertConfig,
) -> keras.initializers.Initializer:
    """Returns a new initializer: each one draws the same numbers every time."""
    return keras.initializers.TruncatedNormal(stddev=config.initializer_range)


def activation_function(name: str) -> Callable:
    """Returns the activation that the config calls `name`.

    `gelu` is the tanh approximation, as in the release; `gelu_erf` is exact.
    """
    return {
        "relu": ops.relu,
        "relu6": ops.relu6,
        "gelu": lambda inputs: ops.gelu(inputs, approximate=True),
        "gelu_erf": lambda inputs: ops.gelu(inputs, approximate=False),
        "tanh": ops.tanh,
        "linear": lambda inputs: inputs,
    }[name]


def attention_mask(input_mask, form: str, value: float, dtype):
    """Prepares `input_mask` once for all blocks.

    Only keys are masked, since nothing reads what a padded query computes.

    Args:
        input_mask: int32 [B, S], 1 for real tokens.
        form: `additive` or `multiply_add` (see `MobileBertConfig`).
        value: added to the logits of masked keys.
        dtype: dtype of the attention logits.

    Returns:
        A pair (factor or None, addend), each [B, 1, 1, S]: a block computes
        `attention_logits * factor + addend`.
    """
    keep = ops.cast(input_mask, dtype)[:, None, None, :]
    addend = (1.0 - keep) * value
    return (keep if form == "multiply_add" else None), addend


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MultiHeadSelfAttention(ConfiguredLayer):
    """Scaled dot-product attention with an input each for query, key and value.

    Call arguments:
        query_input, key_input, value_input: [B * S, W]; widths may differ.
        mask: result of `attention_mask`.

    Returns:
        A triple: the attention output [B * S, I], before residual and norm;
        `attention_logits` [B, N, S, S], scaled and masked; and
        `attention_probs` [B, N, S, S], before dropout.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.num_heads = config.num_attention_heads
        self.head_size = config.intra_bottleneck_size // self.num_heads
        self.query, self.key, self.value, self.output_dense = (
            build_dense(config.intra_bottleneck_size, config, name)
            for name in ("query", "key", "value", "output_dense")
        )
        self.dropout = keras.layers.Dropout(
            config.attention_probs_dropout_prob, name="dropout"
        )

    def build(self, query_input_shape, key_input_shape, value_input_shape):
        self.query.build(query_input_shape)
        self.key.build(key_input_shape)
        self.value.build(value_input_shape)
        self.output_dense.build((None, self.config.intra_bottleneck_size))

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
            (-1, self.config.intra_bottleneck_size),
        )
        return self.output_dense(context), attention_logits, attention_probs


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class InputBottleneck(ConfiguredLayer):
    """Norm(Dense(x)): D to I, without activation, dropout or residual.

    Call arguments:
        inputs: [B * S, D].

    Returns:
        [B * S, I].
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.dense = build_dense(config.intra_bottleneck_size, config, "dense")
        self.norm = build_norm(config)

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.norm.build((None, self.config.intra_bottleneck_size))

    def call(self, inputs):
        return self.norm(self.dense(inputs))


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class OutputBottleneck(ConfiguredLayer):
    """Norm(Dropout(Dense(y)) + x): I to D, with the block's own input x.

    Call arguments:
        inputs: [B * S, I].
        block_input: [B * S, D].

    Returns:
        [B * S, D].
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.dense = build_dense(config.hidden_size, config, "dense")
        self.norm = build_norm(config)
        self.dropout = keras.layers.Dropout(
            config.hidden_dropout_prob, name="dropout"
        )

    def build(self, inputs_shape, block_input_shape=None):
        self.dense.build(inputs_shape)
        self.norm.build((None, self.config.hidden_size))

    def call(self, inputs, block_input, training=None):
        outputs = self.dropout(self.dense(inputs), training=training)
        return self.norm(outputs + block_input)


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class FeedForward(ConfiguredLayer):
    """Norm(Dropout(Dense(act(Dense(y)))) + y): I to M and back (section 3.2).

    Args:
        config: a `MobileBertConfig`.
        dropout_prob: dropout before the residual sum.

    Call arguments:
        inputs: [B * S, I].

    Returns:
        [B * S, I].
    """

    def __init__(
        self, config: MobileBertConfig, dropout_prob: float = 0.0, **kwargs
    ):
        super().__init__(config, **kwargs)
        self.dropout_prob = dropout_prob
        self.intermediate_dense = build_dense(
            config.intermediate_size, config, "intermediate_dense"
        )
        self.activation = activation_function(config.hidden_act)
        self.output_dense = build_dense(
            config.intra_bottleneck_size, config, "output_dense"
        )
        self.dropout = keras.layers.Dropout(dropout_prob, name="dropout")
        self.norm = build_norm(config)

    def build(self, input_shape):
        self.intermediate_dense.build(input_shape)
        self.output_dense.build((None, self.config.intermediate_size))
        self.norm.build(input_shape)

    def call(self, inputs, training=None):
        hidden = self.activation(self.intermediate_dense(inputs))
        outputs = self.dropout(self.output_dense(hidden), training=training)
        return self.norm(outputs + inputs)

    def get_config(self):
        return super().get_config() | {"dropout_prob": self.dropout_prob}


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class MobileBertBlock(ConfiguredLayer):
    """Input bottleneck, attention, feed-forward stack, output bottleneck.

    The residual around attention adds the *bottlenecked* input, the one around
    the whole block adds the block input itself. Query and key read, by config,
    a bottleneck of their own (released student), the input bottleneck (TINY),
    or the block input (teacher, and the student as the paper draws it); value
    reads the block input except in TINY.

    Call arguments:
        block_input: [B * S, D].
        mask: result of `attention_mask`.

    Returns:
        A triple: the feature map [B * S, D], and `attention_logits` and
        `attention_probs`, [B, N, S, S].

    Reference:
        Sun et al. 2020, figure 1 and sections 3.1 to 3.3.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(config, **kwargs)
        self.input_bottleneck = self.shared_qk_bottleneck = None
        self.output_bottleneck = None
        # Blocks with bottlenecks drop once, in the output bottleneck.
        inner_dropout = config.hidden_dropout_prob
        if config.use_bottleneck:
            inner_dropout = 0.0
            self.input_bottleneck = InputBottleneck(
                config, name="input_bottleneck"
            )
            self.output_bottleneck = OutputBottleneck(
                config, name="output_bottleneck"
            )
        if config.attention_source == "shared":
            self.shared_qk_bottleneck = InputBottleneck(
                config, name="shared_qk_bottleneck"
            )
        self.attention = MultiHeadSelfAttention(config, name="attention")
        self.attention_dropout = keras.layers.Dropout(
            inner_dropout, name="attention_dropout"
        )
        self.attention_norm = build_norm(config, "attention_norm")
        last = config.num_feedforward_networks - 1
        self.feed_forwards = [
            FeedForward(
                config,
                inner_dropout if ffn_index == last else 0.0,
                name=f"feed_forward_{ffn_index}",
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
        narrow = query_key = value = block_input
        if self.input_bottleneck is not None:
            narrow = self.input_bottleneck(block_input)  # [B * S, I]
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
