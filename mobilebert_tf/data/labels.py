"""What a label is: one name of a class, several names, or a number.

Owns reading a label from a cell or a JSON value, and its place in the arrays
that a model is trained on.
"""

import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from mobilebert_tf.errors import InputError

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
