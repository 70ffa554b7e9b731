"""Gives the outlier of a residual stream a channel of its own, exactly.

An outlier token (`measurement`) is large in many channels at once. To cut it
channel by channel would change its direction, and with it the keys and values
that are read from it, although no kernel reads the large part itself. A stream
is a plain sum, so that it may be stored turned: writers `kernel @ Q`, readers
`Q.T @ kernel`, with Q orthogonal. Here Q reflects the outlier's direction onto
one channel. Ranges and gains of the other channels then know nothing of it,
and to cut that channel changes nothing else. Channels get alike ranges before:
Q mixes them, so that a large one would spread over all others.

In float files the turned stream can be divided by a power of two, for hardware
that computes in float16 and overflows at 65,504. Without turning, rounding the
outlier would drown what else its token holds.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from mobilebert_tf.mobile.equalization import common_gain
from mobilebert_tf.mobile.folding import Folded
from mobilebert_tf.mobile.measurement import Measured, measure
from mobilebert_tf.mobile.streams import Stream, Streams, Write, rescale_columns

# Directions that a stream may get channels for.
_MAX_DIRECTIONS = 4
# Outside these channels, outlier tokens may reach this many medians.
_SMALL_ENOUGH = 4.0

# The largest magnitude that float16 holds, and a bound with room for inputs
# that reach four times as far as those measured.
FLOAT16_LARGEST = 65504.0
FLOAT16_BOUND = 16384.0


@dataclasses.dataclass(frozen=True)
class Outlier:
    """The largest outlier token of a network.

    Attributes:
        ratio: its reach over the median token's.
        position: where in the sequence it stands.
        tensor: the sum of a residual stream where it stands out most.
        singular_values: of the outlier tokens' rows there, as shares of the
            largest. One direction carries them if the second is small.
    """

    ratio: float
    position: int
    tensor: str
    singular_values: tuple[float, ...]


def find_outliers(folded: Folded, batches: Iterable[Mapping]) -> list[Outlier]:
    """Returns the sums of residual streams in which a token stands out.

    Args:
        folded: the network, before it is turned or equalised.
        batches: as `measurement.measure` takes them.

    Returns:
        One for each sum, the largest ratio first.
    """
    measured = measure(folded, batches)
    found = []
    for stream in Streams(folded).streams:
        for write in stream.writes if stream.can_turn else ():
            tensor = measured[write.tensor]
            if tensor.has_outliers:
                values = np.linalg.svd(
                    np.float64(tensor.outliers), compute_uv=False
                )
                found.append(
                    Outlier(
                        tensor.largest / tensor.median,
                        tensor.position,
                        write.tensor,
                        tuple(values[:_MAX_DIRECTIONS] / values[0]),
                    )
                )
    return sorted(found, key=lambda outlier: -outlier.ratio)


def turn(folded: Folded, batches: Sequence[Mapping]) -> Folded:
    """Returns the same network with outlier directions in their own channels.

    To be called before `equalize`, with the same batches. Without outlier
    tokens the network is returned as it is.

    Args:
        folded: the network.
        batches: as `measurement.measure` takes them.

    Raises:
        ValueError: see `measurement.measure`.
    """
    arrays = {name: np.float64(array) for name, array in folded.arrays.items()}
    streams = [stream for stream in Streams(folded).streams if stream.can_turn]
    channels: dict[int, list[int]] = {}
    for _ in range(_MAX_DIRECTIONS):
        measured, has_turned = measure(folded, batches), False
        ranges = {name: found.ranges for name, found in measured.items()}
        for index, stream in enumerate(streams):
            taken = channels.setdefault(index, [])
            rows = _outlier_rows(stream, measured, taken)
            if rows is not None:
                gain, _ = common_gain(stream, ranges)
                stream.rescale(arrays, gain)
                axis, reflection = _reflection(rows / gain)
                stream.turn(arrays, reflection)
                taken.append(axis)
                has_turned = True
        if not has_turned:
            break
        float32 = {name: np.float32(array) for name, array in arrays.items()}
        folded = dataclasses.replace(folded, arrays=float32)
    return folded


def overflows_float16(folded: Folded, batches: Iterable[Mapping]) -> bool:
    """Whether a tensor exceeds 16,384, which leaves no room in float16."""
    return bool(_beyond(measure(folded, batches), FLOAT16_BOUND))


def bound_for_float16(
    folded: Folded, batches: Iterable[Mapping]
) -> tuple[Folded, dict[str, float]]:
    """Returns the same network, its streams divided by powers of two.

    Args:
        folded: the network, turned and equalised.
        batches: as `measurement.measure` takes them.

    Returns:
        The network, and the magnitude of each tensor that still exceeds 65,504
        on the batches, by name.
    """
    measured = measure(folded, batches)
    arrays = {name: np.float64(array) for name, array in folded.arrays.items()}
    plan = Streams(folded)
    for stream in plan.streams:
        tensors = {write.tensor for write in stream.writes}
        tensors |= {write.name for write in stream.writes}
        largest = max((_magnitude(measured[t]) for t in tensors), default=0.0)
        if not stream.is_fixed and largest > FLOAT16_BOUND:
            factor = 2.0 ** np.ceil(np.log2(largest / FLOAT16_BOUND))
            width = measured[stream.writes[0].name].ranges.shape[1]
            stream.rescale(arrays, np.full(width, factor))
    for name in plan.attentions:
        _share_magnitude(arrays, measured, name)
    arrays = {name: np.float32(array) for name, array in arrays.items()}
    folded = dataclasses.replace(folded, arrays=arrays)
    return folded, _beyond(measure(folded, batches), FLOAT16_LARGEST)


def _share_magnitude(arrays, measured: Mapping[str, Measured], name: str):
    """Makes queries and keys alike large, since only their product counts."""
    query, key = f"{name}/query", f"{name}/key"
    large = [_magnitude(measured[part]) for part in (query, key)]
    if max(large) > FLOAT16_BOUND and min(large) > 0.0:
        factor = 2.0 ** np.round(0.5 * np.log2(large[0] / large[1]))
        rescale_columns(arrays, Write(query), factor, 0.0)
        rescale_columns(arrays, Write(key), 1.0 / factor, 0.0)


def _beyond(measured: Mapping[str, Measured], bound: float) -> dict[str, float]:
    magnitudes = {name: _magnitude(found) for name, found in measured.items()}
    return {name: size for name, size in magnitudes.items() if size > bound}


def _magnitude(measured: Measured) -> float:
    low, high = measured.extremes
    return max(-low, high)


def _outlier_rows(
    stream: Stream, measured: Mapping[str, Measured], taken: Sequence[int]
) -> np.ndarray | None:
    """Returns outlier tokens, [K, W], without the channels `taken`.

    None if nothing large is left of them.
    """
    rows, is_large = [], False
    for write in stream.writes:
        tensor = measured[write.tensor]
        left = np.float64(tensor.outliers)
        left[:, list(taken)] = 0.0
        rows.append(left)
        bulk = _SMALL_ENOUGH * tensor.median
        is_large |= bool(left.size) and bool(np.abs(left).max() > bulk)
    return np.concatenate(rows) if is_large else None


def _reflection(rows: np.ndarray) -> tuple[int, np.ndarray]:
    """Returns a channel, and a reflection of what rows [K, W] share onto it.

    The matrix, [W, W], is symmetric and orthogonal.
    """
    direction = np.linalg.svd(rows, full_matrices=False)[2][0]
    axis = int(np.abs(direction).argmax())
    normal = direction.copy()
    normal[axis] += np.copysign(1.0, direction[axis])
    normal /= np.linalg.norm(normal)
    return axis, np.eye(len(direction)) - 2.0 * np.outer(normal, normal)
