"""Sequence classification and regression: losses, predictions and scores.

A task is a single choice of a class, several classes at once (labels are then
[B, C]), or, with a single output, a number.
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.special
import tensorflow as tf
from keras import ops

from mobilebert_tf.data.bucketing import (
    BUCKET_LENGTHS,
    INPUTS,
    evaluation_batches,
)
from mobilebert_tf.evaluation.classification import (
    classification_metrics,
    multi_label_metrics,
    regression_metrics,
)
from mobilebert_tf.modeling.losses import (
    classification_loss,
    mean,
    regression_loss,
)
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification
from mobilebert_tf.training.inference import inference_step

Arrays = dict[str, np.ndarray]


def multi_label_loss(logits, labels):
    """Mean binary cross-entropy of [B, C] logits against 0 or 1, in nats."""
    labels = ops.cast(labels, logits.dtype)
    # log(1 + exp(x)) - x y, without overflow for large logits.
    losses = ops.maximum(logits, 0.0) - logits * labels
    return mean(losses + ops.log1p(ops.exp(-ops.abs(logits))))


def task_loss(logits, labels):
    """The loss of logits [B, C] against labels [B] or, several, [B, C]."""
    if len(labels.shape) == 2:
        return multi_label_loss(logits, labels)
    if logits.shape[-1] == 1:
        return regression_loss(logits, labels)
    return classification_loss(logits, labels)


def fine_tuning_loss(
    model: MobileBertForSequenceClassification,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch with `labels` to `loss`."""

    def compute_loss(batch):
        return {"loss": task_loss(model(batch, training=True), batch["labels"])}

    return compute_loss


class Predictor:
    """Runs a model over examples, in batches of a few widths.

    Traced once: it may be called again while the model is trained.

    Args:
        model: the classifier.
        batch_size: examples at once.
        bucket_lengths: widths of batches.
    """

    def __init__(
        self,
        model: MobileBertForSequenceClassification,
        batch_size: int,
        bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
    ):
        self._batch_size = batch_size
        self._bucket_lengths = bucket_lengths
        self._num_outputs = len(model.label_names)
        self._step = inference_step(model, batch_size)

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """Returns the logits of all examples, float32 [num_examples, C]."""
        inputs = {name: arrays[name] for name in INPUTS}
        shape = (len(inputs["input_ids"]), self._num_outputs)
        logits = np.zeros(shape, np.float32)
        for rows, batch in evaluation_batches(
            inputs, self._batch_size, self._bucket_lengths
        ):
            logits[rows] = self._step(batch)[: len(rows)]
        return logits


def probabilities(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Returns probabilities of logits [num, C]; a regression's value as is.

    Of several classes at once, each has a probability of its own.
    """
    logits = logits.astype(np.float64)
    if multi_label:
        return scipy.special.expit(logits)
    if logits.shape[-1] == 1:
        return logits
    return scipy.special.softmax(logits, axis=-1)


def decisions(logits: np.ndarray, multi_label: bool = False) -> np.ndarray:
    """Returns what logits [num, C] say.

    Class indices [num]; numbers [num] of a regression; 0 or 1 for each of
    several classes at once, [num, C], 1 from a probability of a half on.
    """
    if multi_label:
        return (logits >= 0).astype(np.int32)
    return logits[:, 0] if logits.shape[-1] == 1 else np.argmax(logits, axis=-1)


def task_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores logits [num_examples, C].

    Labels [num_examples, C] are several classes at once; a single column of
    logits is a regression otherwise.
    """
    if labels.ndim == 2:
        return multi_label_metrics(labels, decisions(logits, multi_label=True))
    predictions = decisions(logits)
    if logits.shape[-1] == 1:
        return regression_metrics(labels, predictions)
    return classification_metrics(labels, predictions)
