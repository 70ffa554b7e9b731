"""The tasks of GLUE as data: files, columns, labels, sizes, names elsewhere.

Owns what there is to know about each task, so that reading, training and
writing a submission need no branch by task. Files are those that GLUE hands
out: tab-separated, a quote being an ordinary character, and their labels are
what a submission must hold. QQP is the cleaned edition of the year 2020; rows
of the first one are broken and are refused.

Hyper-parameters: the paper searches batches of 16, 32 and 48, rates of 1e-5 to
1e-4 and 2 to 10 epochs on dev (section 4.4.1) and does not say what it found.
The defaults are points of that grid: Google's later 3e-5, 32 and about four
epochs for MNLI, the same for the other large tasks; for the small ones the
larger rate and more epochs, since the release's authors say that GLUE needs
longer training than SQuAD (5 epochs at 4e-5).

GLUE's files in and out: official TSV files, TFDS, submissions.

What a task is stands in `glue.py`. Examples come out with the names of their
classes, in the order of the official files, which is what a submission counts
by.

GLUE's metrics, task by task, and the average of its leaderboard.

A task's score is the mean of its metrics; MNLI's two parts are one task. The
leaderboard averages the scores of nine tasks, WNLI among them, and leaves the
diagnostic set out.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.tasks.labelled_texts import Examples, read_examples
from mobilebert_tf.tasks.metrics import (
    classification_metrics,
    regression_metrics,
)

_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")


@dataclasses.dataclass(frozen=True)
class GlueSplit:
    """A part of a task.

    Attributes:
        file: its name in the task's folder.
        num_examples: rows of the official file.
        tfds_split: its name in TensorFlow Datasets.
        submission: what a file of its predictions is called; None if its
            labels are known.
    """

    file: str
    num_examples: int
    tfds_split: str
    submission: str | None = None


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        name: as in `--task`.
        folder: of its files, in a folder of all tasks.
        splits: by name; `train`, and names that begin with `dev` or `test`.
        text_columns: of the text, or of both.
        label_column: of the label.
        label_names: the classes; None for a regression.
        file_labels: the same as files and submissions spell them.
        header: columns of labelled files that have no header line.
        may_be_empty: whether official files have empty texts.
        tfds_texts: features of TensorFlow Datasets with the texts, where they
            are not called as in the files.
        learning_rate, batch_size, num_epochs: defaults, see above.
    """

    name: str
    folder: str
    splits: dict[str, GlueSplit]
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...] | None
    file_labels: tuple[str, ...] = _BINARY
    header: tuple[str, ...] | None = None
    may_be_empty: bool = False
    tfds_texts: tuple[str, ...] = ()
    learning_rate: float = 5e-5
    batch_size: int = 32
    num_epochs: int = 10

    @property
    def tfds_name(self) -> str:
        """The name in TensorFlow Datasets."""
        return f"glue/{self.name}"

    @property
    def tfds_columns(self) -> tuple[str, ...]:
        """The features that hold the texts in TensorFlow Datasets."""
        return self.tfds_texts or self.text_columns

    def wanted_splits(
        self, do_train: bool, do_eval: bool, do_predict: bool
    ) -> list[str]:
        """The splits that verbs need; training chooses its model on dev."""
        wanted = {"train": do_train, "dev": do_train or do_eval}
        wanted["test"] = do_predict
        return [name for name in self.splits if wanted[name.partition("_")[0]]]


def _splits(submission: str, train: int, dev: int, test: int):
    return {
        "train": GlueSplit("train.tsv", train, "train"),
        "dev": GlueSplit("dev.tsv", dev, "validation"),
        "test": GlueSplit("test.tsv", test, "test", f"{submission}.tsv"),
    }


_MNLI_SPLITS = {
    "train": GlueSplit("train.tsv", 392_702, "train"),
    "dev_matched": GlueSplit("dev_matched.tsv", 9_815, "validation_matched"),
    "dev_mismatched": GlueSplit(
        "dev_mismatched.tsv", 9_832, "validation_mismatched"
    ),
    "test_matched": GlueSplit(
        "test_matched.tsv", 9_796, "test_matched", "MNLI-m.tsv"
    ),
    "test_mismatched": GlueSplit(
        "test_mismatched.tsv", 9_847, "test_mismatched", "MNLI-mm.tsv"
    ),
}

GLUE_TASKS = {
    task.name: task
    for task in (
        GlueTask(
            "cola",
            "CoLA",
            _splits("CoLA", 8_551, 1_043, 1_063),
            ("sentence",),
            "acceptable",
            ("unacceptable", "acceptable"),
            header=("source", "acceptable", "author_mark", "sentence"),
        ),
        GlueTask(
            "sst2",
            "SST-2",
            _splits("SST-2", 67_349, 872, 1_821),
            ("sentence",),
            "label",
            ("negative", "positive"),
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "mrpc",
            "MRPC",
            _splits("MRPC", 3_668, 408, 1_725),
            ("#1 String", "#2 String"),
            "Quality",
            ("not_equivalent", "equivalent"),
            tfds_texts=("sentence1", "sentence2"),
        ),
        GlueTask(
            "stsb",
            "STS-B",
            _splits("STS-B", 5_749, 1_500, 1_379),
            ("sentence1", "sentence2"),
            "score",
            None,
        ),
        GlueTask(
            "qqp",
            "QQP",
            _splits("QQP", 363_846, 40_430, 390_965),
            ("question1", "question2"),
            "is_duplicate",
            ("not_duplicate", "duplicate"),
            # Three of the questions that Quora published are empty.
            may_be_empty=True,
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "mnli",
            "MNLI",
            _MNLI_SPLITS,
            ("sentence1", "sentence2"),
            "gold_label",
            _NLI,
            _NLI,
            tfds_texts=("premise", "hypothesis"),
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "qnli",
            "QNLI",
            _splits("QNLI", 104_743, 5_463, 5_463),
            ("question", "sentence"),
            "label",
            _ENTAILMENT,
            _ENTAILMENT,
            learning_rate=3e-5,
            num_epochs=4,
        ),
        GlueTask(
            "rte",
            "RTE",
            _splits("RTE", 2_490, 277, 3_000),
            ("sentence1", "sentence2"),
            "label",
            _ENTAILMENT,
            _ENTAILMENT,
        ),
        GlueTask(
            "wnli",
            "WNLI",
            _splits("WNLI", 635, 71, 146),
            ("sentence1", "sentence2"),
            "label",
            ("not_entailment", "entailment"),
        ),
        # The diagnostic set: for models of MNLI, and with hidden labels.
        GlueTask(
            "ax",
            "diagnostic",
            {"test": GlueSplit("diagnostic.tsv", 1_104, "test", "AX.tsv")},
            ("sentence1", "sentence2"),
            "label",
            _NLI,
            _NLI,
            tfds_texts=("premise", "hypothesis"),
        ),
    )
}


