"""Which weights write and read each tensor whose channels are free to choose.

A layer that writes x may write another x' instead, if all that read it undo the
change. Gains and centres do that for every stream here, (x - centre) / gain,
and orthogonal matrices for those that are plain sums. Nothing is added to the
graph.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from mobilebert_tf.mobile.folding import FEATURES, Folded

# Activations that commute with a positive scale.
_HOMOGENEOUS_ACTIVATIONS = ("relu", "linear")


@dataclasses.dataclass(frozen=True)
class Write:
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

    @property
    def tensor(self) -> str:
        """The stream after this write."""
        return self.total or self.name


class Stream:
    """Channels that the weights around them may rescale.

    Args:
        writes: the first layers that write it.
        can_shift: whether the channels' centres are free as well.
        is_sum: whether it is a plain sum, which any rotation passes through.

    Attributes:
        is_fixed: whether a layer norm or the output reads it as it is.
    """

    def __init__(
        self, *writes: Write, can_shift: bool = True, is_sum: bool = False
    ):
        self.writes = list(writes)
        # A reading layer, and how many writes came before it.
        self.reads: list[tuple[str, int]] = []
        self.can_shift = can_shift
        self.is_fixed = False
        self._is_sum = is_sum

    @property
    def can_turn(self) -> bool:
        """Whether its channels may be mixed: a restart multiplies each."""
        restarts = any(write.restarts for write in self.writes)
        restarts |= any(name.endswith("/scale") for name, _ in self.reads)
        return self._is_sum and not self.is_fixed and not restarts

    def read(self, *names: str) -> None:
        """Notes dense layers that read what has been written so far."""
        self.reads += [(name, len(self.writes)) for name in names]

    def rescale(self, arrays: dict, gain, centres=None) -> None:
        """Rewrites the weights around it, in place, for (x - centre) / gain.

        Args:
            arrays: weights by name.
            gain: [W].
            centres: of the stream before the first write, after the first, and
                so on, each [W]. None: zero.
        """
        if centres is None:
            centres = [np.zeros_like(gain)] * (len(self.writes) + 1)
        for index, write in enumerate(self.writes):
            shift = centres[index + 1] - centres[index]
            rescale_columns(arrays, write, gain, shift)
        for name, num_writes in self.reads:
            rescale_rows(arrays, name, gain, centres[num_writes])

    def turn(self, arrays: dict, rotation: np.ndarray) -> None:
        """Rewrites the weights around it, in place, for x @ rotation.

        Args:
            arrays: weights by name.
            rotation: an orthogonal matrix, [W, W].
        """
        for write in self.writes:
            parts = f"{write.name}/kernel", f"{write.name}/bias"
            for name in (write.name,) if write.name in arrays else parts:
                arrays[name] = arrays[name] @ rotation
        for name, _ in self.reads:
            kernel = f"{name}/kernel"
            arrays[kernel] = rotation.T @ arrays[kernel]


class Streams:
    """Finds the streams of a network by walking its graph.

    Attributes:
        streams: all of them, residual streams in the order in which they begin.
        attentions: names of query and key pairs.
        centres_keys: whether a constant in all keys vanishes under the mask.
    """

    def __init__(self, folded: Folded):
        config = folded.config
        self._config, self._names = config, folded.arrays.keys()
        self.streams: list[Stream] = []
        self.attentions: list[str] = []
        self.centres_keys = config.attention_mask_form == "additive"
        stream = self._embeddings()
        for index in range(config.num_hidden_layers):
            stream = self._block(f"block_{index:02d}", stream)
        if folded.head == FEATURES:
            stream.is_fixed = True
        else:
            stream.read("pooler" if "pooler/kernel" in self._names else "head")

    def _begin(self, *writes: Write, **properties: bool) -> Stream:
        stream = Stream(*writes, **properties)
        self.streams.append(stream)
        return stream

    def _embeddings(self) -> Stream:
        first = Write("embeddings/words")
        if "embeddings/projection/kernel" in self._names:
            # Neighbours beyond the ends are zeros, so the centre stays zero.
            words = self._begin(first, can_shift=False)
            words.read("embeddings/projection")
            first = Write("embeddings/projection")
        stream = self._begin(
            first,
            Write("embeddings/segments", "embeddings/with_segments"),
            Write("embeddings/positions", "embeddings/with_positions"),
            # Three neighbouring words in a row are copies of the same channels.
            is_sum=not (
                self._config.trigram_input and first.name == "embeddings/words"
            ),
        )
        return self._after_norm("embeddings", stream)

    def _block(self, name: str, stream: Stream) -> Stream:
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
        values = self._begin(Write(f"{attention}/value"))
        values.read(f"{name}/attention_output")
        inner = self._residual(f"{name}/attention_output", inner)
        for index in range(config.num_feedforward_networks):
            part = f"{name}/feed_forward_{index}"
            inner.read(f"{part}/intermediate")
            if config.hidden_act in _HOMOGENEOUS_ACTIVATIONS:
                middle = self._begin(
                    Write(f"{part}/intermediate"), can_shift=False
                )
                middle.read(f"{part}/output")
            inner = self._residual(f"{part}/output", inner)
        if not config.use_bottleneck:
            return inner
        inner.read(f"{name}/output_bottleneck")
        return self._residual(f"{name}/output_bottleneck", stream)

    def _bottleneck(self, name: str, stream: Stream) -> Stream:
        stream.read(name)
        return self._after_norm(name, self._begin(Write(name), is_sum=True))

    def _residual(self, name: str, stream: Stream) -> Stream:
        if f"{name}/scale" in self._names:
            stream.read(f"{name}/scale")
            restart = Write(name, f"{name}/sum", restarts=True)
            return self._begin(restart, is_sum=True)
        stream.writes.append(Write(name, f"{name}/sum"))
        return self._after_norm(name, stream)

    def _after_norm(self, name: str, stream: Stream) -> Stream:
        if f"{name}/gamma" not in self._names:
            return stream
        stream.is_fixed = True
        stream = self._begin()
        stream.is_fixed = True
        return stream


def rescale_columns(arrays: Mapping, write: Write, gain, shift) -> None:
    """Makes a layer or table write (x - shift) / gain."""
    if write.name in arrays:
        arrays[write.name] = (arrays[write.name] - shift) / gain
        return
    kernel, bias = f"{write.name}/kernel", f"{write.name}/bias"
    arrays[kernel] = arrays[kernel] / gain
    arrays[bias] = (arrays[bias] - shift) / gain
    if write.restarts:
        arrays[f"{write.name}/scale"] = arrays[f"{write.name}/scale"] / gain


def rescale_rows(arrays: Mapping, name: str, gain, centre) -> None:
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
