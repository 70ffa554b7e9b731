"""Gives the channels of each tensor alike ranges before rounding, exactly.

An integer tensor has one range for all its channels. Where one channel reaches
1000 and the others stay below 10, as on the residual streams of MobileBERT,
most channels keep three of their eight bits. But the graph leaves a scale for
every channel to choose, and in most places a centre too:

    x' = (x - centre) / gain      gain, centre [W]

A layer that writes x divides the columns of its kernel by `gain`, a layer that
reads it multiplies rows, and `centre` moves between their biases; tables are
treated as kernels are. That holds for

* both residual streams: all their writers share one gain, because they are
  added, but each write may move the centre;
* the shared bottleneck of query and key, and values, of which a softmax takes
  means, so that a constant passes through;
* the inner layer of a feed-forward network, gain only: relu(a x) = a relu(x);
* query and key, gain only, where one is divided by the factor that multiplies
  the other; a constant added to every key vanishes in the softmax.

Scales of kernels are per output channel, so dividing columns costs no accuracy.
Nothing is added to the graph. What a layer norm reads or writes, and what the
network returns, stays as it is.

Nagel et al. 2019 equalise pairs of layers this way. A stream has dozens of
writers, and centres matter as much as scales here, because NoNorm removes no
mean: rounded weights times a large constant are a large error.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from mobilebert_tf.mobile.calibration import measure_ranges
from mobilebert_tf.mobile.folding import FEATURES, Folded

# A channel that is silent on the batches may be active later: it is scaled as
# if it reached this share of the average channel.
SMALLEST_RELATIVE_RANGE = 0.1

# Activations that commute with a positive scale.
_HOMOGENEOUS_ACTIVATIONS = ("relu", "linear")


def equalize(folded: Folded, batches: Iterable[Mapping]) -> Folded:
    """Returns the same network with channels of alike range in its tensors.

    To be called before `calibrate`, with the same batches. The float outputs
    stay the same, up to float rounding.

    Args:
        folded: the network.
        batches: as `calibration.calibrate` takes them.

    Raises:
        ValueError: if there is no batch, or an activation is not finite.
    """
    ranges = measure_ranges(folded, batches, by_channel=True)
    ranges = {name: np.float64(found) for name, found in ranges.items()}
    arrays = {name: np.float64(array) for name, array in folded.arrays.items()}
    plan = _Plan(folded)
    for stream in plan.streams:
        stream.equalize(arrays, ranges)
    for name in plan.attentions:
        _equalize_query_and_key(arrays, ranges, name, plan.centres_keys)
    arrays = {name: np.float32(array) for name, array in arrays.items()}
    return dataclasses.replace(folded, arrays=arrays)


@dataclasses.dataclass(frozen=True)
class _Write:
    """A dense layer or table that writes, or adds to, a stream.

    Attributes:
        name: of the layer or table, and of its output.
        total: the name of the sum after it, if the stream was there before.
        restarts: whether the stream before it ends here, multiplied by
            `<name>/scale`, and a new one begins.
    """

    name: str
    total: str | None = None
    restarts: bool = False


class _Stream:
    """Channels that the weights around them may rescale.

    Args:
        writes: the first layers that write it.
        can_shift: whether the channels' centres are free as well.

    Attributes:
        is_fixed: whether a layer norm or the output reads it as it is.
    """

    def __init__(self, *writes: _Write, can_shift: bool = True):
        self.writes = list(writes)
        # A reading layer, and how many writes came before it.
        self.reads: list[tuple[str, int]] = []
        self.can_shift = can_shift
        self.is_fixed = False

    def read(self, *names: str) -> None:
        """Notes dense layers that read what has been written so far."""
        self.reads += [(name, len(self.writes)) for name in names]

    def equalize(self, arrays: dict, ranges: Mapping) -> None:
        """Rescales, in place, all weights that write or read the stream."""
        if self.is_fixed:
            return
        # Centre of the stream before the first write, after the first, ...
        centres = [np.zeros_like(ranges[self.writes[0].name][0])]
        reaches = []
        for write in self.writes:
            before = centres[-1]
            tensor = ranges[write.total or write.name]
            centre = tensor.mean(0) if self.can_shift else before
            centres.append(centre)
            reaches.append(np.abs(tensor - centre).max(0))
            if write.total and not write.restarts:
                added = ranges[write.name] - (centre - before)
                reaches.append(np.abs(added).max(0))
        gain = _common_range(reaches)
        for index, write in enumerate(self.writes):
            shift = centres[index + 1] - centres[index]
            _rescale_columns(arrays, write, gain, shift)
        for name, num_writes in self.reads:
            _rescale_rows(arrays, name, gain, centres[num_writes])


class _Plan:
    """Finds what writes and what reads each stream by walking the graph.

    Attributes:
        streams: all of them, in any order.
        attentions: names of query and key pairs.
        centres_keys: whether a constant in all keys vanishes under the mask.
    """

    def __init__(self, folded: Folded):
        config = folded.config
        self._config, self._names = config, folded.arrays.keys()
        self.streams: list[_Stream] = []
        self.attentions: list[str] = []
        self.centres_keys = config.attention_mask_form == "additive"
        stream = self._embeddings()
        for index in range(config.num_hidden_layers):
            stream = self._block(f"block_{index:02d}", stream)
        if folded.head == FEATURES:
            stream.is_fixed = True
        else:
            stream.read("pooler" if "pooler/kernel" in self._names else "head")

    def _begin(self, *writes: _Write, can_shift: bool = True) -> _Stream:
        stream = _Stream(*writes, can_shift=can_shift)
        self.streams.append(stream)
        return stream

    def _embeddings(self) -> _Stream:
        first = _Write("embeddings/words")
        if "embeddings/projection/kernel" in self._names:
            # Neighbours beyond the ends are zeros, so the centre stays zero.
            words = self._begin(first, can_shift=False)
            words.read("embeddings/projection")
            first = _Write("embeddings/projection")
        stream = self._begin(
            first,
            _Write("embeddings/segments", "embeddings/with_segments"),
            _Write("embeddings/positions", "embeddings/with_positions"),
        )
        return self._after_norm("embeddings", stream)

    def _block(self, name: str, stream: _Stream) -> _Stream:
        config = self._config
        inner = query_key = value = stream
        if config.use_bottleneck:
            inner = self._bottleneck(f"{name}/input_bottleneck", stream)
        if config.attention_source == "shared":
            query_key = self._bottleneck(f"{name}/shared_qk_bottleneck", stream)
        elif config.attention_source == "bottleneck":
            query_key = value = inner
        attention = f"{name}/attention"
        self.attentions.append(attention)
        query_key.read(f"{attention}/query", f"{attention}/key")
        value.read(f"{attention}/value")
        values = self._begin(_Write(f"{attention}/value"))
        values.read(f"{name}/attention_output")
        inner = self._residual(f"{name}/attention_output", inner)
        for index in range(config.num_feedforward_networks):
            part = f"{name}/feed_forward_{index}"
            inner.read(f"{part}/intermediate")
            if config.hidden_act in _HOMOGENEOUS_ACTIVATIONS:
                middle = self._begin(
                    _Write(f"{part}/intermediate"), can_shift=False
                )
                middle.read(f"{part}/output")
            inner = self._residual(f"{part}/output", inner)
        if not config.use_bottleneck:
            return inner
        inner.read(f"{name}/output_bottleneck")
        return self._residual(f"{name}/output_bottleneck", stream)

    def _bottleneck(self, name: str, stream: _Stream) -> _Stream:
        stream.read(name)
        return self._after_norm(name, self._begin(_Write(name)))

    def _residual(self, name: str, stream: _Stream) -> _Stream:
        if f"{name}/scale" in self._names:
            stream.read(f"{name}/scale")
            return self._begin(_Write(name, f"{name}/sum", restarts=True))
        stream.writes.append(_Write(name, f"{name}/sum"))
        return self._after_norm(name, stream)

    def _after_norm(self, name: str, stream: _Stream) -> _Stream:
        if f"{name}/gamma" not in self._names:
            return stream
        stream.is_fixed = True
        stream = self._begin()
        stream.is_fixed = True
        return stream


def _common_range(reaches: list[np.ndarray]) -> np.ndarray:
    """Returns one gain for several tensors, [W]: the geometric mean.

    Each tensor has the same weight, however large it is.
    """
    relative = [_positive(reach) for reach in reaches]
    relative = [reach / reach.mean() for reach in relative]
    return np.exp(np.mean(np.log(relative), axis=0))


def _positive(reach: np.ndarray) -> np.ndarray:
    smallest = SMALLEST_RELATIVE_RANGE * reach.mean()
    if smallest == 0.0:
        return np.ones_like(reach)
    return np.maximum(reach, smallest)


def _rescale_columns(arrays, write: _Write, gain, shift) -> None:
    """Makes a layer or table write (x - shift) / gain."""
    if write.name in arrays:
        arrays[write.name] = (arrays[write.name] - shift) / gain
        return
    kernel, bias = f"{write.name}/kernel", f"{write.name}/bias"
    arrays[kernel] = arrays[kernel] / gain
    arrays[bias] = (arrays[bias] - shift) / gain
    if write.restarts:
        arrays[f"{write.name}/scale"] = arrays[f"{write.name}/scale"] / gain


def _rescale_rows(arrays, name: str, gain, centre) -> None:
    """Makes a layer, or a restart, read gain * x' + centre from x'."""
    if name.endswith("/scale"):
        bias = f"{name.removesuffix('/scale')}/bias"
        arrays[bias] = arrays[bias] + arrays[name] * centre
        arrays[name] = arrays[name] * gain
        return
    kernel, bias = arrays[f"{name}/kernel"], arrays[f"{name}/bias"]
    # Three neighbouring words in a row make three copies of the channels.
    copies = len(kernel) // len(gain)
    arrays[f"{name}/bias"] = bias + np.tile(centre, copies) @ kernel
    arrays[f"{name}/kernel"] = np.tile(gain, copies)[:, None] * kernel


def _equalize_query_and_key(arrays, ranges, name: str, centre_keys: bool):
    query, key = f"{name}/query", f"{name}/key"
    low, high = ranges[key]
    centre = (low + high) / 2.0 if centre_keys else np.zeros_like(low)
    query_reach = _positive(np.abs(ranges[query]).max(0))
    key_reach = _positive(np.abs(ranges[key] - centre).max(0))
    # Both then reach the geometric mean of the two.
    gain = np.sqrt(query_reach / key_reach)
    _rescale_columns(arrays, _Write(query), gain, 0.0)
    _rescale_columns(arrays, _Write(key), 1.0 / gain, centre)
