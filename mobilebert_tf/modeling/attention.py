"""Multi-head self-attention with separate inputs for query, key and value."""

import math

import keras
from keras import ops

from mobilebert_tf.modeling.dense import build_dense


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
