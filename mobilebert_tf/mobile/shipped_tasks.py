"""Tasks as the stages see them, until they are `tasks.Task`s."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.folding import SEQUENCES, SPANS, TOKENS
from mobilebert_tf.mobile.tflite_file import ANSWERER_LENGTH
from mobilebert_tf.modeling.losses import (
    classification_loss,
    masked_lm_loss,
    mean,
    regression_loss,
    span_loss,
    weighted_mean,
)
from mobilebert_tf.tasks.classification import ClassificationTask, task_loss
from mobilebert_tf.tasks.classification_sources import MULTI_LABEL, REGRESSION
from mobilebert_tf.tasks.question_answering import (
    QuestionSplit,
    SquadSettings,
    answer_questions,
    score_answers,
)
from mobilebert_tf.tasks.tagging import TokenClassificationTask
from mobilebert_tf.training.fine_tuning import distillation_loss


@dataclasses.dataclass(frozen=True)
class ShippedTask:
    """A present task in the terms of `tasks.task.Task`."""

    splits: Mapping[str, dict]
    score: Callable
    chosen_by: tuple[str, ...]
    scored: Mapping[str, list[str]]
    head: str
    file_options: Callable

    @property
    def num_train_examples(self):
        return len(self.splits.get("train", {}).get("input_ids", ()))

    @property
    def max_seq_length(self):
        return next(iter(self.splits.values()))["input_ids"].shape[1]

    def labelled(self, prefix):
        return self.scored[prefix]

    def evaluate(self, predict, prefix):
        return self.score(predict, prefix)

    def terms(self, outputs, batch, teacher_outputs, weights):
        if self.head == SEQUENCES and len(batch["labels"].shape) == 2:
            return _several_labels_loss(outputs, teacher_outputs, batch)
        return quantized_loss(self.head, outputs, batch, teacher_outputs)


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
        logits["start_logits"],
        logits["end_logits"],
        batch["start_positions"],
        batch["end_positions"],
    )


def _span_answers_loss(logits, teacher_logits, batch):
    start, end = (
        mean(_soft_cross_entropy(logits[name], teacher_logits[name]))
        for name in ("start_logits", "end_logits")
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


def _several_labels_loss(logits, teacher_logits, batch):
    teacher_logits = tf.stop_gradient(teacher_logits)
    labelled = task_loss(logits, batch["labels"])
    taught = distillation_loss(
        logits, teacher_logits, temperature=1.0, several=True
    )
    return {
        "loss": (labelled + taught) / 2.0,
        "task_loss": labelled,
        "distillation_loss": taught,
    }


def shipped_classifier(task: ClassificationTask) -> ShippedTask:
    """Adapts a classification task."""
    several = task.kind == MULTI_LABEL

    def file_options(tokenizer):
        if tokenizer is None:
            return {}
        if task.kind == REGRESSION:
            raise InputError("--metadata", "a classifier", "a regression")
        if any(rows["segment_ids"].any() for rows in task.splits.values()):
            expected = "a classifier of single texts"
            raise InputError("--metadata", expected, "pairs")
        return {
            "metadata": {
                "vocabulary": tokenizer.vocab,
                "label_names": task.label_names,
            },
            "output": f"{'independent_' * several}probabilities",
        }

    return ShippedTask(
        task.splits,
        task.metrics,
        task.chosen_by,
        {prefix: list(task.labelled(prefix)) for prefix in ("dev", "test")},
        SEQUENCES,
        file_options,
    )


def shipped_tagger(task: TokenClassificationTask) -> ShippedTask:
    """Adapts a tagging task."""
    """Adapts a classification task."""

    def file_options(tokenizer):
        if tokenizer is not None:
            raise InputError("--metadata", "a classifier", "a tagger")
        return {}

    def evaluate(predict, prefix):
        def predictor(arrays):
            # Of each token once, in their order (see `encode_sentences`).
            return predict(arrays)[arrays["label_weights"] > 0]

        return task.metrics(predictor, prefix)

    return ShippedTask(
        task.splits,
        evaluate,
        task.chosen_by,
        {prefix: list(task.labelled(prefix)) for prefix in ("dev", "test")},
        TOKENS,
        file_options,
    )


def shipped_question_answerer(
    splits: Mapping[str, QuestionSplit],
    settings: SquadSettings,
    threshold: float = 0.0,
    mlperf_order: bool = False,
) -> ShippedTask:
    """Adapts splits of questions."""
    length = settings.max_seq_length
    arrays = {}
    for name, split in splits.items():
        rows = np.arange(len(split.windows))
        arrays[name] = split.windows.inputs(rows, length)
        if name == "train":
            arrays[name] |= split.labels

    def evaluate(predict, prefix):
        if prefix != "dev" or "dev" not in splits:
            return {}
        logits = predict(arrays["dev"])
        answers = answer_questions(
            logits["start_logits"],
            logits["end_logits"],
            splits["dev"],
            settings,
        )
        scores = score_answers(answers, splits["dev"], threshold)
        return {f"dev_{name}": value for name, value in scores.items()}

    def file_options(tokenizer):
        options = {"mlperf_order": mlperf_order}
        if tokenizer is None:
            return options
        if length != ANSWERER_LENGTH:
            expected = f"--export_seq_length={ANSWERER_LENGTH}"
            raise InputError("--metadata", expected, length)
        return options | {"metadata": {"vocabulary": tokenizer.vocab}}

    return ShippedTask(
        arrays,
        evaluate,
        ("exact", "f1"),
        {"dev": ["dev"] if "dev" in splits else [], "test": []},
        SPANS,
        file_options,
    )
