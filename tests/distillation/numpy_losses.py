"""The transfer losses again, in NumPy and float64, one token at a time.

Written from the paper and from what the release's code (google-research
`mobilebert`) does, not from ours. Maps are [B, S, D], logits [B, N, S, S] or
[B, P, V]. The release's losses (`release_*`) have defects: padding counts in
every mean, a block's statistics are compared with those of all the teacher's
maps, and cross-entropies stay above zero by the teacher's entropy.
"""

import numpy as np
import scipy.special
import scipy.stats


def _over_real_tokens(per_token, mask):
    """Mean of per_token(b, s) over the tokens that are no padding."""
    return np.mean([per_token(b, s) for b, s in np.argwhere(mask)])


def _over_all_tokens(per_token, shape):
    return np.mean([per_token(b, s) for b, s in np.ndindex(*shape[:2])])


def probs(logits):
    return scipy.special.softmax(logits.astype("float64"), axis=-1)


def feature_map_transfer_loss(student, teacher, mask):
    return _over_real_tokens(
        lambda b, s: np.mean((student[b, s] - teacher[b, s]) ** 2), mask
    )


def _normalized_difference(ours, theirs):
    difference = scipy.stats.zscore(ours) - scipy.stats.zscore(theirs)
    return np.mean(difference**2)


def normalized_feature_map_loss(student, teacher, mask):
    return _over_real_tokens(
        lambda b, s: _normalized_difference(student[b, s], teacher[b, s]), mask
    )


def feature_mean_loss(student, teacher, mask):
    return _over_real_tokens(
        lambda b, s: (student[b, s].mean() - teacher[b, s].mean()) ** 2, mask
    )


def feature_variance_loss(student, teacher, mask):
    return _over_real_tokens(
        lambda b, s: abs(student[b, s].var() - teacher[b, s].var()), mask
    )


def attention_transfer_loss(student, teacher, mask):
    ours, theirs = probs(student), probs(teacher)
    return _over_real_tokens(
        lambda b, s: np.mean(
            scipy.special.rel_entr(theirs[b, :, s], ours[b, :, s]).sum(-1)
        ),
        mask,
    )


def masked_lm_distillation_loss(student, teacher, weights, temperature):
    ours, theirs = probs(student / temperature), probs(teacher / temperature)
    divergence = scipy.special.rel_entr(theirs, ours).sum(-1)
    return temperature**2 * (divergence * weights).sum() / weights.sum()


def release_normalized_feature_map_loss(student, teacher):
    return _over_all_tokens(
        lambda b, s: _normalized_difference(student[b, s], teacher[b, s]),
        student.shape,
    )


def release_feature_mean_loss(student, teacher_maps):
    return _over_all_tokens(
        lambda b, s: np.mean(
            [(m[b, s].mean() - student[b, s].mean()) ** 2 for m in teacher_maps]
        ),
        student.shape,
    )


def release_feature_variance_loss(student, teacher_maps):
    return _over_all_tokens(
        lambda b, s: np.mean(
            [abs(m[b, s].var() - student[b, s].var()) for m in teacher_maps]
        ),
        student.shape,
    )


def release_attention_transfer_loss(student, teacher):
    log_probs = scipy.special.log_softmax(student.astype("float64"), axis=-1)
    return np.mean(-(probs(teacher) * log_probs).sum(-1))


def release_masked_lm_loss(student, teacher, ids, weights, ratio):
    one_hot = np.eye(student.shape[-1])[ids]
    labels = ratio * one_hot + (1 - ratio) * probs(teacher)
    log_probs = scipy.special.log_softmax(student.astype("float64"), axis=-1)
    per_position = -(labels * log_probs).sum(-1)
    return (per_position * weights).sum() / (weights.sum() + 1e-5)


def numeric_gradient(function, array, step=1e-4):
    """Central differences of a scalar function of a float64 array."""
    array = array.astype("float64")
    gradient = np.empty_like(array)
    for index in np.ndindex(*array.shape):
        value = array[index]
        array[index] = value + step
        above = function(array)
        array[index] = value - step
        gradient[index] = (above - function(array)) / (2 * step)
        array[index] = value
    return gradient
