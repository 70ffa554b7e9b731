"""GLUE's metrics, task by task, and the average of its leaderboard.

A task's score is the mean of its metrics; MNLI's two parts are one task. The
leaderboard averages the scores of nine tasks, WNLI among them, and leaves the
diagnostic set out.
"""

from collections.abc import Mapping

import numpy as np

from mobilebert_tf.evaluation.classification import (
    classification_metrics,
    regression_metrics,
)

METRICS = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("accuracy", "f1"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}


def glue_metrics(
    task: str, labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Returns the official metrics of a task.

    Args:
        task: of `METRICS`.
        labels: class indices, 1 being the class whose F1 counts, or numbers;
            [num_examples].
        predictions: of the same kind.

    Raises:
        ValueError: see `classification_metrics` and `regression_metrics`.
    """
    all_metrics = regression_metrics
    if task != "stsb":
        all_metrics = classification_metrics
    values = all_metrics(labels, predictions)
    return {name: values[name] for name in METRICS[task]}


def glue_score(metrics: Mapping[str, float]) -> float:
    """Returns a task's score: the mean of its metrics, by whatever name."""
    return sum(metrics.values()) / len(metrics)


def glue_average(metrics_by_task: Mapping[str, Mapping[str, float]]) -> float:
    """Returns the leaderboard's average.

    Args:
        metrics_by_task: of all tasks of `METRICS`, their metrics; both parts'
            accuracies for `mnli`. Other entries, of `ax` say, do not count.

    Raises:
        ValueError: if a task is missing.
    """
    missing = [task for task in METRICS if task not in metrics_by_task]
    if missing:
        raise ValueError(f"no metrics of {', '.join(missing)}")
    scores = [glue_score(metrics_by_task[task]) for task in METRICS]
    return sum(scores) / len(scores)
