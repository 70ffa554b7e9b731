"""Texts with labels: from a table to arrays, from predictions to a file.

A label is the name of a class, a tuple of names where an example may have
several or none, or a number. A row that cannot be an example is refused with
its file and line.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from mobilebert_tf.data.tables import read_rows
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file

Label = str | float | tuple[str, ...]

_YES_OR_NO = {"0": False, "1": True, 0: False, 1: True}


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

    def __post_init__(self):
        for column in (self.texts_b, self.labels):
            if column is not None and len(column) != len(self.texts_a):
                raise ValueError(
                    f"{len(self.texts_a)} texts but {len(column)} labels or "
                    "second texts"
                )

    def __len__(self) -> int:
        return len(self.texts_a)

    @property
    def label_names(self) -> list[str]:
        """The different class names, sorted: their order is their index."""
        return _names_in(self.labels)

    def first(self, number: int) -> "Examples":
        """Returns the first `number` examples, or all if there are fewer."""
        return Examples(
            self.texts_a[:number],
            self.texts_b and self.texts_b[:number],
            self.labels and self.labels[:number],
        )


def read_examples(
    path: str | os.PathLike,
    text_column: str = "text",
    text_b_column: str | None = None,
    label_column: str | Sequence[str] = "label",
    has_labels: bool = True,
    regression: bool = False,
    known_labels: Sequence[str] | None = None,
    multi_label: bool = False,
    label_separator: str = ",",
    header: Sequence[str] | None = None,
    may_be_empty: bool = False,
) -> Examples:
    """Reads a .tsv, .csv or .jsonl file of examples (see `read_rows`).

    Args:
        path: the file.
        text_column: column or key of the text.
        text_b_column: column of the second text, for pairs.
        label_column: column of the label. Several, with `multi_label`: each
            holds 0 or 1 for the class that has the column's name.
        has_labels: False for texts to predict; a label column is ignored.
        regression: whether labels are finite numbers instead of names.
        known_labels: if given, the only names that a label may have.
        multi_label: whether an example may have several labels, or none.
        label_separator: separates the labels in one cell.
        header: see `read_rows`.
        may_be_empty: whether a text may be empty.

    Raises:
        InputError: the file or a row is malformed, a text or label is empty,
            or a label is not a number or not known.
    """
    columns = []
    if has_labels:
        columns = label_column
        columns = [columns] if isinstance(columns, str) else list(columns)
    read_label = _label_reader(
        path, columns, regression, multi_label, label_separator
    )
    text_columns = [text_column]
    if text_b_column is not None:
        text_columns.append(text_b_column)
    texts, labels = [[] for _ in text_columns], []
    for line, row in read_rows(path, [*text_columns, *columns], header):
        for column, values in zip(text_columns, texts, strict=True):
            place = f"line {line}, column {column!r}"
            values.append(_read_text(path, place, row[column], may_be_empty))
        if has_labels:
            label = read_label(line, row)
            if known_labels is not None:
                place = f"line {line}, column {', '.join(columns)!r}"
                _check_known(path, place, label, known_labels)
            labels.append(label)
    if not texts[0]:
        raise InputError(path, "at least one example", "only a header")
    return Examples(
        texts[0],
        texts[1] if len(texts) > 1 else None,
        labels if has_labels else None,
    )


def _label_reader(
    path: str | os.PathLike,
    columns: Sequence[str],
    regression: bool,
    multi_label: bool,
    separator: str,
) -> Callable[[int, dict], Label]:
    """Returns a function that reads the label of a line from its row."""
    if len(columns) > 1 and not multi_label:
        raise ValueError(f"one label column is needed. Received: {columns}")

    def read(line: int, row: dict) -> Label:
        if len(columns) > 1:
            return _read_marks(path, line, row, columns)
        (column,) = columns
        place, value = f"line {line}, column {column!r}", row[column]
        if multi_label:
            return _read_names(path, place, value, separator)
        return (_read_number if regression else _read_name)(path, place, value)

    return read


def _read_text(
    path: str | os.PathLike,
    place: str,
    value: object,
    may_be_empty: bool = False,
) -> str:
    if not isinstance(value, str):
        raise InputError(path, "a text", repr(value), place)
    if not value.strip() and not may_be_empty:
        raise InputError(path, "a text", "an empty one", place)
    # JSON can spell what no UTF-8 file can hold and no tokenizer can read.
    for character in value:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise InputError(path, "Unicode text", ascii(character), place)
    return value


def _read_name(path: str | os.PathLike, place: str, value: object) -> str:
    """Returns the name of a class, without surrounding white space."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # JSON files often number their classes.
    name = _read_text(path, place, value).strip()
    if len(name.splitlines()) > 1 or "\t" in name:
        raise InputError(path, "a label in one line", repr(name), place)
    return name


