"""Draws the curves of one or more runs from their `metrics.jsonl`.

    python -m mobilebert_tf.commands.plot --runs=runs/student --output=run.png

There is one panel per metric, over the optimiser steps. A metric that is logged
per block has one panel with one colour per block; several runs have one colour
per run. Also draws the attention maps of the demo's report.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from cycler import cycler
from matplotlib import colormaps, style
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from mobilebert_tf.commands.command import Command
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.options import Options, option
from mobilebert_tf.training.run_folder import METRICS_FILE, read_metrics

FORMATS = (".png", ".svg", ".pdf")
# For `matplotlib.style.context`.
STYLE = [
    "default",
    {
        "axes.grid": True,
        "axes.prop_cycle": cycler(
            color=["#2f86c8", "#d9772b", "#7f8790", "#3f9b6c", "#b05585"]
        ),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlesize": "medium",
        "font.size": 9,
        "grid.color": "#80808040",
        "image.cmap": "Blues",
        "legend.frameon": False,
        "savefig.dpi": 160,
    },
]
_NOT_METRICS = {"phase", "step", "global_step"}
_BLOCK_TERM = re.compile(r"(\w+)_block_(\d+)")

# Curves by metric, then by block, as steps and values. Block None stands for a
# metric of the whole model.
Curves = Mapping[str, Mapping[int | None, tuple[list[int], list[float]]]]


@dataclasses.dataclass(frozen=True)
class PlotOptions(Options):
    """What to draw, and into which file."""

    runs: tuple[str, ...] = option(
        (), "Folders of runs.", required=True, group="data"
    )
    output: str = option(
        "", f"Image to write: {', '.join(FORMATS)}.", required=True
    )
    metrics: str = option(
        ".*",
        "Regular expression: draws the metrics whose whole name matches.",
        everyday=True,
    )


def read_run(folder: str | Path) -> list[dict]:
    """Returns the lines of a run's `metrics.jsonl`.

    Raises:
        InputError: see `read_metrics`.
    """
    return read_metrics(Path(folder) / METRICS_FILE)


def curves_of(lines: Sequence[Mapping], pattern: str = ".*") -> Curves:
    """Collects the curves of the metrics whose whole name matches `pattern`.

    The results, which a finished run logs last, belong to no curve.
    """
    curves = {}
    for line in lines:
        if line["phase"] == "results":
            continue
        for name, value in line.items():
            if name in _NOT_METRICS or not re.fullmatch(pattern, name):
                continue
            found = _BLOCK_TERM.fullmatch(name)
            metric, block = (found[1], int(found[2])) if found else (name, None)
            blocks = curves.setdefault(metric, {})
            steps, values = blocks.setdefault(block, ([], []))
            steps.append(line["global_step"])
            values.append(value)
    return curves


def draw_curves(
    figure: Figure | SubFigure,
    runs: Mapping[str, Curves],
    labels: Mapping[str, str] = {},
    steps: str = "optimiser step",
) -> None:
    """Draws one panel per metric.

    Args:
        figure: an empty figure in constrained layout.
        runs: curves by the run's name in the legend.
        labels: text for the vertical axis by metric; the default is its name.
        steps: text for the horizontal axis.
    """
    metrics = list(dict.fromkeys(name for run in runs.values() for name in run))
    columns = min(3, math.ceil(math.sqrt(len(metrics))))
    rows = math.ceil(len(metrics) / columns)
    grid = figure.subplots(rows, columns, squeeze=False)
    lines = {}
    for metric, axes in zip(metrics, grid.flat, strict=False):
        for index, (run, curves) in enumerate(runs.items()):
            for block, (xs, values) in curves.get(metric, {}).items():
                name, color = run, f"C{index}"
                if block is not None and len(runs) == 1:
                    name = f"block {block + 1}"
                    # The ends of the map are too light and too dark.
                    place = 0.3 + 0.5 * block / max(1, *curves[metric])
                    color = colormaps["viridis"](place)
                marker = "." if len(xs) < 12 else None
                (lines[name],) = axes.plot(
                    xs, values, color=color, marker=marker
                )
        lowest, highest = axes.dataLim.intervaly
        if 0 < lowest < highest / 10:
            axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_ylabel(labels.get(metric, metric))
    for axes in grid.flat[len(metrics) :]:
        axes.set_axis_off()
    for axes in grid[-1]:
        axes.set_xlabel(steps)
    if len(lines) > 1:
        figure.legend(
            *(lines.values(), lines.keys()),
            loc="outside upper center",
            ncols=2 if max(map(len, lines)) > 16 else 4,
        )


def draw_attention(
    figure: Figure | SubFigure,
    maps: np.ndarray,
    tokens: Sequence[str],
    rows: Sequence[str],
    column: str,
    highest: float | None = None,
) -> None:
    """Draws attention maps as a grid of images.

    Args:
        figure: an empty figure in constrained layout.
        maps: probabilities [R, C, S, S], a query per row.
        tokens: the S pieces.
        rows: labels of the R rows of images.
        column: what the columns of images are, numbered in their titles.
        highest: upper end of the colour scale; by default that of the maps.
    """
    grid = figure.subplots(
        *maps.shape[:2], sharex=True, sharey=True, squeeze=False
    )
    # The square root shows small probabilities, which are most of them.
    norm = PowerNorm(0.5, 0.0, highest or maps.max())
    ticks = range(len(tokens))
    for place, axes in np.ndenumerate(grid):
        image = axes.imshow(maps[place], norm=norm)
        axes.set_xticks(ticks, tokens, fontsize=7, rotation=90)
        axes.set_yticks(ticks, tokens, fontsize=7)
        axes.tick_params(length=0, pad=1)
        axes.grid(False)
    for number, axes in enumerate(grid[0], start=1):
        axes.set_title(f"{column} {number}")
    for label, axes in zip(rows, grid[:, 0], strict=True):
        axes.set_ylabel(label)
    figure.colorbar(
        *(image, None, grid),
        label="attention probability",
        location="bottom",
        ticks=MaxNLocator(4),
        **{"shrink": 0.6, "aspect": 35, "pad": 0.01},
    )


def main(options: PlotOptions) -> None:
    """Draws runs into an image file.

    Raises:
        InputError: if an option or a folder is unusable.
    """
    output, pattern = Path(options.output), options.metrics
    if output.suffix not in FORMATS:
        raise InputError(
            "--output", f"a name that ends in {', '.join(FORMATS)}", output
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError("--metrics", "a regular expression", error) from error
    runs = {run: curves_of(read_run(run), pattern) for run in options.runs}
    if not any(runs.values()):
        expected = f"metrics like {pattern}"
        raise InputError(", ".join(options.runs), expected, "none")
    with style.context(STYLE), atomic_file(output) as temporary:
        figure = Figure(layout="constrained")
        draw_curves(figure, runs)
        rows, columns = figure.axes[0].get_gridspec().get_geometry()
        figure.set_size_inches(4.2 * columns, 0.6 + 2.6 * rows)
        figure.savefig(temporary, format=output.suffix[1:])
    print(f"Wrote {output}", flush=True)


COMMAND = Command(main, (PlotOptions,), description=__doc__, resumes=False)

if __name__ == "__main__":
    COMMAND()
