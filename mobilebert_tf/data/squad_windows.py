"""Questions as model inputs: windows over contexts too long for a model.

Owns the layout of the original BERT, [CLS] question [SEP] stretch of the
context [SEP], with a new window every `doc_stride` pieces; which window shows
a piece in its widest context; where in its window an answer lies; and the way
back from columns to characters of the context. All contexts are tokenized at
once and everything stays in NumPy arrays: input ids are put together for the
windows that are asked for, at the width that is asked for.

Shape letters: W windows, S sequence length.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mobilebert_tf.data.squad import Questions
from mobilebert_tf.data.wordpiece import WordpieceTokenizer

# [CLS], and [SEP] after the question and after the context.
NUM_SPECIAL = 3


@dataclass(frozen=True)
class Pieces:
    """Word pieces of several texts, all in a row.

    Attributes:
        ids: int32 [number of pieces].
        starts: character of its text where each piece starts, int64; None
            where nobody needs to know.
        ends: character after its last one, likewise.
        splits: where each text's pieces begin, and the end, int64
            [number of texts + 1].
    """

    ids: np.ndarray
    starts: np.ndarray | None
    ends: np.ndarray | None
    splits: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of pieces of each text."""
        return np.diff(self.splits)


@dataclass(frozen=True)
class Windows:
    """Stretches of contexts, each with its question.

    Attributes:
        question_index: the question of each window, int64 [W]; the windows of
            one question follow each other.
        first_pieces: index of its first context piece in `context_pieces`,
            int64 [W].
        num_pieces: of the context, int64 [W].
        question_lengths: pieces of each question that are kept, int64
            [number of questions].
        context_pieces: the pieces of all contexts.
        question_pieces: the pieces of all questions.
        special_ids: of [PAD], [CLS] and [SEP].
    """

    question_index: np.ndarray
    first_pieces: np.ndarray
    num_pieces: np.ndarray
    question_lengths: np.ndarray
    context_pieces: Pieces
    question_pieces: Pieces
    special_ids: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.question_index)

    @property
    def first_columns(self) -> np.ndarray:
        """Column of each window's first context piece, int64 [W]."""
        return self.question_lengths[self.question_index] + 2

    @property
    def lengths(self) -> np.ndarray:
        """Used columns of each window, int64 [W]."""
        return self.first_columns + self.num_pieces + 1

    def inputs(
        self, rows: np.ndarray, max_seq_length: int
    ) -> dict[str, np.ndarray]:
        """Makes the model inputs of some windows.

        Args:
            rows: which windows, int [B].
            max_seq_length: columns, at least the longest one's length.

        Returns:
            `input_ids`, `input_mask` (1 for real pieces) and `segment_ids` (1
            for the context and its [SEP]), int32 [B, max_seq_length].
        """
        pad_id, cls_id, sep_id = self.special_ids
        first_columns = self.question_lengths[self.question_index[rows]] + 2
        ends = first_columns + self.num_pieces[rows]
        input_ids = np.full((len(rows), max_seq_length), pad_id, np.int32)
        input_ids[:, 0] = cls_id
        _copy(
            self.question_pieces.ids,
            self.question_pieces.splits[self.question_index[rows]],
            first_columns - 2,
            input_ids,
            np.ones_like(ends),
        )
        _copy(
            self.context_pieces.ids,
            self.first_pieces[rows],
            self.num_pieces[rows],
            input_ids,
            first_columns,
        )
        every_row = np.arange(len(rows))
        input_ids[every_row, first_columns - 1] = sep_id
        input_ids[every_row, ends] = sep_id
        columns = np.arange(max_seq_length)
        input_mask = columns <= ends[:, None]
        segment_ids = input_mask & (columns >= first_columns[:, None])
        return {
            "input_ids": input_ids,
            "input_mask": input_mask.astype(np.int32),
            "segment_ids": segment_ids.astype(np.int32),
        }

    def context_mask(self, max_seq_length: int) -> np.ndarray:
        """Which columns hold context pieces, bool [W, max_seq_length]."""
        columns = np.arange(max_seq_length)
        first = self.first_columns[:, None]
        return (columns >= first) & (columns < first + self.num_pieces[:, None])

    def max_context_mask(self, max_seq_length: int) -> np.ndarray:
        """Which context pieces no other window shows in more context.

        A piece has as much context as there is on its poorer side, and a
        hundredth of the window's length; where windows tie, the first has it.

        Returns:
            bool [W, max_seq_length]; each piece of a context is true once.
        """
        rows, offsets = _enumerate(self.num_pieces)
        num_pieces = self.num_pieces[rows]
        context = np.minimum(offsets, num_pieces - 1 - offsets)
        context = context + 0.01 * num_pieces
        # The same piece has the same place in all windows of a question.
        places = self.first_pieces[rows] + offsets
        order = np.lexsort((rows, -context, places, self.question_index[rows]))
        questions, places = self.question_index[rows[order]], places[order]
        is_best = np.ones(len(order), bool)
        is_best[1:] = (np.diff(questions) != 0) | (np.diff(places) != 0)
        best = order[is_best]
        mask = np.zeros((len(self), max_seq_length), bool)
        mask[rows[best], self.first_columns[rows[best]] + offsets[best]] = True
        return mask

    def characters(
        self, rows: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where spans of columns stand in their contexts.

        Args:
            rows: the window of each span, int [number of spans].
            first: column of its first piece, a context piece.
            last: column of its last piece, a context piece.

        Returns:
            Its first character and the one after its last, int64.
        """
        shift = self.first_pieces[rows] - self.first_columns[rows]
        starts, ends = self.context_pieces.starts, self.context_pieces.ends
        return starts[first + shift], ends[last + shift]


def make_windows(
    questions: Questions,
    tokenizer: WordpieceTokenizer,
    *,
    max_seq_length: int,
    doc_stride: int,
    max_query_length: int,
) -> Windows:
    """Tokenizes questions and contexts and cuts the contexts into windows.

    A question keeps its first `max_query_length` pieces. The windows of a
    question start every `doc_stride` pieces (or every window's length, if that
    is less) until one reaches the end of the context. A context without any
    piece makes one window without context.

    Raises:
        ValueError: `max_seq_length` leaves no room for context beside the
            longest question, or a number is not positive.
    """
    if min(doc_stride, max_query_length) < 1:
        raise ValueError(
            "doc_stride and max_query_length must be positive. Received: "
            f"{doc_stride} and {max_query_length}"
        )
    if max_seq_length <= max_query_length + NUM_SPECIAL:
        raise ValueError(
            f"max_seq_length must be over max_query_length + {NUM_SPECIAL}. "
            f"Received: {max_seq_length} and {max_query_length}"
        )
    context_pieces = _pieces_with_offsets(tokenizer, questions.contexts)
    question_pieces = _pieces(tokenizer, questions.texts)
    question_lengths = np.minimum(question_pieces.lengths, max_query_length)
    rooms = max_seq_length - NUM_SPECIAL - question_lengths
    num_pieces = context_pieces.lengths[questions.context_index]
    steps = np.minimum(rooms, doc_stride)
    surplus = np.maximum(num_pieces - rooms, 0)
    num_windows = 1 + -(-surplus // steps)
    rows, numbers = _enumerate(num_windows)
    first = numbers * steps[rows]
    context_starts = context_pieces.splits[questions.context_index]
    return Windows(
        question_index=rows,
        first_pieces=context_starts[rows] + first,
        num_pieces=np.minimum(num_pieces[rows] - first, rooms[rows]),
        question_lengths=question_lengths,
        context_pieces=context_pieces,
        question_pieces=question_pieces,
        special_ids=(tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id),
    )


def _pieces(tokenizer: WordpieceTokenizer, texts: Sequence[str]) -> Pieces:
    ids = tokenizer.tokenize(texts)
    splits = ids.row_splits.numpy().astype(np.int64)
    return Pieces(ids.values.numpy(), None, None, splits)


def _pieces_with_offsets(
    tokenizer: WordpieceTokenizer, texts: Sequence[str]
) -> Pieces:
    ids, starts, ends = tokenizer.tokenize_with_offsets(texts)
    splits = ids.row_splits.numpy().astype(np.int64)
    ends = ends.values.numpy()
    for text, row in zip(texts, np.split(ends, splits[1:-1]), strict=True):
        _extend_over_marks(text, row)
    return Pieces(ids.values.numpy(), starts.values.numpy(), ends, splits)


def _extend_over_marks(text: str, ends: np.ndarray) -> None:
    """Moves ends behind the combining marks that follow their letter.

    An uncased tokenizer drops the accent of a decomposed letter, but an answer
    without it would not be what stands in the text.
    """
    if text.isascii():
        return
    is_mark = [bool(unicodedata.combining(letter)) for letter in text]
    if any(is_mark):
        base = np.append(~np.array(is_mark), True)
        # The first place at or after each one where no mark stands.
        places = np.where(base, np.arange(len(base)), len(base))
        ends[:] = np.minimum.accumulate(places[::-1])[::-1][ends]


def _enumerate(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each of so many elements of each row: the row, and its number."""
    rows = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - before[rows]


def _copy(
    pieces: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    input_ids: np.ndarray,
    columns: np.ndarray,
) -> None:
    """Copies to each row's column and after the pieces from its start on."""
    rows, numbers = _enumerate(lengths)
    input_ids[rows, columns[rows] + numbers] = pieces[starts[rows] + numbers]
