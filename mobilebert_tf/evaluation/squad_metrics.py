"""Exact match and F1 of answers, as the official SQuAD scripts define them.

Owns the comparison of a predicted text with the right ones, in percent, and the
search for the threshold above which a question is best left unanswered. The
script for v2.0 differs from that for v1.1 in more than the unanswerable
questions; both are here, and the places where they part are marked.
"""

import collections
import re
import string
from collections.abc import Mapping, Sequence

import numpy as np

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
