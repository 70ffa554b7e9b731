"""Exact match and F1 of answers, as the official SQuAD scripts define them.

Owns the comparison of a predicted text with the right ones, in percent, and the
search for the threshold above which a question is best left unanswered. The
script for v2.0 differs from that for v1.1 in more than the unanswerable
questions; both are here, and the places where they part are marked.

From span logits to answers, as text: n-best lists and "no answer".

Owns the choice among spans and the files that the official scripts read. An
answer is a stretch of its context, character by character: nothing is put
together again from word pieces.

Shape letters: W windows, S sequence length, N number of spans.
"""

import collections
import json
import os
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.special

from mobilebert_tf.files import atomic_files

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation, articles and surplus space."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    # A space in place of an article: what it stood between are two words.
    return " ".join(_ARTICLE.sub(" ", text).split())


def answer_scores(
    prediction: str,
    answers: Sequence[str],
    version_2_with_negative: bool = False,
) -> tuple[float, float]:
    """Exact match and F1 of a prediction, each against the best answer.

    F1 is that of the two bags of words.

    Args:
        prediction: the predicted text, empty for "no answer".
        answers: the right ones; none, for a question without an answer, only
            in v2.0.
        version_2_with_negative: the rules of v2.0. Answers that normalise to
            nothing do not count there, and where none is left the right
            answer is "no answer"; two texts of no words have an F1 of 1 (0 in
            v1.1).

    Returns:
        Two numbers from 0.0 to 1.0.
    """
    wanted = [normalize_answer(answer) for answer in answers]
    if version_2_with_negative:
        wanted = [answer for answer in wanted if answer] or [""]
    found = normalize_answer(prediction)
    exact = max(float(answer == found) for answer in wanted)
    f1 = max(
        _f1(found.split(), answer.split(), version_2_with_negative)
        for answer in wanted
    )
    return exact, f1


def squad_metrics(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    version_2_with_negative: bool = False,
) -> dict[str, float]:
    """Scores the predictions for all questions.

    Args:
        answers: the texts of the right answers by question id.
        predictions: the predicted texts by question id.
        version_2_with_negative: the rules of v2.0 (see `answer_scores`).

    Returns:
        `exact` and `f1` in percent, and `total`, the number of questions; for
        v2.0 also the same of the questions with and without an answer,
        `HasAns_exact` and so on, as far as there are any.

    Raises:
        ValueError: a question has no prediction, or there are no questions.
    """
    scores = _scores(answers, predictions, version_2_with_negative)
    metrics = _averages(scores)
    if version_2_with_negative:
        has_answer = np.array([bool(texts) for texts in answers.values()])
        for name, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if chosen.any():
                metrics |= _averages(scores[chosen], f"{name}_")
    return metrics


def best_thresholds(
    answers: Mapping[str, Sequence[str]],
    predictions: Mapping[str, str],
    null_odds: Mapping[str, float],
) -> dict[str, float]:
    """Finds when a question is best left unanswered, by v2.0's rules.

    A question counts as unanswered if its odds are above the threshold.

    Args:
        answers: the texts of the right answers by question id.
        predictions: the text to answer each question with, if it is answered.
        null_odds: how much "no answer" is preferred, by question id.

    Returns:
        `best_exact` and `best_f1` in percent, and the thresholds with which
        they are reached, `best_exact_thresh` and `best_f1_thresh`. The
        threshold is the odds of the last question that is answered, or 0.0 if
        it is best to answer none.
    """
    scores = _scores(answers, predictions, version_2_with_negative=True)
    has_answer = np.array([bool(texts) for texts in answers.values()])
    is_text = np.array([bool(predictions[name]) for name in answers])
    odds = np.array([null_odds[name] for name in answers], np.float64)
    order = np.argsort(odds, kind="stable")
    # Answering none is right wherever there is no answer; from there on, what
    # each question adds when it is answered.
    gains = np.where(has_answer[:, None], scores, -1.0 * is_text[:, None])
    none = np.full((1, 2), np.sum(~has_answer), np.float64)
    totals = np.cumsum(np.concatenate([none, gains[order]]), axis=0)
    thresholds = np.concatenate([[0.0], odds[order]])
    metrics = {}
    for name, sums in zip(("exact", "f1"), totals.T, strict=True):
        best = np.argmax(sums)
        metrics[f"best_{name}"] = float(100.0 * sums[best] / len(scores))
        metrics[f"best_{name}_thresh"] = float(thresholds[best])
    return metrics


