"""GLUE: its tasks as a table, its files and submissions, its score.

Files are those that GLUE hands out: tab-separated, a quote being an ordinary
character. Examples come out with the names of their classes; their order is
that of the official files, by which a submission counts. QQP is the cleaned
edition of 2020; rows of the first edition are broken and are refused.

The paper searches batch sizes 16, 32 and 48, rates from 1e-5 to 1e-4 and 2 to
10 epochs on dev (section 4.4.1) and does not name what it chose. The defaults,
`SMALL_TASK` and `LARGE_TASK`, are points of that grid: for MNLI the 3e-5, 32
and about four epochs that Google published later, the same for the other large
tasks; for small tasks the larger rate and more epochs, since the release's
authors say that GLUE needs longer training than SQuAD (5 epochs at 4e-5).
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobilebert_tf.data.tables import TableFormat
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.tasks.labelled_texts import (
    KEEP,
    REFUSE,
    REGRESSION,
    SINGLE_LABEL,
    Examples,
    read_examples,
)
from mobilebert_tf.tasks.task import (
    LARGE_TASK,
    SMALL_TASK,
    Hyperparameters,
)

_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")
_SENTENCES = ("sentence1", "sentence2")


@dataclasses.dataclass(frozen=True)
class GlueSplit:
    """A part of a task.

    Attributes:
        file: its name in the task's folder.
        num_examples: rows of the official file.
        submission: name of the file with its predictions; None if its labels
            are known.
    """

    file: str
    num_examples: int
    submission: str | None = None


@dataclasses.dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        name: as in `--task`.
        folder: name of its folder in a folder of all tasks.
        splits: by name: `train`, and names that start with `dev` or `test`.
        text_columns: columns of the text, or of both texts.
        label_names: the classes; None for a regression.
        metrics: the official ones, whose mean is the task's score.
        file_labels: the classes as files and submissions spell them.
        header: columns of labelled files, if they have no header line.
        may_be_empty: whether official files have empty texts.
        tfds_texts: features of TensorFlow Datasets with the texts, if they are
            not named as in the files.
    """

    name: str
    folder: str
    splits: dict[str, GlueSplit]
    text_columns: tuple[str, ...]
    label_column: str
    label_names: tuple[str, ...] | None
    metrics: tuple[str, ...] = ("accuracy",)
    file_labels: tuple[str, ...] = _BINARY
    header: tuple[str, ...] | None = None
    may_be_empty: bool = False
    tfds_texts: tuple[str, ...] = ()
    hyperparameters: Hyperparameters = SMALL_TASK

    @property
    def problem_type(self) -> str:
        """What its labels are."""
        return REGRESSION if self.label_names is None else SINGLE_LABEL

    @property
    def tfds_name(self) -> str:
        """Name in TensorFlow Datasets."""
        return f"glue/{self.name}"

    @property
    def tfds_columns(self) -> tuple[str, ...]:
        """Features of TensorFlow Datasets with the texts."""
        return self.tfds_texts or self.text_columns


def _splits(submission: str, train: int, dev: int, test: int):
    return {
        "train": GlueSplit("train.tsv", train),
        "dev": GlueSplit("dev.tsv", dev),
        "test": GlueSplit("test.tsv", test, f"{submission}.tsv"),
    }


_MNLI_SPLITS = {
    "train": GlueSplit("train.tsv", 392_702),
    "dev_matched": GlueSplit("dev_matched.tsv", 9_815),
    "dev_mismatched": GlueSplit("dev_mismatched.tsv", 9_832),
    "test_matched": GlueSplit("test_matched.tsv", 9_796, "MNLI-m.tsv"),
    "test_mismatched": GlueSplit("test_mismatched.tsv", 9_847, "MNLI-mm.tsv"),
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
            ("matthews",),
            header=("source", "acceptable", "author_mark", "sentence"),
        ),
        GlueTask(
            "sst2",
            "SST-2",
            _splits("SST-2", 67_349, 872, 1_821),
            ("sentence",),
            "label",
            ("negative", "positive"),
            hyperparameters=LARGE_TASK,
        ),
        GlueTask(
            "mrpc",
            "MRPC",
            _splits("MRPC", 3_668, 408, 1_725),
            ("#1 String", "#2 String"),
            "Quality",
            ("not_equivalent", "equivalent"),
            ("accuracy", "f1"),
            tfds_texts=_SENTENCES,
        ),
        GlueTask(
            "stsb",
            "STS-B",
            _splits("STS-B", 5_749, 1_500, 1_379),
            _SENTENCES,
            "score",
            None,
            ("pearson", "spearman"),
        ),
        GlueTask(
            "qqp",
            "QQP",
            _splits("QQP", 363_846, 40_430, 390_965),
            ("question1", "question2"),
            "is_duplicate",
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1"),
            # Three of the questions that Quora published are empty.
            may_be_empty=True,
            hyperparameters=LARGE_TASK,
        ),
        GlueTask(
            "mnli",
            "MNLI",
            _MNLI_SPLITS,
            _SENTENCES,
            "gold_label",
            _NLI,
            file_labels=_NLI,
            tfds_texts=("premise", "hypothesis"),
            hyperparameters=LARGE_TASK,
        ),
        GlueTask(
            "qnli",
            "QNLI",
            _splits("QNLI", 104_743, 5_463, 5_463),
            ("question", "sentence"),
            "label",
            _ENTAILMENT,
            file_labels=_ENTAILMENT,
            hyperparameters=LARGE_TASK,
        ),
        GlueTask(
            "rte",
            "RTE",
            _splits("RTE", 2_490, 277, 3_000),
            _SENTENCES,
            "label",
            _ENTAILMENT,
            file_labels=_ENTAILMENT,
        ),
        GlueTask(
            "wnli",
            "WNLI",
            _splits("WNLI", 635, 71, 146),
            _SENTENCES,
            "label",
            ("not_entailment", "entailment"),
        ),
        # The diagnostic set: for models of MNLI; its labels are secret.
        GlueTask(
            "ax",
            "diagnostic",
            {"test": GlueSplit("diagnostic.tsv", 1_104, "AX.tsv")},
            _SENTENCES,
            "label",
            _NLI,
            file_labels=_NLI,
            tfds_texts=("premise", "hypothesis"),
        ),
    )
}

