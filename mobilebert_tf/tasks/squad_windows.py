"""Questions as model inputs: windows over contexts too long for a model.

Owns the layout of the original BERT, [CLS] question [SEP] stretch of the
context [SEP], with a new window every `doc_stride` pieces; which window shows
a piece in its widest context; where in its window an answer lies; and the way
back from columns to characters of the context. All contexts are tokenized at
once and everything stays in NumPy arrays: input ids are put together for the
windows that are asked for, at the width that is asked for.

Shape letters: W windows, S sequence length.

Where answers lie in windows, and which answers no window can express.

Owns the training labels of question answering. A label is a pair of columns,
so an answer that begins or ends inside a word piece ("1950" of "1950s") can
only be trained on with the pieces that cover it, and one that is longer than
every window, not at all. Such answers are counted, never dropped in silence.

Batches of windows of about the same length, in a few static shapes.

Owns the width each batch of windows is padded to. Half of SQuAD's windows are
less than half as long as the longest: padded to that, most of a step would be
spent on nothing. The order is that of `bucketing.py`.
"""

import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mobilebert_tf.data.batches import (
    Bucket,
    rows_by_width,
    shuffled_batches,
)
from mobilebert_tf.tasks.squad import Questions
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

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


@dataclass(frozen=True)
class AnswerCounts:
    """What became of the questions' first answers.

    Attributes:
        num_questions: all of them.
        num_unanswerable: without an answer, as v2.0 has them.
        num_cut: answers that begin or end inside a word piece; labelled with
            the pieces that cover them.
        num_without_pieces: answers of characters that the tokenizer drops;
            labelled as no answer.
        num_without_window: answers that no window holds from end to end;
            labelled as no answer.
        num_overlong: answers of more pieces than a prediction may have; those
            without a window not counted.
    """

    num_questions: int
    num_unanswerable: int
    num_cut: int
    num_without_pieces: int
    num_without_window: int
    num_overlong: int

    def __str__(self) -> str:
        parts = [f"{self.num_questions:,} questions"]
        for number, what in (
            (self.num_unanswerable, "without an answer"),
            (self.num_cut, "cut inside a word piece"),
            (self.num_without_pieces, "of no word piece"),
            (self.num_without_window, "in no window"),
            (self.num_overlong, "too long to predict"),
        ):
            if number:
                parts.append(f"{number:,} {what}")
        return ", ".join(parts)


def label_windows(
    windows: Windows, questions: Questions, max_answer_length: int
) -> tuple[dict[str, np.ndarray], AnswerCounts]:
    """Finds the first answer of each question in each of its windows.

    Args:
        windows: of `questions`.
        questions: with answers.
        max_answer_length: most pieces that a predicted answer may have.

    Returns:
        `start_positions` and `end_positions`, int32 [W]: the columns of the
        answer's first and last piece. Both are 0, the column of [CLS], where a
        window does not hold the whole answer, or there is none.
    """
    first, last, has_pieces, is_exact = _answer_pieces(windows, questions)
    rows = windows.question_index
    holds = (
        has_pieces[rows]
        & (first[rows] >= windows.first_pieces)
        & (last[rows] < windows.first_pieces + windows.num_pieces)
    )
    shift = windows.first_columns - windows.first_pieces
    labels = {
        "start_positions": np.where(holds, first[rows] + shift, 0),
        "end_positions": np.where(holds, last[rows] + shift, 0),
    }
    has_window = np.zeros(len(questions), bool)
    has_window[rows[holds]] = True
    is_overlong = last - first + 1 > max_answer_length
    has_answer = np.array([bool(answers) for answers in questions.answers])
    counts = AnswerCounts(
        num_questions=len(questions),
        num_unanswerable=int(np.sum(~has_answer)),
        num_cut=int(np.sum(has_window & ~is_exact)),
        num_without_pieces=int(np.sum(has_answer & ~has_pieces)),
        num_without_window=int(np.sum(has_pieces & ~has_window)),
        num_overlong=int(np.sum(has_window & is_overlong)),
    )
    return {
        name: columns.astype(np.int32) for name, columns in labels.items()
    }, counts


def _answer_pieces(
    windows: Windows, questions: Questions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The context pieces that cover each first answer.

    Returns:
        First and last piece, indices into the pieces of all contexts; whether
        there are any; whether they begin and end where the answer does.
    """
    spans = [_characters(answers) for answers in questions.answers]
    starts, ends = np.asarray(spans, np.int64).T
    pieces = windows.context_pieces
    # One number that grows from piece to piece over all contexts, so that one
    # search finds the pieces of all answers.
    longest = max(map(len, questions.contexts)) + 1
    shift = np.repeat(np.arange(len(questions.contexts)), pieces.lengths)
    shift_of_answer = questions.context_index * longest
    first = np.searchsorted(
        pieces.ends + shift * longest, shift_of_answer + starts, side="right"
    )
    last = np.searchsorted(
        pieces.starts + shift * longest, shift_of_answer + ends, side="left"
    )
    last = last - 1
    has_pieces = (first <= last) & (starts < ends)
    is_exact = np.zeros(len(spans), bool)
    is_exact[has_pieces] = (
        pieces.starts[first[has_pieces]] == starts[has_pieces]
    ) & (pieces.ends[last[has_pieces]] == ends[has_pieces])
    return first, last, has_pieces, is_exact


def _characters(answers: list) -> tuple[int, int]:
    """Start and end of the first answer without the spaces around it."""
    if not answers:
        return 0, 0
    text, start = answers[0]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


# Each width is compiled, so they are few. On SQuAD at 384 these four make the
# mean window 217 columns wide; six that are 64 apart would make it 210.
WIDTHS = (1 / 3, 1 / 2, 2 / 3)


def bucket_lengths(max_seq_length: int) -> list[int]:
    """The widths of batches, multiples of 8, and the longest at the end."""
    widths = {8 * math.ceil(part * max_seq_length / 8) for part in WIDTHS}
    widths = sorted(width for width in widths if width < max_seq_length)
    return [*widths, max_seq_length]


def bucketed_rows(windows: Windows, max_seq_length: int) -> list[Bucket]:
    """Each width and the windows whose batches have it."""
    return rows_by_width(windows.lengths, bucket_lengths(max_seq_length))


def training_dataset(
    windows: Windows,
    labels: dict[str, np.ndarray],
    *,
    batch_size: int,
    max_seq_length: int,
    seed: int,
    start_step: int = 0,
    one_width: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of labelled windows, in a new order every epoch.

    An epoch has `len(windows) // batch_size` batches. Windows that are left
    over in a width go into the next larger one; what is left over at the end
    is dropped, others each epoch.

    Args:
        windows: what to train on.
        labels: of `label_windows`, [W].
        batch_size: B, over all replicas.
        max_seq_length: the largest width.
        seed: of the order, 0 or more.
        start_step: number of the first batch.
        one_width: pad all batches to the largest width, for whoever needs a
            single shape.

    Returns:
        Dictionaries of the inputs [B, width], for one of `bucket_lengths`, and
        of the labels [B].

    Raises:
        ValueError: there are fewer windows than make a batch.
    """
    buckets = [(max_seq_length, np.arange(len(windows)))]
    if not one_width:
        buckets = bucketed_rows(windows, max_seq_length)

    def make_batch(rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        batch = windows.inputs(rows, width)
        return batch | {name: labels[name][rows] for name in labels}

    return shuffled_batches(
        buckets,
        make_batch,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
    )
