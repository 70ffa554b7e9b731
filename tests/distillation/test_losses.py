"""The transfer losses against NumPy, with their gradients, on ragged batches.

And against the release's, wherever those are free of their defects.
"""

import keras
import numpy as np
import pytest
import scipy.stats

from mobilebert_tf.distillation import losses
from mobilebert_tf.modeling.losses import masked_lm_loss
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
# Name -> further arguments, after student and teacher.
LOSSES = {
    **dict.fromkeys(MAP_LOSSES, (MASK,)),
    "attention_transfer_loss": (MASK,),
    "masked_lm_distillation_loss": (WEIGHTS, 2.5),
}


def tensors(name):
    """Student and teacher, float32; masked keys have very low logits."""
    rng = np.random.default_rng(0)
    if name == "attention_transfer_loss":
        pair = rng.normal(size=(2, B, N, S, S))
        pair += (1 - MASK)[:, None, None, :] * -10000.0
    elif name == "masked_lm_distillation_loss":
        pair = rng.normal(size=(2, B, P, V))
    else:
        pair = rng.normal(size=(2, B, S, D))
        pair[0] = 1.0 + 3.0 * pair[0]
    return pair.astype("float32")


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


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_are_numpys(name):
    student, teacher = tensors(name)
    ours, expected = getattr(losses, name), getattr(numpy_losses, name)
    others = LOSSES[name]
    np.testing.assert_allclose(
        ours(student, teacher, *others),
        expected(*np.float64([student, teacher]), *others),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        gradient(lambda x: ours(x, teacher, *others), student),
        numpy_losses.numeric_gradient(
            lambda x: expected(x, np.float64(teacher), *others), student
        ),
        rtol=2e-3,
        atol=2e-6,
    )


@pytest.mark.parametrize("name", LOSSES)
def test_losses_vanish_where_student_equals_teacher(name):
    _, teacher = tensors(name)
    loss = getattr(losses, name)
    assert abs(float(loss(teacher, teacher, *LOSSES[name]))) < 1e-7
    found = gradient(lambda x: loss(x, teacher, *LOSSES[name]), teacher)
    np.testing.assert_allclose(found, 0.0, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
def test_padding_counts_in_no_mean(name):
    student, teacher = tensors(name)
    loss = getattr(losses, name)
    real = {
        "attention_transfer_loss": (MASK == 1)[:, None, :, None],
        "masked_lm_distillation_loss": (WEIGHTS == 1)[:, :, None],
    }.get(name, (MASK == 1)[:, :, None])
    changed = np.where(real, student, -7.0 * student)
    assert float(loss(changed, teacher, *LOSSES[name])) == float(
        loss(student, teacher, *LOSSES[name])
    )
    found = gradient(lambda x: loss(x, teacher, *LOSSES[name]), changed)
    np.testing.assert_array_equal(np.where(real, 0.0, found), 0.0)


def test_only_rounding_counts_as_equal_variance():
    """A relative difference of 1e-4 has a gradient, one of 1e-7 has none."""
    _, teacher = tensors("feature_variance_loss")

    def loss(student):
        return losses.feature_variance_loss(student, teacher, MASK)

    apart = teacher * np.float32(1.0 + 5e-5)
    variances = np.float64(teacher).var(-1)[MASK == 1]
    assert float(loss(apart)) == pytest.approx(
        1e-4 * variances.mean(), rel=0.02
    )
    assert (np.abs(gradient(loss, apart)[MASK == 1]).max(-1) > 1e-3).all()
    rounded = np.nextafter(teacher, np.float32(np.inf))
    assert float(loss(rounded)) == 0.0
    assert not gradient(loss, rounded).any()


def test_the_releases_losses_on_whole_sequences():
    """Without padding, and with the block's own map as the only one."""
    whole = np.ones_like(MASK)
    student, teacher = tensors("feature_mean_loss")
    for name, theirs in (
        ("normalized_feature_map_loss", teacher),
        ("feature_mean_loss", [teacher]),
        ("feature_variance_loss", [teacher]),
    ):
        np.testing.assert_allclose(
            getattr(losses, name)(student, teacher, whole),
            getattr(numpy_losses, f"release_{name}")(student, theirs),
            rtol=1e-5,
        )


def entropy(logits):
    return scipy.stats.entropy(numpy_losses.probs(logits), axis=-1)


def test_the_releases_cross_entropies_exceed_ours_by_the_teachers_entropy():
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(size=(2, B, N, S, S)).astype("float32")
    np.testing.assert_allclose(
        losses.attention_transfer_loss(student, teacher, np.ones_like(MASK)),
        numpy_losses.release_attention_transfer_loss(student, teacher)
        - entropy(teacher).mean(),
        rtol=1e-4,
    )
    student, teacher = tensors("masked_lm_distillation_loss")
    ids = rng.integers(0, V, (B, P)).astype("int32")
    alpha, mean_entropy = (
        0.3,
        (entropy(teacher) * WEIGHTS).sum() / WEIGHTS.sum(),
    )
    soft = losses.masked_lm_distillation_loss(student, teacher, WEIGHTS)
    np.testing.assert_allclose(
        alpha * masked_lm_loss(student, ids, WEIGHTS)
        + (1 - alpha) * (soft + mean_entropy),
        numpy_losses.release_masked_lm_loss(
            student, teacher, ids, WEIGHTS, alpha
        ),
        rtol=1e-5,
    )
