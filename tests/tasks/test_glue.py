"""GLUE's scores against scikit-learn, SciPy and the published leaderboard."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from mobilebert_tf.tasks.glue import (
    METRICS,
    glue_average,
    glue_metrics,
    glue_score,
)

# BERT-base on the test sets, as the leaderboard lists it, in percent. Its
# average there, and in table 4 of the MobileBERT paper, is 78.3.
BERT_BASE = {
    "cola": {"matthews": 52.1},
    "sst2": {"accuracy": 93.5},
    "mrpc": {"f1": 88.9, "accuracy": 84.8},
    "stsb": {"pearson": 87.1, "spearman": 85.8},
    "qqp": {"f1": 71.2, "accuracy": 89.2},
    "mnli": {"matched_accuracy": 84.6, "mismatched_accuracy": 83.4},
    "qnli": {"accuracy": 90.5},
    "rte": {"accuracy": 66.4},
    "wnli": {"accuracy": 65.1},
}


def test_the_average_is_the_leaderboards():
    assert round(glue_average(BERT_BASE), 1) == 78.3
    # The diagnostic set does not count.
    with_ax = BERT_BASE | {"ax": {"matthews": 34.2}}
    assert glue_average(with_ax) == glue_average(BERT_BASE)


def test_an_average_without_a_task_is_none():
    scores = {task: BERT_BASE[task] for task in METRICS if task != "wnli"}
    with pytest.raises(ValueError, match="no metrics of wnli"):
        glue_average(scores)


def test_a_score_is_the_mean_of_a_tasks_metrics():
    assert glue_score(BERT_BASE["mrpc"]) == pytest.approx(86.85)


@pytest.mark.parametrize("task", sorted(set(METRICS) - {"stsb"}))
def test_classification_against_scikit_learn(task, rng):
    classes = 3 if task == "mnli" else 2
    labels = rng.integers(0, classes, 500)
    wrong = rng.random(500) < 0.3
    predictions = np.where(wrong, rng.integers(0, classes, 500), labels)
    theirs = {
        "accuracy": sklearn.metrics.accuracy_score(labels, predictions),
        "matthews": sklearn.metrics.matthews_corrcoef(labels, predictions),
    }
    if classes == 2:
        theirs["f1"] = sklearn.metrics.f1_score(labels, predictions)
    ours = glue_metrics(task, labels, predictions)
    assert tuple(ours) == METRICS[task]
    for name, value in ours.items():
        assert value == pytest.approx(theirs[name], abs=1e-12)


def test_regression_against_scipy(rng):
    labels = np.round(rng.uniform(0, 5, 300), 1)
    predictions = labels + rng.normal(0, 1, 300)
    ours = glue_metrics("stsb", labels, predictions)
    pearson = scipy.stats.pearsonr(labels, predictions).statistic
    spearman = scipy.stats.spearmanr(labels, predictions).statistic
    assert ours["pearson"] == pytest.approx(pearson, abs=1e-12)
    assert ours["spearman"] == pytest.approx(spearman, abs=1e-12)


def test_metrics_by_hand():
    # 2 true positives, 1 false positive, 1 false negative, 2 true negatives.
    labels = np.array([1, 1, 1, 0, 0, 0])
    predictions = np.array([1, 1, 0, 1, 0, 0])
    assert glue_metrics("mrpc", labels, predictions) == {
        "accuracy": pytest.approx(4 / 6),
        "f1": pytest.approx(2 * 2 / (2 * 2 + 1 + 1)),
    }
    assert glue_metrics("cola", labels, predictions) == {
        "matthews": pytest.approx((2 * 2 - 1 * 1) / 9)
    }