# STS-B's scale. A regression may leave it, an annotator could not.
_LOWEST, _HIGHEST = 0.0, 5.0


def read_glue(
    name: str, data_dir: str | os.PathLike | None, splits: Sequence[str]
) -> dict[str, Examples]:
    """Reads splits of a task of GLUE.

    Args:
        name: of `GLUE_TASKS`.
        data_dir: the folder of the task's official TSV files, or one that has
            it under its official name, `SST-2` say. None: from TensorFlow
            Datasets.
        splits: of the task.

    Raises:
        InputError: a file or row is not like that, or the data set has not
            been prepared on this machine.
    """
    task = GLUE_TASKS[name]
    if data_dir is None:
        return _read_tfds(task, splits)
    folder = Path(data_dir)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise InputError(folder, f"a folder of {name}'s TSV files", found)
    if (folder / task.folder).is_dir():
        folder /= task.folder
    return {split: _read_file(task, folder, split) for split in splits}


def size_note(name: str | None, split: str, num_examples: int) -> str:
    """Says how many examples there are, and of how many if not all of GLUE's.

    Args:
        name: of the task, whether GLUE's or not.
        split: of the task.
        num_examples: that there are.
    """
    note = f"{split}: {num_examples:,} examples"
    if name in GLUE_TASKS:
        official = GLUE_TASKS[name].splits[split].num_examples
        if num_examples != official:
            note += f" (the official file has {official:,})"
    return note


def write_submission(
    folder: str | os.PathLike, name: str, split: str, predictions: np.ndarray
) -> Path:
    """Writes predictions as GLUE's server takes them.

    Args:
        folder: where; the file has its official name.
        name: of `GLUE_TASKS`.
        split: one without labels.
        predictions: [num_examples] class indices, or numbers.

    Returns:
        The file's path.
    """
    task = GLUE_TASKS[name]
    if task.label_names is None:
        clipped = np.clip(predictions, _LOWEST, _HIGHEST)
        cells = [f"{value:.4f}" for value in clipped]
    else:
        cells = [task.file_labels[index] for index in predictions]
    path = Path(folder) / task.splits[split].submission
    with atomic_file(path) as temporary:
        lines = [f"{index}\t{cell}" for index, cell in enumerate(cells)]
        temporary.write_text(
            "\n".join(["index\tprediction", *lines]) + "\n", encoding="utf-8"
        )
    return path


def _read_file(task: GlueTask, folder: Path, split: str) -> Examples:
    has_labels = task.splits[split].submission is None
    is_regression = task.label_names is None
    text_a, text_b = (*task.text_columns, None)[:2]
    examples = read_examples(
        folder / task.splits[split].file,
        text_a,
        text_b,
        task.label_column,
        has_labels=has_labels,
        regression=is_regression,
        known_labels=None if is_regression else task.file_labels,
        header=task.header if has_labels else None,
        may_be_empty=task.may_be_empty,
    )
    if is_regression or not has_labels:
        return examples
    names = dict(zip(task.file_labels, task.label_names, strict=True))
    return Examples(
        examples.texts_a,
        examples.texts_b,
        [names[label] for label in examples.labels],
    )


def _read_tfds(task: GlueTask, splits: Sequence[str]) -> dict[str, Examples]:
    # Takes seconds to import: only for those who ask for it.
    import tensorflow_datasets as tfds

    builder = tfds.builder(task.tfds_name)
    if not builder.is_prepared():
        raise InputError(
            f"--task={task.name}",
            f"--data_dir=FOLDER with its TSV files, or {task.tfds_name} in "
            f"{builder.data_dir} (tfds build {task.tfds_name})",
            "neither",
        )
    return {
        split: _tfds_examples(
            task,
            split,
            tfds.as_numpy(
                builder.as_dataset(split=task.splits[split].tfds_split)
            ),
        )
        for split in splits
    }


def _tfds_examples(
    task: GlueTask, split: str, rows: Iterable[dict]
) -> Examples:
    # TensorFlow Datasets shuffles what it stores.
    rows = sorted(rows, key=lambda row: int(row["idx"]))
    texts = [
        [row[column].decode("utf-8") for row in rows]
        for column in task.tfds_columns
    ]
    labels = None
    if task.splits[split].submission is None:
        labels = [row["label"].item() for row in rows]
        if task.label_names is not None:
            labels = [task.label_names[label] for label in labels]
    return Examples(texts[0], texts[1] if len(texts) > 1 else None, labels)


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
