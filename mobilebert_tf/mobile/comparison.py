"""Scores of .tflite files beside those of the float model and of the floor.

No TensorFlow. Metrics are by `SPLIT_METRIC`, as `Task.evaluate` returns them.
"""

from collections.abc import Iterator, Mapping, Sequence

from mobilebert_tf.mobile.options import (
    CALIBRATED_KINDS,
    CALIBRATION_EXAMPLES,
    TRAINED_KIND,
)
from mobilebert_tf.tasks.task import Task

MEGABYTES, LATENCY, FLOAT16_ERROR = "megabytes", "latency_ms", "fp16_error"

# Loss against the float model that a user should know of, in points.
_WORTH_A_WARNING = 0.5
_REMEDIES = {
    "float32": "a larger --export_seq_length",
    "float16": "a larger --export_seq_length",
    "int8": "--export=int8_qat",
    TRAINED_KIND: "a larger --num_qat_steps",
    "dynamic": "--export=int8_qat",
    "int16x8": "--export=int8_qat",
}


def shown_metrics(task: Task) -> list[str]:
    """Returns the metrics that a table shows: what models are chosen by."""
    return [
        f"{split}_{name}"
        for prefix in ("dev", "test")
        for split in task.labelled(prefix)
        for name in task.chosen_by
    ]


def comparison(
    files: Mapping[str, Mapping[str, float]],
    model: Mapping[str, float],
    task: Task,
) -> list[str]:
    """Returns a plain-text table: the floor, the float model, a line per file.

    Args:
        files: metrics, size and latency by kind.
        model: metrics of the float model; may be empty.
        task: the task with the examples.
    """
    shown = shown_metrics(task)
    floor = task.floors([*task.labelled("dev"), *task.labelled("test")])
    references = {"floor": floor, "float model": model}
    rows = {
        name: row for name, row in references.items() if set(row) & set(shown)
    } | {f"{kind}.tflite": row for kind, row in files.items()}
    columns = {name: (name, ".4f") for name in shown}
    if any(FLOAT16_ERROR in row for row in files.values()):
        columns[FLOAT16_ERROR] = "fp16 error", ".4f"
    columns |= {MEGABYTES: ("MB", ".2f"), LATENCY: ("ms", ".2f")}
    cells = [["", *(title for title, _ in columns.values())]]
    for name, row in rows.items():
        numbers = [
            f"{row[column]:{form}}" if column in row else "-"
            for column, (_, form) in columns.items()
        ]
        cells.append([name, *numbers])
    return _aligned(cells)


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Returns lines, the first column to the left and the others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(line[1:], widths[1:], strict=True)
            ]
        )
        for line in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def warnings(
    files: Mapping[str, Mapping[str, float]],
    model: Mapping[str, float],
    task: Task,
) -> Iterator[str]:
    """Yields a line for each file that is worse on dev than the float model.

    By more than half a point of what models are chosen by. The arguments are
    those of `comparison`.
    """
    if not model or not task.labelled("dev"):
        return
    for kind, row in files.items():
        lost = task.points * (task.score(model) - task.score(row))
        if round(lost, 6) <= _WORTH_A_WARNING:
            continue
        remedies, number = [_REMEDIES[kind]], task.num_train_examples
        if kind in CALIBRATED_KINDS:
            if number < CALIBRATION_EXAMPLES:
                remedies.append(
                    f"more training examples to calibrate with ({number} of "
                    f"up to {CALIBRATION_EXAMPLES})"
                )
            remedies.append("--export=dynamic")
        size = sum(
            len(task.splits[split]["input_ids"])
            for split in task.labelled("dev")
        )
        yield (
            f"warning: {kind}.tflite loses {lost:.1f} points of "
            f"{' and '.join(task.chosen_by)} on the {size:,} dev examples. "
            f"Try {', '.join(remedies)}"
        )
