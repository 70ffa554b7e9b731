"""Logits of windows to n-best answers, and the official exact match and F1.

An answer is a stretch of its context, character by character; nothing is put
together from word pieces. Scores are in percent. The official script for v2.0
differs from that for v1.1 in more than the unanswerable questions: both are
here.

Shape letters: W windows, S sequence length, N number of spans.
"""

import collections
import itertools
import json
import os
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mobilebert_tf.files import atomic_files
from mobilebert_tf.tasks.squad import Questions
from mobilebert_tf.tasks.squad_windows import SquadSettings, Windows

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

PREDICTIONS_FILE = "predictions.json"


class Spans(NamedTuple):
    """Candidate answers by question, the likeliest first, arrays [N].

    `starts` and `ends` are the columns of a span's first and last piece; logits
    are float64.
    """

    questions: np.ndarray
    windows: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray


class Candidate(NamedTuple):
    """An entry of an n-best list: `context[start:end]`, or "no answer"."""

    text: str
    start_logit: float
    end_logit: float
    start: int = 0
    end: int = 0

    @property
    def logit(self) -> float:
        """Sum of both logits."""
        return self.start_logit + self.end_logit


# Stands in where a question has no span.
_NOTHING = Candidate("", 0.0, 0.0)


@dataclass(frozen=True)
class Answers:
    """What a model answers to each question.

    Attributes:
        questions: what was asked.
        n_best: candidates, the likeliest first; at least one per question.
        odds: by how much "no answer" beats the likeliest text, whose logit is
            0 if there is none; None in v1.1.
    """

    questions: Questions
    n_best: list[list[Candidate]]
    odds: list[float] | None = None

    @property
    def texts(self) -> list[str]:
        """The likeliest text of each question; empty if there is none."""
        return [_best_text(entries).text for entries in self.n_best]

    def predictions(self, threshold: float) -> list[str]:
        """Returns the texts, empty where the odds are above a threshold."""
        if self.odds is None:
            return self.texts
        return [
            "" if odd > threshold else text
            for text, odd in zip(self.texts, self.odds, strict=True)
        ]

    def scores(self, threshold: float) -> dict[str, float]:
        """Returns the official scores; in v2.0 also the best thresholds."""
        right = [
            [answer.text for answer in answers]
            for answers in self.questions.answers
        ]
        predictions = self.predictions(threshold)
        if self.odds is None:
            return squad_metrics(right, predictions)
        return squad_metrics(
            right, predictions, version_2_with_negative=True
        ) | best_thresholds(right, self.texts, self.odds)

    def write(
        self, folder: str | os.PathLike, prefix: str, threshold: float
    ) -> None:
        """Writes the files of the official scripts, each by question id.

        `predictions.json` holds texts; `nbest_predictions.json` lists of
        `text`, `probability` (within the list), `start_logit` and `end_logit`;
        `null_odds.json`, in v2.0 only, numbers. Names start with `prefix`.
        """
        contents = {
            PREDICTIONS_FILE: self.predictions(threshold),
            "nbest_predictions.json": map(_official, self.n_best),
        }
        if self.odds is not None:
            contents["null_odds.json"] = self.odds
        with atomic_files(folder) as temporary:
            for name, values in contents.items():
                by_id = dict(zip(self.questions.ids, values, strict=True))
                text = json.dumps(by_id, indent=4, ensure_ascii=False) + "\n"
                path = temporary / f"{prefix}{name}"
                path.write_text(text, encoding="utf-8")


