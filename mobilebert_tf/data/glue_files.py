"""GLUE's files in and out: official TSV files, TFDS, submissions.

What a task is stands in `glue.py`. Examples come out with the names of their
classes, in the order of the official files, which is what a submission counts
by.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.data.glue import GLUE_TASKS, GlueTask
from mobilebert_tf.data.text_classification import Examples, read_examples
from mobilebert_tf.errors import InputError

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
