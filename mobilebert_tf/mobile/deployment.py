"""The graph that is trained for int8, converted and shipped.

It computes what the Keras model computes (see `folding`), in operations that
the integer kernels of LiteRT have: dense layers on [B, S, W] with fused
activations, plain additions, two batch products and a float softmax per block.
Where only the first token's row is read, the last block computes that row only;
the other tokens are keys and values to it.
"""

from collections.abc import Mapping

import tensorflow as tf

from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.mobile.folding import FEATURES, SEQUENCES, SPANS, Folded
from mobilebert_tf.mobile.rounding import Exact
from mobilebert_tf.modeling.layers import activation_function

# Activations that a dense kernel applies before it rounds its output.
_FUSED_ACTIVATIONS = ("relu", "relu6", "linear")


def forward(
    folded: Folded,
    inputs: Mapping,
    rounding: Exact = Exact(),
    first_only: bool = False,
):
    """Computes a folded network.

    Args:
        folded: its arrays may be NumPy arrays, tensors or variables.
        inputs: `input_ids`, `input_mask` and `segment_ids`, integers [B, S]
            with a static S; other entries are ignored.
        rounding: what happens where an integer kernel would round.
        first_only: compute the first token's features only.

    Returns:
        What the Keras model returns: logits [B, C] of sequences or [B, S, C]
        of tokens, `start_logits` and `end_logits` [B, S] by name, or the last
        feature map, [B, S, D] ([B, D] with `first_only`).

    Raises:
        ValueError: if S is unknown or exceeds the position table.
    """
    ids, mask, segments = (tf.cast(inputs[n], tf.int32) for n in INPUT_NAMES)
    longest, length = folded.config.max_position_embeddings, ids.shape[1]
    if length is None or length > longest:
        raise ValueError(
            f"sequences must have a known length of at most {longest} "
            f"(max_position_embeddings). Received: {length}"
        )
    graph = _Graph(folded, rounding, length)
    first_only = first_only or folded.head == SEQUENCES
    outputs = graph.outputs(ids, mask, segments, first_only)
    if folded.head == SPANS:
        start, end = tf.unstack(outputs, axis=-1)
        return {"start_logits": start, "end_logits": end}
    return outputs


