"""Masked LM and next sentence prediction: loss, held-out measures, finish."""

import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.config import inputs_of
from mobilebert_tf.data.stream import PretrainingInput
from mobilebert_tf.modeling.folder import load_weights
from mobilebert_tf.modeling.losses import masked_lm_loss, next_sentence_loss
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.loop import Run
from mobilebert_tf.training.model_card import write_model_folder
from mobilebert_tf.training.options import BEST, PretrainingOptions
from mobilebert_tf.training.run_folder import BEST_FOLDER


def pretraining_loss(
    model: MobileBertForPretraining,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function that maps a batch to `loss` and its two terms."""

    def compute_loss(batch):
        inputs = inputs_of(batch, model.further_inputs)
        outputs = model(inputs, training=True)
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


class HeldOutText:
    """Measures a model on held-out text, as often as asked while it trains.

    Its graph is traced once. Neither training data nor random numbers are
    disturbed.
    """

    def __init__(self, model: MobileBertForPretraining, data: PretrainingInput):
        self.model = model
        self.data = data
        self._sums = tf.function(
            functools.partial(_evaluation_sums, model), autograph=False
        )

    def measure(self, max_batches: int | None = None) -> dict[str, float]:
        """Measures the model in its present state.

        Args:
            max_batches: largest number of batches to read, always the same
                ones; None reads the whole held-out part.

        Returns:
            Means over predictions and pairs; losses are in nats.
        """
        batches, number = self.data.held_out_batches()
        if max_batches is not None:
            number = min(number, max_batches)
        sums = np.zeros(6)
        for batch in itertools.islice(batches, number):
            sums += self._sums(batch).numpy()
        right, loss, predictions, right_next, next_loss, pairs = sums
        return {
            "masked_lm_accuracy": right / predictions,
            "masked_lm_loss": loss / predictions,
            "next_sentence_accuracy": right_next / pairs,
            "next_sentence_loss": next_loss / pairs,
        }

    def first_batch(self) -> dict[str, np.ndarray]:
        """Returns the first batch of the held-out part."""
        batches, _ = self.data.held_out_batches()
        return next(batches)

    def evaluation(self, options: PretrainingOptions) -> Evaluation | None:
        """Returns an evaluation that ranks by masked LM loss.

        The accuracy of few predictions ties too often. None if the options
        ask for none before the end.
        """
        if not options.evaluate_every:
            return None
        longest = self.model.config.max_position_embeddings

        def measure():
            values = self.measure(options.max_eval_batches)
            # Named apart from the terms of the training loss.
            return {f"held_out_{name}": values[name] for name in values}

        def keep(folder: Path) -> None:
            self.model.save_pretrained(folder)
            self.data.tokenizer.write(folder, longest)

        return Evaluation(
            options.evaluate_every,
            measure,
            lambda metrics: -metrics["held_out_masked_lm_loss"],
            keep,
        )


def _evaluation_sums(model: MobileBertForPretraining, batch: dict) -> tf.Tensor:
    """Returns a batch's numerators and denominators of the means."""
    inputs = inputs_of(batch, model.further_inputs)
    outputs = model(inputs, training=False)
    words, pairs = outputs["masked_lm_logits"], outputs["next_sentence_logits"]
    ids, weights = batch["masked_lm_ids"], batch["masked_lm_weights"]
    labels = batch["next_sentence_labels"][:, 0]

    def is_right(logits, labels):
        found = keras.ops.argmax(logits, axis=-1)
        return tf.cast(keras.ops.equal(found, labels), tf.float32)

    num_predictions = tf.reduce_sum(weights)
    num_pairs = tf.cast(tf.shape(labels)[0], tf.float32)
    return tf.stack(
        [
            tf.reduce_sum(is_right(words, ids) * weights),
            num_predictions * masked_lm_loss(words, ids, weights),
            num_predictions,
            tf.reduce_sum(is_right(pairs, labels)),
            num_pairs * next_sentence_loss(pairs, labels),
            num_pairs,
        ]
    )


def finish_pretraining(
    run: Run,
    held_out: HeldOutText,
    final_model: str,
    *,
    notes: Mapping[str, object],
    **card,
) -> None:
    """Evaluates on all held-out text, logs, and writes the run's model folder.

    Args:
        run: the run that trained the model.
        held_out: the model and its held-out text.
        final_model: `BEST` for the weights of the run's best evaluation,
            `LAST` for the last ones.
        notes: for the model card.
        **card: further arguments of `write_model_card`.
    """
    model, best = held_out.model, run.best()
    notes = dict(notes)
    if final_model == BEST and best:
        load_weights(model, run.folder / BEST_FOLDER)
        notes["Weights"] = (
            f"from step {best['step']}, the best evaluation on held-out text; "
            "the results are on the same text, so they are optimistic"
        )
        print(f"Using the weights of step {best['step']}, the best", flush=True)
    results = held_out.measure()
    run.finish(results)
    write_model_folder(
        run.folder,
        model,
        held_out.data.tokenizer,
        results=results,
        notes=notes,
        **card,
    )
