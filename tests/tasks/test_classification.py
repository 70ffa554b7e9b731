"""Classification and regression metrics against numbers worked by hand."""

import math
import warnings

import numpy as np
import pytest
import sklearn.metrics

from mobilebert_tf.tasks.metrics import (
    classification_metrics,
    multi_label_metrics,
    regression_metrics,
)


def test_binary_metrics_by_hand():
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
    labels = np.array([1] * 5 + [0] * 5)
    predictions = np.array([1, 1, 1, 0, 0, 1, 0, 0, 0, 0])

    metrics = classification_metrics(labels, predictions)

    assert list(metrics) == ["accuracy", "f1", "matthews"]
    assert metrics["accuracy"] == pytest.approx(0.7)
    assert metrics["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    matthews = (3 * 4 - 1 * 2) / math.sqrt(
        (3 + 1) * (3 + 2) * (4 + 1) * (4 + 2)
    )
    assert metrics["matthews"] == pytest.approx(matthews)
    assert all(type(value) is float for value in metrics.values())


def test_macro_f1_by_hand():
    labels = [0, 0, 1, 1, 2, 2]
    predictions = [0, 1, 1, 1, 2, 0]

    metrics = classification_metrics(labels, predictions)

    # Class 0: 1 hit of 2 and 2; class 1: 2 hits of 2 and 3; class 2: 1 of 2, 1.
    by_class = [2 * 1 / (2 + 2), 2 * 2 / (2 + 3), 2 * 1 / (2 + 1)]
    assert metrics["f1"] == pytest.approx(sum(by_class) / 3)
    assert metrics["accuracy"] == pytest.approx(4 / 6)
    # c s - sum p t = 4 * 6 - (2*2 + 3*2 + 1*2) = 12; s^2 - sum p^2 = 36 - 14;
    # s^2 - sum t^2 = 36 - 12.
    assert metrics["matthews"] == pytest.approx(12 / math.sqrt(22 * 24))


def test_named_classes_count_like_indices():
    by_index = classification_metrics([0, 0, 1, 1, 2], [0, 1, 1, 1, 0])
    by_name = classification_metrics(list("aabbc"), list("abbba"))
    assert by_name == by_index


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_are_defined(constant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = classification_metrics([0, 1, 1, 0, 1], [constant] * 5)
    assert metrics["accuracy"] == pytest.approx(0.6 if constant else 0.4)
    # All positive: 3 true positives, 2 false ones.
    assert metrics["f1"] == pytest.approx(6 / 8 if constant else 0.0)
    assert metrics["matthews"] == 0.0


def test_a_single_example():
    assert classification_metrics([1], [1]) == {
        "accuracy": 1.0,
        "f1": 1.0,
        "matthews": 0.0,
    }


def test_regression_by_hand():
    labels = [1.0, 2.0, 3.0, 4.0]
    predictions = [1.0, 4.0, 9.0, 8.0]

    metrics = regression_metrics(labels, predictions)

    # Deviations (-1.5, -0.5, 0.5, 1.5) and (-4.5, -1.5, 3.5, 2.5).
    covariance = 1.5 * 4.5 + 0.5 * 1.5 + 0.5 * 3.5 + 1.5 * 2.5
    norms = math.sqrt(5.0 * (4.5**2 + 1.5**2 + 3.5**2 + 2.5**2))
    assert list(metrics) == ["pearson", "spearman"]
    assert metrics["pearson"] == pytest.approx(covariance / norms)
    # Ranks 1 2 3 4 and 1 2 4 3: 1 - 6 * (1 + 1) / (4 * 15).
    assert metrics["spearman"] == pytest.approx(0.8)


def test_spearman_gives_ties_their_mean_rank():
    metrics = regression_metrics([1, 2, 3], [5, 5, 6])
    # Ranks (1, 2, 3) and (1.5, 1.5, 3): covariance 1.5, norms sqrt(2 * 1.5).
    assert metrics["spearman"] == pytest.approx(1.5 / math.sqrt(3.0))


@pytest.mark.parametrize("labels", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
def test_constant_regression_is_zero(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = regression_metrics(labels, [0.1, 0.1, 0.1])
    assert metrics == {"pearson": 0.0, "spearman": 0.0}


def test_float32_predictions_far_from_zero():
    labels = np.array([1.0, 2.0, 3.0, 5.0])
    predictions = (1e6 + labels).astype(np.float32)
    metrics = regression_metrics(labels, predictions)
    assert metrics["pearson"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "predictions"),
    [([], []), ([0, 1], [0]), ([[0, 1]], [[0, 1]])],
)
def test_shapes_that_cannot_be_compared(labels, predictions):
    for metrics in (classification_metrics, regression_metrics):
        with pytest.raises(ValueError, match="num_examples"):
            metrics(labels, predictions)


def test_regression_refuses_nan():
    with pytest.raises(ValueError, match="finite"):
        regression_metrics([1.0, 2.0], [float("nan"), 2.0])


def test_several_labels_by_hand():
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    predictions = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    metrics = multi_label_metrics(labels, predictions)
    # 2 hits, 3 true and 3 predicted; by class 1 of 1, 1 of 2 and 1, 0 of 1.
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (3 + 3))
    assert metrics["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert metrics["exact_match"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("num_classes", [2, 5])
def test_several_labels_against_scikit_learn(num_classes, rng):
    labels = (rng.random((200, num_classes)) < 0.3).astype(int)
    labels[:, 0] = 0  # Never true.
    predictions = np.where(rng.random(labels.shape) < 0.2, 1 - labels, labels)
    metrics = multi_label_metrics(labels, predictions)
    for average in ("micro", "macro"):
        theirs = sklearn.metrics.f1_score(
            labels, predictions, average=average, zero_division=0.0
        )
        assert metrics[f"{average}_f1"] == pytest.approx(theirs, abs=1e-12)
    exact = sklearn.metrics.accuracy_score(labels, predictions)
    assert metrics["exact_match"] == pytest.approx(exact)


def test_several_labels_of_which_none_is_there():
    zeros = np.zeros((3, 2), int)
    assert multi_label_metrics(zeros, zeros) == {
        "micro_f1": 0.0,
        "macro_f1": 0.0,
        "exact_match": 1.0,
    }
    with pytest.raises(ValueError, match="num_examples, C"):
        multi_label_metrics(zeros[0], zeros[0])
