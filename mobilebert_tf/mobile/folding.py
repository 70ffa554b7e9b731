"""Rewrites a network, exactly, so that no NoNorm is left to compute.

A NoNorm network is linear between its activations and softmaxes, so a residual
stream h need not be stored as such. It is carried as s, with

    h = gain * s + offset        gain, offset [W], known when folding

and a residual layer with its norm, y = gamma * (dense(x) + h) + beta, becomes

    s  <-  s + dense(x) / gain   (1 / gain folds into the dense layer)
    gain  <-  gamma * gain
    offset  <-  gamma * offset + beta

so that the addition stays plain and the norm costs nothing. Whoever reads the
stream absorbs gain and offset into the kernel and bias it has anyway. There are
two streams: between blocks (D wide) and inside a block (I wide, begun by the
input bottleneck, whose own gamma folds into its kernel and whose bias and beta
are the first offset).

A gamma near zero would make the next 1 / gain huge. Such a norm *restarts* its
stream: s <- scale * s + dense(x), a real multiplication, exact for zeros too,
after which gain is 1 and offset 0. Layer norms cannot fold; they stay, and
restart the stream as well.

Two more identities serve the integer kernels: a constant added to every value
vector passes the softmax-weighted mean unchanged, hence moves into the bias
behind it; a constant added to every key shifts all logits of a query alike,
hence vanishes in the softmax. Keys and values are then centred, as symmetric
quantisation wants them.

All of it is computed in float64 (paper, section 3.3, "operational
optimizations"; the folding is ours).
"""

import dataclasses
import math

import keras
import numpy as np

from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.layers import MobileBertBlock, NoNorm

# A channel whose gain falls below this fraction of the stream's median would
# be stored that many times larger than its neighbours.
SMALLEST_RELATIVE_GAIN = 1e-3


@dataclasses.dataclass(frozen=True)
class _Stream:
    """A residual stream h = gain * s + offset; both [W], float64."""

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def start(cls, width: int) -> "_Stream":
        return cls(np.ones(width), np.zeros(width))

    def absorb(self, dense: keras.layers.Dense):
        """Returns kernel and bias of `dense` reading s in place of h."""
        kernel, bias = _array(dense.kernel), _array(dense.bias)
        return self.gain[:, None] * kernel, bias + self.offset @ kernel


