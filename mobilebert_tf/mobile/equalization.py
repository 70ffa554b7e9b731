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

Outlier tokens (`measurement`) take no part, since the integer graph cuts them.

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

from mobilebert_tf.mobile.folding import Folded
from mobilebert_tf.mobile.measurement import measure
from mobilebert_tf.mobile.streams import (
    Stream,
    Streams,
    Write,
    rescale_columns,
)

# A channel that is silent on the batches may be active later: it is scaled as
# if it reached this share of the median channel.
SMALLEST_RELATIVE_RANGE = 0.1

# A channel that reaches this many medians in one tensor holds an outlier. Its
# gain must not be pulled down by tensors in which it is quiet.
_OUTLIER_CHANNEL = 32.0


def equalize(
    folded: Folded,
    batches: Iterable[Mapping],
    with_outliers: bool = False,
    power: float = 0.0,
) -> Folded:
    """Returns the same network with channels of alike range in its tensors.

    To be called before `calibrate`, with the same batches. The float outputs
    stay the same, up to float rounding.

    Args:
        folded: the network.
        batches: as `calibration.calibrate` takes them.
        with_outliers: let outlier tokens take part, for files whose ranges
            hold them.
        power: of the mean of a channel's reaches that is its gain. 0, the
            geometric mean, suits channels that are small where they matter
            most; 4, near the largest, channels that are large in few tensors
            and take resolution from all others there.

    Raises:
        ValueError: if there is no batch, or an activation is not finite.
    """
    ranges = {
        name: np.float64(found.reached if with_outliers else found.ranges)
        for name, found in measure(folded, batches).items()
    }
    arrays = {name: np.float64(array) for name, array in folded.arrays.items()}
    plan = Streams(folded)
    for stream in plan.streams:
        if not stream.is_fixed:
            stream.rescale(arrays, *common_gain(stream, ranges, power))
    for name in plan.attentions:
        _equalize_query_and_key(arrays, ranges, name, plan.centres_keys)
    arrays = {name: np.float32(array) for name, array in arrays.items()}
    return dataclasses.replace(folded, arrays=arrays)


def common_gain(
    stream: Stream, ranges: Mapping[str, np.ndarray], power: float = 0.0
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Chooses a gain for the channels of a stream, and its centres.

    Args:
        stream: the stream.
        ranges: lowest and highest value by channel, [2, W], by tensor.
        power: see `equalize`.

    Returns:
        The gain, [W], and the centre before the first write, after the first,
        and so on, each [W].
    """
    centres = [np.zeros_like(ranges[stream.writes[0].name][0])]
    reaches = []
    for write in stream.writes:
        before = centres[-1]
        tensor = ranges[write.tensor]
        centre = tensor.mean(0) if stream.can_shift else before
        centres.append(centre)
        reaches.append(np.abs(tensor - centre).max(0))
        if write.total and not write.restarts:
            added = ranges[write.name] - (centre - before)
            reaches.append(np.abs(added).max(0))
    return _common_range(reaches, power), centres


def _common_range(reaches: list[np.ndarray], power: float) -> np.ndarray:
    """Returns one gain for several tensors, [W]: a power mean, 0: geometric.

    Each tensor has the same weight, however large it is. A channel that holds
    an outlier in any of them takes its largest reach.
    """
    relative = [_positive(reach) for reach in reaches]
    relative = np.array([reach / np.median(reach) for reach in relative])
    if power:
        return np.mean(relative**power, axis=0) ** (1.0 / power)
    typical = np.exp(np.mean(np.log(relative), axis=0))
    largest = relative.max(axis=0)
    return np.where(largest > _OUTLIER_CHANNEL, largest, typical)


def _positive(reach: np.ndarray) -> np.ndarray:
    """Raises silent channels to a tenth of the median of the others.

    The mean would follow a single channel of 1e7.
    """
    active = reach[reach > 0.0]
    if not active.size:
        return np.ones_like(reach)
    return np.maximum(reach, SMALLEST_RELATIVE_RANGE * np.median(active))


def _equalize_query_and_key(arrays, ranges, name: str, centre_keys: bool):
    query, key = f"{name}/query", f"{name}/key"
    low, high = ranges[key]
    centre = (low + high) / 2.0 if centre_keys else np.zeros_like(low)
    query_reach = _positive(np.abs(ranges[query]).max(0))
    key_reach = _positive(np.abs(ranges[key] - centre).max(0))
    # Both then reach the geometric mean of the two.
    gain = np.sqrt(query_reach / key_reach)
    rescale_columns(arrays, Write(query), gain, 0.0)
    rescale_columns(arrays, Write(key), 1.0 / gain, centre)
