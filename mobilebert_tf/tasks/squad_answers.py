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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.special

from mobilebert_tf.files import atomic_files
from mobilebert_tf.tasks.squad import Questions
from mobilebert_tf.tasks.squad_windows import SquadSettings, Windows

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)

PREDICTIONS_FILE = "predictions.json"
N_BEST_FILE = "nbest_predictions.json"
NULL_ODDS_FILE = "null_odds.json"


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
        ids: of the questions.
        n_best: candidates, the likeliest first; at least one per question.
        odds: by how much "no answer" beats the likeliest text, whose logit is
            0 if there is none; None in v1.1.
    """

    ids: list[str]
    n_best: list[list[Candidate]]
    odds: list[float] | None = None

    @property
    def texts(self) -> list[str]:
        """The likeliest text of each question; empty if there is none."""
        return [_best_text(entries).text for entries in self.n_best]

    def predictions(self, threshold: float) -> list[str]:
        """Returns the texts, empty where the odds are above the threshold."""
        if self.odds is None:
            return self.texts
        return [
            "" if odd > threshold else text
            for text, odd in zip(self.texts, self.odds, strict=True)
        ]

    def scores(
        self, right: Mapping[str, Sequence[str]], threshold: float
    ) -> dict[str, float]:
        """Returns the official scores; in v2.0 also the best thresholds.

        Args:
            right: texts of the right answers by question id.
            threshold: null odds above which a question is left unanswered.
        """
        predictions = self._by_id(self.predictions(threshold))
        scores = squad_metrics(right, predictions, self.odds is not None)
        if self.odds is None:
            return scores
        texts, odds = self._by_id(self.texts), self._by_id(self.odds)
        return scores | best_thresholds(right, texts, odds)

    def write(
        self, folder: str | os.PathLike, prefix: str, threshold: float
    ) -> None:
        """Writes the files of the official scripts, each by question id.

        `predictions.json` holds texts; `nbest_predictions.json` lists of
        `text`, `probability` (within the list), `start_logit` and `end_logit`;
        `null_odds.json`, in v2.0 only, numbers.

        Args:
            folder: created if missing; its other files stay.
            prefix: of the files' names.
            threshold: null odds above which a question is left unanswered.
        """
        contents = {
            PREDICTIONS_FILE: self._by_id(self.predictions(threshold)),
            N_BEST_FILE: self._by_id(map(_official, self.n_best)),
        }
        if self.odds is not None:
            contents[NULL_ODDS_FILE] = self._by_id(self.odds)
        with atomic_files(folder) as temporary:
            for name, values in contents.items():
                text = json.dumps(values, indent=4, ensure_ascii=False) + "\n"
                path = temporary / f"{prefix}{name}"
                path.write_text(text, encoding="utf-8")

    def _by_id(self, values: Iterable) -> dict:
        return dict(zip(self.ids, values, strict=True))


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
        outputs["start_logits"],
        outputs["end_logits"],
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
        for index in range(first, last):
            start, end = int(starts[index]), int(ends[index])
            text = context[start:end]
            if text not in different:
                start_logit = float(spans.start_logits[index])
                end_logit = float(spans.end_logits[index])
                different[text] = Candidate(
                    text, start_logit, end_logit, start, end
                )
            if len(different) == settings.n_best_size:
                break
        n_best.append(list(different.values()))
    if not settings.version_2_with_negative:
        n_best = [entries or [_NOTHING] for entries in n_best]
        return Answers(questions.ids, n_best)
    nulls = null_candidates(
        outputs["start_logits"],
        outputs["end_logits"],
        windows.question_index,
        len(questions),
    )
    pairs = list(zip(n_best, nulls, strict=True))
    return Answers(
        questions.ids,
        [with_null(*pair, settings.n_best_size) for pair in pairs],
        [null.logit - _best_text(entries).logit for entries, null in pairs],
    )


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

    Only columns that the masks allow are ranked. (The original ranks all and
    then drops those outside the context, which may leave a window none.)

    Args:
        start_logits: float [W, S].
        end_logits: float [W, S].
        start_mask: where an answer may start, bool [W, S]: where a piece has
            most context.
        end_mask: where it may end, bool [W, S]: in the context.
        question_index: question of each window, int [W].
        n_best_size: number of starts, and of ends, per window.
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
    # Sums in float32 would tie where the logits do not.
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
        question_index: question of each window, int [W], without gaps.
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
    probabilities = scipy.special.softmax([entry.logit for entry in entries])
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

    Args:
        prediction: predicted text, empty for "no answer".
        answers: the right texts; in v2.0 there may be none.
        version_2_with_negative: apply the rules of v2.0: answers that
            normalise to nothing do not count, and if none is left the right
            answer is "no answer"; two texts without words have an F1 of 1 (0
            in v1.1).
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
        answers: texts of the right answers by question id.
        predictions: predicted texts by question id.
        version_2_with_negative: apply the rules of v2.0.

    Returns:
        `exact` and `f1` in percent; in v2.0 also those of the questions with
        and without an answer, `HasAns_exact` and so on, if there are any.
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
    odds: Mapping[str, float],
) -> dict[str, float]:
    """Finds when a question is best left unanswered, by v2.0's rules.

    Args:
        answers: texts of the right answers by question id.
        predictions: text for each question if it is answered.
        odds: by how much "no answer" is preferred, by question id; above a
            threshold a question is left unanswered.

    Returns:
        `best_exact` and `best_f1` in percent, and the thresholds that reach
        them, `best_exact_thresh` and `best_f1_thresh`: the odds of the last
        question that is answered, or 0.0 if it is best to answer none.
    """
    scores = _scores(answers, predictions, version_2_with_negative=True)
    has_answer = np.array([bool(texts) for texts in answers.values()])
    is_text = np.array([bool(predictions[name]) for name in answers])
    all_odds = np.array([odds[name] for name in answers], np.float64)
    order = np.argsort(all_odds, kind="stable")
    # Answering nothing is right where there is no answer. To that each
    # question, as it is answered, adds its score or takes a right one away.
    gains = np.where(has_answer[:, None], scores, -1.0 * is_text[:, None])
    none = np.full((1, 2), np.sum(~has_answer), np.float64)
    totals = np.cumsum(np.concatenate([none, gains[order]]), axis=0)
    thresholds = np.concatenate([[0.0], all_odds[order]])
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
            answer_scores(predictions[name], texts, version_2_with_negative)
            for name, texts in answers.items()
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