def _scores(answers, predictions, version_2_with_negative) -> np.ndarray:
    """Exact match and F1 of each question, [num_questions, 2]."""
    missing = [name for name in answers if name not in predictions]
    if missing or not answers:
        raise ValueError(
            "every question must have a prediction. Received: "
            f"{len(answers)} questions, {len(missing)} without one: "
            f"{missing[:5]}"
        )
    return np.array(
        [
            answer_scores(predictions[name], texts, version_2_with_negative)
            for name, texts in answers.items()
        ]
    )


def _averages(scores: np.ndarray, prefix: str = "") -> dict[str, float]:
    exact, f1 = 100.0 * scores.mean(axis=0)
    return {
        f"{prefix}exact": float(exact),
        f"{prefix}f1": float(f1),
        f"{prefix}total": len(scores),
    }


def _f1(
    found: list[str], wanted: list[str], version_2_with_negative: bool
) -> float:
    """Harmonic mean of precision and recall of two bags of words."""
    if version_2_with_negative and not (found and wanted):
        return float(found == wanted)
    common = collections.Counter(found) & collections.Counter(wanted)
    num_common = sum(common.values())
    if not num_common:
        return 0.0
    precision = num_common / len(found)
    recall = num_common / len(wanted)
    return 2.0 * precision * recall / (precision + recall)


PREDICTIONS_FILE = "predictions.json"
N_BEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"


@dataclass(frozen=True)
class Spans:
    """Candidate answers, question by question, the likeliest first.

    Attributes:
        questions: the question of each span, int [N].
        windows: its window, int [N].
        starts: column of its first piece, int [N].
        ends: column of its last piece, int [N].
        start_logits: float64 [N].
        end_logits: float64 [N].
    """

    questions: np.ndarray
    windows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray


@dataclass(frozen=True)
class Candidate:
    """One entry of an n-best list; an empty text is "no answer"."""

    text: str
    start_logit: float
    end_logit: float

    @property
    def logit(self) -> float:
        """The sum of both."""
        return self.start_logit + self.end_logit


def best_spans(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    *,
    start_mask: np.ndarray,
    end_mask: np.ndarray,
    question_index: np.ndarray,
    n_best_size: int,
    max_answer_length: int,
) -> Spans:
    """Pairs the likeliest starts of each window with its likeliest ends.

    Only columns that the masks allow are ranked (the original ranks all and
    drops those outside of the context afterwards, so that a window may be left
    without any).

    Args:
        start_logits: float [W, S].
        end_logits: float [W, S].
        start_mask: where an answer may start, bool [W, S]: where the piece is
            in its widest context.
        end_mask: where it may end, bool [W, S]: in the context.
        question_index: the question of each window, int [W].
        n_best_size: how many starts, and ends, of a window.
        max_answer_length: most pieces of an answer.
    """
    starts = _best_columns(start_logits, start_mask, n_best_size)
    ends = _best_columns(end_logits, end_mask, n_best_size)
    rows = np.arange(len(starts))[:, None]
    lengths = ends[:, None, :] - starts[:, :, None] + 1  # [W, n_best, n_best]
    allowed = (
        (lengths >= 1)
        & (lengths <= max_answer_length)
        & start_mask[rows, starts][:, :, None]
        & end_mask[rows, ends][:, None, :]
    )
    windows, start_ranks, end_ranks = np.nonzero(allowed)
    starts, ends = starts[windows, start_ranks], ends[windows, end_ranks]
    # Sums of float32 would tie where the logits do not.
    chosen_starts = start_logits[windows, starts].astype(np.float64)
    chosen_ends = end_logits[windows, ends].astype(np.float64)
    questions = question_index[windows]
    order = np.lexsort((-(chosen_starts + chosen_ends), questions))
    return Spans(
        questions[order],
        windows[order],
        starts[order],
        ends[order],
        chosen_starts[order],
        chosen_ends[order],
    )


def null_candidates(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    question_index: np.ndarray,
    num_questions: int,
) -> list[Candidate]:
    """Returns "no answer" for each question: its least sure window's [CLS].

    A question has no answer only if every window says so.

    Args:
        start_logits: float [W, S].
        end_logits: float [W, S].
        question_index: the question of each window, int [W], without gaps.
        num_questions: number of questions.
    """
    starts = start_logits[:, 0].astype(np.float64)
    ends = end_logits[:, 0].astype(np.float64)
    order = np.lexsort((starts + ends, question_index))
    first = np.searchsorted(question_index[order], np.arange(num_questions))
    chosen = order[first]
    return [
        Candidate("", float(start), float(end))
        for start, end in zip(starts[chosen], ends[chosen], strict=True)
    ]