class Folding:
    """The folded weights, gathered part by part.

    Attributes:
        arrays: name to float64 array. Dense layers are `<name>/kernel` and
            `<name>/bias`; `<name>/scale` exists where a stream restarts,
            `<name>/gamma` and `<name>/beta` where a layer norm stays.
    """

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}

    def fold_encoder(
        self, encoder: MobileBertEncoder, restart_last: bool
    ) -> _Stream:
        """Folds embeddings and blocks.

        Args:
            encoder: a built encoder.
            restart_last: end in the true feature map (gain 1, offset 0), for
                outputs that no dense layer reads.

        Returns:
            The stream that the last block leaves.
        """
        stream = self._fold_embeddings(encoder)
        for block in encoder.blocks:
            last = block is encoder.blocks[-1]
            stream = self._fold_block(block, stream, restart_last and last)
        return stream

    def add_dense(self, name: str, kernel: np.ndarray, bias: np.ndarray):
        self.arrays[f"{name}/kernel"] = kernel
        self.arrays[f"{name}/bias"] = bias

    def fold_dense(
        self, name: str, dense: keras.layers.Dense, stream: _Stream
    ) -> None:
        """Folds a dense layer that reads the stream and leaves it."""
        self.add_dense(name, *stream.absorb(dense))

    def _fold_embeddings(self, encoder: MobileBertEncoder) -> _Stream:
        layer, config = encoder.embeddings, encoder.config
        words = _array(layer.word_embeddings)
        segments = _array(layer.segment_embeddings)
        positions = _array(layer.position_embeddings)
        if config.zero_pad_embedding:
            words[0] = 0.0
        gamma, beta = 1.0, 0.0
        if isinstance(layer.norm, NoNorm):
            gamma, beta = _array(layer.norm.gamma), _array(layer.norm.beta)
        else:
            self._keep_norm("embeddings", layer.norm)
        if layer.projection is None:
            words = words * gamma
        else:
            self.add_dense(
                "embeddings/projection",
                _array(layer.projection.kernel) * gamma,
                _array(layer.projection.bias) * gamma,
            )
        self.arrays |= {
            "embeddings/words": words,
            "embeddings/segments": segments * gamma,
            "embeddings/positions": positions * gamma + beta,
        }
        return _Stream.start(config.hidden_size)

    def _fold_block(
        self, block: MobileBertBlock, stream: _Stream, restart: bool
    ) -> _Stream:
        name = block.name
        inner = query_key = value = stream
        if block.input_bottleneck is not None:
            inner = self._fold_bottleneck(
                f"{name}/input_bottleneck", block.input_bottleneck, stream
            )
        if block.shared_qk_bottleneck is not None:
            query_key = self._fold_bottleneck(
                f"{name}/shared_qk_bottleneck",
                block.shared_qk_bottleneck,
                stream,
            )
        if block.config.attention_source == "bottleneck":
            query_key = value = inner
        output = self._fold_attention(
            f"{name}/attention", block, query_key, value
        )
        inner = self._fold_residual(
            f"{name}/attention_output", inner, output, block.attention_norm
        )
        for feed_forward in block.feed_forwards:
            part = f"{name}/{feed_forward.name}"
            self.fold_dense(
                f"{part}/intermediate", feed_forward.intermediate_dense, inner
            )
            output = (
                _array(feed_forward.output_dense.kernel),
                _array(feed_forward.output_dense.bias),
            )
            is_last = feed_forward is block.feed_forwards[-1]
            ends_block = is_last and block.output_bottleneck is None
            inner = self._fold_residual(
                f"{part}/output",
                inner,
                output,
                feed_forward.norm,
                restart and ends_block,
            )
        if block.output_bottleneck is None:
            return inner
        return self._fold_residual(
            f"{name}/output_bottleneck",
            stream,
            inner.absorb(block.output_bottleneck.dense),
            block.output_bottleneck.norm,
            restart,
        )

    def _fold_bottleneck(self, name, bottleneck, stream) -> _Stream:
        kernel, bias = stream.absorb(bottleneck.dense)
        if not isinstance(bottleneck.norm, NoNorm):
            self._keep_norm(name, bottleneck.norm)
            self.add_dense(name, kernel, bias)
            return _Stream.start(bottleneck.units)
        gamma = _array(bottleneck.norm.gamma)
        offset = gamma * bias + _array(bottleneck.norm.beta)
        self.add_dense(name, kernel * gamma, np.zeros_like(offset))
        return _Stream(np.ones(bottleneck.units), offset)

    def _fold_attention(self, name, block, query_key, value):
        """Folds query, key and value; returns the output kernel and bias."""
        attention, config = block.attention, block.config
        root = math.sqrt(attention.head_size)
        kernel, bias = query_key.absorb(attention.query)
        self.add_dense(f"{name}/query", kernel / root, bias / root)
        kernel, bias = query_key.absorb(attention.key)
        if config.attention_mask_form == "additive":
            bias = np.zeros_like(bias)
        self.add_dense(f"{name}/key", kernel, bias)
        kernel, bias = value.absorb(attention.value)
        self.add_dense(f"{name}/value", kernel, np.zeros_like(bias))
        output_kernel = _array(attention.output_dense.kernel)
        output_bias = _array(attention.output_dense.bias)
        return output_kernel, output_bias + bias @ output_kernel

    def _fold_residual(
        self, name, stream, dense, norm, restart=False
    ) -> _Stream:
        """Folds y = norm(dense(x) + h); returns the stream that carries y."""
        kernel, bias = dense
        width = stream.gain.size
        if not isinstance(norm, NoNorm):
            self._keep_norm(name, norm)
            self.add_dense(name, kernel, bias)
            return _Stream.start(width)
        gamma, beta = _array(norm.gamma), _array(norm.beta)
        gain, offset = gamma * stream.gain, gamma * stream.offset + beta
        if restart or _is_ill_conditioned(gain):
            self.arrays[f"{name}/scale"] = gain
            self.add_dense(name, kernel * gamma, bias * gamma + offset)
            return _Stream.start(width)
        self.add_dense(name, kernel / stream.gain, bias / stream.gain)
        return _Stream(gain, offset)

    def _keep_norm(self, name: str, norm: keras.layers.Layer) -> None:
        self.arrays[f"{name}/gamma"] = _array(norm.gamma)
        self.arrays[f"{name}/beta"] = _array(norm.beta)


def _is_ill_conditioned(gain: np.ndarray) -> bool:
    magnitude = np.abs(gain)
    smallest = SMALLEST_RELATIVE_GAIN * np.median(magnitude)
    # Not `<`: when every gain is zero, so is the median.
    return bool(magnitude.min() <= smallest)


def _array(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
