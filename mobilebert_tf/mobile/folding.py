"""Rewrites a Keras model, exactly, so that no NoNorm is left to compute.

A NoNorm network is linear between its activations and softmaxes, so a residual
stream h need not be stored as it is. The folded network carries s, with

    h = gain * s + offset        gain, offset [W], known when folding

and a residual layer with its norm, y = gamma * (dense(x) + h) + beta, becomes

    s  <-  s + dense(x) / gain   (1 / gain folds into the dense layer)
    gain  <-  gamma * gain
    offset  <-  gamma * offset + beta

so that the addition stays plain and the norm costs nothing. Each layer that
reads the stream absorbs gain and offset into its kernel and bias. There are two
streams: one between blocks (D wide) and one inside each block (I wide, begun by
the input bottleneck, whose gamma folds into its kernel and whose bias and beta
are the first offset).

A gamma near zero would make the next 1 / gain huge. Such a norm *restarts* its
stream: s <- scale * s + dense(x) is a real multiplication, exact for zeros too,
after which gain is 1 and offset 0. Layer norms cannot fold; they stay, and
restart the stream as well.

Two more identities serve the integer kernels. A constant added to every value
vector passes the softmax-weighted mean unchanged, so it moves into the bias
after it. A constant added to every key shifts all logits of a query alike, so
it vanishes in the softmax. Keys and values are then centred, as symmetric
quantisation needs them.

The computation is in float64, its result in float32 (paper, section 3.3,
"operational optimizations"; the folding is ours).
"""

import dataclasses
import math
from collections.abc import Mapping

import keras
import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.layers import MobileBertBlock, NoNorm
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)

SEQUENCES, TOKENS = "sequence_classification", "token_classification"
SPANS, FEATURES = "question_answering", "features"

HEADS = {
    MobileBertForSequenceClassification: SEQUENCES,
    MobileBertForTokenClassification: TOKENS,
    MobileBertForQuestionAnswering: SPANS,
    MobileBertEncoder: FEATURES,
}

# A channel whose gain falls below this fraction of the stream's median would
# be stored that many times larger than its neighbours.
SMALLEST_RELATIVE_GAIN = 1e-3


@dataclasses.dataclass(frozen=True)
class Folded:
    """A network without NoNorms, which `deployment.forward` computes.

    Attributes:
        config: the encoder's config.
        head: what the network returns, one of the values of `HEADS`.
        arrays: float32 weights by name. Dense layers are `<name>/kernel` and
            `<name>/bias`; `<name>/scale` exists where a stream restarts,
            `<name>/gamma` and `<name>/beta` where a layer norm stays. During
            quantised training and export the values are `tf.Variable`s.
        mask_value: what is added to a masked attention logit.
    """

    config: MobileBertConfig
    head: str
    arrays: Mapping[str, np.ndarray]
    mask_value: float


def fold(model: keras.Model) -> Folded:
    """Returns the exact rewrite of a fine-tuned model or an encoder.

    Raises:
        ValueError: if the model's class is not in `HEADS`.
    """
    if type(model) not in HEADS:
        known = ", ".join(model_class.__name__ for model_class in HEADS)
        raise ValueError(
            f"deployment needs one of {known}. Received: {type(model).__name__}"
        )
    head, config, folding = HEADS[type(model)], model.config, _Folding()
    encoder = model if head == FEATURES else model.encoder
    stream = folding.encoder(encoder, restart_last=head == FEATURES)
    if head == SEQUENCES and encoder.pooler is not None:
        folding.add_dense("pooler", *stream.absorb(encoder.pooler))
        stream = _Stream.start(config.hidden_size)
    if head != FEATURES:
        folding.add_dense("head", *stream.absorb(model.head.dense))
    arrays = {name: np.float32(a) for name, a in folding.arrays.items()}
    return Folded(config, head, arrays, config.attention_mask_value)


def bounded(folded: Folded, mask_value: float) -> Folded:
    """Returns the same network with a mask of at least `mask_value`.

    For tools that round the sum of logits and mask: -10000 would take the
    whole range. At -20 a masked key keeps a weight of e^-20 relative to a real
    one of equal logit. Our own integer files need no bound, since they add the
    mask in float. A bound can change the outputs: logits of a student trained
    at a large rate may differ by 10^5.

    Raises:
        ValueError: if `mask_value` is not negative.
    """
    if mask_value >= 0:
        raise ValueError(f"mask_value must be negative. Received: {mask_value}")
    mask_value = max(folded.mask_value, mask_value)
    return dataclasses.replace(folded, mask_value=mask_value)


