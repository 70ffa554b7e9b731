"""One fine-tuning run of any task: a teacher, evaluations, the best weights.

Runs are compared in `grid.py`.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf
from keras import ops

from mobilebert_tf.config import inputs_of
from mobilebert_tf.data.batches import training_batches
from mobilebert_tf.distillation.losses import feature_map_transfer_loss
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.load import load
from mobilebert_tf.ownership import Identity
from mobilebert_tf.tasks.task import Task, TeacherWeights
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.inference import Predictor
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import build_optimizer
from mobilebert_tf.training.options import (
    FineTuningOptions,
    OptimizerOptions,
    RunOptions,
    StepOptions,
)
from mobilebert_tf.training.run_folder import BEST_FOLDER
from mobilebert_tf.training.step import TrainStep, rematerialize


def load_task_teacher(
    folder: str | os.PathLike, task: Task, tokenizer: WordpieceTokenizer
) -> keras.Model:
    """Opens a fine-tuned model that a task's student can learn from.

    Args:
        folder: the teacher's model folder.
        task: the task, with its examples.
        tokenizer: the student's.

    Raises:
        InputError: the model is for another task, other labels, another
            vocabulary or shorter sequences.
    """
    teacher = load(folder)
    architecture, expected = teacher.architecture, task.model_class_name
    if architecture != expected:
        raise InputError(folder, f"a {expected}", architecture)
    names = tuple(getattr(teacher, "label_names", ()))
    if names != task.label_names:
        expected = f"a teacher of the classes {', '.join(task.label_names)}"
        raise InputError(folder, expected, ", ".join(names))
    theirs = WordpieceTokenizer.from_folder(folder)
    if (theirs.vocab, theirs.do_lower_case) != (
        tokenizer.vocab,
        tokenizer.do_lower_case,
    ):
        raise InputError(folder, "the student's vocabulary", "another one")
    longest = teacher.config.max_position_embeddings
    if longest < task.max_seq_length:
        expected = f"a teacher of sequences of {task.max_seq_length} pieces"
        raise InputError(folder, expected, f"{longest} at most")
    return teacher


def training_loss(
    task: Task,
    student: keras.Model,
    teacher: keras.Model | None = None,
    weights: TeacherWeights = TeacherWeights(),
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function that maps a labelled batch to its loss terms.

    The terms are those of `Task.terms`; with feature maps also
    `feature_map_transfer_loss`, added to `loss` with its weight.

    Raises:
        InputError: feature maps are to be compared, but the models differ in
            width or number of blocks.
    """
    if teacher is None:
        return lambda batch: task.terms(
            student(inputs_of(batch), training=True), batch
        )
    if weights.feature_maps:
        _check_feature_maps(student, teacher)

    def compute_loss(batch):
        inputs = inputs_of(batch)
        ours = student.encoder(inputs, training=True)
        outputs = student.logits(ours, training=True)
        theirs = teacher.encoder(inputs, training=False)
        teacher_outputs = tf.nest.map_structure(
            ops.stop_gradient, teacher.logits(theirs, training=False)
        )
        terms = task.terms(outputs, batch, teacher_outputs, weights)
        if weights.feature_maps:
            transfer = _feature_map_loss(ours, theirs, batch["input_mask"])
            terms["feature_map_transfer_loss"] = transfer
            terms["loss"] += weights.feature_maps * transfer
        return terms

    return compute_loss


def _feature_map_loss(student, teacher, input_mask):
    """Mean loss over the blocks of two `EncoderOutput`s."""
    # The first map is the embeddings'.
    pairs = zip(student.feature_maps[1:], teacher.feature_maps[1:], strict=True)
    losses = [
        feature_map_transfer_loss(ours, ops.stop_gradient(theirs), input_mask)
        for ours, theirs in pairs
    ]
    return sum(losses) / len(losses)


