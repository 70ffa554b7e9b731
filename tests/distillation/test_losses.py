"""The transfer losses against NumPy, with their gradients, on ragged batches.

Ours and the release's, which counts padding and does not vanish.
"""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation import legacy_losses, losses
from tests.distillation import numpy_losses

B, S, D, N, P, V = 3, 5, 8, 2, 4, 11
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]], np.int32)
WEIGHTS = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], "float32")
MAP_LOSSES = (
    "feature_map_transfer_loss",
    "normalized_feature_map_loss",
    "feature_mean_loss",
    "feature_variance_loss",
)


@pytest.fixture
def maps():
    rng = np.random.default_rng(0)
    student = rng.normal(1.0, 3.0, (B, S, D)).astype("float32")
    teacher = rng.normal(size=(B, S, D)).astype("float32")
    return student, teacher


@pytest.fixture
def all_teacher_maps(maps):
    """Embedding output, two blocks below, the block itself, one above."""
    rng = np.random.default_rng(3)
    others = rng.normal(0.5, 2.0, (4, B, S, D)).astype("float32")
    return [*others[:3], maps[1], others[3]]


@pytest.fixture
def attention():
    rng = np.random.default_rng(1)
    addend = (1 - MASK)[:, None, None, :] * -10000.0
    student = rng.normal(size=(B, N, S, S)) + addend
    teacher = rng.normal(size=(B, N, S, S)) + addend
    return student.astype("float32"), teacher.astype("float32")


@pytest.fixture
def predictions():
    rng = np.random.default_rng(2)
    return tuple(rng.normal(size=(2, B, P, V)).astype("float32"))


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


def check(ours, expected, student):
    """Compares value and gradient of two functions of the student's tensor."""
    np.testing.assert_allclose(
        ours(student), expected(student.astype("float64")), rtol=1e-5
    )
    np.testing.assert_allclose(
        gradient(ours, student),
        numpy_losses.numeric_gradient(expected, student),
        rtol=2e-3,
        atol=2e-6,
    )


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_map_losses(name, maps):
    ours, expected = getattr(losses, name), getattr(numpy_losses, name)
    student, teacher = maps
    check(
        lambda x: ours(x, teacher, MASK),
        lambda x: expected(x, teacher.astype("float64"), MASK),
        student,
    )


def test_attention_transfer_is_the_divergence_from_teacher(attention):
    student, teacher = attention
    check(
        lambda x: losses.attention_transfer_loss(x, teacher, MASK),
        lambda x: numpy_losses.attention_transfer_loss(x, teacher, MASK),
        student,
    )


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_masked_lm_distillation_loss(temperature, predictions):
    student, teacher = predictions
    check(
        lambda x: losses.masked_lm_distillation_loss(
            x, teacher, WEIGHTS, temperature
        ),
        lambda x: numpy_losses.masked_lm_distillation_loss(
            x, teacher, WEIGHTS, temperature
        ),
        student,
    )


def test_the_releases_feature_map_loss(maps):
    student, teacher = maps
    check(
        lambda x: legacy_losses.normalized_feature_map_loss(x, teacher),
        lambda x: numpy_losses.release_normalized_feature_map_loss(
            x, teacher.astype("float64")
        ),
        student,
    )


@pytest.mark.parametrize("name", ["feature_mean_loss", "feature_variance_loss"])
def test_the_releases_statistics_compare_with_all_maps(
    name, maps, all_teacher_maps
):
    ours = getattr(legacy_losses, name)
    expected = getattr(numpy_losses, f"release_{name}")
    wide = [teacher.astype("float64") for teacher in all_teacher_maps]
    check(
        lambda x: ours(x, all_teacher_maps),
        lambda x: expected(x, wide),
        maps[0],
    )


def test_the_releases_attention_loss_is_a_cross_entropy(attention):
    student, teacher = attention
    check(
        lambda x: legacy_losses.attention_transfer_loss(x, teacher),
        lambda x: numpy_losses.release_attention_transfer_loss(x, teacher),
        student,
    )
    # It does not vanish: what is left is the teacher's entropy.
    assert float(legacy_losses.attention_transfer_loss(teacher, teacher)) > 0.3


@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_the_releases_mixed_labels(ratio, predictions):
    student, teacher = predictions
    ids = np.random.default_rng(5).integers(0, V, (B, P)).astype("int32")
    check(
        lambda x: legacy_losses.mixed_masked_lm_loss(
            x, teacher, ids, WEIGHTS, ratio
        ),
        lambda x: numpy_losses.release_masked_lm_loss(
            x, teacher, ids, WEIGHTS, ratio
        ),
        student,
    )


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_map_losses_vanish_where_student_equals_teacher(name, maps):
    _, teacher = maps
    loss = getattr(losses, name)
    assert float(loss(teacher, teacher, MASK)) == 0.0
    zero = gradient(lambda student: loss(student, teacher, MASK), teacher)
    np.testing.assert_allclose(zero, 0.0, atol=1e-7)


def test_attention_transfer_vanishes_where_student_equals_teacher(attention):
    _, teacher = attention
    loss = losses.attention_transfer_loss
    assert abs(float(loss(teacher, teacher, MASK))) < 1e-7
    zero = gradient(lambda student: loss(student, teacher, MASK), teacher)
    np.testing.assert_allclose(zero, 0.0, atol=1e-7)


def test_soft_labels_vanish_where_student_equals_teacher(predictions):
    _, teacher = predictions

    def loss(student):
        return losses.masked_lm_distillation_loss(student, teacher, WEIGHTS)

    assert abs(float(loss(teacher))) < 1e-7
    np.testing.assert_allclose(gradient(loss, teacher), 0.0, atol=1e-7)


@pytest.mark.parametrize("name", MAP_LOSSES)
def test_padding_counts_in_no_mean(name, maps):
    student, teacher = maps
    loss = getattr(losses, name)
    before = float(loss(student, teacher, MASK))
    changed = np.where(MASK[:, :, None] == 1, student, 1e4).astype("float32")
    assert float(loss(changed, teacher, MASK)) == before
    on_padding = gradient(lambda x: loss(x, teacher, MASK), changed)[MASK == 0]
    np.testing.assert_array_equal(on_padding, 0.0)


def test_padded_queries_count_in_no_mean(attention):
    student, teacher = attention
    before = float(losses.attention_transfer_loss(student, teacher, MASK))
    padded_query = (MASK == 0)[:, None, :, None]
    changed = np.where(padded_query, -student, student)
    after = float(losses.attention_transfer_loss(changed, teacher, MASK))
    assert after == before


def test_unused_predictions_count_in_no_mean(predictions):
    student, teacher = predictions
    before = losses.masked_lm_distillation_loss(student, teacher, WEIGHTS)
    changed = np.where(WEIGHTS[:, :, None] == 1, student, -7 * student)
    after = losses.masked_lm_distillation_loss(changed, teacher, WEIGHTS)
    assert float(after) == float(before)
