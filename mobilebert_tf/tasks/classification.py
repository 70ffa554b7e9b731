"""Sequence classification and regression: losses, predictions and scores.

A task is a single choice of a class, several classes at once (labels are then
[B, C]), or, with a single output, a number.

A classification task: its examples, encoded, and the model for it.

Owns which classes there are, by which metrics a task is scored, what is written
of its predictions, and how a classifier begins.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.special
import tensorflow as tf
from keras import ops

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.batches import (
    BUCKET_LENGTHS,
    INPUTS,
    evaluation_batches,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.modeling.load import (
    label_names_of,
    load,
    load_encoder_weights,
)
from mobilebert_tf.modeling.losses import (
    classification_loss,
    mean,
    regression_loss,
)
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification
from mobilebert_tf.tasks.classification_sources import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TaskSource,
)
from mobilebert_tf.tasks.glue import (
    GLUE_TASKS,
    METRICS,
    glue_metrics,
    glue_score,
    size_note,
    write_submission,
)
from mobilebert_tf.tasks.labelled_texts import (
    Examples,
    encode_examples,
    label_names,
    write_predictions,
)
from mobilebert_tf.tasks.metrics import (
    classification_metrics,
    multi_label_metrics,
    regression_metrics,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
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


# The name of the single output of a regression.
REGRESSION_LABELS = ("value",)

_PROBLEM_TYPE = "problem_type"

# What a model is chosen by on dev, where a task has several metrics: their
# mean. F1 and Matthews are shown for single labels, but not chosen by.
_CHOSEN_BY = {
    SINGLE_LABEL: ("accuracy",),
    MULTI_LABEL: ("micro_f1",),
    REGRESSION: ("pearson", "spearman"),
}


# Encoded examples by split, and within by feature.
Splits = dict[str, dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class ClassificationTask:
    """Encoded examples by split, and what they are examples of.

    Attributes:
        model_class: of the models for it.
        label_names: in the order of the logits; one name is a regression.
        splits: arrays of `encode_examples` by split: `train`, names that
            begin with `dev` or `test`, and `predict`.
        kind: `SINGLE_LABEL`, `MULTI_LABEL` or `REGRESSION`.
        glue_name: of `GLUE_TASKS`, or None.
        label_separator: between several labels in a cell.
        encode: from a length to the `splits` of that length.
    """

    model_class = MobileBertForSequenceClassification

    label_names: tuple[str, ...]
    splits: Splits
    kind: str = SINGLE_LABEL
    glue_name: str | None = None
    label_separator: str = ","
    encode: Callable[[int], Splits] | None = None

    @property
    def num_train_examples(self) -> int:
        """Number of training examples, 0 if there is no such split."""
        return len(self.splits.get("train", {}).get("labels", ()))

    @property
    def max_seq_length(self) -> int:
        """Columns of the examples."""
        return next(iter(self.splits.values()))["input_ids"].shape[1]

    @property
    def chosen_by(self) -> tuple[str, ...]:
        """The metrics by whose mean a model is chosen."""
        return METRICS.get(self.glue_name) or _CHOSEN_BY[self.kind]

    def of_length(self, max_seq_length: int) -> "ClassificationTask":
        """The same task with its texts cut to another length."""
        if max_seq_length == self.max_seq_length:
            return self
        return dataclasses.replace(self, splits=self.encode(max_seq_length))

    def labelled(self, prefix: str) -> Splits:
        """Splits with labels whose names begin with `prefix`."""
        return {
            split: arrays
            for split, arrays in self.splits.items()
            if split.startswith(prefix) and "labels" in arrays
        }

    def check_choice(self, num_runs: int, patience: int | None = None) -> None:
        """Checks that there is something to choose by.

        Args:
            num_runs: to choose among.
            patience: with which a run waits for a better score, or None.

        Raises:
            InputError: if not.
        """
        if self.labelled("dev"):
            return
        if num_runs > 1:
            raise InputError(
                "--dev_file",
                f"examples to choose among {num_runs} runs by",
                "none",
            )
        if patience is not None:
            raise InputError(
                "--patience", "dev examples that are scored", "none"
            )

    def metrics(self, predictor, prefix: str) -> dict[str, float]:
        """Scores the labelled splits that begin with `prefix`.

        Args:
            predictor: from arrays to logits.
            prefix: `dev` or `test`.

        Returns:
            `SPLIT_METRIC` values; GLUE's official metrics for its tasks.
        """
        values = {}
        for split, arrays in self.labelled(prefix).items():
            logits, labels = predictor(arrays), arrays["labels"]
            if self.glue_name:
                scores = glue_metrics(self.glue_name, labels, decisions(logits))
            else:
                scores = task_metrics(logits, labels)
            values |= {f"{split}_{name}": scores[name] for name in scores}
        return values

    def score(self, metrics: Mapping[str, float]) -> float:
        """The one number of `metrics` by which a model is chosen."""
        if self.glue_name:
            return glue_score(metrics)
        return glue_score(
            {
                name: value
                for name, value in metrics.items()
                if name.partition("_")[2] in self.chosen_by
            }
        )

    def write_predictions(self, predictor, folder: str | os.PathLike) -> None:
        """Predicts what has no labels, and writes it into `folder`.

        `predictions.tsv` for a user's file, GLUE's submission files for its
        test splits.
        """
        for split, arrays in self.splits.items():
            if "labels" in arrays:
                continue
            logits = predictor(arrays)
            several = self.kind == MULTI_LABEL
            if self.glue_name:
                path = write_submission(
                    folder, self.glue_name, split, decisions(logits)
                )
            else:
                path = Path(folder) / "predictions.tsv"
                write_predictions(
                    path,
                    self.label_names,
                    probabilities(logits, several),
                    several,
                    self.label_separator,
                )
            print(f"Wrote {path}", flush=True)


def read_task(
    source: TaskSource,
    verbs: tuple[bool, bool, bool],
    model_folder: str | os.PathLike,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    calibrates: bool = False,
) -> ClassificationTask:
    """Reads and encodes what verbs (train, eval, predict) need.

    Args:
        source: where examples come from.
        verbs: what is going to be done.
        model_folder: what it is done with.
        tokenizer: the model's.
        max_seq_length: longer texts are cut.
        calibrates: whether training examples are wanted without training.

    Raises:
        InputError: see `TaskSource.read`; or there is nothing to train on, or
            without training no classifier of these classes to start from.
    """
    do_train = verbs[0]
    known, kind = saved_labels(model_folder)
    if not do_train and known is None:
        raise InputError(model_folder, "a classifier", "another kind of model")
    # A classifier that is trained on may learn other classes than it had.
    names = None if do_train else known
    glue_task = GLUE_TASKS.get(source.task)
    if glue_task:
        names = glue_task.label_names or REGRESSION_LABELS
        if not do_train and known != names:
            expected = f"the classes of {source.task}: {', '.join(names)}"
            raise InputError(model_folder, expected, ", ".join(known))
        kind = SINGLE_LABEL if glue_task.label_names else REGRESSION
    elif do_train:
        kind = source.kind
    source = dataclasses.replace(source, kind=kind)
    splits = source.read((do_train or calibrates, *verbs[1:]), names)
    for split, examples in splits.items():
        print(size_note(source.task, split, len(examples)), flush=True)
    if do_train and "train" not in splits:
        raise InputError("--train_file", "a file, or --nodo_train", "none")
    names = names or _labels_to_learn(splits["train"], kind)
    encode = functools.partial(
        _encode, splits, tokenizer, None if kind == REGRESSION else names
    )
    return ClassificationTask(
        names,
        encode(max_seq_length),
        kind,
        glue_task.name if glue_task else None,
        source.label_separator,
        encode,
    )


def _encode(
    splits: Mapping[str, Examples],
    tokenizer: WordpieceTokenizer,
    names: tuple[str, ...] | None,
    max_seq_length: int,
) -> Splits:
    return {
        split: encode_examples(examples, tokenizer, max_seq_length, names)
        for split, examples in splits.items()
    }


def _labels_to_learn(train: Examples, kind: str) -> tuple[str, ...]:
    if kind == REGRESSION:
        return REGRESSION_LABELS
    names = tuple(label_names(train))
    least = 1 if kind == MULTI_LABEL else 2
    if len(names) < least:
        raise InputError(
            "training examples",
            f"at least {least} different labels",
            ", ".join(names) or "none",
        )
    return names


def saved_labels(
    folder: str | os.PathLike,
) -> tuple[tuple[str, ...] | None, str]:
    """Returns a folder's classes, None if it is no classifier's, and kind."""
    path = Path(folder) / CONFIG_FILE
    values = read_json_object(path)
    architectures = values.get("architectures")
    if architectures != [MobileBertForSequenceClassification.architecture]:
        return None, SINGLE_LABEL
    names = tuple(label_names_of(path, values))
    usual = REGRESSION if len(names) == 1 else SINGLE_LABEL
    return names, values.get(_PROBLEM_TYPE) or usual


def write_problem_type(folder: str | os.PathLike, kind: str) -> None:
    """Says in a model folder what its logits mean, as Hugging Face does."""
    path = Path(folder) / CONFIG_FILE
    values = read_json_object(path) | {_PROBLEM_TYPE: kind}
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(values, indent=2, sort_keys=True) + "\n"
        )


def build_classifier(
    folder: str | Path, names: tuple[str, ...]
) -> MobileBertForSequenceClassification:
    """Returns a classifier that starts from a model folder.

    A classifier with the same classes keeps its head; from any other model
    the encoder is taken and the head is new.
    """
    if saved_labels(folder)[0] == names:
        return load(folder)
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    model = MobileBertForSequenceClassification(config, names)
    load_encoder_weights(model.encoder, folder)
    return model
