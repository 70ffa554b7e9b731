"""Sentences of tokens as model inputs, each token predicted once.

Owns which pieces a token becomes and how sentences that are too long are cut.
The first piece of a token carries its label and its prediction, as in BERT;
other pieces and [CLS], [SEP], [PAD] carry none. A longer sentence becomes
several windows that overlap, so that a token is predicted where there is text
on both sides of it.

Shape letters: W windows, S sequence length.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mobilebert_tf.data.wordpiece import WordpieceTokenizer

NUM_SPECIAL = 2  # [CLS] and [SEP].
# Share of a window's pieces that only are context of others, on each side
# where the sentence goes on.
_CONTEXT = 4


class EncodedSentences(NamedTuple):
    """Model inputs of sentences, and what became of the long ones.

    Attributes:
        arrays: `input_ids`, `input_mask` (1 for real pieces), `segment_ids`
            and `label_weights` (1 for the first piece of a token, in one
            window; in this order tokens are those of the sentences), int32
            [W, S]. With tags also `labels`, their class indices, int32 [W, S].
        num_divided: sentences of several windows.
        num_cut: tokens longer than a window, of which the first pieces stay.
    """

    arrays: dict[str, np.ndarray]
    num_divided: int
    num_cut: int


class _Window(NamedTuple):
    """Tokens `first` to `last`; predicted are `own_first` to `own_last`."""

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
    """Makes model inputs: [CLS] pieces [SEP], padded.

    Args:
        tokens: of each sentence. A token of which the tokenizer leaves
            nothing (an invisible character) is [UNK].
        tags: of each token, all of them in `tag_names`; or None.
        tokenizer: splits tokens into pieces.
        max_seq_length: columns, [CLS] and [SEP] included, at least 8.
        tag_names: the classes in their order.
    """
    room = max_seq_length - NUM_SPECIAL
    pieces, lengths = _pieces(tokenizer, [t for some in tokens for t in some])
    starts = np.cumsum(lengths) - lengths
    kept = np.minimum(lengths, room)
    windows, num_divided, first = [], 0, 0
    for some in tokens:
        last = first + len(some)
        found = list(_windows(kept[first:last], room))
        windows += [_Window(*(first + place for place in w)) for w in found]
        num_divided += len(found) > 1
        first = last
    shape = (len(windows), max_seq_length)
    arrays = {
        "input_ids": np.full(shape, tokenizer.pad_id, np.int32),
        "input_mask": np.zeros(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "label_weights": np.zeros(shape, np.int32),
    }
    arrays["input_ids"][:, 0] = tokenizer.cls_id
    if tags is not None:
        index_of = {name: index for index, name in enumerate(tag_names)}
        labels = [index_of[tag] for some in tags for tag in some]
        labels = np.asarray(labels, np.int32)
        arrays["labels"] = np.zeros(shape, np.int32)
    for row, window in enumerate(windows):
        of_window = slice(window.first, window.last)
        columns = 1 + np.cumsum(kept[of_window]) - kept[of_window]
        place = _ranges(starts[of_window], kept[of_window])
        end = 1 + len(place)
        arrays["input_ids"][row, 1:end] = pieces[place]
        arrays["input_ids"][row, end] = tokenizer.sep_id
        arrays["input_mask"][row, : end + 1] = 1
        own = slice(window.own_first, window.own_last)
        columns = columns[own.start - window.first : own.stop - window.first]
        arrays["label_weights"][row, columns] = 1
        if tags is not None:
            arrays["labels"][row, columns] = labels[own]
    return EncodedSentences(arrays, num_divided, int(np.sum(lengths > room)))


def by_sentence(
    values: Sequence, tokens: Sequence[Sequence[str]]
) -> list[Sequence]:
    """Cuts what there is of each token, all in a row, into sentences."""
    ends = np.cumsum([0, *map(len, tokens)]).tolist()
    return [values[a:b] for a, b in zip(ends, ends[1:], strict=False)]


def _windows(lengths: np.ndarray, room: int) -> Iterator[_Window]:
    """Windows of a sentence whose tokens have so many pieces, at most `room`.

    Every token is predicted in exactly one of them, in order.
    """
    ends = np.cumsum(lengths)  # Pieces up to and with each token.
    starts = ends - lengths
    number, context = len(lengths), room // _CONTEXT
    first = own_first = 0
    while True:
        last = int(np.searchsorted(ends, starts[first] + room, "right"))
        if last == number:
            # Nothing follows, so there is room for more before.
            first = int(np.searchsorted(starts, ends[-1] - room))
            yield _Window(first, own_first, number, number)
            return
        # The first token behind which there is less than the context.
        own_last = int(np.searchsorted(ends, ends[last - 1] - context, "right"))
        own_last = max(own_last, own_first + 1)
        yield _Window(first, own_first, own_last, last)
        own_first = own_last
        least = max(starts[own_first] - context, ends[own_first] - room)
        first = int(np.searchsorted(starts, least))


def _pieces(
    tokenizer: WordpieceTokenizer, tokens: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the pieces of all tokens in a row, and each one's number."""
    different = list(dict.fromkeys(tokens))
    number_of = {token: number for number, token in enumerate(different)}
    ragged = tokenizer.tokenize(different)
    splits = ragged.row_splits.numpy().astype(np.int64)
    # One [UNK] at the end, for tokens of no piece.
    ids = np.append(ragged.values.numpy(), np.int32(tokenizer.unk_id))
    lengths, starts = np.diff(splits), splits[:-1].copy()
    starts[lengths == 0] = len(ids) - 1
    lengths = np.maximum(lengths, 1)
    index = np.asarray([number_of[token] for token in tokens])
    return ids[_ranges(starts[index], lengths[index])], lengths[index]


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The numbers from each start on, so many of each, all in a row."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
