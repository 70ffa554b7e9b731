"""Questions as model inputs: windows over contexts that are too long.

The layout is that of the original BERT: [CLS] question [SEP] part of the
context [SEP], with a new window every `doc_stride` pieces. All contexts are
tokenized at once and everything stays in NumPy arrays.

Shape letters: W windows, S sequence length.
"""

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.squad import Answer, Questions
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# [CLS], and [SEP] after the question and after the context.
NUM_SPECIAL = 3

# Widths of batches as shares of the longest. Half of SQuAD's windows are less
# than half as long as the longest. Each width is compiled, so they are few: at
# 384 columns these make the mean batch 217 wide, six widths that are 64 apart
# would make it 210.
_WIDTHS = (1 / 3, 1 / 2, 2 / 3)


@dataclass(frozen=True)
class SquadSettings:
    """How contexts are cut and answers chosen; defaults are the original's.

    Attributes:
        max_seq_length: columns of the longest window.
        doc_stride: pieces from one window to the next.
        max_query_length: pieces kept of a question.
        n_best_size: answers listed for a question.
        max_answer_length: most pieces of an answer.
        version_2_with_negative: whether a question may have no answer.
        null_score_diff_threshold: null odds above which it then has none.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64
    n_best_size: int = 20
    max_answer_length: int = 30
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0

    def check(self, config: MobileBertConfig) -> None:
        """Checks that windows fit a model, and questions into windows.

        Raises:
            InputError: they do not; it names the flag.
        """
        positions = config.max_position_embeddings
        if self.max_seq_length > positions:
            raise InputError(
                "--max_seq_length", f"at most {positions}", self.max_seq_length
            )
        # A window has at least one piece of the context.
        longest = self.max_seq_length - NUM_SPECIAL - 1
        if self.max_query_length > longest:
            expected = f"at most {longest} in {self.max_seq_length} columns"
            raise InputError(
                "--max_query_length", expected, self.max_query_length
            )

    def of_length(self, length: int) -> "SquadSettings":
        """Returns settings of another length, its stride at most a third.

        Raises:
            InputError: the length is too short for a question.
        """
        if length == self.max_seq_length:
            return self
        shortest = self.max_query_length + NUM_SPECIAL + 1
        if length < shortest:
            expected = f"at least {shortest} for questions of "
            expected += f"{self.max_query_length} pieces"
            raise InputError("--export_seq_length", expected, length)
        stride = min(self.doc_stride, length // 3)
        return replace(self, max_seq_length=length, doc_stride=stride)


@dataclass(frozen=True)
class Pieces:
    """Word pieces of several texts, concatenated.

    Attributes:
        ids: int32 [number of pieces].
        splits: where each text's pieces begin, and the end, int64
            [number of texts + 1].
        starts: first character of each piece in its text, int64; None if
            not needed.
        ends: the character after its last one, int64; None if not needed.
    """

    ids: np.ndarray
    splits: np.ndarray
    starts: np.ndarray | None = None
    ends: np.ndarray | None = None

    @property
    def lengths(self) -> np.ndarray:
        """Number of pieces of each text."""
        return np.diff(self.splits)


@dataclass(frozen=True)
class Windows:
    """Parts of contexts, each with its question.

    Attributes:
        max_seq_length: S.
        question_index: the question of each window, int64 [W], ascending.
        first_pieces: index of its first context piece in `context_pieces`,
            int64 [W].
        num_pieces: number of its context pieces, int64 [W].
        question_lengths: number of pieces kept of each question, int64
            [number of questions].
        context_pieces: the pieces of all contexts.
        question_pieces: the pieces of all questions.
        special_ids: of [PAD], [CLS] and [SEP].
    """

    max_seq_length: int
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
        """Number of used columns of each window, int64 [W]."""
        return self.first_columns + self.num_pieces + 1

    def inputs(self) -> dict[str, np.ndarray]:
        """Returns the model inputs of all windows, int32 [W, S] each.

        `input_mask` is 1 for real pieces; `segment_ids` is 1 for the context
        and its [SEP].
        """
        pad_id, cls_id, sep_id = self.special_ids
        first_columns, lengths = self.first_columns, self.lengths
        rows = np.arange(len(self))
        input_ids = np.full((len(self), self.max_seq_length), pad_id, np.int32)
        input_ids[:, 0] = cls_id
        input_ids[rows, first_columns - 1] = sep_id
        input_ids[rows, lengths - 1] = sep_id
        questions = self.question_pieces.splits[self.question_index]
        for ids, question, column, first, length in zip(
            input_ids,
            questions.tolist(),
            first_columns.tolist(),
            self.first_pieces.tolist(),
            self.num_pieces.tolist(),
            strict=True,
        ):
            ids[1 : column - 1] = self.question_pieces.ids[
                question : question + column - 2
            ]
            ids[column : column + length] = self.context_pieces.ids[
                first : first + length
            ]
        columns = np.arange(self.max_seq_length)
        input_mask = columns < lengths[:, None]
        segment_ids = input_mask & (columns >= first_columns[:, None])
        return {
            "input_ids": input_ids,
            "input_mask": input_mask.astype(np.int32),
            "segment_ids": segment_ids.astype(np.int32),
        }

    def context_mask(self) -> np.ndarray:
        """Returns which columns hold context pieces, bool [W, S]."""
        columns = np.arange(self.max_seq_length)
        first = self.first_columns[:, None]
        return (columns >= first) & (columns < first + self.num_pieces[:, None])

    def max_context_mask(self) -> np.ndarray:
        """Returns in which window each piece has most context, bool [W, S].

        The context of a piece is the smaller number of pieces on either side,
        plus a hundredth of the window's length; of equal windows the first
        wins. Each piece of a context is true once.
        """
        mask = self.context_mask()
        # Most questions have one window, which has all the context there is.
        num_windows = np.bincount(self.question_index)[self.question_index]
        several = np.flatnonzero(num_windows > 1)
        mask[several] = False
        rows, offsets = _enumerate(self.num_pieces[several])
        rows = several[rows]
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
        mask[rows[best], self.first_columns[rows[best]] + offsets[best]] = True
        return mask

    def characters(
        self, rows: np.ndarray, first: np.ndarray, last: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns where spans of columns stand in their contexts.

        Args:
            rows: window of each span, int [N].
            first: column of its first piece, a context piece, int [N].
            last: column of its last piece, a context piece, int [N].

        Returns:
            Its first character and the one after its last, int64 [N].
        """
        shift = self.first_pieces[rows] - self.first_columns[rows]
        starts, ends = self.context_pieces.starts, self.context_pieces.ends
        return starts[first + shift], ends[last + shift]


