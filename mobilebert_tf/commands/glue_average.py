"""GLUE's table of one model: dev scores by task, and the average.

    python -m mobilebert_tf.commands.glue_average --runs=runs/cola,runs/sst2,...

reads what `run_classifier.py --task=...` left in its output folders. The
average is the leaderboard's, over nine tasks; with fewer it is not printed,
because averages over different tasks cannot be compared.
"""

from pathlib import Path

from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.glue import METRICS, glue_average, glue_score
from mobilebert_tf.training.log import METRICS_FILE, RESULTS, read_metrics
from mobilebert_tf.training.loop import SETTINGS_FILE

FLAGS = flags.FLAGS


def read_scores(folder: str) -> tuple[str, dict[str, float]]:
    """Returns the task and the dev metrics of an output folder.

    Raises:
        InputError: if it is none, or its command has not come to its end.
    """
    task = read_json_object(Path(folder) / SETTINGS_FILE).get("task")
    if task not in METRICS:
        raise InputError(folder, "a run of a task of GLUE", repr(task))
    path = Path(folder) / METRICS_FILE
    lines = read_metrics(path) if path.exists() else []
    if not lines or lines[-1]["phase"] != RESULTS:
        raise InputError(path, "the results of a run at its end", "none")
    scores = {
        name: value
        for name, value in lines[-1].items()
        if name.startswith("dev_") and name.endswith(METRICS[task])
    }
    if not scores:
        raise InputError(path, "dev results (--do_eval)", "none")
    return task, scores


def table(metrics_by_task: dict[str, dict[str, float]]) -> list[str]:
    """Lines of the table, in GLUE's order, in percent."""
    lines = []
    for task in METRICS:
        if task in metrics_by_task:
            metrics = metrics_by_task[task]
            shown = "  ".join(
                f"{name.removeprefix('dev_')} {100 * value:.1f}"
                for name, value in metrics.items()
            )
            lines.append(
                f"{task:<7}  {100 * glue_score(metrics):5.1f}  {shown}"
            )
    missing = [task for task in METRICS if task not in metrics_by_task]
    if missing:
        return [*lines, f"no average: without {', '.join(missing)}"]
    return [*lines, f"average  {100 * glue_average(metrics_by_task):5.1f}"]


def main(_) -> None:
    """Prints the table of the folders that are named."""
    print("\n".join(table(dict(map(read_scores, FLAGS.runs)))))


def define_flags() -> None:
    """Defines the tool's flags, when it is run and not when imported."""
    flags.DEFINE_list(
        "runs", None, "Output folders, one a task.", required=True
    )


if __name__ == "__main__":
    define_flags()
    shared.run_script(main, goes_on=False)
