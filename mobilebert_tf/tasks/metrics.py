"""Metrics: accuracy, F1, Matthews, correlations, and entities of tagged text.

Where a formula divides by zero the metric is 0.0: a model that always answers
the same has learned nothing, and a NaN would rank models arbitrarily.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def classification_metrics(
    labels: Sequence[int] | np.ndarray,
    predictions: Sequence[int] | np.ndarray,
    num_classes: int,
) -> dict[str, float]:
    """Scores class indices, [N] each.

    Args:
        labels: the true classes.
        predictions: the predicted classes.
        num_classes: of the task, whether or not all of them occur.

    Returns:
        `accuracy`; `f1`, of class 1 if there are two classes, else the mean
        over the classes that occur; `matthews`, the correlation.

    Raises:
        ValueError: the arrays differ in length or are empty.
    """
    # It takes a second to import, which --help would wait for.
    import sklearn.metrics

    labels, predictions = _checked(labels, predictions)
    f1 = sklearn.metrics.f1_score(
        labels,
        predictions,
        average="binary" if num_classes == 2 else "macro",
        zero_division=0.0,
    )
    matthews = 0.0
    if not (_is_constant(labels) or _is_constant(predictions)):
        matthews = sklearn.metrics.matthews_corrcoef(labels, predictions)
    return {
        "accuracy": float(np.mean(labels == predictions)),
        "f1": float(f1),
        "matthews": float(matthews),
    }


def largest_class_floor(
    labels: Sequence[int] | np.ndarray, num_classes: int
) -> dict[str, float]:
    """Scores always naming the most frequent class of `labels`, [N].

    Returns the metrics of `classification_metrics`. A model that is not above
    them has learned nothing but how frequent the classes are.
    """
    largest = np.bincount(labels, minlength=num_classes).argmax()
    predictions = np.full(len(labels), largest)
    return classification_metrics(labels, predictions, num_classes)


def most_frequent_labels_floor(labels: np.ndarray) -> dict[str, float]:
    """Scores always naming the same labels, those with the best micro F1.

    Args:
        labels: 0 or 1 for each class, [N, C].

    Returns:
        The metrics of `multi_label_metrics`.
    """
    counts = labels.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    # Of the 1, 2, ... most frequent ones: 2 hits / (named + true).
    numbers = np.arange(1, len(counts) + 1)
    f1 = 2.0 * np.cumsum(counts[order])
    f1 /= len(labels) * numbers + counts.sum()
    predictions = np.zeros(labels.shape, np.int32)
    predictions[:, order[: f1.argmax() + 1]] = 1
    return multi_label_metrics(labels, predictions)


def multi_label_metrics(
    labels: np.ndarray, predictions: np.ndarray
) -> dict[str, float]:
    """Scores decisions of 0 or 1 for each class, [N, C] each.

    Returns:
        `micro_f1`, over all decisions; `macro_f1`, the mean over classes, 0.0
        for one that is never predicted or never true; `exact_match`, the share
        of examples with every class right.

    Raises:
        ValueError: the arrays differ in shape or are empty.
    """
    labels, predictions = _checked(labels, predictions, 2)
    hits = np.sum((labels == 1) & (predictions == 1), axis=0)
    named = np.sum(labels == 1, axis=0) + np.sum(predictions == 1, axis=0)
    by_class = 2.0 * hits / np.maximum(named, 1)
    return {
        "micro_f1": float(2.0 * hits.sum() / max(named.sum(), 1)),
        "macro_f1": float(by_class.mean()),
        "exact_match": float(np.mean((labels == predictions).all(axis=1))),
    }


def regression_metrics(
    labels: Sequence[float] | np.ndarray,
    predictions: Sequence[float] | np.ndarray,
) -> dict[str, float]:
    """Scores numbers, [N] each.

    Returns:
        Correlation of values (`pearson`) and of ranks (`spearman`), and
        `mean_absolute_error`.

    Raises:
        ValueError: the arrays differ in length, are empty or not finite.
    """
    import scipy.stats

    labels, predictions = _checked(labels, predictions)
    # In float32 a large mean would swallow the differences.
    labels = labels.astype(np.float64)
    predictions = predictions.astype(np.float64)
    if not (np.isfinite(labels).all() and np.isfinite(predictions).all()):
        raise ValueError("labels and predictions must be finite")
    pearson = spearman = 0.0
    if not (_is_constant(labels) or _is_constant(predictions)):
        pearson = scipy.stats.pearsonr(labels, predictions).statistic
        spearman = scipy.stats.spearmanr(labels, predictions).statistic
    return {
        "pearson": float(pearson),
        "spearman": float(spearman),
        "mean_absolute_error": float(np.abs(labels - predictions).mean()),
    }


def _checked(labels, predictions, rank=1) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    same = labels.shape == predictions.shape
    if labels.ndim != rank or not same or not labels.size:
        raise ValueError(
            f"labels and predictions must have one shape of rank {rank}, with "
            f"an example. Received: {labels.shape} and {predictions.shape}"
        )
    return labels, predictions


def _is_constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


# A tag for each token of each sentence.
Tags = Sequence[Sequence[str]]

# The letters of BILOU that BIOES spells E and S.
_LETTERS = {"L": "E", "U": "S"}


class Entity(NamedTuple):
    """A type and the tokens from `start` to before `end`."""

    kind: str
    start: int
    end: int


def entities(tags: Sequence[str]) -> list[Entity]:
    """Reads the tags of a sentence, in IOB1, IOB2, BIOES or BILOU.

    Tags are read as `conlleval` of the CoNLL shared tasks reads them, so that
    any sequence of tags means some entities: an entity continues while its type
    stays the same and no letter ends it or begins another; I-TYPE and E-TYPE
    may begin one.
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
    return float(np.mean([a == b for a, b in _pairs(tags, predictions)]))


