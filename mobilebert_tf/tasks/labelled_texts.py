"""Texts with labels: from a table to arrays.

A label is the name of a class, a tuple of names where an example may have
several or none, or a number. A row that cannot be an example is refused with
its file and line.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mobilebert_tf.data.tables import read_rows
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.input_rows import input_rows, tokenize
from mobilebert_tf.tasks.task import Arrays
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Types of problems, by their names in Hugging Face's config.json.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

Label = str | float | tuple[str, ...]

_YES_OR_NO = {"0": False, "1": True, 0: False, 1: True}
# JSON can spell what no UTF-8 file can hold and no tokenizer can read.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Examples:
    """Texts or pairs of texts, with labels where they are known.

    Attributes:
        texts_a: the texts, or the first of each pair.
        texts_b: the second of each pair, or None.
        labels: one for each text, all of one kind (see above), or None.
    """

    texts_a: list[str]
    texts_b: list[str] | None = None
    labels: list[Label] | None = None

    def __len__(self) -> int:
        return len(self.texts_a)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The different class names, sorted: their order is their index."""
        return tuple(sorted(set(_names(self.labels))))

    def first(self, number: int | None) -> "Examples":
        """Returns the first `number` examples, or all if there are fewer."""
        return Examples(
            self.texts_a[:number],
            self.texts_b and self.texts_b[:number],
            self.labels and self.labels[:number],
        )


def read_examples(
    path: str | os.PathLike,
    text_columns: Sequence[str] = ("text",),
    label_columns: Sequence[str] = ("label",),
    problem_type: str = SINGLE_LABEL,
    *,
    known_labels: Sequence[str] | None = None,
    label_separator: str = ",",
    header: Sequence[str] | None = None,
    may_be_empty: bool = False,
) -> Examples:
    """Reads a .tsv, .csv or .jsonl file of examples (see `read_rows`).

    Args:
        path: the file.
        text_columns: column or key of the text, or of both texts of a pair.
        label_columns: column of the label; none for texts to predict. Several,
            for `MULTI_LABEL`: each holds 0 or 1 for the class that has the
            column's name.
        problem_type: what the labels are.
        known_labels: if given, the only names that a label may have.
        label_separator: separates several labels in one cell.
        header: see `read_rows`.
        may_be_empty: whether a text may be empty.

    Raises:
        InputError: the file or a row is malformed, a text or label is empty,
            or a label is not a number or not known.
    """
    texts, labels = [[] for _ in text_columns], []
    for line, row in read_rows(path, [*text_columns, *label_columns], header):
        for column, values in zip(text_columns, texts, strict=True):
            values.append(_cell(path, line, column, row).text(may_be_empty))
        if label_columns:
            cells = [_cell(path, line, name, row) for name in label_columns]
            label = _read_label(cells, problem_type, label_separator)
            for name in _names([label]) if known_labels is not None else ():
                if name not in known_labels:
                    expected = f"one of {', '.join(map(repr, known_labels))}"
                    place = f"line {line}, column {', '.join(label_columns)!r}"
                    raise InputError(path, expected, repr(name), place)
            labels.append(label)
    if not texts[0]:
        raise InputError(path, "at least one example", "only a header")
    return Examples(*texts, labels=labels if label_columns else None)


