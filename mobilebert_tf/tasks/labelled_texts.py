"""Texts with labels: from a table to arrays.

A label is the name of a class, a tuple of names where an example may have
several or none, or a number. Rows that cannot be examples are refused with
their file and lines.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mobilebert_tf.data.tables import Table, TableFormat, read_table
from mobilebert_tf.errors import InputError, listed, nearest, refuse, shortened
from mobilebert_tf.tasks.task import Arrays
from mobilebert_tf.text.encoding import encode_texts, tokenize
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Types of problems, by their names in Hugging Face's config.json.
SINGLE_LABEL = "single_label_classification"
MULTI_LABEL = "multi_label_classification"
REGRESSION = "regression"

Label = str | float | tuple[str, ...]

# What becomes of an example with an empty text.
REFUSE, SKIP, KEEP = "refuse", "skip", "keep"

_EMPTY = "an empty one"

# Table programs write marks as whole numbers, floats or truth values.
_YES_OR_NO = {"0": False, "1": True, "false": False, "true": True}
# How pandas and spreadsheets write the label that is not there.
_MISSING = ("nan", "<na>", "nat", "#n/a", "#value!", "#ref!")
# JSON can spell what no UTF-8 file can hold and no tokenizer can read.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")


@dataclasses.dataclass(frozen=True)
class Examples:
    """Texts or pairs of texts, with labels where they are known.

    Attributes:
        texts_a: the texts, or the first of each pair.
        texts_b: the second of each pair, or None.
        labels: one for each text, all of one kind (see above), or None.
        notes: how their file was read, where that may surprise.
    """

    texts_a: list[str]
    texts_b: list[str] | None = None
    labels: list[Label] | None = None
    notes: tuple[str, ...] = dataclasses.field(default=(), compare=False)

    def __len__(self) -> int:
        return len(self.texts_a)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The different class names, sorted: their order is their index."""
        return tuple(sorted(set(names_of(self.labels))))

    def first(self, number: int | None) -> "Examples":
        """Returns the first `number` examples, or all if there are fewer."""
        return self.chosen(range(len(self))[:number])

    def chosen(self, indices: Iterable[int]) -> "Examples":
        """Returns the examples with these numbers."""
        indices = list(indices)
        return Examples(
            *(
                values and [values[index] for index in indices]
                for values in (self.texts_a, self.texts_b, self.labels)
            ),
            notes=self.notes,
        )


def read_examples(
    path: str | os.PathLike,
    text_columns: Sequence[str] = ("text",),
    label_columns: Sequence[str] = ("label",),
    problem_type: str = SINGLE_LABEL,
    *,
    known_labels: Sequence[str] | None = None,
    label_separator: str = ",",
    table_format: TableFormat = TableFormat(),
    empty_texts: str = REFUSE,
) -> Examples:
    """Reads a table of examples (see `read_table`).

    Args:
        path: the file.
        text_columns: column or key of the text, or of both texts of a pair.
        label_columns: column of the label; none for texts to predict. Several,
            for `MULTI_LABEL`: each holds 0 or 1 for the class that has the
            column's name.
        problem_type: what the labels are.
        known_labels: if given, the only names that a label may have.
        label_separator: separates several labels in one cell.
        table_format: how the table is written.
        empty_texts: whether to `REFUSE`, `SKIP` or `KEEP` an example with an
            empty text.

    Raises:
        InputError: the file or rows are malformed, a text or label is empty,
            or a label is not a number or not known. It shows the first bad rows
            and says how many there are.
    """
    columns = [*text_columns, *label_columns]
    table = read_table(path, columns, table_format, empty_texts == SKIP)
    rows = list(table.rows)
    if problem_type == MULTI_LABEL and len(label_columns) == 1:
        _refuse_marks(path, label_columns[0], label_separator, rows)
    texts, labels, num_skipped, problems = [], [], 0, table.problems
    for place, row in rows:
        cells = {name: _Cell(table, place, name, row[name]) for name in row}
        if empty_texts == SKIP and any(
            cells[name].is_empty for name in text_columns
        ):
            num_skipped += 1
            continue
        try:
            texts.append(
                [cells[name].text(empty_texts == KEEP) for name in text_columns]
            )
            if label_columns:
                chosen = [cells[name] for name in label_columns]
                label = _read_label(chosen, problem_type, label_separator)
                _check_known(chosen[0], label, known_labels)
                labels.append(label)
        except InputError as problem:
            problems.append(problem)
    has_empty = any(
        (problem.expected, problem.found) == ("a text", _EMPTY)
        for problem in problems
    )
    hint = "--empty_texts=skip leaves out rows without a text" * has_empty
    refuse(sorted(problems, key=_line_of), hint)
    if num_skipped:
        note = f"{num_skipped:,} of {len(rows):,} rows left out, without a text"
        table.notes.append(note)
    if not texts:
        found = "empty texts only" if num_skipped else "only a header"
        raise InputError(path, "at least one example", found)
    return Examples(
        *map(list, zip(*texts, strict=True)),
        labels=labels if label_columns else None,
        notes=tuple(table.notes),
    )


