"""The transfer losses against NumPy and SciPy, on ragged batches."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mobilebert_tf.distillation import losses

B, S, D, N, P, V = 3, 5, 8, 2, 4, 11
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], np.int32)
MAP_LOSSES = (
    losses.normalized_feature_map_loss,
    losses.feature_mean_loss,
    losses.feature_variance_loss,
)


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    student = rng.normal(1.0, 3.0, (B, S, D)).astype("float32")
    teacher = rng.normal(size=(B, S, D)).astype("float32")
    return student, teacher


@pytest.fixture
def logits():
    rng = np.random.default_rng(1)
    addend = (1 - MASK)[:, None, None, :] * -10000.0
    student = rng.normal(size=(B, N, S, S)) + addend
    teacher = rng.normal(size=(B, N, S, S)) + addend
    return student.astype("float32"), teacher.astype("float32")


def gradient(function, array):
    """The gradient of a scalar function, on whichever backend runs."""
    if keras.backend.backend() == "jax":
        import jax

        return np.asarray(jax.grad(function)(array))
    import tensorflow as tf

    value = tf.constant(array)
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = function(value)
    return tape.gradient(result, value).numpy()


def real_tokens(array):
    return array[MASK.astype(bool)].astype("float64")  # [tokens, D]


def test_normalized_feature_map_loss(maps):
    student, teacher = map(real_tokens, maps)
    expected = np.mean(
        (scipy.stats.zscore(student, 1) - scipy.stats.zscore(teacher, 1)) ** 2
    )
    actual = losses.normalized_feature_map_loss(*maps, MASK)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_feature_mean_loss(maps):
    student, teacher = map(real_tokens, maps)
    expected = np.mean((student.mean(1) - teacher.mean(1)) ** 2)
    actual = losses.feature_mean_loss(*maps, MASK)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_feature_variance_loss_is_absolute(maps):
    student, teacher = map(real_tokens, maps)
    expected = np.mean(np.abs(student.var(1) - teacher.var(1)))
    actual = losses.feature_variance_loss(*maps, MASK)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_attention_transfer_is_the_divergence_from_teacher(logits):
    student, teacher = (
        scipy.special.softmax(x.astype("float64"), -1) for x in logits
    )
    per_query = scipy.special.rel_entr(teacher, student).sum(-1)  # [B, N, S]
    per_query = np.moveaxis(per_query, 1, -1)[MASK.astype(bool)]
    actual = losses.attention_transfer_loss(*logits, MASK)
    np.testing.assert_allclose(actual, per_query.mean(), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_masked_lm_distillation_loss(temperature):
    rng = np.random.default_rng(2)
    student, teacher = rng.normal(size=(2, B, P, V)).astype("float32")
    weights = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], "float32")
    probs = [
        scipy.special.softmax(x.astype("float64") / temperature, -1)
        for x in (teacher, student)
    ]
    divergence = scipy.special.rel_entr(*probs).sum(-1)
    expected = temperature**2 * (divergence * weights).sum() / weights.sum()
    actual = losses.masked_lm_distillation_loss(
        student, teacher, weights, temperature
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_map_losses_vanish_where_student_equals_teacher(loss, maps):
    _, teacher = maps
    assert abs(float(loss(teacher, teacher, MASK))) < 1e-7
    if (
        loss is losses.feature_variance_loss
        and keras.backend.backend() == "jax"
    ):
        # XLA computes the two variances in different fusions; their difference
        # is rounding, whose sign is the gradient of an absolute value.
        return
    zero = gradient(lambda student: loss(student, teacher, MASK), teacher)
    np.testing.assert_allclose(zero, 0.0, atol=1e-7)


def test_attention_transfer_vanishes_where_student_equals_teacher(logits):
    _, teacher = logits
    loss = losses.attention_transfer_loss
    assert abs(float(loss(teacher, teacher, MASK))) < 1e-7
    zero = gradient(lambda student: loss(student, teacher, MASK), teacher)
    np.testing.assert_allclose(zero, 0.0, atol=1e-7)


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_padding_counts_in_no_mean(loss, maps):
    student, teacher = maps
    before = float(loss(student, teacher, MASK))
    changed = np.where(MASK[:, :, None] == 1, student, 1e4)
    assert float(loss(changed.astype("float32"), teacher, MASK)) == before


def test_padded_queries_count_in_no_mean(logits):
    student, teacher = logits
    before = float(losses.attention_transfer_loss(student, teacher, MASK))
    padded_query = (MASK == 0)[:, None, :, None]
    changed = np.where(padded_query, -student, student)
    after = float(losses.attention_transfer_loss(changed, teacher, MASK))
    assert after == before
