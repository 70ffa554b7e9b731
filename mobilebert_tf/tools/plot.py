r"""Draws the curves of one or more runs from their `metrics.jsonl`.

    python -m mobilebert_tf.tools.plot --runs=runs/student --output=student.png

One panel a metric, against optimiser steps; a metric that is logged block by
block has one panel, with a colour a block. With several runs, a colour a run.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import flags
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.training.log import METRICS_FILE, RESULTS, read_metrics

FLAGS = flags.FLAGS

FORMATS = (".png", ".svg", ".pdf")
_NOT_METRICS = {"phase", "step", "global_step"}
_BLOCK_TERM = re.compile(r"(\w+)_block_(\d+)")
_COLUMNS = 3
_COLORS = colormaps["viridis"]

# A curve: steps and values.
Curve = tuple[list[int], list[float]]


def read_run(folder: str) -> list[dict]:
    """Returns a run's logged lines.

    Raises:
        InputError: if the folder has no record, or a damaged one.
    """
    path = Path(folder) / METRICS_FILE
    try:
        lines = read_metrics(path)
    except OSError as error:
        raise InputError(path, "a run's record", error.strerror) from error
    # Not JSON, or not even UTF-8.
    except ValueError as error:
        raise InputError(path, "a JSON object a line", error) from error
    for number, line in enumerate(lines, start=1):
        if not isinstance(line, dict) or not {"phase", "global_step"} <= {
            *line
        }:
            raise InputError(
                path, "an object with phase and global_step", line, number
            )
    return [line for line in lines if line["phase"] != RESULTS]


def curves_of(
    lines: Sequence[Mapping], pattern: str = ".*"
) -> dict[str, dict[int | None, Curve]]:
    """Returns curves by metric, and by block (None where it has none)."""
    curves: dict[str, dict[int | None, Curve]] = {}
    for line in lines:
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


def curves_figure(
    runs: Mapping[str, Mapping[str, Mapping[int | None, Curve]]],
) -> Figure:
    """Draws a panel a metric.

    Args:
        runs: `curves_of` each run, by the run's name.
    """
    metrics = list(dict.fromkeys(name for run in runs.values() for name in run))
    columns = min(_COLUMNS, len(metrics))
    rows = math.ceil(len(metrics) / columns)
    figure = Figure(
        figsize=(4.2 * columns, 0.6 + 2.6 * rows), layout="constrained", dpi=130
    )
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(metrics) :]:
        axes.set_axis_off()
    for metric, axes in zip(metrics, grid.flat, strict=False):
        _draw(axes, metric, runs)
    if len(runs) > 1:
        handles = [_sample_line(axes, index) for index in range(len(runs))]
        figure.legend(handles, list(runs), loc="outside upper center", ncols=4)
    return figure


def _sample_line(axes, index: int):
    """Returns a sample line of run `index` for the legend."""
    return axes.plot([], [], color=f"C{index}")[0]


def _draw(axes, metric: str, runs) -> None:
    blocks = {block for run in runs.values() for block in run.get(metric, {})}
    numbers = sorted(blocks - {None})
    for index, curves in enumerate(runs.values()):
        for block, (steps, values) in curves.get(metric, {}).items():
            color = f"C{index}"
            if block is not None and len(runs) == 1:
                color = _COLORS(0.9 * block / max(numbers[-1], 1))
            marker = "." if len(steps) < 12 else None
            axes.plot(steps, values, color=color, marker=marker, lw=1.2)
    smallest, largest = axes.dataLim.intervaly
    if 0 < smallest < largest / 10:
        axes.set_yscale("log")
    if numbers:
        metric += f"\nblocks {numbers[0] + 1} (dark) to {numbers[-1] + 1}"
    axes.set_title(metric, fontsize=9)
    axes.set_xlabel("optimiser step", fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)


def draw_runs(folders: Sequence[str], output: Path, pattern: str) -> None:
    """Reads runs, draws them and writes the image.

    Args:
        folders: of the runs.
        output: the image; its ending says the format.
        pattern: of the metrics to draw.

    Raises:
        InputError: if one of the three is unfit.
    """
    if output.suffix not in FORMATS:
        raise InputError(
            "--output", f"a name that ends in {', '.join(FORMATS)}", output
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise InputError("--metrics", "a regular expression", error) from error
    runs = {folder: curves_of(read_run(folder), pattern) for folder in folders}
    if not any(runs.values()):
        raise InputError(", ".join(folders), f"metrics like {pattern}", "none")
    with atomic_file(output) as temporary:
        curves_figure(runs).savefig(temporary, format=output.suffix[1:])


def define_flags() -> None:
    """Defines the tool's flags, when it is run and not when imported."""
    flags.DEFINE_list("runs", None, "Folders of runs.", required=True)
    flags.DEFINE_string(
        "output", None, f"Image to write: {', '.join(FORMATS)}.", required=True
    )
    flags.DEFINE_string(
        "metrics",
        ".*",
        "Draw only metrics whose whole name this pattern matches.",
    )


def main(_) -> None:
    """Draws what the flags name."""
    draw_runs(FLAGS.runs, Path(FLAGS.output), FLAGS.metrics)
    print(f"Wrote {FLAGS.output}", flush=True)


if __name__ == "__main__":
    define_flags()
    shared.run_script(main, goes_on=False)