def _line_of(problem: InputError) -> int:
    return int(re.search(r"\d+", f"{problem.place} 0")[0])


def _refuse_marks(
    path: str | os.PathLike, column: str, separator: str, rows: Sequence
) -> None:
    """Refuses a mark for each class where names are wanted."""
    widths = set()
    for _, row in rows:
        marks = row[column]
        if isinstance(marks, str):
            marks = marks.strip("[] ").split(separator)
        is_marks = isinstance(marks, list) and all(
            str(mark).strip() in ("0", "1") for mark in marks
        )
        widths.add(len(marks) if is_marks else 0)
    if len(widths) == 1 and min(widths) > 1:
        expected = "names of classes, or a column of 0 and 1 for each class"
        expected += " (--label_column=NAME,NAME,...)"
        found = f"{min(widths)} marks of 0 or 1 in every row"
        raise InputError(path, expected, found, f"column {column!r}")


def _check_known(
    cell: "_Cell", label: Label, known: Sequence[str] | None
) -> None:
    for name in names_of([label]) if known is not None else ():
        if name not in known:
            found = f"{name!r}{nearest(name, known)}"
            raise cell.error(f"one of {listed(known)}", found)


class _Cell(NamedTuple):
    """A value of a table and its place there."""

    table: Table
    row: str
    column: str
    value: object

    def error(self, expected: str, found: str | None = None) -> InputError:
        found = found or shortened(self.value)
        place = f"{self.row}, column {self.column!r}"
        return InputError(self.table.path, expected, found, place)

    @property
    def is_empty(self) -> bool:
        """Whether it is blank, JSON's null or, as pandas has it, NaN."""
        value = self.value
        if isinstance(value, str):
            return not value.strip()
        return value is None or value != value

    def text(self, may_be_empty: bool = False) -> str:
        if self.is_empty:
            if not may_be_empty:
                raise self.error("a text", _EMPTY)
            return self.value if isinstance(self.value, str) else ""
        if not isinstance(self.value, str):
            raise self.error("a text")
        unreadable = _UNREADABLE.search(self.value)
        if unreadable:
            raise self.error("Unicode text", ascii(unreadable[0]))
        return self.value

    def name(self) -> str:
        """Returns the name of a class, without surrounding white space."""
        value = self.value
        if self.is_empty:
            raise self.error("a label", _EMPTY)
        if isinstance(value, list):
            raise self.error("a label (or --multi_label)")
        if isinstance(value, float) and not value.is_integer():
            raise self.error("a label (or --regression)")
        if isinstance(value, bool | int | float):
            # As JSON writes it; pandas turns 1 into 1.0.
            return json.dumps(value if isinstance(value, bool) else int(value))
        name = self.text().strip()
        if name.lower() in _MISSING:
            raise self.error("a label", f"{name!r}, a missing value")
        if len(name.splitlines()) > 1 or "\t" in name:
            raise self.error("a label in one line", shortened(name))
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
            raise self.error("each label once", listed(names))
        return tuple(names)

    def is_marked(self) -> bool:
        text = str(self.value).strip().lower().removesuffix(".0")
        if text not in _YES_OR_NO:
            raise self.error("0 or 1")
        return _YES_OR_NO[text]

    def number(self) -> float:
        value = self.value
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.error("a number")
        if isinstance(value, str) and self.table.delimiter == ";":
            # The decimal comma is why spreadsheets use the semicolon.
            value = value.replace(",", ".")
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise self.error("a number") from None
        if not math.isfinite(number):
            raise self.error("a finite number")
        return number


def _read_label(
    cells: Sequence[_Cell], problem_type: str, separator: str
) -> Label:
    if len(cells) > 1:
        return tuple(sorted(cell.column for cell in cells if cell.is_marked()))
    (cell,) = cells
    if problem_type == MULTI_LABEL:
        return cell.names(separator)
    return cell.number() if problem_type == REGRESSION else cell.name()


def names_of(labels: Iterable[Label]) -> list[str]:
    """Returns the class names in labels; a number has none."""
    names = []
    for label in labels:
        if not isinstance(label, float):
            names += [label] if isinstance(label, str) else label
    return names


def count_pieces(
    examples: Examples, tokenizer: WordpieceTokenizer
) -> np.ndarray:
    """Returns the length of each example, uncut, with its special pieces."""
    counts = tokenize(tokenizer, examples.texts_a).lengths + 2
    if examples.texts_b is not None:
        counts = counts + tokenize(tokenizer, examples.texts_b).lengths + 1
    return counts


def encode_examples(
    examples: Examples,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    label_names: Sequence[str] | None = None,
) -> Arrays:
    """Encodes examples as `encode_texts` does, with their labels.

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
    arrays = encode_texts(
        tokenizer, examples.texts_a, examples.texts_b, max_seq_length
    )
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
