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

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.squad import Answer, Questions
from mobilebert_tf.tasks.task import Arrays
from mobilebert_tf.text.encoding import (
    Runs,
    enumerate_rows,
    input_rows,
    tokenize,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# [CLS], and [SEP] after the question and after the context.
_NUM_SPECIAL = 3

# Widths of batches as shares of the longest. Half of SQuAD's windows are less
# than half as long as the longest. Each width is compiled, so they are few: at
# 384 columns these make the mean batch 217 wide, six widths that are 64 apart
# would make it 210.
_WIDTHS = (1 / 3, 1 / 2, 2 / 3)


@dataclass(frozen=True)
class SquadSettings:
    """How contexts are cut and answers chosen; defaults are the original's.

    `QuestionAnsweringOptions` explains the fields.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64
    n_best_size: int = 20
    max_answer_length: int = 30
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0

    def of_length(self, length: int) -> "SquadSettings":
        """Returns settings of another length, its stride at most a third.

        Raises:
            InputError: the length is too short for a question.
        """
        if length == self.max_seq_length:
            return self
        shortest = self.max_query_length + _NUM_SPECIAL + 1
        if length < shortest:
            expected = f"at least {shortest} for questions of "
            expected += f"{self.max_query_length} pieces"
            raise InputError("--export_seq_length", expected, length)
        stride = min(self.doc_stride, length // 3)
        return replace(self, max_seq_length=length, doc_stride=stride)


@dataclass(frozen=True)
class Windows:
    """Parts of contexts, each with its question.

    Attributes:
        max_seq_length: S.
        tokenizer: the tokenizer that split the texts.
        question_index: the question of each window, int64 [W], ascending.
        questions: the pieces kept of each window's question.
        parts: the pieces of its part of the context; `ids` are those of all
            contexts.
        context_lengths: number of pieces of each context, int64.
        starts: first character of each piece of `parts.ids` in its context,
            int64.
        ends: the character after its last one, int64.
    """

    max_seq_length: int
    tokenizer: WordpieceTokenizer
    question_index: np.ndarray
    questions: Runs
    parts: Runs
    context_lengths: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.question_index)

    @property
    def first_columns(self) -> np.ndarray:
        """Column of each window's first context piece, int64 [W]."""
        return self.questions.lengths + 2

    def inputs(self) -> Arrays:
        """Returns the inputs of all windows, each a question and its part."""
        return input_rows(
            self.tokenizer, self.max_seq_length, self.questions, self.parts
        )

    def context_mask(self) -> np.ndarray:
        """Returns which columns hold context pieces, bool [W, S]."""
        columns = np.arange(self.max_seq_length)
        first, number = self.first_columns[:, None], self.parts.lengths[:, None]
        return (columns >= first) & (columns < first + number)

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
        rows, offsets = enumerate_rows(self.parts.lengths[several])
        rows = several[rows]
        num_pieces = self.parts.lengths[rows]
        context = np.minimum(offsets, num_pieces - 1 - offsets)
        context = context + 0.01 * num_pieces
        # The same piece has the same place in all windows of a question.
        places = self.parts.starts[rows] + offsets
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
        """Returns first character and end of N spans of context pieces.

        Args:
            rows: window of each span, int [N].
            first: column of its first piece, int [N].
            last: column of its last piece, int [N].
        """
        shift = self.parts.starts[rows] - self.first_columns[rows]
        return self.starts[first + shift], self.ends[last + shift]


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
        InputError: a window would have no piece of its context beside the
            longest question; it names the flag.
    """
    longest = settings.max_seq_length - _NUM_SPECIAL - 1
    if settings.max_query_length > longest:
        expected = f"at most {longest} in {settings.max_seq_length} columns"
        raise InputError(
            "--max_query_length", expected, settings.max_query_length
        )
    contexts, starts, ends = _tokenize_contexts(tokenizer, questions.contexts)
    asked = tokenize(tokenizer, questions.texts)
    lengths = np.minimum(asked.lengths, settings.max_query_length)
    asked = asked._replace(lengths=lengths)
    rooms = settings.max_seq_length - _NUM_SPECIAL - asked.lengths
    num_pieces = contexts.lengths[questions.context_index]
    steps = np.minimum(rooms, settings.doc_stride)
    surplus = np.maximum(num_pieces - rooms, 0)
    rows, numbers = enumerate_rows(1 + -(-surplus // steps))
    first = numbers * steps[rows]
    return Windows(
        max_seq_length=settings.max_seq_length,
        tokenizer=tokenizer,
        question_index=rows,
        questions=Runs(asked.ids, asked.starts[rows], asked.lengths[rows]),
        parts=Runs(
            contexts.ids,
            contexts.starts[questions.context_index[rows]] + first,
            np.minimum(num_pieces[rows] - first, rooms[rows]),
        ),
        context_lengths=contexts.lengths,
        starts=starts,
        ends=ends,
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

    Returns:
        `start_positions` and `end_positions`, int32 [W]: the columns of the
        answer's first and last piece, or 0, the column of [CLS], where a
        window does not hold the whole answer, or there is none. Then numbers
        of questions whose answers are not learned as they are, by why not.
    """
    first, last, has_pieces, is_exact = _answer_pieces(windows, questions)
    rows, parts = windows.question_index, windows.parts
    holds = (
        has_pieces[rows]
        & (first[rows] >= parts.starts)
        & (last[rows] < parts.starts + parts.lengths)
    )
    shift = windows.first_columns - parts.starts
    pieces = {"start_positions": first, "end_positions": last}
    labels = {
        name: np.where(holds, pieces[name][rows] + shift, 0).astype(np.int32)
        for name in pieces
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
    # Adding a multiple of `longest` makes characters ascend over all contexts,
    # so that one search finds the pieces of all answers.
    longest = max(map(len, questions.contexts)) + 1
    shift, _ = enumerate_rows(windows.context_lengths)
    shift, shift_of_answer = shift * longest, questions.context_index * longest
    first = np.searchsorted(
        windows.ends + shift, shift_of_answer + starts, side="right"
    )
    last = np.searchsorted(
        windows.starts + shift, shift_of_answer + ends, side="left"
    )
    last = last - 1
    has_pieces = (first <= last) & (starts < ends)
    is_exact = np.zeros(len(spans), bool)
    is_exact[has_pieces] = (
        windows.starts[first[has_pieces]] == starts[has_pieces]
    ) & (windows.ends[last[has_pieces]] == ends[has_pieces])
    return first, last, has_pieces, is_exact


def _characters(answers: list[Answer]) -> tuple[int, int]:
    """Start and end of the first answer without the spaces around it."""
    if not answers:
        return 0, 0
    text, start = answers[0]
    start += len(text) - len(text.lstrip())
    return start, start + len(text.strip())


def _tokenize_contexts(
    tokenizer: WordpieceTokenizer, texts: Sequence[str]
) -> tuple[Runs, np.ndarray, np.ndarray]:
    """Returns pieces, and the first character and the end of each, int64."""
    ids, starts, ends = tokenizer.tokenize_with_offsets(texts)
    splits = ids.row_splits.numpy().astype(np.int64)
    ends = ends.values.numpy()
    for text, row in zip(texts, np.split(ends, splits[1:-1]), strict=True):
        _extend_over_marks(text, row)
    runs = Runs(ids.values.numpy(), splits[:-1], np.diff(splits))
    return runs, starts.values.numpy(), ends


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
