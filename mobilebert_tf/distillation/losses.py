"""Losses of feature maps, attention and soft labels: student before teacher.

Each is zero, with zero gradient, where student equals teacher. Means run over
real tokens only.
"""

from keras import ops

from mobilebert_tf.modeling.losses import kl_divergence, weighted_mean

# Of the layer norm inside the feature map loss, as in the release.
_EPSILON = 1e-12
# Variances whose relative difference is below this are equal up to rounding.
_ROUNDING = 1e-6


def feature_map_transfer_loss(student, teacher, input_mask):
    """Mean squared difference of feature maps (paper, equation 2).

    The release, and our default, trains on the three losses below instead,
    into which the paper says to split it.

    Args:
        student: [B, S, D].
        teacher: [B, S, D].
        input_mask: [B, S], 1 for real tokens.

    Returns:
        A scalar.
    """
    squared = ops.square(student - teacher)
    return weighted_mean(ops.mean(squared, axis=-1), input_mask)


def normalized_feature_map_loss(student, teacher, input_mask):
    """Mean squared difference of feature maps after a parameter-free norm.

    The part of feature map transfer that ignores each token's mean and scale,
    which the two losses below compare. Shapes are those of
    `feature_map_transfer_loss`.
    """
    difference = _without_statistics(student) - _without_statistics(teacher)
    return weighted_mean(ops.mean(ops.square(difference), axis=-1), input_mask)


def feature_mean_loss(student, teacher, input_mask):
    """Mean squared difference of each token's mean over its D features."""
    difference = ops.mean(student, axis=-1) - ops.mean(teacher, axis=-1)
    return weighted_mean(ops.square(difference), input_mask)


def feature_variance_loss(student, teacher, input_mask):
    """Mean absolute difference of each token's variance over its features.

    Differences at the level of rounding count as zero: compilers may compute
    two equal variances in different orders, and the absolute value would turn
    the sign of that noise into a gradient of full size.
    """
    teacher_variance = ops.var(teacher, axis=-1)
    difference = ops.abs(ops.var(student, axis=-1) - teacher_variance)
    known = difference > _ROUNDING * teacher_variance
    return weighted_mean(ops.where(known, difference, 0.0), input_mask)


def attention_transfer_loss(student_logits, teacher_logits, input_mask):
    """KL(teacher || student) of attention (paper, equation 3), in nats.

    Args:
        student_logits: [B, N, S, S], masked, before softmax.
        teacher_logits: [B, N, S, S].
        input_mask: [B, S], 1 for real tokens.

    Returns:
        The mean over heads and real queries, a scalar.
    """
    divergence = kl_divergence(student_logits, teacher_logits)  # [B, N, S]
    return weighted_mean(ops.mean(divergence, axis=1), input_mask)


def masked_lm_distillation_loss(
    student_logits, teacher_logits, masked_lm_weights, temperature: float = 1.0
):
    """KL(teacher || student) of the masked LM's predictions, in nats.

    It differs from the paper's soft cross-entropy by the teacher's own
    entropy, a constant that would only hide progress.

    Args:
        student_logits: [B, P, V].
        teacher_logits: [B, P, V].
        masked_lm_weights: [B, P], 1 for a prediction, 0 for an unused slot.
        temperature: see `kl_divergence`.

    Returns:
        The mean over predictions, a scalar.
    """
    divergence = kl_divergence(student_logits, teacher_logits, temperature)
    return weighted_mean(divergence, masked_lm_weights)


def _without_statistics(features):
    """Layer norm over the last axis without parameters, as in the release."""
    centered = features - ops.mean(features, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    return centered * ops.rsqrt(variance + _EPSILON)
