"""Masked LM and next sentence prediction: the loss, and how good it gets."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.data.pretraining_input import PretrainingInput
from mobilebert_tf.modeling.losses import masked_lm_loss, next_sentence_loss
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.training.model_card import write_model_folder
from mobilebert_tf.training.run import Run


def pretraining_loss(
    model: MobileBertForPretraining,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch to `loss` and its two terms."""

    def compute_loss(batch):
        outputs = model(batch, training=True)
        terms = {
            "masked_lm_loss": masked_lm_loss(
                outputs["masked_lm_logits"],
                batch["masked_lm_ids"],
                batch["masked_lm_weights"],
            ),
            "next_sentence_loss": next_sentence_loss(
                outputs["next_sentence_logits"], batch["next_sentence_labels"]
            ),
        }
        return {"loss": sum(terms.values())} | terms

    return compute_loss


def evaluate_pretraining(
    model: MobileBertForPretraining, dataset: tf.data.Dataset, num_batches: int
) -> dict[str, float]:
    """Measures a model on held-out batches.

    Returns:
        `masked_lm_accuracy`, `masked_lm_loss` (nats), `next_sentence_accuracy`
        and `next_sentence_loss`, averaged over predictions and pairs.
    """

    @tf.function(autograph=False)
    def evaluation_step(batch):
        outputs = model(batch, training=False)
        masked_lm_logits = outputs["masked_lm_logits"]
        next_sentence_logits = outputs["next_sentence_logits"]
        labels = batch["next_sentence_labels"][:, 0]
        weights = batch["masked_lm_weights"]
        right = keras.ops.equal(
            keras.ops.argmax(masked_lm_logits, axis=-1), batch["masked_lm_ids"]
        )
        right_next = keras.ops.equal(
            keras.ops.argmax(next_sentence_logits, axis=-1), labels
        )
        num_predictions = tf.reduce_sum(weights)
        num_pairs = tf.cast(tf.shape(labels)[0], tf.float32)
        return tf.stack(
            [
                tf.reduce_sum(tf.cast(right, tf.float32) * weights),
                num_predictions
                * masked_lm_loss(
                    masked_lm_logits, batch["masked_lm_ids"], weights
                ),
                num_predictions,
                tf.reduce_sum(tf.cast(right_next, tf.float32)),
                num_pairs * next_sentence_loss(next_sentence_logits, labels),
                num_pairs,
            ]
        )

    sums = np.zeros(6)
    for batch in dataset.take(num_batches):
        sums += evaluation_step(batch).numpy()
    right, loss, predictions, right_next, next_loss, pairs = sums
    return {
        "masked_lm_accuracy": right / predictions,
        "masked_lm_loss": loss / predictions,
        "next_sentence_accuracy": right_next / pairs,
        "next_sentence_loss": next_loss / pairs,
    }


def finish_pretraining(
    run: Run,
    model: MobileBertForPretraining,
    data: PretrainingInput,
    **card,
) -> None:
    """Evaluates on held-out examples, logs, and writes the model folder.

    Args:
        run: the run that trained `model`; its folder is written.
        model: the pre-trained model.
        data: its input.
        **card: of `write_model_card`, besides the results.
    """
    results = evaluate_pretraining(model, *data.held_out_batches())
    run.finish(results)
    write_model_folder(
        run.folder, model, data.tokenizer, results=results, **card
    )
