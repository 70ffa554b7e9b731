"""One MobileBERT block: the rooms of figure 1, in their order.

Shape legend of the package:

    B batch    S sequence length    P masked positions    V vocabulary
    E embedding width    D feature map width (inter-block)
    I width inside a block (intra-block)    M feed-forward inner width
    N heads    H = I / N head width    L blocks    C classes
"""

import keras

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.attention import MultiHeadSelfAttention
from mobilebert_tf.modeling.bottleneck import InputBottleneck, OutputBottleneck
from mobilebert_tf.modeling.configured import ConfiguredLayer
from mobilebert_tf.modeling.feed_forward import FeedForward
from mobilebert_tf.modeling.norm import build_norm


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
