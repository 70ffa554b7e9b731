"""Rows of model inputs: [CLS] first [SEP], or [CLS] first [SEP] second [SEP].

Shape letters: R rows, S sequence length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from mobilebert_tf.text.tokenizer import WordpieceTokenizer


class Runs(NamedTuple):
    """Runs of word pieces, such as texts or parts of texts.

    Attributes:
        ids: all pieces in a row, int32.
        starts: index in `ids` of each run's first piece, int64 [R].
        lengths: number of pieces of each run, int64 [R].
    """

    ids: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray


def tokenize(tokenizer: WordpieceTokenizer, texts: Sequence[str]) -> Runs:
    """Returns the pieces of each text."""
    ids, lengths = tokenizer.pieces(texts)
    return Runs(ids, np.cumsum(lengths) - lengths, lengths)


def encode_texts(
    tokenizer: WordpieceTokenizer,
    texts: Sequence[str],
    text_pairs: Sequence[str] | None = None,
    max_length: int | None = None,
    padding: str = "max_length",
) -> dict[str, np.ndarray]:
    """Returns the inputs of a text, or of a pair of texts, per row.

    A pair that is too long loses the last pieces of its longer text, one at a
    time, and of the second text while both are equally long (as in BERT).

    Args:
        tokenizer: splits texts into pieces.
        texts: R texts, or the first of each pair.
        text_pairs: the second of each pair.
        max_length: the longest row; None truncates none.
        padding: `max_length`, or `longest` for rows as wide as the longest.

    Returns:
        See `input_rows`.

    Raises:
        ValueError: texts and pairs differ in number, or `max_length` has no
            room for a piece of each text, or is wanted and absent.
    """
    num_texts = 1 if text_pairs is None else 2
    if text_pairs is not None and len(text_pairs) != len(texts):
        raise ValueError(
            f"text_pairs must be {len(texts)}, as many as texts. "
            f"Received: {len(text_pairs)}"
        )
    if max_length is not None and max_length < 2 * num_texts + 1:
        raise ValueError(
            f"max_seq_length must be at least {2 * num_texts + 1} for "
            f"{num_texts} text(s). Received: {max_length}"
        )
    pads_to_longest = padding == "longest"
    if not pads_to_longest and (padding != "max_length" or max_length is None):
        raise ValueError(
            "padding must be 'longest', or 'max_length' with a max_length. "
            f"Received: {padding!r}"
        )
    first, second = tokenize(tokenizer, texts), None
    if text_pairs is not None:
        second = tokenize(tokenizer, text_pairs)
    if max_length is not None:
        first, second = _truncated(first, second, max_length - num_texts - 1)
    if pads_to_longest:
        sizes = first.lengths + (0 if second is None else second.lengths)
        max_length = int(sizes.max(initial=0)) + num_texts + 1
    return input_rows(tokenizer, max_length, first, second)


def _truncated(
    first: Runs, second: Runs | None, room: int
) -> tuple[Runs, Runs | None]:
    """Returns the beginnings of rows that fit into `room` pieces."""
    if second is None:
        return first._replace(lengths=np.minimum(first.lengths, room)), None
    # In closed form what BERT does in a loop: the first text keeps the longer
    # half.
    half = np.maximum(room - second.lengths, (room + 1) // 2)
    first = first._replace(lengths=np.minimum(first.lengths, half))
    rest = np.minimum(second.lengths, room - first.lengths)
    return first, second._replace(lengths=rest)


def input_rows(
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    first: Runs,
    second: Runs | None = None,
) -> dict[str, np.ndarray]:
    """Returns the inputs of one text, or of a pair, per row.

    Each row must fit into S columns with its two or three special pieces.

    Returns:
        `input_ids`, `input_mask` (1 for real pieces) and `segment_ids` (1 for
        the second run and its [SEP]), int32 [R, S].
    """
    rows, columns = np.arange(len(first.starts)), np.arange(max_seq_length)
    shape = (len(rows), max_seq_length)
    input_ids = np.full(shape, tokenizer.pad_id, np.int32)
    segment_ids = np.zeros(shape, np.int32)
    input_ids[:, 0] = tokenizer.cls_id
    _place(input_ids, np.ones_like(rows), first)
    ends = first.lengths + 1
    input_ids[rows, ends] = tokenizer.sep_id
    if second is not None:
        begins = ends + 1
        _place(input_ids, begins, second)
        ends = begins + second.lengths
        input_ids[rows, ends] = tokenizer.sep_id
        is_second = (columns >= begins[:, None]) & (columns <= ends[:, None])
        segment_ids[is_second] = 1
    return {
        "input_ids": input_ids,
        "input_mask": (columns <= ends[:, None]).astype(np.int32),
        "segment_ids": segment_ids,
    }


def _place(input_ids: np.ndarray, columns: np.ndarray, runs: Runs) -> None:
    """Copies each row's run to its column and those after it."""
    places = np.arange(len(input_ids)) * input_ids.shape[1] + columns
    ids = runs.ids[consecutive(runs.starts, runs.lengths)]
    input_ids.reshape(-1)[consecutive(places, runs.lengths)] = ids


def consecutive(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns for each row, one after the other, start, start + 1, ..."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def enumerate_rows(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns row and number of each element of rows of the given lengths."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, consecutive(np.zeros_like(counts), counts)
