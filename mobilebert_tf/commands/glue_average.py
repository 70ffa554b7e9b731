"""GLUE's table of one model: dev scores by task, and their average.

Reads what `run_classifier.py --task=...` left in its output folders. The
average is the leaderboard's, over nine tasks; with fewer it is not printed,
since averages over different tasks cannot be compared.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from mobilebert_tf.commands.command import Command
from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.glue import GLUE_TASKS, SCORED_TASKS


@dataclasses.dataclass(frozen=True)
class GlueAverageOptions(Options):
    """The runs to average."""

    group: ClassVar[str] = "data"

    runs: tuple[str, ...] | None = option(
        None,
        "Output folders of run_classifier.py, one per task.",
        required=True,
    )


def read_scores(folder: str) -> tuple[str, dict[str, float]]:
    """Returns the task and the dev metrics of an output folder.

    Raises:
        InputError: it is not the folder of a finished run of a GLUE task.
    """
    from mobilebert_tf.training.log import METRICS_FILE, RESULTS, read_metrics
    from mobilebert_tf.training.run_folder import SETTINGS_FILE

    task = read_json_object(Path(folder) / SETTINGS_FILE).get("task")
    if task not in SCORED_TASKS:
        raise InputError(folder, "a run of a task of GLUE", repr(task))
    path = Path(folder) / METRICS_FILE
    lines = read_metrics(path) if path.exists() else []
    if not lines or lines[-1]["phase"] != RESULTS:
        raise InputError(path, "the results of a finished run", "none")
    scores = {
        name: value
        for name, value in lines[-1].items()
        if name.startswith("dev_") and name.endswith(GLUE_TASKS[task].metrics)
    }
    if not scores:
        raise InputError(path, "dev results (--do_eval)", "none")
    return task, scores


def table(metrics_by_task: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Returns the lines of the table, in GLUE's order, in percent.

    A task's score is the mean of its metrics; the accuracies of MNLI's two
    parts are two metrics.
    """
    lines, scores = [], []
    for task in SCORED_TASKS:
        if task in metrics_by_task:
            metrics = metrics_by_task[task]
            shown = "  ".join(
                f"{name.removeprefix('dev_')} {100 * value:.1f}"
                for name, value in metrics.items()
            )
            scores.append(100 * sum(metrics.values()) / len(metrics))
            lines.append(f"{task:<7}  {scores[-1]:5.1f}  {shown}")
    missing = [task for task in SCORED_TASKS if task not in metrics_by_task]
    if missing:
        return [*lines, f"no average: without {', '.join(missing)}"]
    return [*lines, f"average  {sum(scores) / len(scores):5.1f}"]


def main(options: GlueAverageOptions) -> None:
    """Prints the table of the folders that are named."""
    print("\n".join(table(dict(map(read_scores, options.runs)))))


GLUE_AVERAGE = Command(
    main, (GlueAverageOptions,), description=__doc__, resumes=False
)

if __name__ == "__main__":
    GLUE_AVERAGE()