def _check_feature_maps(student: keras.Model, teacher: keras.Model) -> None:
    ours, theirs = (
        f"{model.config.num_hidden_layers} blocks of width "
        f"{model.config.hidden_size}"
        for model in (student, teacher)
    )
    if ours != theirs:
        flag, expected = "--feature_map_transfer_weight", f"{ours}, or 0"
        raise InputError(flag, f"a teacher with {expected}", theirs)


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the grid: what differs between runs."""

    learning_rate: float
    batch_size: int
    num_epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return (
            f"rate{self.learning_rate:g}_batch{self.batch_size}_"
            f"epochs{self.num_epochs}_seed{self.seed}"
        )

    def __str__(self) -> str:
        return (
            f"learning rate {self.learning_rate:g}, batch {self.batch_size}, "
            f"{self.num_epochs} epochs, seed {self.seed}"
        )


def batch_widths(
    options: FineTuningOptions, step: StepOptions, task: Task
) -> tuple[int, ...]:
    """Returns the widths of batches besides the length of the examples.

    Raises:
        InputError: several widths are asked for, but several steps in a call,
            which must have one width.
    """
    several_steps = step.steps_per_execution > 1
    if options.bucket_lengths is None:
        return () if several_steps else task.bucket_lengths
    if options.bucket_lengths and several_steps:
        raise InputError(
            "--steps_per_execution",
            "1, or --bucket_lengths= (one width for all batches)",
            step.steps_per_execution,
        )
    return tuple(sorted(options.bucket_lengths))


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """What all runs of a grid have in common.

    Attributes:
        folder: the model folder that runs start from.
        identity: what determines the result, besides the point.
        widths: see `batch_widths`.
        teacher: a fine-tuned model of the same task, or None.
        rematerialize: whether blocks are computed again for the gradient.
    """

    task: Task
    folder: str | os.PathLike
    identity: Identity
    options: FineTuningOptions = FineTuningOptions()
    widths: tuple[int, ...] = ()
    optimizer: OptimizerOptions = OptimizerOptions()
    step: StepOptions = StepOptions()
    run: RunOptions = RunOptions()
    devices: Distribution = dataclasses.field(default_factory=Distribution)
    teacher: keras.Model | None = None
    weights: TeacherWeights = TeacherWeights()
    rematerialize: bool = False

    def start(self, point: Point, folder: Path) -> "FineTuningRun":
        """Returns the run of a point, or what is left of it in its folder."""
        keras.utils.set_random_seed(point.seed)
        with self.devices.scope():
            model = self.task.build(self.folder)
            if self.rematerialize:
                rematerialize(model.encoder.blocks)
            return FineTuningRun(self, point, model, folder)


class FineTuningRun:
    """A model in training at one point of the grid.

    `model` was made in the scope of the devices, with the point's seed.
    """

    def __init__(
        self, common: FineTuning, point: Point, model: keras.Model, folder: Path
    ):
        self.model = model
        self._common = common
        self._point = point
        num_examples = common.task.num_train_examples
        self._batch_size = min(point.batch_size, num_examples)
        self._steps_per_epoch = num_examples // self._batch_size
        self._num_steps = point.num_epochs * self._steps_per_epoch
        self._compute_loss = training_loss(
            common.task, model, common.teacher, common.weights
        )
        self.run = Run(
            folder,
            model.variables,
            common.run,
            common.identity.having(dataclasses.asdict(point)),
            common.devices,
            self._num_steps,
        )

    def train(self) -> dict:
        """Trains to the end, or until patience ends.

        Returns:
            `step`, `score` and `metrics` of the best evaluation, whose weights
            are in the run's `BEST_FOLDER`; without dev examples the last
            `step` only. Processes that are not the chief know no scores.
        """
        common = self._common
        evaluation = None
        if common.task.labelled("dev"):
            predict = Predictor(
                self.model, common.options.eval_batch_size, common.widths
            )
            evaluation = Evaluation(
                common.options.eval_every_steps or self._steps_per_epoch,
                lambda: common.task.evaluate(predict, "dev"),
                common.task.score,
                self.model.save_pretrained,
                common.options.patience,
            )
        phase = Phase(
            "fine_tuning",
            self._num_steps,
            self._build_step,
            self._batches,
            evaluation=evaluation,
        )
        self.run.train(phase)
        if self.run.devices.is_chief:
            if evaluation:
                return self.run.best()
            self.model.save_pretrained(self.run.folder / BEST_FOLDER)
        return {"step": self._num_steps}

    def _build_step(self) -> TrainStep:
        optimizer = build_optimizer(
            self._common.optimizer, self._point.learning_rate, self._num_steps
        )
        return TrainStep(
            self._compute_loss,
            self.model.trainable_variables,
            optimizer,
            self._common.step,
        )

    def _batches(self, start_step: int) -> Iterator[dict]:
        return training_batches(
            self._common.task.splits["train"],
            batch_size=self._batch_size,
            seed=self._point.seed,
            start_step=start_step,
            bucket_lengths=self._common.widths,
        )
