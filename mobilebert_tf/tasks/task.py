"""What fine-tuning, quantisation, scoring and pipelines need to know of a task.

A task says how its examples are read, how a model for it is built, what its
loss is, and how outputs become metrics and answers. Everything else (the grid
of runs, the teacher, quantisation-aware training, `.tflite` files) is written
once, for all tasks.

`outputs` is what a model, its deployment graph and its `.tflite` file return:
[B, C] for classification, regression and several labels, [B, S, C] for tags,
`{"start_logits", "end_logits"}` of [B, S] for answers.
"""

import abc
import copy
import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mobilebert_tf.config import (
    INPUT_NAMES,
    MobileBertConfig,
    inputs_of,
    label_names_of,
    read_json_object,
)
from mobilebert_tf.data.builtin import documentation_fingerprints
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.options import Options, option
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# `input_ids`, `input_mask`, `segment_ids`, int32 [N, S], and labels [N, ...].
Arrays = dict[str, np.ndarray]
# [N, C], [N, S, C], or a dict of [N, S]; tensors in a loss, NumPy elsewhere.
Outputs = Any

CONFIG_FILE = "config.json"
# Its key for the length S that a model was fine-tuned with.
MAX_SEQ_LENGTH = "max_seq_length"


@dataclasses.dataclass(frozen=True)
class Actions:
    """What a command does with a task; `calibrate` measures ranges on train."""

    train: bool = True
    evaluate: bool = True
    predict: bool = True
    calibrate: bool = False

    @property
    def splits(self) -> list[str]:
        """The splits that are needed; training chooses weights on dev."""
        needed = {
            "train": self.train or self.calibrate,
            "dev": self.train or self.evaluate,
            "test": self.evaluate,
            "predict": self.predict,
        }
        return [split for split, is_needed in needed.items() if is_needed]

    def check_training(self, splits: Iterable[str]) -> None:
        """Raises an InputError if there is nothing to train on."""
        if self.train and "train" not in splits:
            raise InputError("--train_file", "a file, or --nodo_train", "none")


@dataclasses.dataclass(frozen=True)
class TaskOptions(Options):
    """Base class of options that name the files of a task's examples."""

    group: ClassVar[str] = "data"

    encoding: str | None = option(
        None,
        "Encoding of the files, for example cp1252 or latin-1. Default: UTF-8, "
        "or UTF-16 where it is recognised.",
    )

    def __post_init__(self):
        super().__post_init__()
        try:
            "a".encode(self.encoding or "utf-8")
        except (LookupError, ValueError):
            expected = "an encoding that Python knows"
            raise InputError("--encoding", expected, self.encoding) from None

    @property
    def files(self) -> dict[str, str]:
        """The files that are named, by split."""
        files = {
            split: getattr(self, f"{split}_file", None)
            for split in ("train", "dev", "test", "predict")
        }
        return {split: path for split, path in files.items() if path}

    @property
    def sources(self) -> dict[str, Any]:
        """What decides the model or its scores: files or fingerprints, by flag.

        None for a data set of TensorFlow Datasets, which its name identifies.
        """
        if self.files:
            return {
                f"{split}_file": path
                for split, path in self.files.items()
                if split != "predict"
            }
        return {"built_in_text": documentation_fingerprints()}


@dataclasses.dataclass(frozen=True)
class Hyperparameters:
    """What a task is fine-tuned with by default; the rate is the peak."""

    learning_rate: float = 5e-4
    batch_size: int = 32
    num_epochs: int = 3


# For models as wide as the published ones, by the number of examples: tasks of
# up to 9 thousand and from 67 thousand on are known (`glue.py`).
SMALL_TASK = Hyperparameters(5e-5, 32, 10)
LARGE_TASK = Hyperparameters(3e-5, 32, 4)
_LARGE_FROM = 20_000


def hyperparameters_for(
    config: MobileBertConfig, num_examples: int
) -> Hyperparameters:
    """Returns what a task without hyper-parameters of its own starts with.

    A model narrower than the published ones, such as the demo's, learns too
    slowly at their rates.
    """
    if config.hidden_size < MobileBertConfig.hidden_size:
        return Hyperparameters()
    return LARGE_TASK if num_examples >= _LARGE_FROM else SMALL_TASK


@dataclasses.dataclass(frozen=True)
class TeacherWeights:
    """How a loss is shared between labels and a fine-tuned teacher.

    `logits` is the share of the teacher's answers, `feature_maps` the factor
    of the mean squared difference of feature maps.
    """

    logits: float = 0.5
    temperature: float = 1.0
    feature_maps: float = 0.0