# The nine tasks of the leaderboard's average, in its order.
SCORED_TASKS = tuple(name for name in GLUE_TASKS if name != "ax")


def read_glue(
    name: str, data_dir: str | os.PathLike | None, splits: Sequence[str]
) -> dict[str, Examples]:
    """Reads splits of a task of GLUE by their names.

    Args:
        name: of `GLUE_TASKS`.
        data_dir: folder of the task's official TSV files, or one that has that
            folder under its official name, such as `SST-2`. None: from
            TensorFlow Datasets.
        splits: the splits' names.

    Raises:
        InputError: a file or row is malformed, or the data set has not been
            prepared on this machine.
    """
    task = GLUE_TASKS[name]
    if data_dir is None:
        return _read_tfds(task, splits)
    folder = _folder_of(task, data_dir)
    return {split: _read_file(task, folder, split) for split in splits}


def glue_files(name: str, data_dir: str | os.PathLike) -> list[Path]:
    """Lists those labelled files of a task that exist, for `read_glue`."""
    task = GLUE_TASKS[name]
    folder = _folder_of(task, data_dir)
    files = [
        folder / split.file
        for split in task.splits.values()
        if split.submission is None
    ]
    return [file for file in files if file.exists()]


def _folder_of(task: GlueTask, data_dir: str | os.PathLike) -> Path:
    folder = Path(data_dir)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise InputError(folder, f"a folder of {task.name}'s TSV files", found)
    if (folder / task.folder).is_dir():
        folder /= task.folder
    return folder


def write_submission(
    folder: str | os.PathLike, name: str, split: str, predictions: np.ndarray
) -> Path:
    """Writes predictions in the format of GLUE's server and returns the path.

    The file has its official name. Predictions are class indices or numbers,
    [N].
    """
    task = GLUE_TASKS[name]
    if task.label_names is None:
        # The scale of STS-B, which a regression may leave.
        clipped = np.clip(predictions, 0.0, 5.0)
        cells = [f"{value:.4f}" for value in clipped]
    else:
        cells = [task.file_labels[index] for index in predictions]
    path = Path(folder) / task.splits[split].submission
    lines = [f"{index}\t{cell}" for index, cell in enumerate(cells)]
    with atomic_file(path) as temporary:
        temporary.write_text(
            "\n".join(["index\tprediction", *lines]) + "\n", encoding="utf-8"
        )
    return path


def _read_file(task: GlueTask, folder: Path, split: str) -> Examples:
    has_labels = task.splits[split].submission is None
    examples = read_examples(
        folder / task.splits[split].file,
        task.text_columns,
        (task.label_column,) if has_labels else (),
        task.problem_type,
        known_labels=task.label_names and task.file_labels,
        table_format=TableFormat(column_names=task.header or ())
        if has_labels
        else TableFormat(),
        empty_texts=KEEP if task.may_be_empty else REFUSE,
    )
    if task.label_names is None or not has_labels:
        return examples
    names = dict(zip(task.file_labels, task.label_names, strict=True))
    labels = [names[label] for label in examples.labels]
    return dataclasses.replace(examples, labels=labels)


def _read_tfds(task: GlueTask, splits: Sequence[str]) -> dict[str, Examples]:
    # It takes seconds to import.
    import tensorflow_datasets as tfds

    builder = tfds.builder(task.tfds_name)
    if not builder.is_prepared():
        raise InputError(
            f"--task={task.name}",
            f"--data_dir=FOLDER with its TSV files, or {task.tfds_name} in "
            f"{builder.data_dir} (tfds build {task.tfds_name})",
            "neither",
        )
    examples = {}
    for split in splits:
        # Named as ours, but for "validation" and "validation_matched".
        dataset = builder.as_dataset(split=split.replace("dev", "validation"))
        # Examples are stored in a random order.
        rows = sorted(tfds.as_numpy(dataset), key=lambda row: int(row["idx"]))
        texts = [
            [row[column].decode("utf-8") for row in rows]
            for column in task.tfds_columns
        ]
        labels = None
        if task.splits[split].submission is None:
            labels = [row["label"].item() for row in rows]
            if task.label_names is not None:
                labels = [task.label_names[label] for label in labels]
        examples[split] = Examples(*texts, labels=labels)
    return examples