@dataclasses.dataclass(frozen=True)
class _Stream:
    """A residual stream h = gain * s + offset; both [W], float64."""

    gain: np.ndarray
    offset: np.ndarray

    @classmethod
    def start(cls, width: int) -> "_Stream":
        return cls(np.ones(width), np.zeros(width))

    def absorb(self, dense: keras.layers.Dense):
        """Returns kernel and bias of `dense` for s as input instead of h."""
        kernel, bias = _array(dense.kernel), _array(dense.bias)
        return self.gain[:, None] * kernel, bias + self.offset @ kernel


class _Folding:
    """Collects folded float64 weights by name while it walks a model."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}

    def add_dense(self, name: str, kernel: np.ndarray, bias: np.ndarray):
        self.arrays[f"{name}/kernel"] = kernel
        self.arrays[f"{name}/bias"] = bias

    def encoder(self, encoder: MobileBertEncoder, restart_last: bool):
        """Folds embeddings and blocks; returns the last block's stream.

        Args:
            encoder: a built encoder.
            restart_last: end in the true feature map (gain 1, offset 0), for
                outputs that no dense layer reads.
        """
        stream = self._embeddings(encoder)
        for block in encoder.blocks:
            last = block is encoder.blocks[-1]
            stream = self._block(block, stream, restart_last and last)
        return stream

    def _embeddings(self, encoder: MobileBertEncoder) -> _Stream:
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

    def _block(self, block: MobileBertBlock, stream: _Stream, restart: bool):
        name = block.name
        inner = query_key = value = stream
        if block.input_bottleneck is not None:
            inner = self._bottleneck(
                f"{name}/input_bottleneck", block.input_bottleneck, stream
            )
        if block.shared_qk_bottleneck is not None:
            query_key = self._bottleneck(
                f"{name}/shared_qk_bottleneck",
                block.shared_qk_bottleneck,
                stream,
            )
        if block.config.attention_source == "bottleneck":
            query_key = value = inner
        output = self._attention(f"{name}/attention", block, query_key, value)
        inner = self._residual(
            f"{name}/attention_output", inner, output, block.attention_norm
        )
        for feed_forward in block.feed_forwards:
            part, last = f"{name}/{feed_forward.name}", block.feed_forwards[-1]
            intermediate = inner.absorb(feed_forward.intermediate_dense)
            self.add_dense(f"{part}/intermediate", *intermediate)
            ends = feed_forward is last and block.output_bottleneck is None
            inner = self._residual(
                f"{part}/output",
                inner,
                _weights(feed_forward.output_dense),
                feed_forward.norm,
                restart and ends,
            )
        if block.output_bottleneck is None:
            return inner
        return self._residual(
            f"{name}/output_bottleneck",
            stream,
            inner.absorb(block.output_bottleneck.dense),
            block.output_bottleneck.norm,
            restart,
        )

    def _bottleneck(self, name, bottleneck, stream) -> _Stream:
        kernel, bias = stream.absorb(bottleneck.dense)
        if not isinstance(bottleneck.norm, NoNorm):
            self._keep_norm(name, bottleneck.norm)
            self.add_dense(name, kernel, bias)
            return _Stream.start(bottleneck.dense.units)
        gamma = _array(bottleneck.norm.gamma)
        offset = gamma * bias + _array(bottleneck.norm.beta)
        self.add_dense(name, kernel * gamma, np.zeros_like(offset))
        return _Stream(np.ones(bottleneck.dense.units), offset)

    def _attention(self, name, block, query_key, value):
        """Folds query, key and value; returns the output kernel and bias."""
        attention = block.attention
        root = math.sqrt(attention.head_size)
        kernel, bias = query_key.absorb(attention.query)
        self.add_dense(f"{name}/query", kernel / root, bias / root)
        kernel, bias = query_key.absorb(attention.key)
        if block.config.attention_mask_form == "additive":
            bias = np.zeros_like(bias)
        self.add_dense(f"{name}/key", kernel, bias)
        kernel, bias = value.absorb(attention.value)
        self.add_dense(f"{name}/value", kernel, np.zeros_like(bias))
        output_kernel, output_bias = _weights(attention.output_dense)
        return output_kernel, output_bias + bias @ output_kernel

    def _residual(self, name, stream, dense, norm, restart=False) -> _Stream:
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


def _weights(dense: keras.layers.Dense) -> tuple[np.ndarray, np.ndarray]:
    return _array(dense.kernel), _array(dense.bias)


def _array(variable) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
