"""The release's transfer losses as it computes them, defects included.

For reproducing it (google-research `mobilebert`, `run_pretraining.py`), never
for anything else:

* every mean runs over all elements, padding included;
* a block's mean and variance are compared with those of *all* the teacher's
  feature maps, embedding output included: a list and its element were
  confused;
* attention and soft labels are compared by cross-entropy, which stays above
  zero by the teacher's entropy. Its gradient is the divergence's;
* a temperature multiplies the teacher's last feature map, where the norm of
  the masked LM head all but undoes it.

Student before teacher, as in `losses`.
"""

from keras import ops

from mobilebert_tf.distillation.losses import without_statistics
from mobilebert_tf.modeling.losses import mean, weighted_mean


def normalized_feature_map_loss(student, teacher):
    """Mean squared difference of normalised [B, S, D] maps."""
    difference = without_statistics(student) - without_statistics(teacher)
    return mean(ops.square(difference))


def feature_mean_loss(student, teacher_maps):
    """Mean squared difference of means over D: one map against L + 1.

    Args:
        student: [B, S, D], the feature map of one block.
        teacher_maps: list of [B, S, D], embedding output first.

    Returns:
        The mean over all teacher maps and tokens, a scalar.
    """
    teacher_means = ops.mean(ops.stack(teacher_maps), axis=-1)  # [L + 1, B, S]
    squared = ops.square(teacher_means - ops.mean(student, axis=-1))
    return mean(ops.mean(squared, axis=0))


def feature_variance_loss(student, teacher_maps):
    """Mean absolute difference of variances over D: one map against L + 1."""
    teacher_variances = ops.var(ops.stack(teacher_maps), axis=-1)
    difference = ops.abs(teacher_variances - ops.var(student, axis=-1))
    return mean(ops.mean(difference, axis=0))


def attention_transfer_loss(student_logits, teacher_logits):
    """Cross-entropy of [B, N, S, S] attentions, over all queries and heads."""
    return mean(_cross_entropy(student_logits, teacher_logits))


def mixed_masked_lm_loss(
    student_logits, teacher_logits, masked_lm_ids, masked_lm_weights, pd_alpha
):
    """Cross-entropy against a mixture of true and soft labels.

    Args:
        student_logits: [B, P, V].
        teacher_logits: [B, P, V], not read where `pd_alpha` is 1.
        masked_lm_ids: int [B, P].
        masked_lm_weights: [B, P].
        pd_alpha: share of the true label.

    Returns:
        The sum over predictions, divided by their number + 1e-5.
    """
    log_probs = ops.log_softmax(student_logits, axis=-1)
    ids = ops.expand_dims(ops.cast(masked_lm_ids, "int32"), -1)
    true_log_prob = ops.take_along_axis(log_probs, ids, axis=-1)
    loss = -pd_alpha * ops.squeeze(true_log_prob, -1)
    if pd_alpha != 1.0:
        soft = _cross_entropy(student_logits, teacher_logits)
        loss = loss + (1.0 - pd_alpha) * soft
    total = ops.sum(ops.cast(masked_lm_weights, loss.dtype))
    return weighted_mean(loss, masked_lm_weights) * (total / (total + 1e-5))


def _cross_entropy(student_logits, teacher_logits):
    return -ops.sum(
        ops.softmax(teacher_logits, axis=-1)
        * ops.log_softmax(student_logits, axis=-1),
        axis=-1,
    )
