"""Tasks as shipping sees them: what quantises a model, what scores its files.

Examples are those of fine-tuning, at the one width that a file has, and so are
the losses and the metrics.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import scipy.special
import tensorflow as tf

from mobilebert_tf.data.batching import array_dataset
from mobilebert_tf.data.classification_sources import MULTI_LABEL
from mobilebert_tf.data.squad_batches import training_dataset
from mobilebert_tf.data.squad_windows import Windows
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.mobile.deployment import INPUT_NAMES
from mobilebert_tf.mobile.metadata import TextMetadata
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.shipping import ShippedTask
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.training.classification_task import ClassificationTask
from mobilebert_tf.training.fine_tuning import task_loss
from mobilebert_tf.training.fine_tuning_distillation import distillation_loss
from mobilebert_tf.training.question_answering import (
    answer_questions,
    score_answers,
)
from mobilebert_tf.training.question_answering_task import (
    QuestionSplit,
    SquadSettings,
)
from mobilebert_tf.training.token_classification_task import (
    TokenClassificationTask,
)

# Windows whose inputs are made at once; they are run one by one.
_WINDOWS_AHEAD = 64


def shipped_classifier(
    model: MobileBertForSequenceClassification,
    task: ClassificationTask,
    tokenizer: WordpieceTokenizer | None = None,
) -> ShippedTask:
    """Returns a classifier or a regression, scored on dev and test.

    Args:
        model: fine-tuned on `task`.
        task: its examples, of the length that files shall have.
        tokenizer: makes files with metadata, which tokenize by themselves in
            the text tasks of phones; they return probabilities, not logits.
    """
    several = task.kind == MULTI_LABEL
    file_options = {}
    if tokenizer is not None:
        file_options = {
            "metadata": TextMetadata(tokenizer.vocab, model.label_names),
            "output": f"{'independent_' * several}probabilities",
        }

    def logits(_, outputs):
        return _logits(outputs, several) if file_options else outputs

    shipped = _shipped(model, task, task.max_seq_length, logits, file_options)
    if several:
        return dataclasses.replace(
            shipped, quantized_loss=_several_labels_loss(model)
        )
    return shipped


def shipped_tagger(
    model: MobileBertForTokenClassification,
    task: TokenClassificationTask,
    max_seq_length: int,
) -> ShippedTask:
    """Returns a tagger, scored on dev and test by whole entities.

    Args:
        model: fine-tuned on `task`.
        task: its sentences, in windows of the length that files shall have.
        max_seq_length: that length.
    """

    def logits(arrays, outputs):
        # Of each token once, in their order (see `encode_sentences`).
        return outputs[arrays["label_weights"] > 0]

    return _shipped(model, task, max_seq_length, logits)


def _shipped(
    model: MobileBertForSequenceClassification
    | MobileBertForTokenClassification,
    task: ClassificationTask | TokenClassificationTask,
    max_seq_length: int,
    logits: Callable,
    file_options: Mapping[str, object] | None = None,
) -> ShippedTask:
    """Returns a task whose examples are arrays by split.

    Args:
        model: fine-tuned on `task`.
        task: its examples, `max_seq_length` long.
        max_seq_length: columns of the examples.
        logits: from arrays and what a file makes of them to what `task`
            scores.
        file_options: see `ShippedTask`.
    """

    def train_batches(batch_size, seed, start_step):
        return array_dataset(
            task.splits["train"],
            batch_size=batch_size,
            seed=seed,
            shuffle=True,
            repeat=True,
            start_step=start_step,
        )

    def score(predict):
        def predictor(arrays):
            return logits(arrays, predict(arrays))

        return task.metrics(predictor, "dev") | task.metrics(predictor, "test")

    shown = [
        f"{split}_{name}"
        for prefix in ("dev", "test")
        for split in task.labelled(prefix)
        for name in task.chosen_by
    ]
    return ShippedTask(
        model,
        max_seq_length,
        task.num_train_examples,
        train_batches,
        score,
        shown,
        file_options=file_options or {},
    )


def _logits(probabilities: np.ndarray, several: bool) -> np.ndarray:
    """Logits that have these probabilities, which may be rounded to 0 or 1."""
    tiny = np.finfo(np.float32).tiny
    if several:
        return scipy.special.logit(np.clip(probabilities, tiny, 1.0 - 1e-7))
    return np.log(np.maximum(probabilities, tiny))


def _several_labels_loss(
    teacher: MobileBertForSequenceClassification,
) -> Callable[[QuantizationAwareModel], Callable]:
    """Returns the loss of classes that do not exclude each other.

    As with one label, half of it is the teacher's, here a yes or no for each
    class.
    """

    def build(quantized: QuantizationAwareModel):
        def compute_loss(batch: dict) -> dict[str, tf.Tensor]:
            inputs = {name: batch[name] for name in INPUT_NAMES}
            logits = quantized(**inputs)
            teacher_logits = tf.stop_gradient(teacher(inputs, training=False))
            labelled = task_loss(logits, batch["labels"])
            taught = distillation_loss(
                logits, teacher_logits, temperature=1.0, several=True
            )
            return {
                "loss": (labelled + taught) / 2.0,
                "task_loss": labelled,
                "distillation_loss": taught,
            }

        return compute_loss

    return build


def shipped_question_answerer(
    model: MobileBertForQuestionAnswering,
    splits: Mapping[str, QuestionSplit],
    settings: SquadSettings,
    threshold: float = 0.0,
    tokenizer: WordpieceTokenizer | None = None,
    mlperf_order: bool = False,
) -> ShippedTask:
    """Returns a question answerer, scored on dev as the official scripts do.

    Args:
        model: fine-tuned.
        splits: as far as they are there, in windows of `settings`.
        settings: whose `max_seq_length` files shall have.
        threshold: null odds above which dev questions stay unanswered.
        tokenizer: makes files with metadata, which tokenize by themselves in
            the text task of phones.
        mlperf_order: whether `end_logits` come first.
    """
    file_options = {"mlperf_order": mlperf_order}
    if tokenizer is not None:
        file_options["metadata"] = TextMetadata(tokenizer.vocab)
    length, train, dev = (
        settings.max_seq_length,
        splits.get("train"),
        splits.get("dev"),
    )

    def train_batches(batch_size, seed, start_step):
        return training_dataset(
            train.windows,
            train.labels,
            batch_size=batch_size,
            max_seq_length=length,
            seed=seed,
            start_step=start_step,
            one_width=True,
        )

    def score(predict):
        if dev is None:
            return {}
        logits = predict(_inputs(dev.windows, length))
        answers = answer_questions(
            logits["start_logits"], logits["end_logits"], dev, settings
        )
        scores = score_answers(answers, dev, threshold)
        return {f"dev_{name}": value for name, value in scores.items()}

    return ShippedTask(
        model,
        length,
        len(train.windows) if train else 0,
        train_batches,
        score,
        ("dev_exact", "dev_f1") if dev else (),
        file_options=file_options,
    )


def _inputs(
    windows: Windows, max_seq_length: int
) -> Iterator[dict[str, np.ndarray]]:
    """All windows, some at a time, at one width."""
    for first in range(0, len(windows), _WINDOWS_AHEAD):
        rows = np.arange(first, min(first + _WINDOWS_AHEAD, len(windows)))
        yield windows.inputs(rows, max_seq_length)
