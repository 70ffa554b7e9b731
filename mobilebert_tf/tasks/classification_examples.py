"""Where the examples of a classifier come from: GLUE, files, or the built-in.

Without training, or after the training examples, labels must be known ones.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mobilebert_tf.data.builtin import library_task
from mobilebert_tf.data.tables import TableFormat
from mobilebert_tf.errors import InputError, listed, nearest
from mobilebert_tf.options import option
from mobilebert_tf.tasks.glue import GLUE_TASKS, glue_files, read_glue
from mobilebert_tf.tasks.labelled_texts import (
    KEEP,
    MULTI_LABEL,
    REFUSE,
    REGRESSION,
    SINGLE_LABEL,
    SKIP,
    Examples,
    Label,
    read_examples,
)
from mobilebert_tf.tasks.task import Actions, TaskOptions

BUILT_IN = "library"
CROSS_ENTROPY, FOCAL = "cross_entropy", "focal"
BALANCED = "balanced"

_DELIMITERS = {"tab": "\t", "\\t": "\t"}


@dataclasses.dataclass(frozen=True)
class ClassificationOptions(TaskOptions):
    """The examples of a classifier."""

    task: str | None = option(
        None,
        "A task of GLUE, or library, the built-in task. ax is for a model of "
        "mnli. library (which library does a paragraph document?) is the "
        "default if no file is named.",
        choices=(BUILT_IN, *GLUE_TASKS),
        everyday=True,
    )
    data_dir: str | None = option(
        None,
        "Folder with the TSV files of the GLUE task; without it TensorFlow "
        "Datasets are read.",
        everyday=True,
    )
    train_file: str | None = option(
        None, "Examples to train on: .tsv, .csv, .jsonl, .json.", everyday=True
    )
    dev_file: str | None = option(
        None, "Examples to choose the best weights by.", everyday=True
    )
    dev_fraction: float | None = option(
        None,
        "Share of the training examples to use as dev instead, equal for every "
        "class.",
        min=0.0,
        max=0.5,
        everyday=True,
    )
    dev_seed: int = option(
        0, "Which examples --dev_fraction draws.", min=0, max=2**32 - 1
    )
    test_file: str | None = option(None, "Examples to score the result on.")
    predict_file: str | None = option(
        None,
        "Texts to predict; labels are ignored.",
        everyday=True,
        resumable=True,
    )
    text_column: str = option("text", "Column of the text.", everyday=True)
    text_b_column: str | None = option(None, "Column of the second text.")
    label_column: tuple[str, ...] = option(
        ("label",),
        "Column of the label. Several, with --multi_label: each holds 0 or 1.",
        everyday=True,
    )
    regression: bool = option(False, "Labels are numbers.", everyday=True)
    multi_label: bool = option(
        False, "An example may have several labels, or none.", everyday=True
    )
    label_separator: str = option(
        ",", "Separates the labels in a cell, with --multi_label."
    )
    delimiter: str | None = option(
        None,
        "Character between cells, or tab. Default: tabs in .tsv; commas, "
        "semicolons or tabs in .csv, as the header shows.",
    )
    column_names: tuple[str, ...] = option(
        (), "Names of the columns of files without a header, in their order."
    )
    empty_texts: str = option(
        REFUSE,
        "What becomes of an example with an empty text; skip leaves it out of "
        "the labelled files.",
        choices=(REFUSE, SKIP),
    )
    class_weights: tuple[str, ...] = option(
        (),
        "Weights of the classes in the loss: balanced (inversely to how often "
        "each is seen), or name=weight,...",
        group="training",
    )
    loss: str = option(
        CROSS_ENTROPY,
        "Loss of a classifier; focal counts examples less the better they are "
        "classified already.",
        choices=(CROSS_ENTROPY, FOCAL),
        group="training",
    )
    focal_gamma: float = option(
        2.0, "Exponent of --loss=focal.", min=0.0, max=10.0, group="training"
    )
    wanted_precision: float | None = option(
        None,
        "Also print for each class the threshold on its probability that "
        "reaches this precision.",
        min=0.0,
        max=1.0,
        resumable=True,
    )
    wanted_recall: float | None = option(
        None,
        "Also print for each class the threshold on its probability that "
        "reaches this recall.",
        min=0.0,
        max=1.0,
        resumable=True,
    )
    max_train_examples: int | None = option(
        None, "Train on the first examples only, at most this many.", min=1
    )
    max_seq_length: int | None = option(
        None,
        "Pieces of a text, by default as many as 95 % of the training texts "
        "need. Longer ones are cut. Without training: as the model was "
        "trained. GLUE and the built-in task have 128.",
        min=8,
        everyday=True,
    )

    def __post_init__(self):
        super().__post_init__()
        if self.regression and self.multi_label:
            raise InputError(
                "--multi_label", "one of the two", "--regression too"
            )
        if not self.label_separator:
            raise InputError("--label_separator", "a character", "none")
        if not self.label_column:
            raise InputError("--label_column", "a column", "none")
        if len(self.label_column) > 1 and not self.multi_label:
            columns = ",".join(self.label_column)
            expected = "one column, or --multi_label"
            raise InputError("--label_column", expected, columns)
        if self.delimiter is not None:
            delimiter = _DELIMITERS.get(self.delimiter, self.delimiter)
            if len(delimiter) != 1 or delimiter in "\"'\r\n\0":
                expected = "one character, or tab"
                raise InputError("--delimiter", expected, repr(self.delimiter))
        if self.dev_fraction and not self.train_file:
            raise InputError("--dev_fraction", "a --train_file", "none")
        if self.dev_fraction and self.dev_file:
            raise InputError(
                "--dev_fraction", "one of the two", "--dev_file too"
            )
        if self.regression and (self.class_weights or self.loss == FOCAL):
            flag = "--class_weights" if self.class_weights else "--loss"
            raise InputError(flag, "a classifier", "--regression")
        if None not in (self.wanted_precision, self.wanted_recall):
            expected, found = "one of the two", "--wanted_recall too"
            raise InputError("--wanted_precision", expected, found)
        if self.files and self.task:
            raise InputError("--task", "either a task or files", "both")
        if self.data_dir and self.task not in GLUE_TASKS:
            raise InputError("--data_dir", "a --task of GLUE", self.task)

    @property
    def sources(self):
        if self.data_dir:
            return {"data_dir": glue_files(self.task, self.data_dir)}
        return {} if self.task in GLUE_TASKS else super().sources

    @property
    def problem_type(self) -> str:
        """What the labels of the files are."""
        if self.regression:
            return REGRESSION
        return MULTI_LABEL if self.multi_label else SINGLE_LABEL

    @property
    def wanted(self) -> dict[str, float]:
        """The precision or recall that thresholds are to reach."""
        wanted = {
            "precision": self.wanted_precision,
            "recall": self.wanted_recall,
        }
        return {n: value for n, value in wanted.items() if value is not None}

    @property
    def table_format(self) -> TableFormat:
        """How the tables are written."""
        delimiter = _DELIMITERS.get(self.delimiter, self.delimiter)
        return TableFormat(delimiter, self.encoding, self.column_names)


def read_splits(
    options: ClassificationOptions,
    problem_type: str,
    known_labels: tuple[str, ...] | None,
    actions: Actions,
) -> dict[str, Examples]:
    """Reads the splits that actions need.

    Args:
        options: where they are.
        problem_type: what their labels are.
        known_labels: the only ones there may be; None: those of the training
            examples.
        actions: what will be done.
    """
    if options.task in GLUE_TASKS:
        # The labels of the test sets are secret: they are to be predicted.
        wanted = [
            split
            for split in GLUE_TASKS[options.task].splits
            if split.replace("test", "predict").partition("_")[0]
            in actions.splits
        ]
        return read_glue(options.task, options.data_dir, wanted)
    if not options.files:
        return _read_built_in(problem_type, known_labels)
    text_columns = (options.text_column, options.text_b_column)
    splits = {}
    for split, path in options.files.items():
        splits[split] = read_examples(
            path,
            [column for column in text_columns if column is not None],
            options.label_column if split != "predict" else (),
            problem_type,
            known_labels=None if problem_type == REGRESSION else known_labels,
            label_separator=options.label_separator,
            table_format=options.table_format,
            empty_texts=_empty_texts(options, split),
        )
        if split == "train" and known_labels is None:
            known_labels = splits[split].label_names
    if options.dev_fraction:
        splits["train"], splits["dev"] = hold_out(
            splits["train"], options.dev_fraction, options.dev_seed
        )
    return splits


def _empty_texts(options: ClassificationOptions, split: str) -> str:
    # Each row of a file to predict gets its line in predictions.tsv.
    skips = options.empty_texts == SKIP
    return KEEP if skips and split == "predict" else options.empty_texts


def class_weights(
    given: Sequence[str], names: Sequence[str], labels: Sequence[Label]
) -> tuple[float, ...] | None:
    """Returns the factors of the classes in the loss; None if all are 1.

    `balanced` is N / (C * n) for a class of n among N labels, or, where an
    example may have several labels, (N - n) / n for its examples that have it.

    Args:
        given: the option: nothing, `balanced`, or `name=weight` texts.
        names: the classes.
        labels: of the training examples.

    Raises:
        InputError: a class is unknown or a weight is not above 0.
    """
    if not given:
        return None
    if list(given) == [BALANCED]:
        counts = np.asarray(
            [sum(name in _names(label) for label in labels) for name in names]
        )
        total, counts = len(labels), np.maximum(counts, 1)
        weights = total / (len(names) * counts)
        if isinstance(labels[0], tuple):
            weights = np.maximum(total - counts, 1) / counts
        return tuple(weights.tolist())
    weights = dict.fromkeys(names, 1.0)
    for text in given:
        name, _, number = text.rpartition("=")
        if name not in weights:
            expected = f"balanced, or NAME=WEIGHT of {listed(names)}"
            found = f"{text!r}{nearest(name, names)}"
            raise InputError("--class_weights", expected, found)
        try:
            weights[name] = float(number)
        except ValueError:
            weights[name] = 0.0
        if not 0.0 < weights[name] < math.inf:
            raise InputError("--class_weights", "numbers above 0", repr(text))
    return tuple(weights.values())


def _names(label: Label) -> tuple[str, ...]:
    return label if isinstance(label, tuple) else (label,)


def hold_out(
    examples: Examples, fraction: float, seed: int
) -> tuple[Examples, Examples]:
    """Divides examples into those to train on and a share to choose by.

    Every class gives the same share, rounded, but keeps an example to train on.
    Examples with several labels, or numbers, are one class.
    """
    rng = np.random.default_rng(seed)
    members: dict[str, list[int]] = {}
    for index, label in enumerate(examples.labels):
        name = label if isinstance(label, str) else ""
        members.setdefault(name, []).append(index)
    held_out = set()
    for name in sorted(members):
        indices = rng.permutation(members[name])
        number = min(max(round(fraction * len(indices)), 1), len(indices) - 1)
        held_out.update(indices[:number].tolist())
    if not held_out:
        expected = "two training examples of a class"
        raise InputError("--dev_fraction", expected, "one of each")
    rest = (index for index in range(len(examples)) if index not in held_out)
    return examples.chosen(rest), examples.chosen(sorted(held_out))


def _read_built_in(
    problem_type: str, known_labels: tuple[str, ...] | None
) -> dict[str, Examples]:
    if problem_type != SINGLE_LABEL:
        raise InputError(
            "--train_file, --dev_file or --predict_file",
            f"a file (the built-in task is not a {problem_type})",
            "none",
        )
    splits = {
        split: Examples(texts, labels=labels)
        for split, (texts, labels) in library_task().items()
    }
    names = splits["train"].label_names
    if known_labels is not None and set(names) - set(known_labels):
        raise InputError(
            "--model",
            f"a classifier of the built-in task ({', '.join(names)})",
            f"one of {', '.join(known_labels)}",
        )
    return splits
