"""One fine-tuning run: trained in stretches, evaluated between them.

Owns when a classifier is evaluated, which of its states is kept, and when it
is no use going on. All of it follows from the recorded evaluations, so that a
run that was killed decides as if it had not been.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mobilebert_tf.data.bucketing import (
    BUCKET_LENGTHS,
    mean_width,
    training_dataset,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification
from mobilebert_tf.training.classification_task import ClassificationTask
from mobilebert_tf.training.fine_tuning import Predictor, fine_tuning_loss
from mobilebert_tf.training.metrics_log import METRICS_FILE, read_metrics
from mobilebert_tf.training.optimization import (
    OPTIMIZERS,
    WarmupPolynomialDecay,
)
from mobilebert_tf.training.run import CHECKPOINTS, Run
from mobilebert_tf.training.step import StepOptions, build_train_step

BEST_FOLDER = f"{CHECKPOINTS}/best"
PHASE = "fine_tuning"
EVALUATION = "evaluation"


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
    """A classifier in training.

    Args:
        model: made in the run's distribution, with the point's seed.
        task: what it learns.
        point: hyper-parameters.
        options: common to all runs.
        folder: the run's.
        settings: what the folder's run was asked to do (see `Run`).
        run_settings: further arguments of `Run`.
        compute_loss: from a batch to its terms; None: the task's loss.

    Attributes:
        model: as given.
        run: the `Run`.
    """

    def __init__(
        self,
        model: MobileBertForSequenceClassification,
        task: ClassificationTask,
        point: Point,
        options: FineTuningOptions,
        folder: str | os.PathLike,
        settings: Mapping,
        run_settings: Mapping,
        compute_loss: Callable | None = None,
    ):
        self.model = model
        self._task = task
        self._point = point
        self._options = options
        self._batch_size = min(point.batch_size, task.num_train_examples)
        self._steps_per_epoch = task.num_train_examples // self._batch_size
        self._num_steps = point.num_epochs * self._steps_per_epoch
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
        self._train_step = build_train_step(
            compute_loss or fine_tuning_loss(model),
            model.trainable_variables,
            optimizer,
            options.step_options,
        )
        self._predict = Predictor(
            model, options.eval_batch_size, options.bucket_lengths
        )
        self.run = Run(
            folder,
            dict(settings) | dataclasses.asdict(point),
            # With the optimizer's: a stretch of training begins where the one
            # before it ended, also in another process.
            [*model.variables, *optimizer.variables],
            num_steps=self._num_steps,
            **run_settings,
        )

    def train(self) -> dict:
        """Trains to the end, or until patience ends.

        Returns:
            `step`, `score` and `metrics` of the best evaluation, whose weights
            are in the folder's `BEST_FOLDER`. Without dev examples those of
            the end, without score or metrics.
        """
        start = 0
        for end in self._stretches():
            self._train_stretch(start, end)
            if self._has_dev and self.run.global_step == end:
                self._evaluate(end)
            start = end
            if self._has_dev and self._is_over(end):
                break
        if self._has_dev:
            return self._best(self._num_steps)
        self.model.save_pretrained(self.run.folder / BEST_FOLDER)
        return {"step": self._num_steps}

    @property
    def _has_dev(self) -> bool:
        return bool(self._task.labelled("dev"))

    def _stretches(self) -> list[int]:
        """The steps at which stretches of training end."""
        every = self._options.eval_every or self._steps_per_epoch
        if not self._has_dev:
            every = self._num_steps
        return [*range(every, self._num_steps, every), self._num_steps]

    def _train_stretch(self, start: int, end: int) -> None:
        arrays = self._task.splits["train"]
        widths = self._options.bucket_lengths

        def dataset(step: int):
            return training_dataset(
                arrays,
                batch_size=self._batch_size,
                seed=self._point.seed,
                start_step=start + step,
                bucket_lengths=widths,
            )

        self.run.phase(
            PHASE,
            end - start,
            lambda: (self._train_step, _Saved()),
            dataset,
            round(self._batch_size * mean_width(arrays, widths)),
        )

    def _evaluate(self, step: int) -> None:
        """Evaluates, keeps the weights if they are the best so far, records.

        In this order: what is recorded has been kept.
        """
        before = self._evaluations(step)
        if before and before[-1]["step"] == step:
            return
        metrics = self._task.metrics(self._predict, "dev")
        score = self._task.score(metrics)
        is_best = all(score > line["score"] for line in before)
        if is_best:
            self.model.save_pretrained(self.run.folder / BEST_FOLDER)
        self.run.log.write(EVALUATION, step, step, {"score": score} | metrics)
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in metrics)
        best = "  (best so far)" if is_best and before else ""
        print(f"step {step}/{self._num_steps}  {shown}{best}", flush=True)

    def _is_over(self, step: int) -> bool:
        patience, lines = self._options.patience, self._evaluations(step)
        if patience is None:
            return False
        best = self._best(step)["step"]
        since = sum(line["step"] > best for line in lines)
        if since < patience or step == self._num_steps:
            return False
        print(
            f"no better score in {since} evaluations: stopped at step {step}",
            flush=True,
        )
        return True

    def _best(self, step: int) -> dict:
        """The best evaluation up to a step; of equals the first."""
        best = max(self._evaluations(step), key=lambda line: line["score"])
        known = {"phase", "step", "global_step", "score"}
        return {
            "step": best["step"],
            "score": best["score"],
            "metrics": {n: v for n, v in best.items() if n not in known},
        }

    def _evaluations(self, step: int) -> list[dict]:
        """The recorded evaluations up to a step."""
        path = Path(self.run.folder) / METRICS_FILE
        if not path.exists():
            return []
        return [
            line
            for line in read_metrics(path)
            if line["phase"] == EVALUATION and line["step"] <= step
        ]


class _Saved:
    """Stands for an optimizer that is saved with the model."""

    variables = ()
