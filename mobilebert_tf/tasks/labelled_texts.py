"""What a label is: one name of a class, several names, or a number.

Owns reading a label from a cell or a JSON value, and its place in the arrays
that a model is trained on.

Classification and regression examples from files, and their arrays.

Owns what an example is, the encoding of texts as model inputs and the file that
predictions are written to. Rows come from `tables.py`, labels from `labels.py`;
a row that cannot be an example is an `InputError` that names file and line.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mobilebert_tf.data.tables import read_rows
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file

# One label of an example, by the kind of task.
Label = str | float | tuple[str, ...]

_YES_OR_NO = {"0": False, "1": True, 0: False, 1: True}


def read_text(
    path: str | os.PathLike,
    place: str,
    value: object,
    may_be_empty: bool = False,
) -> str:
    """Returns a text, as it is.

    Raises:
        InputError: it is none, is empty, or holds what no UTF-8 file can.
    """
    if not isinstance(value, str):
        raise InputError(path, "a text", repr(value), place)
    if not value.strip() and not may_be_empty:
        raise InputError(path, "a text", "an empty one", place)
    # JSON can spell what no UTF-8 file can hold and no tokenizer can read.
    for character in value:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise InputError(path, "Unicode text", ascii(character), place)
    return value


def read_name(path: str | os.PathLike, place: str, value: object) -> str:
    """Returns the name of a class, without surrounding white space.

    Raises:
        InputError: it is empty or no text in one line.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # JSON files often number their classes.
    name = read_text(path, place, value).strip()
    if len(name.splitlines()) > 1 or "\t" in name:
        raise InputError(path, "a label in one line", repr(name), place)
    return name


def read_names(
    path: str | os.PathLike, place: str, value: object, separator: str
) -> tuple[str, ...]:
    """Returns the names of any number of classes, sorted.

    Args:
        path: for messages.
        place: for messages.
        value: names in one text, `separator` between them, or a JSON list.
            An empty text or list: no class.
        separator: as it says.

    Raises:
        InputError: a name is empty, no text in one line, or there twice.
    """
    if isinstance(value, str):
        value = value.split(separator) if value.strip() else []
    elif not isinstance(value, list):
        value = [value]
    names = [read_name(path, place, name) for name in value]
    if len(set(names)) < len(names):
        raise InputError(path, "each label once", repr(sorted(names)), place)
    return tuple(sorted(names))


def read_marks(
    path: str | os.PathLike, line: int, row: dict, columns: Sequence[str]
) -> tuple[str, ...]:
    """Returns the columns that are marked with 1 in a row, sorted.

    Raises:
        InputError: a value is neither 0 nor 1.
    """
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