def n_best_lists(
    spans: Spans,
    texts: Sequence[str],
    num_questions: int,
    n_best_size: int,
    nulls: Sequence[Candidate] | None = None,
) -> list[list[Candidate]]:
    """Returns the best different texts of each question, the likeliest first.

    Args:
        spans: of `best_spans`.
        texts: what each span says, [N].
        num_questions: number of questions.
        n_best_size: the most texts of a question.
        nulls: "no answer" for each question; None in v1.1.

    Returns:
        For each question at least one candidate. With `nulls`, "no answer" is
        among them, as one more if it is not good enough for the list. Without,
        a question with no span at all has the empty text, with logits 0.
    """
    bounds = np.searchsorted(spans.questions, np.arange(num_questions + 1))
    lists = []
    for question in range(num_questions):
        best: dict[str, Candidate] = {}
        for index in range(bounds[question], bounds[question + 1]):
            if len(best) == n_best_size:
                break
            if texts[index] not in best:
                best[texts[index]] = Candidate(
                    texts[index],
                    float(spans.start_logits[index]),
                    float(spans.end_logits[index]),
                )
        candidates = list(best.values())
        if nulls is not None:
            candidates = _with_null(candidates, nulls[question], n_best_size)
        lists.append(candidates or [Candidate("", 0.0, 0.0)])
    return lists


def best_answers(n_best: Sequence[Sequence[Candidate]]) -> list[str]:
    """Returns each question's likeliest text, the empty one if it is alone."""
    return [
        next((entry.text for entry in entries if entry.text), "")
        for entries in n_best
    ]


def null_odds(
    n_best: Sequence[Sequence[Candidate]], nulls: Sequence[Candidate]
) -> list[float]:
    """Returns by how much each "no answer" beats the likeliest text.

    Where no text survived there is nothing to beat, and a logit of 0 stands in
    for it.
    """
    odds = []
    for entries, null in zip(n_best, nulls, strict=True):
        texts = [entry.logit for entry in entries if entry.text]
        odds.append(null.logit - (texts[0] if texts else 0.0))
    return odds


def apply_threshold(
    answers: Sequence[str], odds: Sequence[float], threshold: float
) -> list[str]:
    """Empties the answers whose null odds are above the threshold."""
    return [
        "" if odd > threshold else answer
        for answer, odd in zip(answers, odds, strict=True)
    ]


def write_answers(
    folder: str | os.PathLike,
    prefix: str,
    ids: Sequence[str],
    answers: Sequence[str],
    n_best: Sequence[Sequence[Candidate]],
    odds: Sequence[float] | None = None,
) -> None:
    """Writes the files of the official scripts, all of them by question id.

    `predictions.json` holds texts; `nbest_predictions.json` lists of `text`,
    `probability` (among the list), `start_logit` and `end_logit`;
    `null_odds.json`, only with `odds`, numbers.

    Args:
        folder: made if need be; its other files stay.
        prefix: what the names begin with.
        ids: of the questions.
        answers: the predicted texts.
        n_best: of `n_best_lists`.
        odds: of `null_odds`.
    """
    contents: dict[str, Mapping] = {
        PREDICTIONS_FILE: dict(zip(ids, answers, strict=True)),
        N_BEST_FILE: {
            name: _official(entries)
            for name, entries in zip(ids, n_best, strict=True)
        },
    }
    if odds is not None:
        contents[NULL_ODDS_FILE] = dict(zip(ids, odds, strict=True))
    with atomic_files(folder) as temporary:
        for name, values in contents.items():
            text = json.dumps(values, indent=4, ensure_ascii=False) + "\n"
            (temporary / f"{prefix}{name}").write_text(text, encoding="utf-8")


def _best_columns(
    logits: np.ndarray, mask: np.ndarray, number: int
) -> np.ndarray:
    """The columns of each row's largest logits, int [W, number]."""
    masked = np.where(mask, logits, -np.inf)
    return np.argsort(-masked, axis=1, kind="stable")[:, :number]


def _with_null(
    candidates: list[Candidate], null: Candidate, n_best_size: int
) -> list[Candidate]:
    better = sum(entry.logit >= null.logit for entry in candidates)
    if better >= n_best_size:
        return [*candidates, null]
    return [*candidates[:better], null, *candidates[better:]][:n_best_size]


def _official(entries: Sequence[Candidate]) -> list[dict]:
    logits = np.array([entry.logit for entry in entries])
    return [
        {
            "text": entry.text,
            "probability": float(probability),
            "start_logit": entry.start_logit,
            "end_logit": entry.end_logit,
        }
        for entry, probability in zip(
            entries, scipy.special.softmax(logits), strict=True
        )
    ]
