"""The report's figures: loss curves, attention maps, accuracies.

Figures are built without pyplot, which would keep global state, and are small
enough on the page that their text can be read on a phone.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

# One colour for one thing, in every figure.
COLORS = {
    "teacher": "#4d4d4d",
    "student, distilled": "#0f6fa8",
    "student, without a teacher": "#d9772b",
    "distilled, float32 .tflite": "#6aa9cf",
    "distilled, dynamic .tflite": "#6aa9cf",
    "distilled, int8_qat .tflite": "#6aa9cf",
}
_GRID = "#e4e4e4"
_TEXT = {"fontsize": 10}
_BLOCK_COLORS = ("#0f6fa8", "#3f9b6c", "#b5882a", "#a8486b")
_TRANSFER_TITLES = {
    "normalized_feature_map_loss": "feature maps, normalised\n"
    "(mean squared difference)",
    "feature_mean_loss": "feature means\n(mean squared difference)",
    "feature_variance_loss": "feature variances\n(mean absolute difference)",
    "attention_transfer_loss": "attention\n(KL divergence, nats)",
}
_BLOCK_TERM = re.compile(r"(\w+)_block_(\d+)")


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    """The 95 % score interval of a share of `number` examples."""
    z = 1.959964
    centre = share + z * z / (2 * number)
    margin = z * math.sqrt(
        share * (1 - share) / number + (z / (2 * number)) ** 2
    )
    scale = 1 + z * z / number
    return (centre - margin) / scale, (centre + margin) / scale


def masked_lm_figure(
    curves: Mapping[str, Sequence[tuple[int, float]]],
    held_out: Mapping[str, float],
    transfer_steps: int,
) -> Figure:
    """Draws masked-LM loss against optimiser steps, one line a model.

    Args:
        curves: (step, loss in nats) by model, while training.
        held_out: loss on held-out text at the end, by model.
        transfer_steps: the student's steps before its loss has a masked LM.
    """
    figure, axes = _figure(6.0, 3.6)
    axes.axvspan(0, transfer_steps, color="#0f6fa8", alpha=0.08, lw=0)
    for name, points in curves.items():
        steps, losses = zip(*points, strict=True)
        color = COLORS[name]
        marker = "." if len(points) < 3 else None
        axes.plot(steps, losses, color=color, marker=marker, label=name)
        axes.plot(
            steps[-1], held_out[name], "o", mfc="white", color=color, ms=6
        )
    axes.plot([], [], "o", mfc="white", color="#777777", label="held-out text")
    axes.set_xlim(left=0)
    axes.set_xlabel("optimiser step", **_TEXT)
    axes.set_ylabel("masked-LM loss (nats)", **_TEXT)
    figure.legend(
        loc="outside upper center", ncols=2, frameon=False, fontsize=9
    )
    axes.text(
        transfer_steps / 2,
        0.02,
        "knowledge\ntransfer",
        transform=axes.get_xaxis_transform(),
        ha="center",
        va="bottom",
        fontsize=8,
        color=COLORS["student, distilled"],
    )
    return figure


def transfer_figure(lines: Sequence[Mapping]) -> Figure:
    """Draws every term of knowledge transfer, coloured by block.

    Args:
        lines: the student's `metrics.jsonl`.
    """
    terms: dict[str, dict[int, list]] = {}
    for line in lines:
        for name, value in line.items():
            found = _BLOCK_TERM.fullmatch(name)
            if found:
                blocks = terms.setdefault(found[1], {})
                points = blocks.setdefault(int(found[2]), [])
                points.append((line["global_step"], value))
    figure = Figure(figsize=(6.0, 4.6), layout="constrained", dpi=160)
    grid = figure.subplots(2, math.ceil(len(terms) / 2), sharex=True)
    for axes, (term, blocks) in zip(grid.flat, terms.items(), strict=True):
        _clean(axes)
        for block, points in sorted(blocks.items()):
            steps, losses = zip(*points, strict=True)
            axes.plot(
                steps,
                losses,
                color=_BLOCK_COLORS[block % len(_BLOCK_COLORS)],
                marker="." if len(points) < 12 else None,
                label=f"block {block + 1}",
            )
        _scale(axes, [value for _, value in sum(blocks.values(), [])])
        axes.set_title(_TRANSFER_TITLES.get(term, term), fontsize=9)
    for axes in grid[-1]:
        axes.set_xlabel("optimiser step", **_TEXT)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=len(labels),
        frameon=False,
        fontsize=9,
    )
    return figure


def accuracy_figure(
    names: Sequence[str],
    accuracies: Sequence[Sequence[float]],
    number: int,
    largest_class: float,
) -> Figure:
    """Draws test accuracies as bars with 95 % intervals.

    Args:
        names: of the models.
        accuracies: of each model, one a seed, in [0, 1].
        number: test examples.
        largest_class: accuracy of always naming the largest class.
    """
    figure, axes = _figure(6.0, 0.6 + 0.46 * len(names))
    rows = np.arange(len(names))[::-1]
    for row, name, values in zip(rows, names, accuracies, strict=True):
        _accuracy_bar(axes, row, values, number, COLORS[name])
    axes.axvline(
        100 * largest_class, color="#888888", lw=1, ls="--", zorder=0.5
    )
    axes.annotate(
        "always the largest class",
        (100 * largest_class, 1),
        (3, -1),
        xycoords=axes.get_xaxis_transform(),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="#666666",
    )
    axes.set_yticks(rows, names)
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.55, len(names) - 0.05)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("test accuracy (%)", **_TEXT)
    return figure


def _accuracy_bar(axes, row: int, values, number: int, color: str) -> None:
    """A bar to the mean, its interval, a circle a seed, and the figure."""
    mean = statistics.fmean(values)
    low, high = wilson_interval(mean, number)
    axes.barh(row, 100 * mean, height=0.62, color=color)
    axes.errorbar(
        100 * mean,
        row,
        xerr=[[100 * (mean - low)], [100 * (high - mean)]],
        color="#222222",
        capsize=3,
        lw=1.2,
    )
    if len(values) > 1:
        axes.plot(
            [100 * value for value in values],
            [row - 0.2] * len(values),
            "o",
            mfc="white",
            color="#222222",
            ms=4,
        )
    axes.text(
        1.01,
        row,
        f"{100 * mean:.1f}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=10,
    )


def attention_figure(
    probs: Sequence[np.ndarray], tokens: Sequence[str], largest: float
) -> Figure:
    """Draws one model's attention maps: rows are blocks, columns heads.

    Args:
        probs: [N, S, S] by block; rows are queries.
        tokens: S pieces.
        largest: the top of the colour scale, common to all models.
    """
    heads = probs[0].shape[0]
    figure = Figure(
        figsize=(0.6 + 1.12 * heads, 0.8 + 1.12 * len(probs)),
        layout="constrained",
        dpi=160,
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
    grid = figure.subplots(
        len(probs), heads, sharex=True, sharey=True, squeeze=False
    )
    # The square root shows the small probabilities, which are most of them.
    scale = PowerNorm(0.5, 0.0, largest)
    ticks = np.arange(len(tokens))
    for block, maps in enumerate(probs):
        for head, axes in enumerate(grid[block]):
            image = axes.imshow(maps[head], cmap="Blues", norm=scale)
            axes.set_xticks(ticks, tokens, fontsize=5.5, rotation=90)
            axes.set_yticks(ticks, tokens, fontsize=5.5)
            axes.tick_params(length=0, pad=1)
            axes.spines[:].set_color("#bbbbbb")
            if block == 0:
                axes.set_title(f"head {head + 1}", fontsize=8)
        grid[block][0].set_ylabel(f"block {block + 1}", fontsize=8)
    bar = figure.colorbar(
        image, ax=grid, location="bottom", shrink=0.6, aspect=35, pad=0.01
    )
    bar.locator = MaxNLocator(4)
    bar.set_label("attention probability", fontsize=7)
    bar.ax.tick_params(labelsize=6)
    bar.outline.set_visible(False)
    return figure


def _figure(width: float, height: float):
    figure = Figure(figsize=(width, height), layout="constrained", dpi=160)
    axes = figure.subplots()
    _clean(axes)
    return figure, axes


def _scale(axes, values: Sequence[float]) -> None:
    """Makes a loss axis logarithmic where it spans a factor of ten."""
    if 0 < min(values) < max(values) / 10:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:.3g}")
    else:
        axes.set_ylim(0, 1.08 * max(values))


def _clean(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.grid(color=_GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color="#999999")
