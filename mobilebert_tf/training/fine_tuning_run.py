"""One fine-tuning run: trained, and evaluated on dev in between."""

import dataclasses
import os
from collections.abc import Callable, Mapping

from mobilebert_tf.data.bucketing import (
    BUCKET_LENGTHS,
    mean_width,
    training_dataset,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import (
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.training.classification_task import ClassificationTask
from mobilebert_tf.training.evaluations import BEST_FOLDER, Evaluation
from mobilebert_tf.training.optimization import (
    OPTIMIZERS,
    WarmupPolynomialDecay,
)
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.step import StepOptions, build_train_step
from mobilebert_tf.training.token_classification_task import (
    TokenClassificationTask,
)

PHASE = "fine_tuning"


@dataclasses.dataclass(frozen=True)
class Point:
    """What differs between the runs of a grid."""

    learning_rate: float
    batch_size: int
    num_epochs: int
    seed: int

    @property
    def name(self) -> str:
        """Of the run's folder."""
        return (
            f"rate{self.learning_rate:g}_batch{self.batch_size}_"
            f"epochs{self.num_epochs}_seed{self.seed}"
        )

    def __str__(self) -> str:
        return (
            f"learning rate {self.learning_rate:g}, batch {self.batch_size}, "
            f"{self.num_epochs} epochs, seed {self.seed}"
        )


@dataclasses.dataclass(frozen=True)
class FineTuningOptions:
    """What the runs of a grid have in common.

    Attributes:
        optimizer: of `OPTIMIZERS`.
        optimizer_settings: its arguments besides the schedule.
        warmup_proportion: share of the steps to warm up.
        end_factor: what the decay leaves of the rate at the end.
        decay_power: of the polynomial decay.
        eval_batch_size: examples at once in evaluation.
        eval_every: steps from one evaluation to the next; None: an epoch.
        patience: evaluations without a better score before a run ends; None:
            it goes to its end.
        bucket_lengths: widths of batches.
        step_options: how a step is carried out.
    """

    optimizer: str = "adamw"
    optimizer_settings: Mapping = dataclasses.field(default_factory=dict)
    warmup_proportion: float = 0.1
    end_factor: float = 0.0
    decay_power: float = 1.0
    eval_batch_size: int = 64
    eval_every: int | None = None
    patience: int | None = None
    bucket_lengths: tuple[int, ...] = BUCKET_LENGTHS
    step_options: StepOptions = StepOptions()

    def __post_init__(self):
        if self.step_options.steps_per_execution > 1 and self.bucket_lengths:
            raise InputError(
                "--steps_per_execution",
                "1, or --bucket_lengths= (one width for all batches)",
                self.step_options.steps_per_execution,
            )


class FineTuningRun:
    """A classifier or a tagger in training.

    Args:
        model: made in the run's distribution, with the point's seed.
        task: what it learns.
        point: hyper-parameters.
        options: common to all runs.
        folder: the run's.
        settings: what the folder's run was asked to do (see `Run`).
        run_settings: further arguments of `Run`.
        compute_loss: from a batch to its terms.
        predictor: makes of the model, a batch size and widths what the task
            is scored with.

    Attributes:
        model: as given.
        run: the `Run`.
    """

    def __init__(
        self,
        model: MobileBertForSequenceClassification
        | MobileBertForTokenClassification,
        task: ClassificationTask | TokenClassificationTask,
        point: Point,
        options: FineTuningOptions,
        folder: str | os.PathLike,
        settings: Mapping,
        run_settings: Mapping,
        compute_loss: Callable,
        predictor: Callable,
    ):
        self.model = model
        self._task = task
        self._point = point
        self._options = options
        self._batch_size = min(point.batch_size, task.num_train_examples)
        self._steps_per_epoch = task.num_train_examples // self._batch_size
        self._num_steps = point.num_epochs * self._steps_per_epoch
        self._compute_loss = compute_loss
        self._predict = predictor(
            model, options.eval_batch_size, options.bucket_lengths
        )
        self.run = Run(
            folder,
            dict(settings) | dataclasses.asdict(point),
            model.variables,
            num_steps=self._num_steps,
            **run_settings,
        )

    def train(self) -> dict:
        """Trains to the end, or until patience ends.

        Returns:
            `step`, `score` and `metrics` of the best evaluation, whose weights
            are in the folder's `BEST_FOLDER`. Without dev examples those of
            the end, without score or metrics. Only the chief of several
            processes knows.
        """
        widths = self._options.bucket_lengths
        arrays = self._task.splits["train"]
        evaluation = self._evaluation()

        def dataset(step: int):
            return training_dataset(
                arrays,
                batch_size=self._batch_size,
                seed=self._point.seed,
                start_step=step,
                bucket_lengths=widths,
            )

        self.run.phase(
            PHASE,
            self._num_steps,
            self._build,
            dataset,
            round(self._batch_size * mean_width(arrays, widths)),
            evaluation=evaluation,
        )
        if not self.run.distribution.is_chief:
            # Its process has no record, and writes nothing.
            return {"step": self._num_steps}
        if evaluation:
            return self.run.best()
        self.model.save_pretrained(self.run.folder / BEST_FOLDER)
        return {"step": self._num_steps}

    def _build(self):
        """Returns the train step and its optimizer."""
        options, point = self._options, self._point
        schedule = WarmupPolynomialDecay(
            point.learning_rate,
            self._num_steps,
            round(options.warmup_proportion * self._num_steps),
            options.end_factor,
            options.decay_power,
        )
        optimizer = OPTIMIZERS[options.optimizer](
            schedule, **options.optimizer_settings
        )
        train_step = build_train_step(
            self._compute_loss,
            self.model.trainable_variables,
            optimizer,
            options.step_options,
        )
        return train_step, optimizer

    def _evaluation(self) -> Evaluation | None:
        """How the run is judged; not at all without dev examples."""
        if not self._task.labelled("dev"):
            return None
        return Evaluation(
            self._options.eval_every or self._steps_per_epoch,
            lambda: self._task.metrics(self._predict, "dev"),
            self._task.score,
            self.model.save_pretrained,
            self._options.patience,
        )
