"""Losses of pre-training and of the tasks, as pure functions.

All but `kl_divergence` return a scalar; callers weight and add them. Each is a
`mean` or a `weighted_mean`, that is, a sum over examples divided by a count.
If the examples are only a part of the batch, for example on one of several
devices, `dividing_by` provides the counts of the whole batch, so that the
losses of the parts, and their gradients, add up to those of the batch.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator

from keras import ops

_counts = contextvars.ContextVar("counts", default=None)


@contextlib.contextmanager
def dividing_by(num_examples, sum_of_weights: Callable) -> Iterator[None]:
    """Makes the means in this context divide by counts of the whole batch.

    Args:
        num_examples: scalar by which `mean` divides.
        sum_of_weights: maps the weights given to `weighted_mean` (the same
            tensor object) to the scalar by which it divides.
    """
    token = _counts.set((num_examples, sum_of_weights))
    try:
        yield
    finally:
        _counts.reset(token)


def mean(values):
    """Mean of values [B, ...] over all axes."""
    if _counts.get() is None:
        return ops.mean(values)
    num_examples, _ = _counts.get()
    count = ops.cast(num_examples, values.dtype) * math.prod(values.shape[1:])
    return ops.sum(values) / ops.maximum(count, 1.0)


def weighted_mean(values, weights):
    """Sum of values * weights over the sum of weights; 0 if all are 0."""
    if _counts.get() is None:
        total = ops.sum(ops.cast(weights, values.dtype))
    else:
        _, sum_of_weights = _counts.get()
        total = ops.cast(sum_of_weights(weights), values.dtype)
    weights = ops.cast(weights, values.dtype)
    return ops.sum(values * weights) / ops.maximum(total, 1.0)


def masked_lm_loss(logits, masked_lm_ids, masked_lm_weights):
    """Cross-entropy at the masked positions.

    Args:
        logits: [B, P, V].
        masked_lm_ids: int [B, P], the original word pieces.
        masked_lm_weights: [B, P], 1 for a prediction, 0 for an unused slot.

    Returns:
        The mean over predictions, in nats.
    """
    per_position = _sparse_cross_entropy(logits, masked_lm_ids)
    return weighted_mean(per_position, masked_lm_weights)


def next_sentence_loss(logits, next_sentence_labels):
    """Mean cross-entropy of [B, 2] logits against labels [B, 1]; 0 is next."""
    labels = ops.reshape(next_sentence_labels, (-1,))
    return mean(_sparse_cross_entropy(logits, labels))


def classification_loss(logits, labels, class_weights=None, focal_gamma=0.0):
    """Mean cross-entropy of [B, C] logits against int labels [B].

    Args:
        logits: [B, C].
        labels: int [B].
        class_weights: [C], factors of the losses of each class's examples. The
            mean is over examples, not weights, so that they all count alike in
            any batch.
        focal_gamma: a loss is multiplied by (1 - p)**focal_gamma, p being the
            probability of the label (Lin et al. 2017).
    """
    losses = _focal(_sparse_cross_entropy(logits, labels), focal_gamma)
    if class_weights is not None:
        weights = ops.convert_to_tensor(class_weights, dtype=losses.dtype)
        losses = losses * ops.take(weights, labels)
    return mean(losses)


def _focal(losses, gamma):
    """Weights losses -log(p) by (1 - p)**gamma; 0 leaves them as they are."""
    if not gamma:
        return losses
    # Not 0, where the power of a gamma below 1 has no gradient.
    return losses * ops.maximum(-ops.expm1(-losses), 1e-7) ** gamma


def regression_loss(predictions, labels):
    """Mean squared error of [B, 1] predictions against labels [B]."""
    return mean(ops.square(ops.squeeze(predictions, -1) - labels))


def multi_label_loss(logits, labels, class_weights=None, focal_gamma=0.0):
    """Mean binary cross-entropy of [B, C] logits against 0 or 1, in nats.

    `class_weights` [C] are factors of the losses of the ones; for `focal_gamma`
    see `classification_loss`.
    """
    labels = ops.cast(labels, logits.dtype)
    # log(1 + exp(x)) - x y, written so that large logits do not overflow.
    losses = ops.maximum(logits, 0.0) - logits * labels
    losses = losses + ops.log1p(ops.exp(-ops.abs(logits)))
    losses = _focal(losses, focal_gamma)
    if class_weights is not None:
        weights = ops.convert_to_tensor(class_weights, dtype=losses.dtype)
        losses = losses * (1.0 + labels * (weights - 1.0))
    return mean(losses)


def token_loss(logits, labels, label_weights):
    """Mean cross-entropy over the labelled tokens of a batch, in nats.

    Args:
        logits: [B, W, C], W at most S.
        labels: int [B, S].
        label_weights: [B, S], 1 at the first piece of each token, else 0.
    """
    return masked_lm_loss(pad_to(logits, labels), labels, label_weights)


def pad_to(values, labels):
    """Pads values [B, W, ...] with zeros to the length S of labels [B, S].

    Inputs are cut to the width of their bucket and labels are not: the weights
    of a mean must stay the tensor that came in the batch (see `dividing_by`).
    """
    missing = ops.shape(labels)[1] - ops.shape(values)[1]
    padding = [(0, 0), (0, missing), *[(0, 0)] * (len(values.shape) - 2)]
    return ops.pad(values, padding)


def kl_divergence(student_logits, teacher_logits, temperature=None):
    """KL(teacher || student) over the last axis, in nats; 0 if equal.

    Args:
        student_logits: [..., C].
        teacher_logits: [..., C].
        temperature: divides both logits; the result is multiplied by its
            square, so that gradients keep their size. None does neither.

    Returns:
        [...]; take the `mean` or `weighted_mean` of it.
    """
    if temperature is not None:
        student_logits = student_logits / temperature
        teacher_logits = teacher_logits / temperature
    student = ops.log_softmax(student_logits, axis=-1)
    teacher = ops.log_softmax(teacher_logits, axis=-1)
    divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
    return divergence if temperature is None else temperature**2 * divergence


def span_loss(start_logits, end_logits, start_positions, end_positions):
    """Mean of the two cross-entropies over positions; logits are [B, S]."""
    start = mean(_sparse_cross_entropy(start_logits, start_positions))
    end = mean(_sparse_cross_entropy(end_logits, end_positions))
    return (start + end) / 2.0


def _sparse_cross_entropy(logits, labels):
    log_probs = ops.log_softmax(logits, axis=-1)
    labels = ops.expand_dims(ops.cast(labels, "int32"), -1)
    return -ops.squeeze(ops.take_along_axis(log_probs, labels, axis=-1), -1)