def answer_questions(
    outputs: Mapping[str, np.ndarray],
    questions: Questions,
    windows: Windows,
    settings: SquadSettings,
) -> Answers:
    """Converts the logits of windows to answers.

    Args:
        outputs: `start_logits` and `end_logits`, float [W, S].
        questions: what was asked.
        windows: of `questions`.
        settings: how answers are chosen; its threshold is not applied.
    """
    spans = best_spans(
        outputs,
        start_mask=windows.max_context_mask(),
        end_mask=windows.context_mask(),
        question_index=windows.question_index,
        n_best_size=settings.n_best_size,
        max_answer_length=settings.max_answer_length,
    )
    starts, ends = windows.characters(spans.windows, spans.starts, spans.ends)
    bounds = np.searchsorted(spans.questions, np.arange(len(questions) + 1))
    n_best = []
    for question, (first, last) in enumerate(itertools.pairwise(bounds)):
        context, different = questions.context(question), {}
        for start, end, *logits in zip(
            starts[first:last].tolist(),
            ends[first:last].tolist(),
            spans.start_logits[first:last].tolist(),
            spans.end_logits[first:last].tolist(),
            strict=True,
        ):
            text = context[start:end]
            if text not in different:
                different[text] = Candidate(text, *logits, start, end)
            if len(different) == settings.n_best_size:
                break
        n_best.append(list(different.values()))
    if not settings.version_2_with_negative:
        n_best = [entries or [_NOTHING] for entries in n_best]
        return Answers(questions, n_best)
    nulls = null_candidates(outputs, windows.question_index)
    pairs = list(zip(n_best, nulls, strict=True))
    return Answers(
        questions,
        [with_null(*pair, settings.n_best_size) for pair in pairs],
        [null.logit - _best_text(entries).logit for entries, null in pairs],
    )


def best_spans(
    outputs: Mapping[str, np.ndarray],
    *,
    start_mask: np.ndarray,
    end_mask: np.ndarray,
    question_index: np.ndarray,
    n_best_size: int,
    max_answer_length: int,
) -> Spans:
    """Pairs the likeliest starts of each window with its likeliest ends.

    Only columns that the masks allow are ranked. (The original ranks all and
    then drops those outside the context, which may leave a window none.)

    Args:
        outputs: see `answer_questions`.
        start_mask: where a piece has most context, bool [W, S].
        end_mask: which columns are context, bool [W, S].
        question_index: question of each window, int [W].
        n_best_size: number of starts, and of ends, per window.
        max_answer_length: most pieces of an answer.
    """
    start_logits, end_logits = outputs["start_logits"], outputs["end_logits"]
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
    # Sums in float32 would tie where the logits do not.
    chosen_starts = start_logits[windows, starts].astype(np.float64)
    chosen_ends = end_logits[windows, ends].astype(np.float64)
    questions = question_index[windows]
    order = np.lexsort((-(chosen_starts + chosen_ends), questions))
    spans = Spans(questions, windows, starts, ends, chosen_starts, chosen_ends)
    return Spans(*(array[order] for array in spans))


def null_candidates(
    outputs: Mapping[str, np.ndarray], question_index: np.ndarray
) -> list[Candidate]:
    """Returns "no answer" for each question: its least sure window's [CLS].

    A question has no answer only if every window says so. `question_index`
    is int [W], without gaps.
    """
    starts = outputs["start_logits"][:, 0].astype(np.float64)
    ends = outputs["end_logits"][:, 0].astype(np.float64)
    order = np.lexsort((starts + ends, question_index))
    _, first = np.unique(question_index[order], return_index=True)
    chosen = order[first]
    logits = starts[chosen].tolist(), ends[chosen].tolist()
    return [Candidate("", *both) for both in zip(*logits, strict=True)]


def with_null(
    candidates: list[Candidate], null: Candidate, n_best_size: int
) -> list[Candidate]:
    """Inserts "no answer" into an n-best list, behind equally good texts.

    If it is not good enough for the list, it is appended.
    """
    better = sum(entry.logit >= null.logit for entry in candidates)
    if better >= n_best_size:
        return [*candidates, null]
    return [*candidates[:better], null, *candidates[better:]][:n_best_size]


def _best_text(entries: Sequence[Candidate]) -> Candidate:
    return next((entry for entry in entries if entry.text), _NOTHING)