class _Cell(NamedTuple):
    """A value of a table, the file it is from and its place there."""

    path: str | os.PathLike
    place: str
    column: str
    value: object

    def error(self, expected: str, found: str | None = None) -> InputError:
        found = found or repr(self.value)
        return InputError(self.path, expected, found, self.place)

    def text(self, may_be_empty: bool = False) -> str:
        if not isinstance(self.value, str):
            raise self.error("a text")
        if not self.value.strip() and not may_be_empty:
            raise self.error("a text", "an empty one")
        unreadable = _UNREADABLE.search(self.value)
        if unreadable:
            raise self.error("Unicode text", ascii(unreadable[0]))
        return self.value

    def name(self) -> str:
        """Returns the name of a class, without surrounding white space."""
        cell = self
        if isinstance(self.value, int) and not isinstance(self.value, bool):
            # JSON files often number their classes.
            cell = self._replace(value=str(self.value))
        name = cell.text().strip()
        if len(name.splitlines()) > 1 or "\t" in name:
            raise self.error("a label in one line", repr(name))
        return name

    def names(self, separator: str) -> tuple[str, ...]:
        """Returns the sorted names in a text or a JSON list; may be none."""
        values = self.value
        if isinstance(values, str):
            values = values.split(separator) if values.strip() else []
        elif not isinstance(values, list):
            values = [values]
        names = sorted(self._replace(value=value).name() for value in values)
        if len(set(names)) < len(names):
            raise self.error("each label once", repr(names))
        return tuple(names)

    def is_marked(self) -> bool:
        value = self.value
        value = value.strip() if isinstance(value, str) else value
        if not isinstance(value, str | int) or value not in _YES_OR_NO:
            raise self.error("0 or 1", repr(value))
        return _YES_OR_NO[value]

    def number(self) -> float:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error("a number")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise self.error("a number") from None
        if not math.isfinite(number):
            raise self.error("a finite number")
        return number


def _cell(path: str | os.PathLike, line: int, column: str, row: dict) -> _Cell:
    return _Cell(path, f"line {line}, column {column!r}", column, row[column])


def _read_label(
    cells: Sequence[_Cell], problem_type: str, separator: str
) -> Label:
    if len(cells) > 1:
        return tuple(sorted(cell.column for cell in cells if cell.is_marked()))
    (cell,) = cells
    if problem_type == MULTI_LABEL:
        return cell.names(separator)
    return cell.number() if problem_type == REGRESSION else cell.name()


def _names(labels: Iterable[Label]) -> list[str]:
    """Returns the class names in labels; a number is none."""
    names = []
    for label in labels:
        if not isinstance(label, float):
            names += [label] if isinstance(label, str) else label
    return names


def encode_examples(
    examples: Examples,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    label_names: Sequence[str] | None = None,
) -> Arrays:
    """Makes model inputs: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], padded.

    A pair that is too long loses the last pieces of its longer text, one at a
    time, and of the second text while both are equally long (as in BERT).

    Args:
        examples: N texts or pairs.
        tokenizer: splits texts into pieces.
        max_seq_length: columns of the arrays, S.
        label_names: the classes in their order; None for a regression or for
            examples without labels.

    Returns:
        See `input_rows`; with labels also `labels`: numbers float32 [N], class
        indices int32 [N], or 0 and 1 for each of several labels, float32
        [N, C].

    Raises:
        ValueError: `max_seq_length` has no room for a piece of each text.
    """
    num_texts = 1 if examples.texts_b is None else 2
    if max_seq_length < 2 * num_texts + 1:
        raise ValueError(
            f"max_seq_length must be at least {2 * num_texts + 1} for "
            f"{num_texts} text(s). Received: {max_seq_length}"
        )
    room = max_seq_length - num_texts - 1
    first, second = tokenize(tokenizer, examples.texts_a), None
    if examples.texts_b is None:
        first = first._replace(lengths=np.minimum(first.lengths, room))
    else:
        second = tokenize(tokenizer, examples.texts_b)
        # In closed form what BERT does in a loop: the first text keeps the
        # longer half.
        half = np.maximum(room - second.lengths, (room + 1) // 2)
        first = first._replace(lengths=np.minimum(first.lengths, half))
        rest = np.minimum(second.lengths, room - first.lengths)
        second = second._replace(lengths=rest)
    arrays = input_rows(tokenizer, max_seq_length, first, second)
    if examples.labels is not None:
        arrays["labels"] = _encode_labels(examples.labels, label_names)
    return arrays


def _encode_labels(
    labels: Sequence[Label], names: Sequence[str] | None
) -> np.ndarray:
    if names is None:
        return np.asarray(labels, np.float32)
    index_of = {name: index for index, name in enumerate(names)}
    if isinstance(labels[0], str):
        return np.asarray([index_of[label] for label in labels], np.int32)
    marks = np.zeros((len(labels), len(names)), np.float32)
    for row, label in enumerate(labels):
        marks[row, [index_of[name] for name in label]] = 1.0
    return marks
