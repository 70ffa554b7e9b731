"""Metrics of classification and regression, under the names GLUE uses.

Owns which metrics are reported and what they are where their formulas divide
by zero: 0.0, since a model that always says the same has learned nothing. A
`nan` would make "keep the best checkpoint" keep an arbitrary one.

Tags as entities, and their precision, recall and F1.

Owns the reading of tags, right and predicted alike, as the CoNLL shared tasks'
`conlleval` reads them: whatever a model says is some sequence of entities.
Counting is nervaluate's, by its strict rule: an entity is right if its first
token, its last and its type are.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import nervaluate
import numpy as np
import scipy.stats
import sklearn.metrics


def classification_metrics(
    labels: Sequence | np.ndarray, predictions: Sequence | np.ndarray
) -> dict[str, float]:
    """Accuracy, F1 and Matthews correlation.

    Args:
        labels: true classes, [num_examples], indices or names.
        predictions: predicted classes, [num_examples], of the same kind.

    Returns:
        `accuracy`; `f1`, for classes 0 and 1 (no others among labels and
        predictions) that of class 1, else the mean over the classes that occur
        among either; `matthews`, 0.0 if labels or predictions are all the same.
        A class that is never predicted or never true has an F1 of 0.0.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    labels, predictions = _checked(labels, predictions)
    classes = set(np.unique(labels)) | set(np.unique(predictions))
    f1 = sklearn.metrics.f1_score(
        labels,
        predictions,
        average="binary" if classes <= {0, 1} else "macro",
        zero_division=0.0,
    )
    constant = _is_constant(labels) or _is_constant(predictions)
    matthews = (
        0.0
        if constant
        else sklearn.metrics.matthews_corrcoef(labels, predictions)
    )
    return {
        "accuracy": float(np.mean(labels == predictions)),
        "f1": float(f1),
        "matthews": float(matthews),
    }


