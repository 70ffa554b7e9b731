"""Metrics of classification and regression, under the names GLUE uses.

Owns which metrics are reported and what they are where their formulas divide
by zero: 0.0, since a model that always says the same has learned nothing. A
`nan` would make "keep the best checkpoint" keep an arbitrary one.
"""

from collections.abc import Sequence

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
