"""What a rounded network learns: its task's labels, and the float model.

The losses are those of fine-tuning, on outputs as the deployment graph gives
them; by default the float model's answers are half of it.
"""

import tensorflow as tf

from mobilebert_tf.modeling.losses import (
    classification_loss,
    masked_lm_loss,
    mean,
    regression_loss,
    span_loss,
    weighted_mean,
)


def quantized_loss(
    task: str, logits, batch: dict, teacher_logits=None
) -> dict[str, tf.Tensor]:
    """Returns scalar losses, "loss" being what to minimise.

    Args:
        task: one of `deployment.TASKS`, but for features.
        logits: of the deployment graph, as its task has them.
        batch: the labels: `labels` int32 [B] (float for regression),
            `labels` and `label_weights` [B, S] for tokens, or
            `start_positions` and `end_positions` [B].
        teacher_logits: what the float model answers, as a Keras model gives
            it, or None.

    Returns:
        `loss`; with a teacher also its two parts, `task_loss` and
        `distillation_loss`, of which it is the mean.

    Raises:
        ValueError: for a task that has no labels.
    """
    if task not in _LOSSES:
        raise ValueError(
            f"quantisation-aware training needs one of the tasks "
            f"{', '.join(_LOSSES)}. Received: {task}"
        )
    labelled_loss, answers_loss = _LOSSES[task]
    labelled = labelled_loss(logits, batch)
    if teacher_logits is None:
        return {"loss": labelled}
    teacher_logits = tf.nest.map_structure(tf.stop_gradient, teacher_logits)
    taught = answers_loss(logits, teacher_logits, batch)
    return {
        "loss": (labelled + taught) / 2.0,
        "task_loss": labelled,
        "distillation_loss": taught,
    }


def _classification_loss(logits, batch):
    if logits.shape[-1] == 1:
        return regression_loss(logits, tf.cast(batch["labels"], tf.float32))
    return classification_loss(logits, batch["labels"])


def _classification_answers_loss(logits, teacher_logits, batch):
    if logits.shape[-1] == 1:
        return mean(tf.square(logits - teacher_logits))
    return mean(_soft_cross_entropy(logits, teacher_logits))


def _token_loss(logits, batch):
    return masked_lm_loss(logits, batch["labels"], batch["label_weights"])


def _token_answers_loss(logits, teacher_logits, batch):
    per_token = _soft_cross_entropy(logits, teacher_logits)
    return weighted_mean(per_token, batch["label_weights"])


def _span_loss(logits, batch):
    return span_loss(
        logits[..., 0],
        logits[..., 1],
        batch["start_positions"],
        batch["end_positions"],
    )


def _span_answers_loss(logits, teacher_logits, batch):
    start, end = (
        mean(_soft_cross_entropy(logits[..., index], teacher_logits[name]))
        for index, name in enumerate(("start_logits", "end_logits"))
    )
    return (start + end) / 2.0


def _soft_cross_entropy(logits, teacher_logits):
    """-sum(teacher probability * log probability) over the last axis."""
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=tf.nn.softmax(teacher_logits), logits=logits
    )


# Task -> (loss against labels, loss against the float model's answers).
_LOSSES = {
    "sequence_classification": (
        _classification_loss,
        _classification_answers_loss,
    ),
    "token_classification": (_token_loss, _token_answers_loss),
    "question_answering": (_span_loss, _span_answers_loss),
}
