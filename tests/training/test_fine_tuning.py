"""Scores and probabilities from logits, against SciPy and by hand."""

import numpy as np
import scipy.special

from mobilebert_tf.training.fine_tuning import probabilities, task_metrics


def test_a_single_logit_is_a_regression():
    logits = np.array([[0.1], [0.9], [0.5]], np.float32)
    labels = np.array([1.0, 3.0, 2.0], np.float32)
    metrics = task_metrics(logits, labels)
    assert metrics.keys() == {"pearson", "spearman"}
    np.testing.assert_allclose(metrics["pearson"], 1.0, rtol=1e-6)
    np.testing.assert_array_equal(probabilities(logits), logits)


def test_several_logits_are_classes():
    logits = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [9.0, 0.0, 0.0]])
    metrics = task_metrics(logits, np.array([0, 1, 2]))
    np.testing.assert_allclose(metrics["accuracy"], 2 / 3)
    np.testing.assert_allclose(
        probabilities(logits), scipy.special.softmax(logits, axis=1)
    )
