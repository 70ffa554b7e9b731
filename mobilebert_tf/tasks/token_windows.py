"""Sentences of tokens as model inputs; long ones as several windows.

Shape letters: W windows, S sequence length.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from mobilebert_tf.tasks.task import Arrays
from mobilebert_tf.text.encoding import (
    Runs,
    consecutive,
    input_rows,
    tokenize,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

_NUM_SPECIAL = 2  # [CLS] and [SEP].
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


def count_pieces(
    tokens: Sequence[Sequence[str]], tokenizer: WordpieceTokenizer
) -> np.ndarray:
    """Returns the length of each sentence, undivided, with special pieces."""
    lengths = by_sentence(_pieces(tokenizer, tokens).lengths, tokens)
    return np.array([own.sum() + _NUM_SPECIAL for own in lengths])


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
        tokens: by sentence, at least one each. A token that the tokenizer
            drops (an invisible character) becomes [UNK].
        tags: one per token, all in `tag_names`; or None.
        tokenizer: splits tokens into pieces.
        max_seq_length: S, at least 8.
        tag_names: the classes in their order.
    """
    room = max_seq_length - _NUM_SPECIAL
    pieces = _pieces(tokenizer, tokens)
    lengths = np.minimum(pieces.lengths, room)
    ids = pieces.ids[consecutive(pieces.starts, lengths)]
    token_ends = np.cumsum(lengths)
    token_starts = token_ends - lengths
    windows, num_divided = [], 0
    for own in by_sentence(np.arange(len(lengths)), tokens):
        found = list(_windows(lengths[own], room))
        num_divided += len(found) > 1
        windows += [
            (first + own[0], last + own[0], n) for first, last, n in found
        ]
    first, last, num_own = np.array(windows, np.int64).reshape(-1, 3).T
    starts = token_starts[first]
    arrays = input_rows(
        tokenizer,
        max_seq_length,
        Runs(ids, starts, token_ends[last - 1] - starts),
    )
    # Every token belongs to one window, in order.
    rows = np.repeat(np.arange(len(windows)), num_own)
    places = rows, 1 + token_starts - starts[rows]
    names = ("label_weights",) if tags is None else ("label_weights", "labels")
    arrays |= {name: np.zeros_like(arrays["input_ids"]) for name in names}
    arrays["label_weights"][places] = 1
    if tags is not None:
        class_of = {name: index for index, name in enumerate(tag_names)}
        arrays["labels"][places] = [class_of[tag] for tag in chain(*tags)]
    return EncodedSentences(
        arrays, num_divided, int(np.sum(pieces.lengths > room))
    )


def by_sentence(
    values: Sequence, tokens: Sequence[Sequence[str]]
) -> list[Sequence]:
    """Splits a flat sequence with one value per token into sentences."""
    ends = np.cumsum([0, *map(len, tokens)]).tolist()
    return [values[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def _windows(lengths: np.ndarray, room: int) -> Iterator[tuple[int, int, int]]:
    """Yields the windows of a sentence; each token is predicted in one.

    Args:
        lengths: number of pieces of each token, at most `room`.
        room: pieces in a window.

    Yields:
        A window's first token, the one after its last, and how many of them it
        predicts: those that follow the window before.
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
            yield first, number, number - own_first
            return
        # The first token with too little context behind it.
        own_last = int(np.searchsorted(ends, ends[last - 1] - context, "right"))
        own_last = max(own_last, own_first + 1)
        yield first, last, own_last - own_first
        own_first = own_last
        least = max(starts[own_first] - context, ends[own_first] - room)
        first = int(np.searchsorted(starts, least))


def _pieces(
    tokenizer: WordpieceTokenizer, tokens: Sequence[Sequence[str]]
) -> Runs:
    """Returns the pieces of each token, at least one."""
    numbers = {}
    for token in chain(*tokens):
        numbers.setdefault(token, len(numbers))
    ids, starts, lengths = tokenize(tokenizer, list(numbers))
    starts = np.where(lengths, starts, len(ids))
    ids = np.append(ids, np.int32(tokenizer.unk_id))
    chosen = np.array([numbers[token] for token in chain(*tokens)], np.int64)
    return Runs(ids, starts[chosen], np.maximum(lengths, 1)[chosen])