def _read_names(
    path: str | os.PathLike, place: str, value: object, separator: str
) -> tuple[str, ...]:
    """Returns the sorted names in a text or a JSON list, which may be empty."""
    if isinstance(value, str):
        value = value.split(separator) if value.strip() else []
    elif not isinstance(value, list):
        value = [value]
    names = [_read_name(path, place, name) for name in value]
    if len(set(names)) < len(names):
        raise InputError(path, "each label once", repr(sorted(names)), place)
    return tuple(sorted(names))


def _read_marks(
    path: str | os.PathLike, line: int, row: dict, columns: Sequence[str]
) -> tuple[str, ...]:
    """Returns the sorted names of the columns that hold a 1."""
    marked = []
    for column in columns:
        value = row[column]
        value = value.strip() if isinstance(value, str) else value
        if not isinstance(value, str | int) or value not in _YES_OR_NO:
            place = f"line {line}, column {column!r}"
            raise InputError(path, "0 or 1", repr(value), place)
        if _YES_OR_NO[value]:
            marked.append(column)
    return tuple(sorted(marked))


def _read_number(path: str | os.PathLike, place: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(path, "a number", repr(value), place)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise InputError(path, "a number", repr(value), place) from None
    if not math.isfinite(number):
        raise InputError(path, "a finite number", repr(value), place)
    return number


def _check_known(
    path: str | os.PathLike, place: str, label: Label, known: Sequence[str]
) -> None:
    for name in [label] if isinstance(label, str) else label:
        if name not in known:
            expected = f"one of {', '.join(map(repr, known))}"
            raise InputError(path, expected, repr(name), place)


def _names_in(labels: Iterable[str | tuple[str, ...]]) -> list[str]:
    names = set()
    for label in labels:
        names.update([label] if isinstance(label, str) else label)
    return sorted(names)


def encode_examples(
    examples: Examples,
    tokenizer,
    max_seq_length: int,
    label_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Makes model inputs: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], padded.

    A pair that is too long loses the last pieces of its longer text, one at a
    time, and of the second text while both are equally long (as in BERT).

    Args:
        examples: N texts or pairs.
        tokenizer: a `WordpieceTokenizer`.
        max_seq_length: columns of the arrays, S.
        label_names: the classes in their order; None for a regression or for
            examples without labels.

    Returns:
        `input_ids`, `input_mask` (1 for real pieces) and `segment_ids` (1 for
        the second text and its [SEP]), int32 [N, S]; with labels also `labels`
        (see `encode_labels`).

    Raises:
        ValueError: `max_seq_length` has no room for a piece of each text, or a
            label is not in `label_names`.
    """
    num_special = 2 if examples.texts_b is None else 3
    num_texts = num_special - 1
    if max_seq_length < num_special + num_texts:
        raise ValueError(
            f"max_seq_length must be at least {num_special + num_texts} for "
            f"{num_texts} text(s). Received: {max_seq_length}"
        )
    room = max_seq_length - num_special
    pieces_a, starts_a, lengths_a = _tokenize(tokenizer, examples.texts_a)
    shape = (len(examples), max_seq_length)
    input_ids = np.full(shape, tokenizer.pad_id, np.int32)
    segment_ids = np.zeros(shape, np.int32)
    rows, columns = np.arange(len(examples)), np.arange(max_seq_length)
    input_ids[:, 0] = tokenizer.cls_id
    if examples.texts_b is None:
        lengths_a = np.minimum(lengths_a, room)
        ends = lengths_a + 1
    else:
        pieces_b, starts_b, lengths_b = _tokenize(tokenizer, examples.texts_b)
        lengths_a, lengths_b = _truncate_pairs(lengths_a, lengths_b, room)
        ends = lengths_a + lengths_b + 2
        _place(input_ids, lengths_a + 2, pieces_b, starts_b, lengths_b)
        input_ids[rows, ends] = tokenizer.sep_id
        second = (columns > lengths_a[:, None] + 1) & (columns <= ends[:, None])
        segment_ids[second] = 1
    _place(input_ids, np.ones_like(rows), pieces_a, starts_a, lengths_a)
    input_ids[rows, lengths_a + 1] = tokenizer.sep_id
    encoded = {
        "input_ids": input_ids,
        "input_mask": (columns <= ends[:, None]).astype(np.int32),
        "segment_ids": segment_ids,
    }
    if examples.labels is not None:
        encoded["labels"] = encode_labels(examples.labels, label_names)
    return encoded


def encode_labels(
    labels: Sequence[Label], names: Sequence[str] | None
) -> np.ndarray:
    """Returns numbers float32 [N], class indices int32 [N], or float32 [N, C].

    Args:
        labels: of one kind; tuples of names become rows of 0 and 1.
        names: the classes in their order; None for numbers.

    Raises:
        ValueError: a label is not in `names`, or there are none.
    """
    if names is None:
        if not isinstance(labels[0], int | float):
            raise ValueError(f"label_names must be given. Received: {names}")
        return np.asarray(labels, np.float32)
    unknown = set(_names_in(labels)).difference(names)
    if unknown:
        raise ValueError(f"labels {sorted(unknown)} are not in {list(names)}")
    index_of = {name: index for index, name in enumerate(names)}
    if isinstance(labels[0], str):
        return np.asarray([index_of[label] for label in labels], np.int32)
    marks = np.zeros((len(labels), len(names)), np.float32)
    for row, label in enumerate(labels):
        marks[row, [index_of[name] for name in label]] = 1.0
    return marks


def _tokenize(tokenizer, texts: list[str]) -> tuple[np.ndarray, ...]:
    """Returns all pieces in a row, and each text's start and length there."""
    ragged = tokenizer.tokenize(texts)
    splits = ragged.row_splits.numpy().astype(np.int64)
    return ragged.values.numpy(), splits[:-1], np.diff(splits)


def _truncate_pairs(
    lengths_a: np.ndarray, lengths_b: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns lengths [N] that fit; in closed form what BERT does in a loop."""
    half = (room + 1) // 2  # The first text keeps the longer half.
    lengths_a = np.minimum(lengths_a, np.maximum(room - lengths_b, half))
    return lengths_a, np.minimum(lengths_b, room - lengths_a)


def _place(
    input_ids: np.ndarray,
    columns: np.ndarray,
    pieces: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
) -> None:
    """Copies the first `lengths` pieces of each row to its column and after."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.arange(len(rows)) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )
    input_ids[rows, columns[rows] + offsets] = pieces[starts[rows] + offsets]


def write_predictions(
    path: str | os.PathLike,
    names: Sequence[str],
    probabilities: np.ndarray,
    multi_label: bool = False,
    label_separator: str = ",",
) -> None:
    """Writes a TSV with `index`, `prediction` and a probability per class.

    Args:
        path: where to write; appears whole or not at all.
        names: the classes, in the order of the columns of `probabilities`. A
            single one is a regression: its value is the prediction.
        probabilities: [N, C].
        multi_label: predict every class of at least a half, joined by
            `label_separator`, instead of the likeliest class.
        label_separator: separates several labels in a cell.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(names):
        raise ValueError(
            f"probabilities must have the shape [num_examples, {len(names)}]. "
            f"Received: {probabilities.shape}"
        )
    is_regression = len(names) == 1 and not multi_label
    columns = [] if is_regression else names
    lines = ["\t".join(["index", "prediction", *columns])]
    for index, row in enumerate(probabilities):
        cells = [f"{value:.6f}" for value in row]
        if multi_label:
            chosen = np.flatnonzero(row >= 0.5)
            cells.insert(0, label_separator.join(names[c] for c in chosen))
        elif not is_regression:
            cells.insert(0, names[row.argmax()])
        lines.append("\t".join([str(index), *cells]))
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
