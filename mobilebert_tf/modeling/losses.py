"""Losses of pre-training and of the tasks, as pure functions.

All take logits and labels, return a scalar, and leave weighting and summing to
their callers.
"""

from keras import ops


def masked_lm_loss(logits, masked_lm_ids, masked_lm_weights):
    """Cross-entropy at the masked positions.

    Args:
        logits: [B, P, V].
        masked_lm_ids: int [B, P], the original pieces.
        masked_lm_weights: [B, P], 1 for a prediction, 0 for an unused slot.

    Returns:
        The mean over predictions, in nats.
    """
    per_position = _sparse_cross_entropy(logits, masked_lm_ids)
    return weighted_mean(per_position, masked_lm_weights)


def next_sentence_loss(logits, next_sentence_labels):
    """Mean cross-entropy of [B, 2] logits against labels [B, 1]; 0 is next."""
    labels = ops.reshape(next_sentence_labels, (-1,))
    return ops.mean(_sparse_cross_entropy(logits, labels))


def classification_loss(logits, labels):
    """Mean cross-entropy of [B, C] logits against int labels [B]."""
    return ops.mean(_sparse_cross_entropy(logits, labels))


def regression_loss(predictions, labels):
    """Mean squared error of [B, 1] predictions against labels [B]."""
    return ops.mean(ops.square(ops.squeeze(predictions, -1) - labels))


def span_loss(start_logits, end_logits, start_positions, end_positions):
    """Mean of the two cross-entropies over positions; logits are [B, S]."""
    start = ops.mean(_sparse_cross_entropy(start_logits, start_positions))
    end = ops.mean(_sparse_cross_entropy(end_logits, end_positions))
    return (start + end) / 2.0


def weighted_mean(values, weights):
    """Sum of values * weights over the sum of weights; zero if none counts."""
    weights = ops.cast(weights, values.dtype)
    return ops.sum(values * weights) / ops.maximum(ops.sum(weights), 1.0)


def _sparse_cross_entropy(logits, labels):
    log_probs = ops.log_softmax(logits, axis=-1)
    labels = ops.expand_dims(ops.cast(labels, "int32"), -1)
    return -ops.squeeze(ops.take_along_axis(log_probs, labels, axis=-1), -1)
