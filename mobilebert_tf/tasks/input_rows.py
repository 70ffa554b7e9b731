"""Rows of model inputs: [CLS] first [SEP], or [CLS] first [SEP] second [SEP].

Shape letters: R rows, S sequence length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mobilebert_tf.tasks.task import Arrays
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
    ragged = tokenizer.tokenize(texts)
    splits = ragged.row_splits.numpy().astype(np.int64)
    return Runs(ragged.values.numpy(), splits[:-1], np.diff(splits))


def input_rows(
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    first: Runs,
    second: Runs | None = None,
) -> Arrays:
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
