"""Losses against SciPy, and against values worked by hand."""

import math

import numpy as np
import pytest
from scipy.special import log_softmax

from mobilebert_tf.modeling.losses import (
    classification_loss,
    masked_lm_loss,
    next_sentence_loss,
    regression_loss,
    span_loss,
    weighted_mean,
)
from tests.tiny import numpy


def cross_entropy(logits, labels):
    rows = log_softmax(logits.astype(float), axis=-1)
    return -np.take_along_axis(rows, labels[..., None], axis=-1)[..., 0]


def test_masked_lm_loss(rng):
    logits = 3 * rng.standard_normal((3, 4, 11)).astype("float32")
    labels = rng.integers(0, 11, (3, 4))
    weights = np.array(
        [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]], dtype="float32"
    )
    found = float(numpy(masked_lm_loss(logits, labels, weights)))
    expected = cross_entropy(logits, labels)[weights == 1].mean()
    assert math.isclose(found, expected, rel_tol=1e-6)


def test_masked_lm_loss_without_predictions(rng):
    logits = rng.standard_normal((2, 3, 5)).astype("float32")
    nothing = np.zeros((2, 3), "int32")
    assert float(numpy(masked_lm_loss(logits, nothing, nothing))) == 0.0


def test_masked_lm_loss_knows_the_uniform_guess():
    logits = np.zeros((1, 2, 30522), "float32")
    labels, weights = np.array([[7, 8]]), np.ones((1, 2), "float32")
    found = float(numpy(masked_lm_loss(logits, labels, weights)))
    assert math.isclose(found, math.log(30522), rel_tol=1e-6)


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_next_sentence_loss(rng, shape):
    logits = rng.standard_normal((4, 2)).astype("float32")
    labels = np.array([0, 1, 1, 0])
    found = next_sentence_loss(logits, labels.reshape(shape))
    expected = cross_entropy(logits, labels).mean()
    assert math.isclose(float(numpy(found)), expected, rel_tol=1e-6)


def test_next_sentence_loss_of_the_students_huge_logits():
    """Raw [CLS] vectors of NoNorm students give logits of some 1e6."""
    logits = np.array([[3e6, -2e6], [1e6, 0.0]], "float32")
    found = float(numpy(next_sentence_loss(logits, np.array([[0], [1]]))))
    assert found == 5e5


def test_classification_loss(rng):
    logits = rng.standard_normal((6, 3)).astype("float32")
    labels = np.array([0, 1, 2, 2, 1, 0])
    found = float(numpy(classification_loss(logits, labels)))
    expected = cross_entropy(logits, labels).mean()
    assert math.isclose(found, expected, rel_tol=1e-6)


def test_regression_loss():
    predictions = np.array([[1.0], [2.0], [4.0]], "float32")
    labels = np.array([1.0, 0.0, 1.0], "float32")
    found = float(numpy(regression_loss(predictions, labels)))
    assert math.isclose(found, (0 + 4 + 9) / 3, rel_tol=1e-6)


def test_span_loss(rng):
    start, end = rng.standard_normal((2, 3, 8)).astype("float32")
    starts, ends = np.array([0, 3, 7]), np.array([2, 3, 7])
    found = float(numpy(span_loss(start, end, starts, ends)))
    expected = cross_entropy(start, starts).mean()
    expected = (expected + cross_entropy(end, ends).mean()) / 2
    assert math.isclose(found, expected, rel_tol=1e-6)


def test_weighted_mean():
    values = np.array([[1.0, 2.0], [4.0, 100.0]], "float32")
    weights = np.array([[1, 1], [1, 0]])
    found = float(numpy(weighted_mean(values, weights)))
    assert math.isclose(found, 7 / 3, rel_tol=1e-6)
