"""Sentences of tokens as model inputs; long ones as several windows.

Shape letters: W windows, S sequence length.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mobilebert_tf.tasks.task import Arrays
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

NUM_SPECIAL = 2  # [CLS] and [SEP].
# On each side where the sentence continues, one in so many of a window's pieces
# is context only: another window predicts it.
_CONTEXT = 4


class EncodedSentences(NamedTuple):
    """Model inputs of sentences, and how many were too long.

    Attributes:
        arrays: `input_ids`, `input_mask` (1 for real pieces), `segment_ids`
            and `label_weights` (1 at the first piece of a token, in one window
            only), int32 [W, S]. Row by row, these pieces are in the order of
            the tokens. With tags also `labels`, class indices, int32 [W, S].
        num_divided: sentences of several windows.
        num_cut: tokens longer than a window; their first pieces are kept.
    """

    arrays: Arrays
    num_divided: int
    num_cut: int


class _Window(NamedTuple):
    """Tokens `first` to `last`, of which it predicts `own_first` to `own_last`.

    As in a slice, the last token is excluded.
    """

    first: int
    own_first: int
    own_last: int
    last: int


def encode_sentences(
    tokens: Sequence[Sequence[str]],
    tags: Sequence[Sequence[str]] | None,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    tag_names: Sequence[str] = (),
) -> EncodedSentences:
    """Returns model inputs: [CLS] pieces [SEP], padded.

    The first piece of a token carries its label and its prediction, as in
    BERT. A longer sentence becomes several windows that overlap, so that each
    token is predicted where there is text on both sides.

    Args:
        tokens: by sentence. A token that the tokenizer drops (an invisible
            character) becomes [UNK].
        tags: one per token, all in `tag_names`; or None.
        tokenizer: splits tokens into pieces.
        max_seq_length: columns, [CLS] and [SEP] included, at least 8.
        tag_names: the classes in their order.
    """
    room = max_seq_length - NUM_SPECIAL
    pieces_of = _pieces(tokenizer, tokens)
    class_of = {name: index for index, name in enumerate(tag_names)}
    rows, num_divided, num_cut = [], 0, 0
    for number, sentence in enumerate(tokens):
        pieces = [pieces_of[token] for token in sentence]
        num_cut += sum(len(ids) > room for ids in pieces)
        pieces = [ids[:room] for ids in pieces]
        windows = list(_windows([len(ids) for ids in pieces], room))
        num_divided += len(windows) > 1
        for window in windows:
            columns = [(tokenizer.cls_id, 0, 0)]
            for index in range(window.first, window.last):
                first, *others = pieces[index]
                own = window.own_first <= index < window.own_last
                label = class_of[tags[number][index]] if own and tags else 0
                columns.append((first, int(own), label))
                columns += [(piece, 0, 0) for piece in others]
            rows.append([*columns, (tokenizer.sep_id, 0, 0)])
    arrays = _padded(rows, max_seq_length, tokenizer.pad_id)
    if tags is None:
        del arrays["labels"]
    return EncodedSentences(arrays, num_divided, num_cut)


def _padded(rows: list[list[tuple]], length: int, pad_id: int) -> Arrays:
    """Returns arrays of rows of (piece, label weight, label)."""
    names = ("input_ids", "label_weights", "labels")
    names_of_zeros = ("input_mask", "segment_ids", "label_weights", "labels")
    shape = (len(rows), length)
    arrays = {"input_ids": np.full(shape, pad_id, np.int32)}
    arrays |= {name: np.zeros(shape, np.int32) for name in names_of_zeros}
    for row, columns in enumerate(rows):
        arrays["input_mask"][row, : len(columns)] = 1
        for name, values in zip(names, zip(*columns, strict=True), strict=True):
            arrays[name][row, : len(columns)] = values
    return arrays


def by_sentence(
    values: Sequence, tokens: Sequence[Sequence[str]]
) -> list[Sequence]:
    """Splits a flat sequence with one value per token into sentences."""
    ends = np.cumsum([0, *map(len, tokens)]).tolist()
    return [values[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def _windows(lengths: Sequence[int], room: int) -> Iterator[_Window]:
    """Yields the windows of a sentence; each token is predicted in one.

    Args:
        lengths: number of pieces of each token, at most `room`.
        room: pieces in a window.
    """
    ends = np.cumsum(lengths)
    starts = ends - lengths
    number, context = len(lengths), room // _CONTEXT
    first = own_first = 0
    while True:
        last = int(np.searchsorted(ends, starts[first] + room, "right"))
        if last == number:
            # Nothing follows, so the window reaches further back.
            first = int(np.searchsorted(starts, ends[-1] - room))
            yield _Window(first, own_first, number, number)
            return
        # The first token with too little context behind it.
        own_last = int(np.searchsorted(ends, ends[last - 1] - context, "right"))
        own_last = max(own_last, own_first + 1)
        yield _Window(first, own_first, own_last, last)
        own_first = own_last
        least = max(starts[own_first] - context, ends[own_first] - room)
        first = int(np.searchsorted(starts, least))


def _pieces(
    tokenizer: WordpieceTokenizer, tokens: Sequence[Sequence[str]]
) -> dict[str, list[int]]:
    """Returns the ids of each token's pieces, at least one."""
    different = list(dict.fromkeys(token for some in tokens for token in some))
    ids = tokenizer.tokenize(different)
    values, splits = ids.values.numpy().tolist(), ids.row_splits.numpy()
    return {
        token: values[start:end] or [tokenizer.unk_id]
        for token, (start, end) in zip(
            different, itertools.pairwise(splits), strict=True
        )
    }
