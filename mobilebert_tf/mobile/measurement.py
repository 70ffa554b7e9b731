"""Measures what the tensors of a network reach, token by token.

An integer tensor has one range for all tokens. Published MobileBERT weights
carry one outlier token: position 0 reaches 1e7 on the residual stream, where
other tokens stay below 100, because NoNorm bounds nothing. A range that holds
it rounds all others to zero. So reach is measured by token, padding is left
out, and a token beyond 8 times the median one counts as an outlier, which sets
neither ranges nor gains.

Attention logits are measured by row, as far as its softmax can tell: what lies
more than 16 below the best key has no weight, and a best key may stand no more
than 16 above the second.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
import tensorflow as tf

from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.folding import Folded
from mobilebert_tf.mobile.rounding import Exact

# A token is an outlier of a tensor beyond this many times the median reach.
OUTLIER_RATIO = 8.0

# Logits that differ by more cannot be told apart after a softmax: e^-16 of the
# best one's probability.
LOGITS_IN_SIGHT = 16.0


@dataclasses.dataclass
class Measured:
    """What a tensor reaches on examples.

    A token's reach is its largest magnitude over channels and heads.

    Attributes:
        ranges: lowest and highest value without outlier tokens, [2, W] by
            channel, [2, 1] of attention's products.
        reached: lowest and highest value of all tokens, likewise.
        median: the median token's reach.
        largest: the largest token's reach.
        position: where in its sequence that token stands.
        outliers: rows of outlier tokens, [K, W].
    """

    ranges: np.ndarray
    reached: np.ndarray
    median: float = 0.0
    largest: float = 0.0
    position: int = 0
    outliers: np.ndarray | None = None

    def __post_init__(self):
        if self.outliers is None:
            self.outliers = np.zeros((0, self.ranges.shape[1]), np.float32)

    @property
    def limits(self) -> tuple[float, float]:
        """The range of all channels together, without outlier tokens."""
        return float(self.ranges[0].min()), float(self.ranges[1].max())

    @property
    def extremes(self) -> tuple[float, float]:
        """The range of all channels and tokens together."""
        return float(self.reached[0].min()), float(self.reached[1].max())

    @property
    def has_outliers(self) -> bool:
        """Whether a token stands out."""
        return self.largest > OUTLIER_RATIO * self.median > 0.0

    def merge(self, other: "Measured") -> "Measured":
        """Returns what is reached on the examples of both."""
        larger = max(self, other, key=lambda measured: measured.largest)
        return Measured(
            _union(self.ranges, other.ranges),
            _union(self.reached, other.reached),
            max(self.median, other.median),
            larger.largest,
            larger.position,
            np.concatenate([self.outliers, other.outliers]),
        )


class RangeRecorder(Exact):
    """Computes exactly, eagerly, and measures each activation and table.

    Args:
        input_mask: the mask of the batch, [B, S].

    Attributes:
        measured: by activation name, in graph order.
        symmetric_names: activations that need a symmetric range.
    """

    def __init__(self, input_mask: np.ndarray):
        self.measured: dict[str, Measured] = {}
        self.symmetric_names: set[str] = set()
        self._is_real = np.asarray(input_mask) > 0

    def look_up(self, name, table, ids):
        # Any row may be asked for, so that none is an outlier.
        self.measured[name] = _whole(np.asarray(table))
        return tf.gather(table, ids)

    def activation(self, name, tensor):
        array = np.asarray(tensor)
        num, length = self._is_real.shape
        if name.endswith("/logits"):
            self.measured[name] = _measure_logits(array, self._is_real)
        elif array.ndim == 4:  # [B, N, S, H], S being 1 for a single query
            rows = array.transpose(0, 2, 1, 3)
            rows = rows.reshape(*rows.shape[:2], -1)
            measured = _measure(rows, self._real(rows.shape[1]))
            self.measured[name] = _over_channels(measured)
        elif array.ndim == 1:  # the factors of a stream
            self.measured[name] = _whole(array[None])
        elif len(array) != num:  # the table of positions, [1, S, W]
            is_used = self._is_real.any(axis=0, keepdims=True)
            self.measured[name] = _measure(array, is_used)
        elif name == "head" or array.shape[1] != length:
            # Logits are measured whole, and so are single tokens, none of
            # which stands out.
            rows = array[self._real(array.shape[1])]
            self.measured[name] = _whole(rows)
        else:
            self.measured[name] = _measure(array, self._is_real)
        return tensor

    def symmetric(self, name, tensor):
        self.symmetric_names.add(name)
        return self.activation(name, tensor)

    def _real(self, length: int) -> np.ndarray:
        return self._is_real[:, :length]


class _ReadingRecorder(Exact):
    """Learns which activations each operation reads, from a single token.

    They are known by their values, since rows are reshaped and cut on the way.
    """

    def __init__(self):
        self.summands: dict[str, list[str]] = {}
        self.inputs: dict[str, list[str]] = {}
        self._values: dict[str, np.ndarray] = {}

    def look_up(self, name, table, ids):
        return self.activation(name, tf.gather(table, ids))

    def activation(self, name, tensor):
        self._values[name] = np.ravel(tensor)
        return tensor

    def product(self, name, rows, kernel):
        self.inputs[name] = self._named(rows)
        return super().product(name, rows, kernel)

    def total(self, name, left, right):
        self.summands[name] = self._named(left) + self._named(right)
        return super().total(name, left, right)

    def _named(self, tensor) -> list[str]:
        wanted = np.ravel(tensor)
        return [
            name
            for name, values in self._values.items()
            if np.array_equal(values, wanted)
        ]


def measure(folded: Folded, batches: Iterable[Mapping]) -> dict[str, Measured]:
    """Returns what each activation reaches in the float graph.

    Args:
        folded: the network.
        batches: `input_ids`, `input_mask` and `segment_ids`, [B, S].

    Returns:
        By name, in graph order.

    Raises:
        ValueError: if there is no batch, or an activation is not finite.
    """
    merged: dict[str, Measured] = {}
    for batch in batches:
        for name, found in measure_batch(folded, batch).items():
            if not np.isfinite(found.reached).all():
                raise ValueError(
                    f"activation {name} is not finite on the batches"
                )
            merged[name] = (
                merged[name].merge(found) if name in merged else found
            )
    if not merged:
        raise ValueError("measuring ranges needs at least one batch")
    return merged


def measure_batch(folded: Folded, batch: Mapping) -> dict[str, Measured]:
    """Returns what each activation reaches on a batch, finite or not.

    Runs eagerly: tracing 24 blocks takes longer than some batches do.
    """
    recorder = RangeRecorder(batch["input_mask"])
    forward(folded, batch, recorder)
    return recorder.measured


def activations(folded: Folded) -> dict[str, bool]:
    """Returns whether each activation needs a symmetric range, by name."""
    # Two tokens are enough to learn the names.
    ones = np.ones((1, 2), np.int32)
    recorder = RangeRecorder(ones)
    forward(folded, dict(zip(INPUT_NAMES, (ones, ones, ones - 1))), recorder)
    return {
        name: name in recorder.symmetric_names for name in recorder.measured
    }


def readings(
    folded: Folded,
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns the activations that each sum, and each dense layer, reads.

    By name, in graph order. The neighbours of trigrams are left out.
    """
    recorder = _ReadingRecorder()
    one = np.ones((1, 1), np.int32)
    forward(folded, dict(zip(INPUT_NAMES, (one, one, one - 1))), recorder)
    return recorder.summands, recorder.inputs


