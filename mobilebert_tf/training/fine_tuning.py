"""Sequence classification and regression: the loss, and predictions."""

from collections.abc import Callable

import keras
import numpy as np
import scipy.special
import tensorflow as tf

from mobilebert_tf.data.batching import array_dataset
from mobilebert_tf.evaluation.classification import (
    classification_metrics,
    regression_metrics,
)
from mobilebert_tf.modeling.losses import classification_loss, regression_loss
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification


def fine_tuning_loss(
    model: MobileBertForSequenceClassification,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch with `labels` to `loss`."""
    loss = (
        regression_loss if len(model.label_names) == 1 else classification_loss
    )

    def compute_loss(batch):
        return {"loss": loss(model(batch, training=True), batch["labels"])}

    return compute_loss


def predict_logits(
    model: keras.Model, arrays: dict[str, np.ndarray], batch_size: int
) -> np.ndarray:
    """Returns the logits of all examples, [num_examples, C]."""
    inputs = {key: arrays[key] for key in arrays if key != "labels"}

    @tf.function(autograph=False)
    def prediction_step(batch):
        return model(batch, training=False)

    logits = [
        prediction_step(batch).numpy()
        for batch in array_dataset(inputs, batch_size=batch_size, pad_last=True)
    ]
    return np.concatenate(logits)[: len(inputs["input_ids"])]


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Returns the softmax of logits [num, C]; a regression's value as is."""
    if logits.shape[-1] == 1:
        return logits
    return scipy.special.softmax(logits.astype(np.float64), axis=-1)


def task_metrics(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Scores logits [num_examples, C]; a single column is a regression."""
    if logits.shape[-1] == 1:
        return regression_metrics(labels, logits[:, 0])
    return classification_metrics(labels, np.argmax(logits, axis=-1))