class _Graph:
    """The parts of one forward pass at one length.

    Features are [B, S, W]; names are those of `Folded.arrays` and of ranges.
    """

    def __init__(self, folded: Folded, rounding: Exact, length: int):
        self.folded = folded
        self.weights = folded.arrays
        self.config = folded.config
        self.rounding = rounding
        self.length = length

    def outputs(self, input_ids, input_mask, segment_ids, first_only):
        mask = self.mask(input_mask)
        features = self.embed(input_ids, segment_ids)  # [B, S, D]
        last = self.config.num_hidden_layers - 1
        for index in range(self.config.num_hidden_layers):
            keep = _first if first_only and index == last else _all
            features = self.block(f"block_{index:02d}", features, mask, keep)
        if "pooler/kernel" in self.weights:
            features = self.dense("pooler", features)
            # The range of the integer tanh kernel.
            features = self.rounding.fixed(tf.tanh(features), -1.0, 127 / 128)
        if self.folded.head != FEATURES:
            features = self.dense("head", features)
        if first_only:
            return tf.reshape(features, (-1, features.shape[-1]))
        return features

    def mask(self, input_mask):
        """Returns (factor or None, addend), each [B, 1, 1, S]."""
        shape = (-1, 1, 1, self.length)
        keep = tf.reshape(tf.cast(input_mask, tf.float32), shape)
        addend = (1.0 - keep) * self.folded.mask_value
        is_factor = self.config.attention_mask_form == "multiply_add"
        return (keep if is_factor else None), addend

    def embed(self, input_ids, segment_ids):
        config, rounding = self.config, self.rounding
        name = "embeddings/words"
        features = self.look_up(name, input_ids)  # [B, S, E]
        if config.trigram_input:
            features = self.with_neighbours(features)  # [B, S, 3E]
        if "embeddings/projection/kernel" in self.weights:
            features = self.dense("embeddings/projection", features)
        segments = self.look_up("embeddings/segments", segment_ids)
        features = rounding.total(
            "embeddings/with_segments", features, segments
        )
        name = "embeddings/positions"
        # [1, S, D]: GPUs read a constant of rank 2 as its first row.
        positions = self.weights[name][None, : self.length]
        positions = rounding.activation(name, positions)
        features = rounding.total(
            "embeddings/with_positions", features, positions
        )
        return self.norm("embeddings", features)

    def look_up(self, name, ids):
        """Returns rows of a table: [B, S] to [B, S, W]."""
        table = self.weights[name]
        # GPUs take ids of rank 1 only.
        rows = self.rounding.look_up(name, table, tf.reshape(ids, (-1,)))
        return tf.reshape(rows, (-1, self.length, table.shape[-1]))

    def with_neighbours(self, words):
        following = tf.pad(words[:, 1:], ((0, 0), (0, 1), (0, 0)))
        preceding = tf.pad(words[:, :-1], ((0, 0), (1, 0), (0, 0)))
        if self.config.trigram_order == "next_current_previous":
            return tf.concat((following, words, preceding), axis=-1)
        return tf.concat((preceding, words, following), axis=-1)

    def block(self, name, rows, mask, keep):
        """Computes the rows that `keep` selects."""
        query_key = value = rows
        narrow = kept = keep(rows)
        if self.config.attention_source == "bottleneck":
            query_key = value = self.bottleneck(
                f"{name}/input_bottleneck", rows
            )
            narrow = keep(value)
        elif self.config.use_bottleneck:
            narrow = self.bottleneck(f"{name}/input_bottleneck", kept)
        if self.config.attention_source == "shared":
            query_key = self.bottleneck(f"{name}/shared_qk_bottleneck", rows)
        context = self.attention(
            f"{name}/attention", keep(query_key), query_key, value, mask
        )
        hidden = self.residual(f"{name}/attention_output", context, narrow)
        for ffn_index in range(self.config.num_feedforward_networks):
            part = f"{name}/feed_forward_{ffn_index}"
            inner = self.dense(
                f"{part}/intermediate", hidden, self.config.hidden_act
            )
            hidden = self.residual(f"{part}/output", inner, hidden)
        if self.config.use_bottleneck:
            return self.residual(f"{name}/output_bottleneck", hidden, kept)
        return hidden

    def attention(self, name, query_input, key_input, value_input, mask):
        rounding = self.rounding
        factor, addend = mask
        is_cut = query_input is not key_input
        query = self.dense(f"{name}/query", query_input)
        query = self.heads(query, (0, 2, 1, 3), 1 if is_cut else self.length)
        key = self.product(f"{name}/key", key_input)
        key = rounding.symmetric(f"{name}/key", key)
        key = self.heads(key, (0, 2, 3, 1), self.length)
        value = self.product(f"{name}/value", value_input)
        value = rounding.symmetric(f"{name}/value", value)
        value = self.heads(value, (0, 2, 1, 3), self.length)  # [B, N, S, H]
        logits = rounding.activation(f"{name}/logits", query @ key)
        # From here to the probabilities in float: faster than the integer
        # softmax, and masked logits do not widen a quantised range.
        if factor is not None:
            logits = logits * factor
        probs = rounding.fixed(tf.nn.softmax(logits + addend), 0.0, 255 / 256)
        context = rounding.activation(f"{name}/context", probs @ value)
        return tf.reshape(
            tf.transpose(context, (0, 2, 1, 3)),
            (-1, query.shape[2], self.config.intra_bottleneck_size),
        )

    def heads(self, rows, axes, length):
        heads = self.config.num_attention_heads
        width = self.config.intra_bottleneck_size // heads
        shape = (-1, length, heads, width)
        return tf.transpose(tf.reshape(rows, shape), axes)

    def bottleneck(self, name, rows):
        return self.norm(name, self.dense(name, rows))

    def residual(self, name, inputs, stream):
        """Adds dense(inputs) to the stream, and restarts it where needed."""
        outputs = self.dense(name, inputs)
        if f"{name}/scale" in self.weights:
            scale = self.rounding.activation(
                f"{name}/scale", self.weights[f"{name}/scale"]
            )
            stream = self.rounding.activation(
                f"{name}/scaled_stream", stream * scale
            )
        total = self.rounding.total(f"{name}/sum", stream, outputs)
        return self.norm(name, total)

    def dense(self, name, rows, activation="linear"):
        outputs = self.product(name, rows)
        if activation in _FUSED_ACTIVATIONS:
            outputs = activation_function(activation)(outputs)
            return self.rounding.activation(name, outputs)
        outputs = self.rounding.activation(name, outputs)
        outputs = activation_function(activation)(outputs)
        return self.rounding.activation(f"{name}/activation", outputs)

    def product(self, name, features):
        kernel = self.weights[f"{name}/kernel"]
        rows = tf.reshape(features, (-1, features.shape[-1]))
        outputs = self.rounding.product(name, rows, kernel)
        outputs = outputs + self.weights[f"{name}/bias"]
        return tf.reshape(outputs, (-1, features.shape[1], kernel.shape[-1]))

    def norm(self, name, rows):
        """Applies the layer norm of that name, in float, if one is left."""
        if f"{name}/gamma" not in self.weights:
            return rows
        centred = rows - tf.reduce_mean(rows, axis=-1, keepdims=True)
        variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
        epsilon = self.config.layer_norm_eps
        outputs = centred * tf.math.rsqrt(variance + epsilon)
        outputs = outputs * self.weights[f"{name}/gamma"]
        outputs = outputs + self.weights[f"{name}/beta"]
        return self.rounding.activation(f"{name}/norm", outputs)


def _all(features):
    return features


def _first(features):
    """Returns the first tokens' features: [B, S, W] to [B, 1, W]."""
    # A SLICE of known size, because the delegate takes no other.
    size = (features.shape[0] or -1, 1, features.shape[-1])
    return tf.slice(features, (0, 0, 0), size)
