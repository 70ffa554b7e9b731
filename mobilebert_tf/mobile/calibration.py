"""From what activations were on real batches to the ranges they are given.

Three methods, each a choice between values that are cut off and steps that are
coarse:

    min_max     the lowest and highest value seen; nothing is cut off
    percentile  a small share of the values is cut off at either end
    mse         whatever makes the mean squared error of rounding smallest

Extremes are exact. The other two read a histogram between them, of a sample of
each tensor: 24 blocks at length 128 have 10^8 activations a batch.

One range is cut by any method. Logits of question answering reach down to
-2000 where the model is sure, since nothing in a softmax stops them, and in 256
steps from there the best answers become ties. Whatever is far below an
example's best is nothing to its softmax, so the range ends there.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from mobilebert_tf.files import atomic_file
from mobilebert_tf.mobile.deployment import INPUT_NAMES, DeploymentModel
from mobilebert_tf.mobile.rounding import RangeRecorder, SampleRecorder

METHODS = ("min_max", "percentile", "mse")

# The share of values within the range, in percent, that `percentile` keeps.
DEFAULT_PERCENTILE = 99.99

_NUM_BINS = 2048
# Shares of a tensor's extremes that `mse` tries for either end.
_SHARES = np.linspace(0.1, 1.0, 37)
_STEPS = 255.0

# What a span logit may be below its example's best and still be told apart from
# those further below: e^-16 of the best one's probability.
_LOGITS_IN_SIGHT = 16.0


@dataclasses.dataclass(frozen=True)
class CalibratedRange:
    """What calibration found for one activation, and what it chose.

    Attributes:
        name: the activation's.
        low, high: the lowest and highest value seen.
        method: one of `METHODS`.
        range_low, range_high: the range it is rounded in.
    """

    name: str
    low: float
    high: float
    method: str
    range_low: float
    range_high: float


def measure_extremes(
    deployment: DeploymentModel, batch: dict
) -> dict[str, np.ndarray]:
    """Returns the lowest and highest value of each activation, [2], by name.

    Eagerly: to trace 24 blocks takes longer than some batches do.
    """
    recorder = RangeRecorder()
    deployment(*_inputs(batch), rounding=recorder)
    return {name: found.numpy() for name, found in recorder.ranges.items()}


def merged_extremes(
    deployment: DeploymentModel, batches: Iterable[dict]
) -> dict[str, np.ndarray]:
    """Returns the extremes over all batches, [2], by name.

    Raises:
        ValueError: if there is no batch, or an activation is not finite.
    """
    merged: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, (low, high) in measure_extremes(deployment, batch).items():
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(
                    f"activation {name} is not finite on the batches"
                )
            before = merged.get(name, (low, high))
            merged[name] = np.array(
                [min(low, before[0]), max(high, before[1])], np.float64
            )
    if not merged:
        raise ValueError("calibration needs at least one batch")
    return merged


def choose_ranges(
    deployment: DeploymentModel,
    batches: Sequence[dict],
    method: str,
    percentile: float = DEFAULT_PERCENTILE,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns extremes and chosen ranges, each [2] by activation's name.

    Args:
        deployment: the float network.
        batches: real examples; read twice unless `method` is `min_max`.
        method: one of `METHODS`.
        percentile: what `percentile` keeps, between 50 and 100.

    Raises:
        ValueError: for another method or percentile, no batch, or an
            activation that is not finite.
    """
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {METHODS}. Received: {method!r}"
        )
    if not 50.0 < percentile <= 100.0:
        raise ValueError(
            f"percentile must be above 50, at most 100. Received: {percentile}"
        )
    extremes = merged_extremes(deployment, batches)
    chosen = dict(extremes)
    if method != "min_max":
        chosen = _cut_ranges(deployment, batches, extremes, method, percentile)
    if deployment.task == "question_answering":
        floor = lowest_best_logit(deployment, batches) - _LOGITS_IN_SIGHT
        low, high = chosen["head"]
        chosen["head"] = np.array([max(low, floor), high])
    return extremes, chosen


