"""Losses, predictions and scores, against SciPy, scikit-learn and by hand."""

import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from mobilebert_tf.tasks.classification import (
    Predictor,
    decisions,
    multi_label_loss,
    probabilities,
    task_loss,
    task_metrics,
)
from tests.training.classifiers import toy_arrays, toy_classifier


def test_a_single_logit_is_a_regression():
    logits = np.array([[0.1], [0.9], [0.5]], np.float32)
    labels = np.array([1.0, 3.0, 2.0], np.float32)
    metrics = task_metrics(logits, labels)
    assert metrics.keys() == {"pearson", "spearman"}
    np.testing.assert_allclose(metrics["pearson"], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(probabilities(logits), logits)
    np.testing.assert_array_equal(decisions(logits), logits[:, 0])


def test_several_logits_are_classes():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [9.0, 0.0, 0.0]])
    metrics = task_metrics(logits, np.array([0, 1, 2]))
    np.testing.assert_allclose(metrics["accuracy"], 2 / 3)
    np.testing.assert_allclose(
        probabilities(logits), scipy.special.softmax(logits, axis=1)
    )
    np.testing.assert_array_equal(decisions(logits), [0, 1, 0])


def test_labels_in_a_table_are_several_classes_at_once():
    logits = np.array([[2.0, -1.0], [0.0, 3.0], [-9.0, -0.1]])
    labels = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    metrics = task_metrics(logits, labels)
    np.testing.assert_allclose(metrics["micro_f1"], 2 * 2 / (2 + 3))
    np.testing.assert_allclose(metrics["exact_match"], 2 / 3)
    np.testing.assert_allclose(
        probabilities(logits, multi_label=True), 1 / (1 + np.exp(-logits))
    )


def test_multi_label_loss_is_scikit_learns(rng):
    logits = rng.normal(0, 3, (6, 4)).astype(np.float32)
    labels = rng.integers(0, 2, (6, 4)).astype(np.float32)
    theirs = np.mean(
        [
            sklearn.metrics.log_loss(
                labels[:, c],
                scipy.special.expit(logits[:, c].astype(np.float64)),
                labels=[0, 1],
            )
            for c in range(4)
        ]
    )
    assert float(multi_label_loss(logits, labels)) == pytest.approx(
        theirs, rel=1e-5
    )
    assert float(task_loss(logits, labels)) == pytest.approx(theirs, rel=1e-5)


def test_multi_label_loss_of_huge_logits_is_finite():
    logits = np.array([[1e30, -1e30]], np.float32)
    assert float(multi_label_loss(logits, np.array([[1, 0]]))) == 0.0
    loss = float(multi_label_loss(np.array([[300.0]]), np.array([[0]])))
    assert loss == pytest.approx(300.0)


def test_predictions_in_buckets_are_those_of_padded_batches(rng):
    model = toy_classifier()
    # [PAD] is the neighbour of a last piece, also of one in the last column
    # of a bucket.
    table = model.encoder.embeddings.word_embeddings
    rows = table.numpy()
    rows[0] = 100.0
    table.assign(rows)
    arrays = toy_arrays(60, seed=5)
    assert {4, 8, 16} <= set(arrays["input_mask"].sum(axis=1))
    padded = model(
        {name: arrays[name] for name in arrays if name != "labels"},
        training=False,
    ).numpy()
    for bucket_lengths in ((4, 8, 16), ()):
        logits = Predictor(model, 4, bucket_lengths)(arrays)
        np.testing.assert_allclose(logits, padded, atol=1e-6)
