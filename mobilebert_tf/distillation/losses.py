"""Transfer losses as pure functions: student first, teacher second.

Each is zero, with a zero gradient, where student equals teacher. Means run over
real tokens only.
"""

from keras import ops

from mobilebert_tf.modeling.losses import weighted_mean

# The layer norm inside the feature map loss; the release's epsilon.
_EPSILON = 1e-12
# Variances that differ by less than this part are equal up to rounding.
_ROUNDING = 1e-6


def feature_map_transfer_loss(student, teacher, input_mask):
    """Mean squared difference of feature maps (paper, equation 2).

    The paper's formula as it stands. The release, and our default, trains on
    the three losses below instead, into which the paper says to split it.

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

    The part of feature map transfer (paper, equation 2) that ignores each
    token's mean and scale, which the two statistics losses below carry.

    Args:
        student: [B, S, D].
        teacher: [B, S, D].
        input_mask: [B, S], 1 for real tokens.

    Returns:
        A scalar.
    """
    difference = without_statistics(student) - without_statistics(teacher)
    return weighted_mean(ops.mean(ops.square(difference), axis=-1), input_mask)


def feature_mean_loss(student, teacher, input_mask):
    """Mean squared difference of each token's mean over its D features."""
    difference = ops.mean(student, axis=-1) - ops.mean(teacher, axis=-1)
    return weighted_mean(ops.square(difference), input_mask)


def feature_variance_loss(student, teacher, input_mask):
    """Mean absolute difference of each token's variance over its features.

    Rounding is no difference: compilers may compute two equal variances in
    different orders, and an absolute value would turn the sign of that noise
    into a gradient of full size.
    """
    teacher_variance = ops.var(teacher, axis=-1)
    difference = ops.abs(ops.var(student, axis=-1) - teacher_variance)
    known = difference > _ROUNDING * teacher_variance
    return weighted_mean(ops.where(known, difference, 0.0), input_mask)


def attention_transfer_loss(student_logits, teacher_logits, input_mask):
    """KL(teacher || student) of the attention, per head and real query.

    Paper, equation 3.

    Args:
        student_logits: [B, N, S, S], masked, before softmax.
        teacher_logits: the same of the teacher.
        input_mask: [B, S], 1 for real tokens.

    Returns:
        The mean over sequences' real queries and heads, in nats.
    """
    divergence = _kl_divergence(student_logits, teacher_logits)  # [B, N, S]
    return weighted_mean(ops.mean(divergence, axis=1), input_mask)


def masked_lm_distillation_loss(
    student_logits, teacher_logits, masked_lm_weights, temperature: float = 1.0
):
    """Soft cross-entropy of the student against the teacher's predictions.

    Written as KL(teacher || student), which differs from the cross-entropy by
    the teacher's own entropy: a constant that only hides progress.

    Args:
        student_logits: [B, P, V].
        teacher_logits: [B, P, V].
        masked_lm_weights: [B, P].
        temperature: divides both logits; the result is multiplied by its
            square, so that gradients keep their size.

    Returns:
        The mean over predictions, in nats.
    """
    divergence = _kl_divergence(
        student_logits / temperature, teacher_logits / temperature
    )
    return temperature**2 * weighted_mean(divergence, masked_lm_weights)


def _kl_divergence(student_logits, teacher_logits):
    """KL(teacher || student) over the last axis, in nats, unreduced."""
    student_log_probs = ops.log_softmax(student_logits, axis=-1)
    teacher_log_probs = ops.log_softmax(teacher_logits, axis=-1)
    return ops.sum(
        ops.exp(teacher_log_probs) * (teacher_log_probs - student_log_probs),
        axis=-1,
    )


def without_statistics(features):
    """Layer norm over the last axis without parameters, as the release's."""
    centered = features - ops.mean(features, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    return centered * ops.rsqrt(variance + _EPSILON)
