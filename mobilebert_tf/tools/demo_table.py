"""The demo's table: averaged over seeds, judged, and set in plain text.

Owns how results are worded, for the terminal and for the report alike.
"""

import dataclasses
import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from mobilebert_tf.files import atomic_file
from mobilebert_tf.tools.demo_results import HeldOut, Row

RESULTS_FILE = "results.json"
HEADER = (
    "model",
    "parameters",
    "masked LM\n%",
    "dev\n%",
    "test\n%",
    "size\nMB",
    "latency\nms",
    "training\nminutes",
)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The two questions the demo answers, in points of accuracy, by seed.

    Attributes:
        masked_lm_gains, dev_gains, test_gains: the distilled student's
            accuracy less that of the same student without a teacher.
        int8_dev_losses, int8_test_losses: the distilled student's accuracy
            less that of its int8 file.
    """

    masked_lm_gains: tuple[float, ...]
    dev_gains: tuple[float, ...]
    test_gains: tuple[float, ...]
    int8_dev_losses: tuple[float, ...]
    int8_test_losses: tuple[float, ...]

    @classmethod
    def of(cls, seeds: Sequence[Sequence[Row]]) -> "Comparison":
        """Compares the rows of each seed."""
        named = [{row.name: row for row in rows} for rows in seeds]

        def points(attribute, better, worse):
            return tuple(
                100
                * (
                    getattr(rows[better], attribute)
                    - getattr(rows[worse], attribute)
                )
                for rows in named
            )

        pair = "student, distilled", "student, without a teacher"
        files = "student, distilled", "distilled, int8_qat .tflite"
        return cls(
            points("masked_lm_accuracy", *pair),
            points("dev_accuracy", *pair),
            points("test_accuracy", *pair),
            points("dev_accuracy", *files),
            points("test_accuracy", *files),
        )

    @property
    def distilled_wins(self) -> bool:
        """Whether distillation gains on dev and on test, in every seed."""
        return min(self.dev_gains + self.test_gains) > 0

    @property
    def largest_int8_loss(self) -> float:
        """The most that int8 costs, over seeds, on dev or test, in points."""
        return max(self.int8_dev_losses + self.int8_test_losses)

    def lines(self) -> list[str]:
        """The answers, in words."""
        seeds = len(self.test_gains)
        where = "in every seed" if seeds > 1 else "with this seed"
        verdict = "beats" if self.distilled_wins else "does NOT beat"
        return [
            f"The distilled student {verdict} the same student without a "
            f"teacher {where}: test {_points(self.test_gains)}, dev "
            f"{_points(self.dev_gains)}, masked LM "
            f"{_points(self.masked_lm_gains)} points.",
            f"int8 loses at most {max(self.largest_int8_loss, 0.0):.2f} "
            "points against float (dev and test"
            f"{f', {seeds} seeds' if seeds > 1 else ''}).",
        ]


def mean_rows(seeds: Sequence[Sequence[Row]]) -> list[Row]:
    """Averages the tables of several seeds, row by row."""
    return [_mean(rows) for rows in zip(*seeds, strict=True)]


def table_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Returns the cells below `HEADER`; an empty one does not apply."""
    return [
        [
            row.name,
            _format(row.parameters, "{:,.0f}"),
            _percent(row.masked_lm_accuracy),
            _percent(row.dev_accuracy),
            _percent(row.test_accuracy),
            _format(row.megabytes, "{:.2f}"),
            _format(row.latency_ms, "{:.2f}"),
            " + ".join(
                _format(minutes, "{:.1f}")
                for minutes in (
                    row.pretraining_minutes,
                    row.fine_tuning_minutes,
                )
                if minutes is not None
            ),
        ]
        for row in rows
    ]


def seed_cells(
    seeds: Sequence[Sequence[Row]],
) -> tuple[list[str], list[list[str]]]:
    """Returns header and cells of every seed's test accuracy."""
    numbers = range(1, len(seeds) + 1)
    header = ["test accuracy, %", *[f"seed {n}" for n in numbers], "mean"]
    lines = zip(*seeds, mean_rows(seeds), strict=True)
    return header, [
        [rows[0].name, *[_percent(row.test_accuracy) for row in rows]]
        for rows in lines
    ]


def notes(held_out: HeldOut, max_seq_length: int) -> list[str]:
    """Says what the columns mean and how many examples they stand on."""
    return [
        "masked LM: share of masked pieces guessed right by the pre-trained "
        "model, on held-out text.",
        f"dev and test: accuracy of the classifier on {held_out.num_dev:,} "
        f"and {held_out.num_test:,} held-out paragraphs of "
        f"{held_out.num_classes} libraries; always naming the largest gives "
        f"{100 * held_out.largest_class:.1f} % on test.",
        "size: model.safetensors or .tflite. latency: a paragraph of "
        f"{max_seq_length} pieces, LiteRT on one thread of this machine.",
        "training: pre-training + fine-tuning, evaluation included; the "
        "distilled student's without its teacher's, and with "
        "quantisation-aware training and the three exports.",
    ]


def format_table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Sets a table in plain text, numbers to the right."""
    heads = [title.split("\n") for title in header]
    height = max(map(len, heads))
    heads = [[""] * (height - len(head)) + head for head in heads]
    lines = [*zip(*heads, strict=True), *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(
                zip(line, widths, strict=True)
            )
        ).rstrip()
        for line in lines
    ]
    texts.insert(height, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(texts)


def write_results(
    demo_dir: str | os.PathLike,
    seeds: Sequence[Sequence[Row]],
    held_out: HeldOut,
) -> Path:
    """Writes `results.json`: every row of every seed, and the comparison."""
    comparison = Comparison.of(seeds)
    content = {
        "held_out": dataclasses.asdict(held_out),
        "seeds": [[dataclasses.asdict(row) for row in rows] for rows in seeds],
        "comparison": dataclasses.asdict(comparison)
        | {
            "distilled_wins": comparison.distilled_wins,
            "largest_int8_loss": comparison.largest_int8_loss,
        },
    }
    path = Path(demo_dir) / RESULTS_FILE
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _mean(rows: Sequence[Row]) -> Row:
    values = {}
    for field in dataclasses.fields(Row):
        column = [getattr(row, field.name) for row in rows]
        if field.name == "name":
            values[field.name] = column[0]
        elif None in column:
            values[field.name] = None
        else:
            values[field.name] = statistics.fmean(column)
    return Row(**values)


def _format(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _points(values: Sequence[float]) -> str:
    """One seed: +1.2; several: +1.2 (+1.0, +1.4)."""
    mean = f"{statistics.fmean(values):+.1f}"
    if len(values) == 1:
        return mean
    return f"{mean} ({', '.join(f'{value:+.1f}' for value in values)})"
