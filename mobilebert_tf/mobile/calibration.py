"""Chooses the ranges in which activations are rounded.

A range is what the activation reaches on real batches, measured by token
(`measurement`), extended to hold zero. The second operands of batch products
get symmetric ranges, with zero point 0. Cutting outlier tokens is harmless
where nothing reads what makes them large, and wrong elsewhere. So the ranges
are tried, and widened if the rounded outputs are then nearer to the float ones.

The logits of question answering are cut below. They reach down to -2000 where
the model is sure, since nothing in a softmax stops them, and in 256 steps from
there the best answers become ties. A logit far below an example's best one does
not count in its softmax, so the range ends there.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mobilebert_tf.files import atomic_file
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.folding import SEQUENCES, SPANS, Folded
from mobilebert_tf.mobile.measurement import (
    LOGITS_IN_SIGHT,
    Measured,
    activations,
    measure,
    readings,
)
from mobilebert_tf.mobile.rounding import Exact, FakeQuantization

# 8 bits reach from -128 to 127: this range has scale m / 127, zero point 0.
_SYMMETRIC_RATIO = 128.0 / 127.0

# How much wider than the kept tokens' ranges to try; the last cuts nothing.
_WIDENINGS = (1.0, 4.0, 16.0, 64.0, np.inf)

# XNNPACK runs an integer ADD where the scale of a summand is from 2^-10 to 2^8
# of the sum's, and refuses a file with a dense layer whose product of scales is
# 2^8 of its output's. Steps as small as these do not show in the results.
_NARROWEST_SUMMAND, _WIDEST_SUMMAND = 2.0**-9, 2.0**7
_WIDEST_PRODUCT = 2.0**7

# Examples that ranges are tried on.
_NUM_TRIED = 64


class Range(NamedTuple):
    """The range in which an activation is rounded, and what it reached."""

    low: float
    high: float
    lowest: float
    highest: float


def calibrate(folded: Folded, batches: Sequence[Mapping]) -> dict[str, Range]:
    """Returns the range of each activation, in graph order.

    Args:
        folded: the network, equalised before if at all.
        batches: `input_ids`, `input_mask` and `segment_ids`, [B, S]; a few
            hundred examples of the training set in all. Other entries are
            ignored.

    Raises:
        ValueError: see `measurement.measure`.
    """
    measured = measure(folded, batches)
    kept = np.array([found.limits for found in measured.values()])
    reached = np.array([found.extremes for found in measured.values()])
    if folded.head == SPANS:
        lowest = _lowest_best_logit(folded, batches) - LOGITS_IN_SIGHT
        for limits in (kept, reached):
            limits[-1, 0] = max(limits[-1, 0], lowest)
    cuts = any(found.has_outliers for found in measured.values())
    candidates = [
        _ranges(folded, measured, _widened(kept, reached, widening))
        for widening in (_WIDENINGS if cuts else (1.0,))
    ]
    if len(candidates) == 1:
        return candidates[0]
    roundings = [FakeQuantization(ranges) for ranges in candidates]
    errors = rounding_errors(folded, batches, roundings)
    return candidates[int(np.argmin(errors))]


def rounding_errors(
    folded: Folded, batches: Iterable[Mapping], roundings: Sequence[Exact]
) -> list[float]:
    """Returns how far each rounding moves the outputs of real tokens.

    The root mean square of the difference from the float graph, as a share of
    the float outputs' standard deviation by logit or channel, on the first 64
    examples or so.
    """
    outputs, num = [], 0
    for batch in batches:
        if num >= _NUM_TRIED:
            break
        num += len(batch["input_ids"])
        outputs.append(
            [_real_outputs(folded, batch, r) for r in (Exact(), *roundings)]
        )
    exact, *rounded = (np.concatenate(p) for p in zip(*outputs, strict=True))
    spread = max(np.sqrt(exact.var(0).mean()), np.finfo(np.float32).tiny)
    errors = [
        np.sqrt(np.mean(np.square(exact - found))) / spread for found in rounded
    ]
    # Infinite if an output is not finite, for NaN would be the least.
    return [float(e) if np.isfinite(e) else np.inf for e in errors]


def _real_outputs(folded: Folded, batch: Mapping, rounding: Exact):
    """Returns the outputs of sequences or real tokens, [R, W]."""
    outputs = forward(folded, batch, rounding)
    if folded.head == SEQUENCES:
        return np.float64(outputs)
    if folded.head == SPANS:
        outputs = tf.stack(list(outputs.values()), axis=-1)
    return np.float64(outputs)[np.asarray(batch["input_mask"]) > 0]


def usable_ranges(limits: np.ndarray, symmetric: Sequence[bool]) -> np.ndarray:
    """Makes ranges hold zero, have a width, and be symmetric if needed.

    Args:
        limits: lowest and highest values, [P, 2].
        symmetric: whether each range has to be symmetric, [P].

    Returns:
        float32 [P, 2].
    """
    low, high = np.minimum(limits[:, 0], 0.0), np.maximum(limits[:, 1], 0.0)
    # An activation that is always zero still needs a scale.
    high = np.where(high - low == 0.0, 1.0, high)
    largest = np.maximum(-low, high)
    low = np.where(symmetric, -largest * _SYMMETRIC_RATIO, low)
    high = np.where(symmetric, largest, high)
    return np.stack([low, high], axis=-1).astype(np.float32)


def write_ranges(path: str | os.PathLike, ranges: Mapping[str, Range]) -> None:
    """Writes tab-separated values, one activation per line.

    Columns: its name, lowest and highest value, and both ends of its range.
    """
    lines = ["name\tlow\thigh\trange_low\trange_high"]
    for name, found in ranges.items():
        values = found.lowest, found.highest, found.low, found.high
        lines.append("\t".join([name, *(f"{value:.6g}" for value in values)]))
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _lowest_best_logit(folded: Folded, batches: Iterable[Mapping]) -> float:
    """Returns the lowest of all examples' best start or end logits.

    Padding is left out, since it holds no answers.
    """
    lowest = np.inf
    for batch in batches:
        is_real = np.asarray(batch["input_mask"]) > 0
        for logits in forward(folded, batch).values():  # each [B, S]
            best = np.where(is_real, logits.numpy(), -np.inf).max(axis=1)
            lowest = min(lowest, best.min())
    return float(lowest)


def _ranges(
    folded: Folded, measured: Mapping[str, Measured], limits: np.ndarray
) -> dict[str, Range]:
    symmetric = activations(folded)
    usable = usable_ranges(limits, [symmetric[name] for name in measured])
    usable = dict(zip(measured, usable, strict=True))
    _suit_kernels(usable, folded)
    return {
        name: Range(*map(float, usable[name]), *found.extremes)
        for name, found in measured.items()
    }


def _suit_kernels(ranges: dict[str, np.ndarray], folded: Folded) -> None:
    """Widens ranges, [2] each, until integer kernels accept them.

    What hardly moves on the examples, such as a first token before attention,
    would get a scale of rounding noise.
    """
    summands, inputs = readings(folded)

    def widen(name: str, width: float) -> None:
        if np.ptp(ranges[name]) < width:
            ranges[name] = ranges[name] * (width / np.ptp(ranges[name]))

    for name, parts in inputs.items():
        kernel = np.abs(folded.arrays[f"{name}/kernel"]).max()
        for part in parts:
            width = np.ptp(ranges[part]) * kernel / 127.0
            widen(name, width / _WIDEST_PRODUCT)
    for total, parts in summands.items():
        for part in parts:
            widen(total, np.ptp(ranges[part]) / _WIDEST_SUMMAND)
    # From the last sum back: a summand may be a sum itself.
    for total, parts in reversed(summands.items()):
        for part in parts:
            widen(part, np.ptp(ranges[total]) * _NARROWEST_SUMMAND)


def _widened(kept, reached, widening: float) -> np.ndarray:
    """Returns ranges [P, 2] that are wider, as far as anything reaches."""
    if np.isinf(widening):
        return reached
    low = np.maximum(reached[:, 0], np.minimum(widening * kept[:, 0], 0.0))
    high = np.minimum(reached[:, 1], np.maximum(widening * kept[:, 1], 0.0))
    return np.stack([low, high], axis=-1)