def read_number(path: str | os.PathLike, place: str, value: object) -> float:
    """Returns a finite number.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(path, "a number", repr(value), place)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise InputError(path, "a number", repr(value), place) from None
    if not math.isfinite(number):
        raise InputError(path, "a finite number", repr(value), place)
    return number


def names_in(labels: Iterable[str | tuple[str, ...]]) -> list[str]:
    """The different names, sorted; the place of one is its class index."""
    names = set()
    for label in labels:
        names.update([label] if isinstance(label, str) else label)
    return sorted(names)


def encode_labels(
    labels: Sequence[Label], names: Sequence[str] | None
) -> np.ndarray:
    """Makes the array of labels.

    Args:
        labels: of one kind.
        names: the classes in their order; None for numbers.

    Returns:
        float32 [num_examples] numbers, int32 [num_examples] class indices, or,
        for several classes at once, float32 [num_examples, num_names] of 0
        and 1.

    Raises:
        ValueError: a label is not in `names`, or there are none.
    """
    if names is None:
        if not isinstance(labels[0], int | float):
            raise ValueError(f"label_names must be given. Received: {names}")
        return np.asarray(labels, np.float32)
    unknown = set(names_in(labels)).difference(names)
    if unknown:
        raise ValueError(f"labels {sorted(unknown)} are not in {list(names)}")
    index_of = {name: index for index, name in enumerate(names)}
    if isinstance(labels[0], str):
        return np.asarray([index_of[label] for label in labels], np.int32)
    marks = np.zeros((len(labels), len(names)), np.float32)
    for row, label in enumerate(labels):
        marks[row, [index_of[name] for name in label]] = 1.0
    return marks


@dataclass(frozen=True)
class Examples:
    """Texts or pairs of texts, with labels where they are known.

    Attributes:
        texts_a: the texts, or the first of each pair.
        texts_b: the second of each pair, or None.
        labels: names of classes, tuples of names where an example may have
            several or none, numbers for a regression, or None.
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

    def first(self, number: int) -> "Examples":
        """The first so many examples, or all if there are fewer."""
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
        text_column: the column or key of the text.
        text_b_column: that of the second text, for pairs.
        label_column: that of the label. With `multi_label` also several: each
            then holds 0 or 1, and its own name is the label's.
        has_labels: False for texts to predict; a label column is ignored.
        regression: whether labels are finite numbers instead of names.
        known_labels: if given, the only names that a label may have.
        multi_label: whether an example may have several labels, or none.
        label_separator: between the labels in one cell.
        header: see `read_rows`.
        may_be_empty: whether a text may be empty.

    Raises:
        InputError: the file or one of its rows cannot be read, a text or
            label is empty, or a label is not a number or not known.
    """
    label_columns = _label_columns(label_column) if has_labels else []
    columns = [text_column, text_b_column, *label_columns]
    columns = [column for column in columns if column is not None]
    read_label = _label_reader(
        path, label_columns, regression, multi_label, label_separator
    )
    texts_a, texts_b, labels = [], [], []
    for line, row in read_rows(path, columns, header):
        place = f"line {line}, column {text_column!r}"
        texts_a.append(read_text(path, place, row[text_column], may_be_empty))
        if text_b_column is not None:
            place = f"line {line}, column {text_b_column!r}"
            texts_b.append(
                read_text(path, place, row[text_b_column], may_be_empty)
            )
        if has_labels:
            label = read_label(line, row)
            if known_labels is not None:
                place = f"line {line}, column {', '.join(label_columns)!r}"
                _check_known(path, place, label, known_labels)
            labels.append(label)
    if not texts_a:
        raise InputError(path, "at least one example", "only a header")
    return Examples(
        texts_a,
        texts_b if text_b_column is not None else None,
        labels if has_labels else None,
    )


def label_names(examples: Examples) -> list[str]:
    """The different labels, sorted; the place of one is its class index."""
    return names_in(examples.labels)


def encode_examples(
    examples: Examples,
    tokenizer,
    max_seq_length: int,
    label_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Makes model inputs: [CLS] a [SEP], or [CLS] a [SEP] b [SEP], padded.

    A pair that is too long loses the last pieces of its longer text, one at a
    time, the second text's when both are equally long (as in BERT).

    Args:
        examples: what to encode.
        tokenizer: has `pad_id`, `cls_id`, `sep_id` and `tokenize`, from a list
            of texts to a ragged int32 tensor [num_texts, (pieces)].
        max_seq_length: columns of the arrays, [CLS] and [SEP] included.
        label_names: the classes in their order; None for a regression or for
            examples without labels.

    Returns:
        `input_ids`, `input_mask` (1 for real pieces) and `segment_ids` (1 for
        the second text and its [SEP]), int32 [num_examples, max_seq_length];
        if there are labels also `labels` of `encode_labels`.

    Raises:
        ValueError: if `max_seq_length` leaves no room for a piece of each
            text, or a label is not in `label_names`.
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
    rows = np.arange(len(examples))
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
        columns = np.arange(max_seq_length)
        second = (columns > lengths_a[:, None] + 1) & (columns <= ends[:, None])
        segment_ids[second] = 1
    _place(input_ids, np.ones_like(rows), pieces_a, starts_a, lengths_a)
    input_ids[rows, lengths_a + 1] = tokenizer.sep_id
    input_mask = np.arange(max_seq_length) <= ends[:, None]
    encoded = {
        "input_ids": input_ids,
        "input_mask": input_mask.astype(np.int32),
        "segment_ids": segment_ids,
    }
    if examples.labels is not None:
        encoded["labels"] = encode_labels(examples.labels, label_names)
    return encoded


def write_predictions(
    path: str | os.PathLike,
    names: Sequence[str],
    probabilities: np.ndarray,
    multi_label: bool = False,
    label_separator: str = ",",
) -> None:
    """Writes a TSV with `index`, `prediction` and a probability per label.

    Args:
        path: where to write; appears whole or not at all.
        names: label names in the order of the columns of `probabilities`. A
            single one is a regression, whose value is the prediction.
        probabilities: [num_examples, num_labels].
        multi_label: whether every label of at least a half is predicted,
            `label_separator` between them, instead of the likeliest one.
        label_separator: as it says.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(names):
        raise ValueError(
            f"probabilities must have the shape [num_examples, {len(names)}]. "
            f"Received: {probabilities.shape}"
        )
    is_regression = len(names) == 1 and not multi_label

    def predicted(row: np.ndarray) -> str:
        if not multi_label:
            return names[row.argmax()]
        chosen = np.flatnonzero(row >= 0.5)
        return label_separator.join(names[index] for index in chosen)

    with (
        atomic_file(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        columns = [] if is_regression else names
        file.write("\t".join(["index", "prediction", *columns]) + "\n")
        for index, row in enumerate(probabilities):
            cells = [f"{value:.6f}" for value in row]
            if not is_regression:
                cells = [predicted(row), *cells]
            file.write("\t".join([str(index), *cells]) + "\n")


def _label_columns(label_column: str | Sequence[str]) -> list[str]:
    if isinstance(label_column, str):
        return [label_column]
    return list(label_column)


def _label_reader(
    path: str | os.PathLike,
    columns: Sequence[str],
    regression: bool,
    multi_label: bool,
    separator: str,
) -> Callable[[int, dict], Label]:
    """Returns what reads the label of a line and its row."""
    if len(columns) > 1:
        if not multi_label:
            raise ValueError(f"one label column is needed. Received: {columns}")
        return lambda line, row: read_marks(path, line, row, columns)

    def read(line: int, row: dict) -> Label:
        (column,) = columns
        place, value = f"line {line}, column {column!r}", row[column]
        if multi_label:
            return read_names(path, place, value, separator)
        return (read_number if regression else read_name)(path, place, value)

    return read


def _check_known(
    path: str | os.PathLike,
    place: str,
    label: str | tuple[str, ...],
    known_labels: Sequence[str],
) -> None:
    for name in [label] if isinstance(label, str) else label:
        if name not in known_labels:
            expected = f"one of {', '.join(map(repr, known_labels))}"
            raise InputError(path, expected, repr(name), place)


def _tokenize(tokenizer, texts: list[str]) -> tuple[np.ndarray, ...]:
    """All pieces in a row, where each text's begin, and how many it has."""
    ragged = tokenizer.tokenize(texts)
    splits = ragged.row_splits.numpy().astype(np.int64)
    return ragged.values.numpy(), splits[:-1], np.diff(splits)


def _truncate_pairs(
    lengths_a: np.ndarray, lengths_b: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lengths [num] after losing pieces of the longer text, then in turn."""
    half = (room + 1) // 2  # The first text is the longer half.
    lengths_a = np.minimum(lengths_a, np.maximum(room - lengths_b, half))
    return lengths_a, np.minimum(lengths_b, room - lengths_a)


def _place(
    input_ids: np.ndarray,
    columns: np.ndarray,
    pieces: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
) -> None:
    """Copies each row's first `lengths` pieces to its column and after."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    offsets = np.arange(len(rows)) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )
    input_ids[rows, columns[rows] + offsets] = pieces[starts[rows] + offsets]