def _best_columns(
    logits: np.ndarray, mask: np.ndarray, number: int
) -> np.ndarray:
    """Returns the columns of each row's largest logits, int [W, number]."""
    masked = np.where(mask, logits, -np.inf)
    return np.argsort(-masked, axis=1, kind="stable")[:, :number]


def _official(entries: Sequence[Candidate]) -> list[dict]:
    from scipy.special import softmax

    probabilities = softmax([entry.logit for entry in entries])
    return [
        {
            "text": entry.text,
            "probability": float(probability),
            "start_logit": entry.start_logit,
            "end_logit": entry.end_logit,
        }
        for entry, probability in zip(entries, probabilities, strict=True)
    ]


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation, articles and surplus space."""
    text = text.lower().translate(_WITHOUT_PUNCTUATION)
    # Replaced by a space, so that the words around an article stay apart.
    return " ".join(_ARTICLE.sub(" ", text).split())


def answer_scores(
    prediction: str,
    answers: Sequence[str],
    version_2_with_negative: bool = False,
) -> tuple[float, float]:
    """Returns exact match and F1 of a prediction, each for the best answer.

    An empty text is "no answer". By the rules of v2.0, right answers that
    normalise to nothing do not count, and if none is left the right answer is
    "no answer"; two texts without words have an F1 of 1 (0 in v1.1).
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
    answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    version_2_with_negative: bool = False,
) -> dict[str, float]:
    """Scores the predicted text of each question against its right answers.

    Returns:
        `exact` and `f1` in percent; in v2.0 also those of the questions with
        and without an answer, `HasAns_exact` and so on, if there are any.
    """
    scores = _scores(answers, predictions, version_2_with_negative)
    metrics = _averages(scores)
    if version_2_with_negative:
        has_answer = np.array([bool(texts) for texts in answers])
        for name, chosen in (("HasAns", has_answer), ("NoAns", ~has_answer)):
            if chosen.any():
                metrics |= _averages(scores[chosen], f"{name}_")
    return metrics


def best_thresholds(
    answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    odds: Sequence[float],
) -> dict[str, float]:
    """Finds when a question is best left unanswered, by v2.0's rules.

    Args:
        answers: texts of the right answers to each question.
        predictions: text for each question if it is answered.
        odds: by how much "no answer" is preferred.

    Returns:
        `best_exact` and `best_f1` in percent, and the thresholds that reach
        them, `best_exact_thresh` and `best_f1_thresh`: the odds of the last
        question that is answered, or 0.0 if it is best to answer none.
    """
    scores = _scores(answers, predictions, version_2_with_negative=True)
    has_answer = np.array([bool(texts) for texts in answers])
    is_text = np.array([bool(text) for text in predictions])
    order = np.argsort(odds, kind="stable")
    # Answering nothing is right where there is no answer. To that each
    # question, as it is answered, adds its score or takes a right one away.
    gains = np.where(has_answer[:, None], scores, -1.0 * is_text[:, None])
    none = np.full((1, 2), np.sum(~has_answer), np.float64)
    totals = np.cumsum(np.concatenate([none, gains[order]]), axis=0)
    thresholds = np.concatenate([[0.0], np.array(odds, np.float64)[order]])
    metrics = {}
    for name, sums in zip(("exact", "f1"), totals.T, strict=True):
        best = np.argmax(sums)
        metrics[f"best_{name}"] = float(100.0 * sums[best] / len(scores))
        metrics[f"best_{name}_thresh"] = float(thresholds[best])
    return metrics


def _scores(answers, predictions, version_2_with_negative) -> np.ndarray:
    """Returns exact match and F1 of each question, [num_questions, 2]."""
    return np.array(
        [
            answer_scores(prediction, texts, version_2_with_negative)
            for prediction, texts in zip(predictions, answers, strict=True)
        ]
    )


def _averages(scores: np.ndarray, prefix: str = "") -> dict[str, float]:
    exact, f1 = 100.0 * scores.mean(axis=0)
    return {f"{prefix}exact": float(exact), f"{prefix}f1": float(f1)}


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