def make_windows(
    questions: Questions,
    tokenizer: WordpieceTokenizer,
    settings: SquadSettings,
) -> Windows:
    """Tokenizes questions and contexts and cuts the contexts into windows.

    A question keeps its first `max_query_length` pieces. Its windows start
    every `doc_stride` pieces (or every window's length, if that is less) until
    one reaches the end of the context. A context without pieces makes one
    window without context.

    Raises:
        ValueError: the settings leave no room for context beside the longest
            question, or have a number below 1.
    """
    longest = settings.max_query_length
    room = settings.max_seq_length - NUM_SPECIAL - longest
    if min(settings.doc_stride, longest, room) < 1:
        raise ValueError(f"windows need room. Received: {settings}")
    context_pieces = _pieces_with_offsets(tokenizer, questions.contexts)
    ids = tokenizer.tokenize(questions.texts)
    splits = ids.row_splits.numpy().astype(np.int64)
    question_pieces = Pieces(ids.values.numpy(), splits)
    question_lengths = np.minimum(question_pieces.lengths, longest)
    rooms = settings.max_seq_length - NUM_SPECIAL - question_lengths
    num_pieces = context_pieces.lengths[questions.context_index]
    steps = np.minimum(rooms, settings.doc_stride)
    surplus = np.maximum(num_pieces - rooms, 0)
    rows, numbers = _enumerate(1 + -(-surplus // steps))
    first = numbers * steps[rows]
    context_starts = context_pieces.splits[questions.context_index]
    return Windows(
        max_seq_length=settings.max_seq_length,
        question_index=rows,
        first_pieces=context_starts[rows] + first,
        num_pieces=np.minimum(num_pieces[rows] - first, rooms[rows]),
        question_lengths=question_lengths,
        context_pieces=context_pieces,
        question_pieces=question_pieces,
        special_ids=(tokenizer.pad_id, tokenizer.cls_id, tokenizer.sep_id),
    )


def bucket_lengths(max_seq_length: int) -> tuple[int, ...]:
    """Returns the widths of batches: multiples of 8, and the longest."""
    widths = {8 * math.ceil(part * max_seq_length / 8) for part in _WIDTHS}
    widths = sorted(width for width in widths if width < max_seq_length)
    return *widths, max_seq_length


def label_windows(
    windows: Windows, questions: Questions, max_answer_length: int
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Finds the first answer to each question in each of its windows.

    A label is a pair of columns, so an answer that begins or ends inside a
    word piece ("1950" of "1950s") is labelled with the pieces that cover it.

    Args:
        windows: of `questions`.
        questions: with answers.
        max_answer_length: most pieces that a predicted answer may have.

    Returns:
        `start_positions` and `end_positions`, int32 [W]: the columns of the
        answer's first and last piece, or 0, the column of [CLS], where a
        window does not hold the whole answer, or there is none. Then numbers
        of questions whose answers are not learned as they are, by why not.
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
        name: np.where(holds, pieces[rows] + shift, 0).astype(np.int32)
        for name, pieces in (
            ("start_positions", first),
            ("end_positions", last),
        )
    }
    has_window = np.zeros(len(questions), bool)
    has_window[rows[holds]] = True
    has_answer = np.array([bool(answers) for answers in questions.answers])
    is_overlong = last - first + 1 > max_answer_length
    cases = {
        "without an answer": ~has_answer,
        "cut inside a word piece": has_window & ~is_exact,
        "of no word piece": has_answer & ~has_pieces,
        "in no window": has_pieces & ~has_window,
        "too long to predict": has_window & is_overlong,
    }
    return labels, {name: int(np.sum(case)) for name, case in cases.items()}


def _answer_pieces(
    windows: Windows, questions: Questions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the context pieces that cover each first answer.

    First and last piece, as indices into the pieces of all contexts; whether
    there are any; whether they begin and end where the answer does.
    """
    spans = [_characters(answers) for answers in questions.answers]
    starts, ends = np.asarray(spans, np.int64).T
    pieces = windows.context_pieces
    # Adding a multiple of `longest` makes characters ascend over all contexts,
    # so that one search finds the pieces of all answers.
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


def _characters(answers: list[Answer]) -> tuple[int, int]:
    """Start and end of the first answer without the spaces around it."""
    if not answers:
        return 0, 0
    text, start = answers[0]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _pieces_with_offsets(
    tokenizer: WordpieceTokenizer, texts: Sequence[str]
) -> Pieces:
    ids, starts, ends = tokenizer.tokenize_with_offsets(texts)
    splits = ids.row_splits.numpy().astype(np.int64)
    ends = ends.values.numpy()
    for text, row in zip(texts, np.split(ends, splits[1:-1]), strict=True):
        _extend_over_marks(text, row)
    return Pieces(ids.values.numpy(), splits, starts.values.numpy(), ends)


def _extend_over_marks(text: str, ends: np.ndarray) -> None:
    """Moves ends behind the combining marks that follow their letter.

    An uncased tokenizer drops the accent of a decomposed letter, but an answer
    without it would differ from the text.
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
    """Returns row and number of each element of rows of the given lengths."""
    rows = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return rows, np.arange(len(rows)) - before[rows]
