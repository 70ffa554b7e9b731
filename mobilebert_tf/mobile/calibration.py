"""Measures activations on real batches and chooses the ranges to round them in.

A range is what the activation reached, extended to hold zero. The second
operands of batch products get symmetric ranges, with zero point 0.

One range is cut: that of the logits of question answering. They reach down to
-2000 where the model is sure, since nothing in a softmax stops them, and in 256
steps from there the best answers become ties. A logit far below an example's
best one does not count in its softmax, so the range ends there.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.files import atomic_file
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.folding import SPANS, Folded
from mobilebert_tf.mobile.rounding import RangeRecorder

# 8 bits reach from -128 to 127: this range has scale m / 127, zero point 0.
_SYMMETRIC_RATIO = 128.0 / 127.0

# How far below its example's best a span logit may be and still be told apart
# from lower ones: at e^-16 of the best one's probability.
_LOGITS_IN_SIGHT = 16.0


class Range(NamedTuple):
    """The range in which an activation is rounded, and what it reached."""

    low: float
    high: float
    lowest: float
    highest: float


def record_ranges(
    folded: Folded, batch: Mapping, by_channel: bool = False
) -> dict[str, np.ndarray]:
    """Returns what each activation reaches on a batch, in the float graph.

    Runs eagerly: tracing 24 blocks takes longer than some batches do.

    Args:
        folded: the network.
        batch: `input_ids`, `input_mask` and `segment_ids`, [B, S].
        by_channel: measure every channel of the activations of rank 2.

    Returns:
        Lowest and highest value by name, float32 [2], or [2, W] by channel.
    """
    recorder = RangeRecorder(by_channel)
    forward(folded, batch, recorder)
    return {name: found.numpy() for name, found in recorder.ranges.items()}


def measure_ranges(
    folded: Folded, batches: Iterable[Mapping], by_channel: bool = False
) -> dict[str, np.ndarray]:
    """Returns `record_ranges` over all batches.

    Raises:
        ValueError: if there is no batch, or an activation is not finite.
    """
    merged: dict[str, np.ndarray] = {}
    for batch in batches:
        for name, found in record_ranges(folded, batch, by_channel).items():
            if not np.isfinite(found).all():
                raise ValueError(
                    f"activation {name} is not finite on the batches"
                )
            low, high = merged.get(name, found)
            merged[name] = np.stack(
                [np.minimum(found[0], low), np.maximum(found[1], high)]
            )
    if not merged:
        raise ValueError("measuring ranges needs at least one batch")
    return merged


def calibrate(folded: Folded, batches: Sequence[Mapping]) -> dict[str, Range]:
    """Returns the range of each activation, in graph order.

    Args:
        folded: the network, equalised before if at all.
        batches: `input_ids`, `input_mask` and `segment_ids`, [B, S]; a few
            hundred examples of the training set in all. Other entries are
            ignored.

    Raises:
        ValueError: see `measure_ranges`.
    """
    reached = measure_ranges(folded, batches)
    limits = {name: np.float64(found) for name, found in reached.items()}
    if folded.head == SPANS:
        low, high = limits["head"]
        floor = _lowest_best_logit(folded, batches) - _LOGITS_IN_SIGHT
        limits["head"] = np.array([max(low, floor), high])
    symmetric = activations(folded)
    usable = usable_ranges(
        np.stack(list(limits.values())), [symmetric[name] for name in limits]
    )
    return {
        name: Range(float(low), float(high), *map(float, reached[name]))
        for name, (low, high) in zip(limits, usable, strict=True)
    }


def activations(folded: Folded) -> dict[str, bool]:
    """Returns whether each activation needs a symmetric range, by name."""
    # One token is enough to learn the names.
    recorder, one = RangeRecorder(), np.ones((1, 1), np.int32)
    forward(folded, dict(zip(INPUT_NAMES, (one, one, one - 1))), recorder)
    return {name: name in recorder.symmetric_names for name in recorder.ranges}


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
