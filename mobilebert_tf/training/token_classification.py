"""Token classification: the loss, and predictions."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from keras import ops

from mobilebert_tf.data.bucketing import (
    BUCKET_LENGTHS,
    INPUTS,
    evaluation_batches,
)
from mobilebert_tf.modeling.losses import masked_lm_loss
from mobilebert_tf.modeling.models import MobileBertForTokenClassification
from mobilebert_tf.training.inference import inference_step

Arrays = dict[str, np.ndarray]


def token_classification_loss(
    model: MobileBertForTokenClassification,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch of `encode_sentences` to `loss`.

    That is the mean cross-entropy over the tokens of the batch, in nats, each
    at its first piece.
    """

    def compute_loss(batch):
        return {"loss": token_loss(model(batch, training=True), batch)}

    return compute_loss


def token_loss(logits, batch):
    """The loss of logits [B, width, C], as `token_classification_loss`."""
    # Predicting the labels of some positions is all that masked LM is.
    return masked_lm_loss(
        at_all_labels(logits, batch), batch["labels"], batch["label_weights"]
    )


def at_all_labels(values, batch):
    """Fills values [B, width, C] up with zeros, to where labels end.

    Inputs were cut to the width of their bucket, labels were not. Weights must
    stay as they came (see `build_train_step`), so that it is the values that
    grow: nothing is weighed where they do.
    """
    missing = ops.shape(batch["labels"])[1] - ops.shape(values)[1]
    return ops.pad(values, ((0, 0), (0, missing), (0, 0)))


class TokenPredictor:
    """Runs a tagger over sentences, in batches of a few widths.

    Traced once: it may be called again while the model is trained.

    Args:
        model: the tagger.
        batch_size: windows at once.
        bucket_lengths: widths of batches.
    """

    def __init__(
        self,
        model: MobileBertForTokenClassification,
        batch_size: int,
        bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
    ):
        self._batch_size = batch_size
        self._bucket_lengths = bucket_lengths
        self._num_labels = len(model.label_names)
        self._step = inference_step(model, batch_size)

    def __call__(self, arrays: Arrays) -> np.ndarray:
        """Returns logits, float32 [number of tokens, C], in their order."""
        inputs = {name: arrays[name] for name in INPUTS}
        is_token = arrays["label_weights"] > 0
        number = np.cumsum(is_token).reshape(is_token.shape) - 1
        logits = np.zeros((is_token.sum(), self._num_labels), np.float32)
        for rows, batch in evaluation_batches(
            inputs, self._batch_size, self._bucket_lengths
        ):
            outputs = self._step(batch)[: len(rows)]
            width = outputs.shape[1]
            here = is_token[rows, :width]
            logits[number[rows, :width][here]] = outputs[here]
        return logits