def _measure(rows: np.ndarray, is_real: np.ndarray) -> Measured:
    """Measures rows [B, T, W] where `is_real` [B, T]."""
    reach = np.abs(rows).max(-1)
    median = float(np.median(reach[is_real]))
    # Not `>`: when most tokens are silent, so is the median.
    is_kept = is_real & ~((reach > OUTLIER_RATIO * median) & (median > 0.0))
    real, kept = rows[is_real], rows[is_kept]
    reach = np.where(is_real, reach, 0.0)
    largest = np.unravel_index(reach.argmax(), reach.shape)
    return Measured(
        np.stack([kept.min(0), kept.max(0)]),
        np.stack([real.min(0), real.max(0)]),
        median,
        float(reach[largest]),
        int(largest[1]),
        rows[is_real & ~is_kept],
    )


def _measure_logits(logits: np.ndarray, is_real: np.ndarray) -> Measured:
    """Measures attention logits, [B, N, queries, S]."""
    keys = is_real[:, None, None, :]
    hidden = tf.where(keys, logits, -np.inf)
    top = tf.math.top_k(hidden, min(2, logits.shape[-1])).values.numpy()
    lowest = np.where(keys, logits, np.inf).min(-1)
    # A sequence of one token has no second key.
    best = top[..., 0]
    second = np.where(np.isfinite(top[..., -1]), top[..., -1], best)
    high = np.minimum(best, second + LOGITS_IN_SIGHT)
    low = np.minimum(np.maximum(lowest, best - LOGITS_IN_SIGHT), high)
    # A row [low, high] for each query, over all heads.
    rows = np.stack([low.min(1), high.max(1)], axis=-1)
    queries = is_real[:, : rows.shape[1]]
    measured = _over_channels(_measure(rows, queries))
    measured.reached = _extremes(
        np.stack([lowest, best], axis=1).transpose(0, 3, 1, 2)[queries]
    )
    return measured


def _over_channels(measured: Measured) -> Measured:
    return dataclasses.replace(
        measured,
        ranges=_extremes(measured.ranges),
        reached=_extremes(measured.reached),
        outliers=None,
    )


def _whole(array: np.ndarray) -> Measured:
    """Measures all rows of [R, W]."""
    found = np.stack([array.min(0), array.max(0)])
    return Measured(found, found)


def _extremes(array: np.ndarray) -> np.ndarray:
    return np.array([[array.min()], [array.max()]])


def _union(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.stack(
        [np.minimum(one[0], other[0]), np.maximum(one[1], other[1])]
    )