def entity_metrics(tags: Tags, predictions: Tags) -> dict[str, float]:
    """Scores predicted tags by whole entities, as `conlleval` does.

    An entity is right if its first token, its last token and its type are.

    Returns:
        `precision`, `recall` and `f1` of entities, and `accuracy` of tokens.

    Raises:
        ValueError: sentences differ in number or length, or have no token.
    """
    right, found = _all_entities(tags), _all_entities(predictions)
    tokens = {"accuracy": accuracy(tags, predictions)}
    return _entity_scores(right, found) | tokens


def metrics_by_type(
    tags: Tags, predictions: Tags
) -> dict[str, dict[str, float]]:
    """`precision`, `recall` and `f1` of each type, in alphabetical order."""
    right, found = _all_entities(tags), _all_entities(predictions)
    return {
        kind: _entity_scores(
            {each for each in right if each[1].kind == kind},
            {each for each in found if each[1].kind == kind},
        )
        for kind in sorted({entity.kind for _, entity in right | found})
    }


def _all_entities(tags: Tags) -> set[tuple[int, Entity]]:
    """The entities of all sentences, each with its sentence's number."""
    return {
        (number, entity)
        for number, sentence in enumerate(tags)
        for entity in entities(sentence)
    }


def _entity_scores(right: set, found: set) -> dict[str, float]:
    hits = len(right & found)
    precision, recall = hits / max(len(found), 1), hits / max(len(right), 1)
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def most_frequent_tags(
    tokens: Tags, tags: Tags, new_tokens: Tags
) -> list[list[str]]:
    """Tags new tokens as each was tagged most often, for comparison.

    A token that was not seen gets O, or, if that is not among the tags, the
    most frequent tag.
    """
    counts: dict[str, Counter] = {}
    for token, tag in _pairs(tokens, tags):
        counts.setdefault(token, Counter())[tag] += 1
    usual = {token: max(sorted(c), key=c.get) for token, c in counts.items()}
    total = sum(counts.values(), Counter())
    unseen = "O" if "O" in total else max(sorted(total), key=total.get)
    return [
        [usual.get(token, unseen) for token in sentence]
        for sentence in new_tokens
    ]


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
