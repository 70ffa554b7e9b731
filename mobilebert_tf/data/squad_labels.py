"""Where answers lie in windows, and which answers no window can express.

Owns the training labels of question answering. A label is a pair of columns,
so an answer that begins or ends inside a word piece ("1950" of "1950s") can
only be trained on with the pieces that cover it, and one that is longer than
every window, not at all. Such answers are counted, never dropped in silence.
"""

from dataclasses import dataclass

import numpy as np

from mobilebert_tf.data.squad import Questions
from mobilebert_tf.data.squad_windows import Windows


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
