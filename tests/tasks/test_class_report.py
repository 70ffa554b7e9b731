"""Reports by class, against scikit-learn and by hand."""

import re

import numpy as np
import pytest
import sklearn.metrics

from mobilebert_tf.tasks.class_report import (
    class_table,
    confusion_matrix,
    confusion_table,
    draw_confusion,
    threshold_table,
)

NAMES = ("neg", "pos", "never seen")


def cells_of(lines):
    return [re.split(r"  +", line.strip()) for line in lines]


@pytest.mark.parametrize("several", [False, True])
def test_the_table_by_class_is_scikit_learns(rng, several):
    shape = (40, 3) if several else 40
    labels, predictions = rng.integers(0, 2, (2, *np.ravel(shape)))
    expected = sklearn.metrics.classification_report(
        labels,
        predictions,
        labels=range(3),
        target_names=NAMES,
        output_dict=True,
        zero_division=0.0,
    )
    header, *rows = cells_of(class_table(labels, predictions, NAMES))
    assert header == ["precision", "recall", "f1", "examples"]
    for name, *values in rows:
        wanted = list(expected[name].values())
        assert [f"{value:.3f}" for value in wanted[:3]] == values[:3]
        assert int(values[3]) == wanted[3]


def test_confusions_are_counted(tmp_path):
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1])
    matrix = confusion_matrix(labels, predictions, NAMES)
    assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert cells_of(confusion_table(matrix, NAMES)) == [
        ["true \\ predicted", *NAMES],
        ["neg", "1", "2", "0"],
        ["pos", "0", "1", "0"],
        ["never seen", "0", "0", "0"],
    ]
    # Matplotlib would read the sign of money as a formula.
    draw_confusion(tmp_path / "a.png", matrix, ("$a", "b$", "x" * 99))
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"
    assert len(list(tmp_path.iterdir())) == 1


def test_of_many_classes_the_frequent_confusions_are_named():
    names = [f"class {number}" for number in range(20)]
    matrix = np.diag(np.full(20, 9))
    matrix[3, 4], matrix[5, 6] = 2, 7
    assert confusion_table(matrix, names) == [
        "7 of class 5 are named class 6",
        "2 of class 3 are named class 4",
    ]


def test_thresholds_reach_what_is_wanted(rng):
    marks = rng.integers(0, 2, (60, 2))
    probs = np.clip(0.5 * marks + rng.uniform(0, 0.7, marks.shape), 0, 1)
    for wanted in ({"precision": 0.9}, {"recall": 0.9}):
        _, *rows = cells_of(threshold_table(marks, probs, NAMES[:2], **wanted))
        ((name, least),) = wanted.items()
        for column, row in enumerate(rows):
            # By trying every probability as a threshold.
            tried = []
            for threshold in probs[:, column]:
                named = probs[:, column] >= threshold
                hits = np.sum(named & (marks[:, column] == 1))
                scores = {
                    "precision": hits / named.sum(),
                    "recall": hits / marks[:, column].sum(),
                }
                if scores[name] >= least:
                    tried.append((threshold, *scores.values()))
            best = min(tried) if name == "precision" else max(tried)
            assert row[1:] == [f"{value:.4f}" for value in best]


def test_thresholds_that_nothing_reaches():
    marks = np.array([[0, 1], [0, 0], [0, 1]])
    probs = np.array([[0.1, 0.2], [0.5, 0.9], [0.3, 0.3]])
    _, *rows = cells_of(threshold_table(marks, probs, NAMES[:2], precision=0.9))
    assert rows == [["neg", "none"], ["pos", "none"]]