class Task(abc.ABC):
    """A task: examples, model, losses, metrics and answers.

    Attributes:
        model_class_name: name in `modeling.models` of the models for it.
        title: of the model card, for example "Text classifier".
        splits: encoded examples by split: `train`, names that start with `dev`
            or `test`, and `predict`. All of one length S.
        label_names: in the order of the logits; () if there are none.
        chosen_by: metrics whose mean, on dev, ranks models; without the
            name of the split.
        hyperparameters: defaults of fine-tuning.
        bucket_lengths: default widths of batches, ascending; each is compiled.
        floor_rule: what `floor` scores, in words.
        points: points, in percent, of a metric of 1.0.
    """

    model_class_name: ClassVar[str]
    title: ClassVar[str]
    splits: dict[str, Arrays]
    label_names: tuple[str, ...] = ()
    chosen_by: tuple[str, ...]
    hyperparameters: Hyperparameters = Hyperparameters()
    bucket_lengths: tuple[int, ...] = (16, 32, 64, 128, 256)
    floor_rule: str = ""
    points: ClassVar[float] = 100.0

    @classmethod
    @abc.abstractmethod
    def read(
        cls,
        options: TaskOptions,
        tokenizer: WordpieceTokenizer,
        folder: str | os.PathLike,
        actions: Actions,
    ) -> "Task":
        """Reads and encodes the examples that `actions` need.

        Args:
            options: the task's own: files, columns and the examples' length.
            tokenizer: the model's.
            folder: the model folder that training, or its use, starts from.
            actions: what will be done.

        Raises:
            InputError: a file is malformed, there is nothing to train on, or,
                without training, the folder is not a model for this task.
        """

    @classmethod
    @abc.abstractmethod
    def open(
        cls, folder: str | os.PathLike, tokenizer: WordpieceTokenizer
    ) -> "Task":
        """Returns the task of a fine-tuned model, without examples.

        Raises:
            InputError: the folder holds another kind of model.
        """

    @abc.abstractmethod
    def encode_splits(self, max_seq_length: int) -> None:
        """Sets `splits`: encodes all examples, with their labels."""

    @abc.abstractmethod
    def encode(self, texts: Sequence, max_seq_length: int) -> Arrays:
        """Encodes unlabelled texts (a pipeline's input) as arrays [N, S]."""

    @abc.abstractmethod
    def loss(self, outputs: Outputs, batch: Arrays):
        """Returns the loss of outputs against a batch with labels, in nats."""

    @abc.abstractmethod
    def distillation_loss(
        self,
        outputs: Outputs,
        teacher_outputs: Outputs,
        batch: Arrays,
        temperature,
    ):
        """Returns the mean KL(teacher || student) in nats; 0 if both agree.

        For a regression, the mean squared difference.
        """

    @abc.abstractmethod
    def metrics(self, outputs: Outputs, split: str) -> dict[str, float]:
        """Scores the outputs of a labelled split, by the metric's name."""

    def floor(self, split: str) -> dict[str, float]:
        """Scores what needs no model, as `metrics` does; may be empty."""
        return {}

    def floor_note(self, split: str) -> str:
        """Returns the scores of `floor` in words, to follow a split's size."""
        scores = self.floor(split)
        shown = ", ".join(f"{name} {scores[name]:.4f}" for name in scores)
        return f"; {self.floor_rule}: {shown}" if shown else ""

    @abc.abstractmethod
    def answers(self, outputs: Outputs, texts: Sequence) -> list:
        """Converts outputs to what a pipeline returns, one answer a text."""

    @abc.abstractmethod
    def write(
        self, outputs: Outputs, split: str, folder: str | os.PathLike
    ) -> None:
        """Writes the answers to a split into a folder and prints the path.

        Called for labelled splits, `dev` first, for which a task may write
        nothing, and then for those to predict.
        """

    def build(self, folder: str | os.PathLike) -> Any:
        """Returns a Keras model that starts from a folder.

        A head that fits the task is kept; otherwise only the encoder is read
        and the head is new.
        """
        from mobilebert_tf.modeling import models

        model_class = getattr(models, self.model_class_name)
        if model_class.has_label_names:
            return model_class.from_pretrained(
                folder, label_names=self.label_names
            )
        return model_class.from_pretrained(folder)

    def of_length(self, max_seq_length: int) -> "Task":
        """Returns the same task with its examples encoded at another length."""
        task = copy.copy(self)
        task.encode_splits(max_seq_length)
        return task

    def terms(
        self,
        outputs: Outputs,
        batch: Arrays,
        teacher_outputs: Outputs = None,
        weights: TeacherWeights = TeacherWeights(),
    ) -> dict[str, Any]:
        """Returns the terms of a training loss; `loss` is their total.

        Without a teacher `loss` is the only term. With one, it is
        (1 - weights.logits) * `task_loss` + weights.logits *
        `distillation_loss`. The loss of feature maps is added by the caller,
        which has them.
        """
        labelled = self.loss(outputs, batch)
        if teacher_outputs is None:
            return {"loss": labelled}
        taught = self.distillation_loss(
            outputs, teacher_outputs, batch, weights.temperature
        )
        total = (1.0 - weights.logits) * labelled + weights.logits * taught
        return {
            "loss": total,
            "task_loss": labelled,
            "distillation_loss": taught,
        }

    def file_options(self, tokenizer: WordpieceTokenizer | None) -> dict:
        """Returns further arguments of `mobile.export.export`, as plain values.

        `output` (such as "probabilities") and `mlperf_order`, where a task has
        them. With a tokenizer also `metadata`, the fields of
        `mobile.tflite_file.TextMetadata`, for the text tasks of phones.

        Raises:
            InputError: metadata was asked for and no text task of a phone
                opens files for such examples.
        """
        if tokenizer is not None:
            raise InputError("--metadata", "a classifier", self.title.lower())
        return {}

    def notes(self) -> dict[str, str]:
        """Returns lines of the model card that only this task knows."""
        return {}

    def save(self, folder: str | os.PathLike) -> None:
        """Writes what a model folder must say of the task besides labels."""
        if self.splits:
            add_to_config(folder, {MAX_SEQ_LENGTH: self.max_seq_length})

    @classmethod
    def is_model_of(cls, folder: str | os.PathLike) -> bool:
        """Tells whether a folder holds a fine-tuned model of such a task."""
        values = read_json_object(Path(folder) / CONFIG_FILE)
        found = values.get("architectures")
        return isinstance(found, list) and found[:1] == [cls.model_class_name]

    @classmethod
    def check_model(cls, folder: str | os.PathLike) -> None:
        """Raises an InputError if a folder holds another kind of model."""
        if not cls.is_model_of(folder):
            expected = f"a {cls.title.lower()}"
            raise InputError(folder, expected, "another kind of model")

    @property
    def num_train_examples(self) -> int:
        """Number of training examples, 0 if there is no such split."""
        return len(self.splits.get("train", {}).get("input_ids", ()))

    @property
    def max_seq_length(self) -> int:
        """Length S of the examples."""
        return next(iter(self.splits.values()))["input_ids"].shape[1]

    def labelled(self, prefix: str) -> list[str]:
        """Names of the splits with labels that start with `prefix`."""
        return [
            split
            for split, arrays in self.splits.items()
            if split.startswith(prefix) and set(arrays) - set(INPUT_NAMES)
        ]

    def evaluate(self, predict, prefix: str) -> dict[str, float]:
        """Returns metrics, by `SPLIT_METRIC`, of labelled "dev" or "test".

        `predict` maps arrays to outputs: a `Predictor`, `TFLiteModel.predict`.
        """
        return {
            f"{split}_{name}": value
            for split in self.labelled(prefix)
            for name, value in self.metrics(
                predict(inputs_of(self.splits[split])), split
            ).items()
        }

    def floors(self, splits: Iterable[str]) -> dict[str, float]:
        """Returns the floor of labelled splits, by `SPLIT_METRIC`."""
        return {
            f"{split}_{name}": value
            for split in splits
            for name, value in self.floor(split).items()
        }

    def score(self, metrics: Mapping[str, float]) -> float:
        """Returns the number that ranks models, from `evaluate(..., "dev")`.

        It is the mean of `chosen_by`; several dev splits weigh alike.
        """
        values = [
            metrics[f"{split}_{name}"]
            for split in self.labelled("dev")
            for name in self.chosen_by
        ]
        return float(np.mean(values))


def add_to_config(folder: str | os.PathLike, values: Mapping) -> None:
    """Adds values to config.json, where Hugging Face keeps them as well."""
    path = Path(folder) / CONFIG_FILE
    values = read_json_object(path) | dict(values)
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(values, indent=2, sort_keys=True) + "\n"
        )


def saved_label_names(folder: str | os.PathLike) -> tuple[str, ...]:
    """Returns the names of the classes of a model folder, in their order.

    Raises:
        InputError: they are malformed.
    """
    path = Path(folder) / CONFIG_FILE
    return tuple(label_names_of(path, read_json_object(path)))


def check_length(
    folder: str | os.PathLike,
    length: int | None,
    flag: str = "--max_seq_length",
) -> None:
    """Raises an InputError if a folder's model has too few positions."""
    if length is None:
        return
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    longest = config.max_position_embeddings
    if length > longest:
        raise InputError(flag, f"at most {longest}", length)
