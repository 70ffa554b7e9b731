"""Classification and regression examples from files, and their arrays.

Owns what a text, a pair and a label are, the encoding of texts as model inputs
and the file that predictions are written to. Rows come from `tables.py`; one
that cannot be an example is an `InputError` that names file and line.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.data.tables import read_rows
from mobilebert_tf.errors import InputError


@dataclass(frozen=True)
class Examples:
    """Texts or pairs of texts, with labels where they are known.

    Attributes:
        texts_a: the texts, or the first of each pair.
        texts_b: the second of each pair, or None.
        labels: label names, numbers for a regression, or None.
    """

    texts_a: list[str]
    texts_b: list[str] | None = None
    labels: list[str] | list[float] | None = None

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
    label_column: str = "label",
    has_labels: bool = True,
    regression: bool = False,
    known_labels: Sequence[str] | None = None,
) -> Examples:
    """Reads a .tsv, .csv or .jsonl file of examples (see `read_rows`).

    Args:
        path: the file.
        text_column: the column or key of the text.
        text_b_column: that of the second text, for pairs.
        label_column: that of the label.
        has_labels: False for texts to predict; a label column is ignored.
        regression: whether labels are finite numbers instead of names.
        known_labels: if given, the only names that a label may have.

    Raises:
        InputError: the file or one of its rows cannot be read, a text or
            label is empty, or a label is not a number or not known.
    """
    texts_a, texts_b, labels = [], [], []
    columns = [text_column]
    columns += [text_b_column] if text_b_column is not None else []
    columns += [label_column] if has_labels else []
    for line, row in read_rows(path, columns):
        place = f"line {line}, column {text_column!r}"
        texts_a.append(_text(path, place, row[text_column]))
        if text_b_column is not None:
            place = f"line {line}, column {text_b_column!r}"
            texts_b.append(_text(path, place, row[text_b_column]))
        if has_labels:
            place = f"line {line}, column {label_column!r}"
            read_label = _number if regression else _name
            label = read_label(path, place, row[label_column])
            if known_labels is not None and label not in known_labels:
                expected = f"one of {', '.join(map(repr, known_labels))}"
                raise InputError(path, expected, repr(label), place)
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
    return sorted(set(examples.labels))


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
        if there are labels also `labels`, [num_examples], int32 class indices
        or float32 numbers.

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
        encoded["labels"] = _encode_labels(examples.labels, label_names)
    return encoded


def write_predictions(
    path: str | os.PathLike, names: Sequence[str], probabilities: np.ndarray
) -> None:
    """Writes a TSV with `index`, `prediction` and a probability per label.

    Args:
        path: where to write; appears whole or not at all.
        names: label names in the order of the columns of `probabilities`. A
            single one is a regression, whose value is the prediction.
        probabilities: [num_examples, num_labels].
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] != len(names):
        raise ValueError(
            f"probabilities must have the shape [num_examples, {len(names)}]. "
            f"Received: {probabilities.shape}"
        )
    with (
        atomic_file(path) as temporary,
        open(temporary, "w", encoding="utf-8") as file,
    ):
        is_regression = len(names) == 1
        columns = [] if is_regression else names
        file.write("\t".join(["index", "prediction", *columns]) + "\n")
        for index, row in enumerate(probabilities):
            cells = [f"{value:.6f}" for value in row]
            if not is_regression:
                cells = [names[row.argmax()], *cells]
            file.write("\t".join([str(index), *cells]) + "\n")


def _text(path: str | os.PathLike, place: str, value: object) -> str:
    if not isinstance(value, str):
        raise InputError(path, "a text", repr(value), place)
    if not value.strip():
        raise InputError(path, "a text", "an empty one", place)
    # JSON can spell what no UTF-8 file can hold and no tokenizer can read.
    for character in value:
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise InputError(path, "Unicode text", ascii(character), place)
    return value


def _name(path: str | os.PathLike, place: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # JSON files often number their classes.
    name = _text(path, place, value).strip()
    if len(name.splitlines()) > 1 or "\t" in name:
        raise InputError(path, "a label in one line", repr(name), place)
    return name


def _number(path: str | os.PathLike, place: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InputError(path, "a number", repr(value), place)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise InputError(path, "a number", repr(value), place) from None
    if not math.isfinite(number):
        raise InputError(path, "a finite number", repr(value), place)
    return number


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


def _encode_labels(
    labels: list[str] | list[float], names: Sequence[str] | None
) -> np.ndarray:
    if names is None:
        if isinstance(labels[0], str):
            raise ValueError(f"label_names must be given. Received: {names}")
        return np.asarray(labels, np.float32)
    index_of = {name: index for index, name in enumerate(names)}
    unknown = set(labels).difference(index_of)
    if unknown:
        raise ValueError(f"labels {sorted(unknown)} are not in {list(names)}")
    return np.asarray([index_of[label] for label in labels], np.int32)