def lowest_best_logit(
    deployment: DeploymentModel, batches: Iterable[dict]
) -> float:
    """Returns the lowest of all examples' best span logits, start or end.

    Of real tokens: no answer is cut from padding.
    """
    lowest = np.inf
    for batch in batches:
        logits = deployment(*_inputs(batch)).numpy()  # [B, S, 2]
        real = np.asarray(batch["input_mask"])[:, :, None] > 0
        best = np.where(real, logits, -np.inf).max(axis=1)
        lowest = min(lowest, best.min())
    return float(lowest)


def _cut_ranges(
    deployment, batches, extremes, method, percentile
) -> dict[str, np.ndarray]:
    """The ranges of `percentile` and `mse`, [2] by name."""
    histograms = _histograms(deployment, batches, extremes)
    chosen = {}
    for name, limits in extremes.items():
        counts = histograms.get(name)
        if counts is None or limits[0] == limits[1]:
            # Tables: every row may be asked for, however rare its values.
            chosen[name] = limits
        elif method == "percentile":
            chosen[name] = percentile_range(counts, limits, percentile)
        else:
            chosen[name] = mse_range(counts, limits)
    return chosen


def percentile_range(counts, limits, percentile: float) -> np.ndarray:
    """Returns the range that keeps `percentile` of the values, [2].

    Half of the rest is cut off at either end.

    Args:
        counts: histogram of equal bins between `limits`, [bins].
        limits: lowest and highest value, [2].
        percentile: in percent.
    """
    edges = np.linspace(*limits, len(counts) + 1)
    share = np.concatenate([[0.0], np.cumsum(counts) / np.sum(counts)])
    outside = (100.0 - percentile) / 200.0
    return np.interp([outside, 1.0 - outside], share, edges)


def mse_range(counts, limits) -> np.ndarray:
    """Returns the range of smallest squared rounding error, [2].

    Both ends are tried at shares of their extremes, zero staying inside. The
    error of a value inside is that of a uniform one, step^2 / 12.

    Args:
        counts: histogram of equal bins between `limits`, [bins].
        limits: lowest and highest value, [2].
    """
    edges = np.linspace(*limits, len(counts) + 1)
    centres = (edges[1:] + edges[:-1]) / 2.0
    share = counts / np.sum(counts)
    lows = _SHARES * min(limits[0], 0.0)
    highs = _SHARES * max(limits[1], 0.0)
    below = [np.sum(share * np.maximum(low - centres, 0) ** 2) for low in lows]
    above = [np.sum(share * np.maximum(centres - top, 0) ** 2) for top in highs]
    step = (highs[None, :] - lows[:, None]) / _STEPS
    error = np.array(below)[:, None] + np.array(above)[None] + step**2 / 12.0
    row, column = np.unravel_index(np.argmin(error), error.shape)
    return np.array([lows[row], highs[column]])


def write_ranges(
    path: str | os.PathLike, ranges: Sequence[CalibratedRange]
) -> None:
    """Writes a table of tab-separated values, a line an activation."""
    names = [field.name for field in dataclasses.fields(CalibratedRange)]
    lines = ["\t".join(names)]
    for row in ranges:
        values = (getattr(row, name) for name in names)
        lines.append(
            "\t".join(
                f"{value:.6g}" if isinstance(value, float) else value
                for value in values
            )
        )
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n")


def _histograms(deployment, batches, extremes) -> dict[str, np.ndarray]:
    """Returns counts of sampled values, [bins], by activation's name."""
    counts: dict[str, np.ndarray] = {}
    for index, batch in enumerate(batches):
        recorder = SampleRecorder(seed=index)
        deployment(*_inputs(batch), rounding=recorder)
        for name, sample in recorder.samples.items():
            found, _ = np.histogram(
                sample.numpy(), _NUM_BINS, range=tuple(extremes[name])
            )
            counts[name] = counts.get(name, 0) + found
    return counts


def _inputs(batch: dict) -> list[tf.Tensor]:
    return [tf.cast(batch[name], tf.int32) for name in INPUT_NAMES]