def multi_label_metrics(
    labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """F1 over all decisions, F1 by class, and how often all are right.

    Args:
        labels: 0 or 1 for each class, [num_examples, C].
        predictions: the same.

    Returns:
        `micro_f1`, of all decisions together; `macro_f1`, the mean over
        classes, 0.0 for one that is never predicted or never true;
        `exact_match`, the share of examples with every class right.

    Raises:
        ValueError: if the two differ in shape or are empty.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 2 or labels.shape != predictions.shape or not labels.size:
        raise ValueError(
            "labels and predictions must have one shape [num_examples, C], "
            f"with an example. Received: {labels.shape} and {predictions.shape}"
        )
    hits = np.sum((labels == 1) & (predictions == 1), axis=0)
    named = np.sum(labels == 1, axis=0) + np.sum(predictions == 1, axis=0)
    by_class = 2.0 * hits / np.maximum(named, 1)
    return {
        "micro_f1": float(2.0 * hits.sum() / max(named.sum(), 1)),
        "macro_f1": float(by_class.mean()),
        "exact_match": float(np.mean((labels == predictions).all(axis=1))),
    }


def regression_metrics(
    labels: Sequence | np.ndarray, predictions: Sequence | np.ndarray
) -> dict[str, float]:
    """Pearson and Spearman correlation, of values and of ranks.

    Args:
        labels: true numbers, [num_examples].
        predictions: predicted numbers, [num_examples].

    Returns:
        `pearson` and `spearman`; both 0.0 if labels or predictions are all
        the same.

    Raises:
        ValueError: if the two differ in length, are empty or not finite.
    """
    labels, predictions = _checked(labels, predictions)
    # In float32 a large mean would swallow the differences.
    labels = labels.astype(np.float64)
    predictions = predictions.astype(np.float64)
    if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        raise ValueError("labels and predictions must be finite")
    if _is_constant(labels) or _is_constant(predictions):
        return {"pearson": 0.0, "spearman": 0.0}
    return {
        "pearson": float(scipy.stats.pearsonr(labels, predictions).statistic),
        "spearman": float(scipy.stats.spearmanr(labels, predictions).statistic),
    }


def _checked(labels, predictions) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.ndim != 1 or labels.shape != predictions.shape or not labels.size:
        raise ValueError(
            "labels and predictions must have one shape [num_examples], with "
            f"an example. Received: {labels.shape} and {predictions.shape}"
        )
    return labels, predictions


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


Tags = Sequence[Sequence[str]]

# BILOU's letters for what BIOES calls E and S.
_LETTERS = {"L": "E", "U": "S"}


class Entity(NamedTuple):
    """Tokens `start` to `end`, this one left out, and what they are."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Reads the tags of a sentence, in IOB1, IOB2, BIOES or BILOU.

    An entity goes on as long as the type stays the same and nothing says that
    one ends or another begins; I-TYPE, or E-TYPE, may begin one too.
    """
    found = []
    before, kind_before = "O", ""
    for index, tag in enumerate(tags):
        letter, _, kind = tag.partition("-")
        letter = _LETTERS.get(letter, letter)
        if letter == "O":
            kind = ""
        elif letter in "BS" or before in "OES" or kind != kind_before:
            found.append(Entity(kind, index, index + 1))
        else:
            found[-1] = found[-1]._replace(end=index + 1)
        before, kind_before = letter, kind
    return found


def accuracy(tags: Tags, predictions: Tags) -> float:
    """Share of tokens with the right tag."""
    pairs = _pairs(tags, predictions)
    return sum(tag == prediction for tag, prediction in pairs) / len(pairs)


def entity_metrics(tags: Tags, predictions: Tags) -> dict[str, float]:
    """Scores predicted tags.

    Args:
        tags: the right ones of each sentence.
        predictions: as many for each.

    Returns:
        `precision`, `recall` and `f1` of entities, 0.0 where there is nothing
        to divide by, and `accuracy` of the tokens.

    Raises:
        ValueError: if the two differ in length or are empty.
    """
    strict = _evaluate(tags, predictions)["overall"]["strict"]
    return _scores(strict) | {"accuracy": accuracy(tags, predictions)}


def metrics_by_type(
    tags: Tags, predictions: Tags
) -> dict[str, dict[str, float]]:
    """`precision`, `recall` and `f1` of each type, in alphabetical order."""
    by_type = _evaluate(tags, predictions)["entities"]
    return {kind: _scores(by_type[kind]["strict"]) for kind in sorted(by_type)}


def most_frequent_tags(
    tokens: Tags, tags: Tags, new_tokens: Tags
) -> list[list[str]]:
    """Tags new tokens as each was tagged most often: what a list knows.

    A token that was not seen is O, or, where that is no tag, gets the most
    frequent one of all.
    """
    counts: dict[str, Counter] = {}
    for token, tag in _pairs(tokens, tags):
        counts.setdefault(token, Counter())[tag] += 1
    usual = {token: max(sorted(c), key=c.get) for token, c in counts.items()}
    total = sum(counts.values(), Counter())
    unseen = "O" if "O" in total else max(sorted(total), key=total.get)
    return [[usual.get(token, unseen) for token in some] for some in new_tokens]


def _evaluate(tags: Tags, predictions: Tags) -> dict:
    _pairs(tags, predictions)
    sides = [
        [
            # Its `end` is the last token.
            [
                {"label": kind, "start": start, "end": end - 1}
                for kind, start, end in entities(some)
            ]
            for some in side
        ]
        for side in (tags, predictions)
    ]
    kinds = {each["label"] for side in sides for some in side for each in some}
    evaluator = nervaluate.Evaluator(*sides, tags=list(kinds), loader="dict")
    return evaluator.evaluate()


def _scores(result) -> dict[str, float]:
    return {
        "precision": float(result.precision),
        "recall": float(result.recall),
        "f1": float(result.f1),
    }


def _pairs(first: Tags, second: Tags) -> list[tuple[str, str]]:
    """The tokens of both side by side."""
    pairs = [
        pair
        for one, other in zip(first, second, strict=True)
        for pair in zip(one, other, strict=True)
    ]
    if not pairs:
        raise ValueError("there is no token to compare")
    return pairs
