"""A fine-tuned teacher beside the labels: what it says, and how it sees.

After pre-training distillation this is what is done to get the last points of
a task: the student learns the teacher's probabilities, which say more of an
example than its label, and where both are equally wide and deep also its
feature maps.

One fine-tuning run: trained, and evaluated on dev in between.

Fine-tuning runs that are compared: hyper-parameters, seeds, the best by dev.

A single run lives in the output folder; several live in its `runs/`, one
after the other, each resumable, and a run that is over is not run again. So a
killed grid goes on where it was, and a grid may be given more points later.
"""

import dataclasses
import gc
import itertools
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf
from keras import ops

from mobilebert_tf.config import read_json_object
from mobilebert_tf.data.batches import BUCKET_LENGTHS, training_batches
from mobilebert_tf.distillation.losses import feature_map_transfer_loss
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.folder import load_weights
from mobilebert_tf.modeling.load import load
from mobilebert_tf.modeling.losses import mean, weighted_mean
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.tasks.classification import ClassificationTask, task_loss
from mobilebert_tf.tasks.question_answering import answer_loss
from mobilebert_tf.tasks.tagging import (
    TokenClassificationTask,
    at_all_labels,
    token_loss,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.evaluation import BEST_FOLDER, Evaluation
from mobilebert_tf.training.log import NonFiniteLoss
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import OPTIMIZERS, WarmupPolynomialDecay
from mobilebert_tf.training.options import StepOptions
from mobilebert_tf.training.step import TrainStep

TaskModel = (
    MobileBertForSequenceClassification
    | MobileBertForTokenClassification
    | MobileBertForQuestionAnswering
)


@dataclasses.dataclass(frozen=True)
class TeacherWeights:
    """How much of a loss is the teacher's.

    Attributes:
        logits: share of the teacher's answers; the rest is the labels'.
        temperature: divides both logits; the result is multiplied by its
            square, so that gradients keep their size.
        feature_maps: factor of the mean squared difference of feature maps,
            averaged over blocks; 0 leaves them out.
    """

    logits: float = 0.5
    temperature: float = 1.0
    feature_maps: float = 0.0


def load_task_teacher(
    folder: str | os.PathLike,
    tokenizer: WordpieceTokenizer,
    model_class: type[TaskModel],
    label_names: Sequence[str] = (),
    max_seq_length: int = 0,
) -> TaskModel:
    """Opens a teacher of the same task and the same pieces.

    Args:
        folder: its model folder.
        tokenizer: the student's.
        model_class: the student's.
        label_names: of the task, if it has any.
        max_seq_length: of the sequences that it will read.

    Raises:
        InputError: if it is no such teacher.
    """
    teacher = load(folder)
    if not isinstance(teacher, model_class):
        raise InputError(
            folder, f"a {model_class.architecture}", teacher.architecture
        )
    names = getattr(teacher, "label_names", ())
    if names != tuple(label_names):
        raise InputError(
            folder,
            f"a teacher of the classes {', '.join(label_names)}",
            ", ".join(names),
        )
    theirs = WordpieceTokenizer.from_folder(folder)
    if (theirs.vocab, theirs.do_lower_case) != (
        tokenizer.vocab,
        tokenizer.do_lower_case,
    ):
        raise InputError(folder, "the student's vocabulary", "another one")
    longest = teacher.config.max_position_embeddings
    if longest < max_seq_length:
        raise InputError(
            folder,
            f"a teacher of sequences of {max_seq_length} pieces",
            f"{longest} at most",
        )
    return teacher


def check_feature_maps(
    student: TaskModel,
    teacher: TaskModel,
) -> None:
    """Checks that feature maps can be compared, block by block.

    Raises:
        InputError: if widths or numbers of blocks differ.
    """
    ours, theirs = (
        f"{model.config.num_hidden_layers} blocks of width "
        f"{model.config.hidden_size}"
        for model in (student, teacher)
    )
    if ours != theirs:
        raise InputError(
            "--feature_map_transfer_weight",
            f"a teacher with {ours}, or 0",
            theirs,
        )


def taught_loss(
    student: TaskModel,
    teacher: TaskModel,
    weights: TeacherWeights,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a labelled batch to its loss terms.

    `loss` is (1 - logits) * `task_loss` + logits * `distillation_loss`
    + feature_maps * `feature_map_transfer_loss`.
    """
    if weights.feature_maps:
        check_feature_maps(student, teacher)
    labelled_loss, answers_loss = _LOSSES[type(student)]

    def compute_loss(batch):
        outputs = student.encoder(batch, training=True)
        logits = student.logits(outputs, training=True)
        theirs = teacher.encoder(batch, training=False)
        teacher_logits = tf.nest.map_structure(
            ops.stop_gradient, teacher.logits(theirs, training=False)
        )
        labelled = labelled_loss(logits, batch)
        taught = answers_loss(
            logits, teacher_logits, weights.temperature, batch
        )
        total = (1.0 - weights.logits) * labelled + weights.logits * taught
        terms = {"task_loss": labelled, "distillation_loss": taught}
        if weights.feature_maps:
            terms["feature_map_transfer_loss"] = _feature_map_loss(
                outputs.feature_maps, theirs.feature_maps, batch["input_mask"]
            )
            total += weights.feature_maps * terms["feature_map_transfer_loss"]
        return {"loss": total} | terms

    return compute_loss


def distillation_loss(
    logits, teacher_logits, temperature: float, several: bool
):
    """How far a student's answers are from its teacher's.

    Args:
        logits: [B, C]. A single column is a regression: the squared difference.
        teacher_logits: the same of the teacher.
        temperature: see `TeacherWeights`.
        several: whether each class has a probability of its own.

    Returns:
        The mean KL(teacher || student) in nats, of several classes the mean
        over them: 0 where both agree.
    """
    if logits.shape[-1] == 1 and not several:
        return mean(ops.square(logits - teacher_logits))
    if several:
        # Each class as a choice between yes and no.
        logits, teacher_logits = (
            ops.stack([rows, ops.zeros_like(rows)], axis=-1)
            for rows in (logits, teacher_logits)
        )
    return mean(_divergence(logits, teacher_logits, temperature))


def _divergence(logits, teacher_logits, temperature):
    """KL(teacher || student) over the last axis, times temperature squared."""
    ours = ops.log_softmax(logits / temperature, axis=-1)
    theirs = ops.log_softmax(teacher_logits / temperature, axis=-1)
    divergence = ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)
    return temperature**2 * divergence


def _class_answers_loss(logits, teacher_logits, temperature, batch):
    several = len(batch["labels"].shape) == 2
    return distillation_loss(logits, teacher_logits, temperature, several)


def _token_answers_loss(logits, teacher_logits, temperature, batch):
    """The mean over tokens, each at its first piece, as the labels are."""
    divergence = _divergence(logits, teacher_logits, temperature)
    divergence = at_all_labels(divergence[:, :, None], batch)[:, :, 0]
    return weighted_mean(divergence, batch["label_weights"])


def _span_answers_loss(logits, teacher_logits, temperature, batch):
    """The mean of both ends, each a choice among positions."""
    start, end = (
        mean(_divergence(logits[name], teacher_logits[name], temperature))
        for name in ("start_logits", "end_logits")
    )
    return (start + end) / 2.0


# By the student's class: the loss against labels, and against a teacher.
_LOSSES = {
    MobileBertForSequenceClassification: (
        lambda logits, batch: task_loss(logits, batch["labels"]),
        _class_answers_loss,
    ),
    MobileBertForTokenClassification: (token_loss, _token_answers_loss),
    MobileBertForQuestionAnswering: (answer_loss, _span_answers_loss),
}


def _feature_map_loss(student_maps, teacher_maps, input_mask):
    # The first map is the embeddings'.
    pairs = list(zip(student_maps[1:], teacher_maps[1:], strict=True))
    losses = [
        feature_map_transfer_loss(ours, ops.stop_gradient(theirs), input_mask)
        for ours, theirs in pairs
    ]
    return sum(losses) / len(losses)


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
            model.variables,
            settings=dict(settings) | dataclasses.asdict(point),
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
            return training_batches(
                arrays,
                batch_size=self._batch_size,
                seed=self._point.seed,
                start_step=step,
                bucket_lengths=widths,
            )

        self.run.train(
            Phase(
                PHASE,
                self._num_steps,
                self._build,
                dataset,
                evaluation=evaluation,
            )
        )
        if not self.run.devices.is_chief:
            # Its process has no record, and writes nothing.
            return {"step": self._num_steps}
        if evaluation:
            return self.run.best()
        self.model.save_pretrained(self.run.folder / BEST_FOLDER)
        return {"step": self._num_steps}

    def _build(self):
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
        return TrainStep(
            self._compute_loss,
            self.model.trainable_variables,
            optimizer,
            options.step_options,
        )

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


RESULT_FILE = "result.json"
TABLE_FILE = "runs.tsv"
RUNS_FOLDER = "runs"


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Attributes:
        point: its hyper-parameters and seed.
        folder: where it lives.
        step: the one whose weights were kept.
        score: by which runs are compared; None if it diverged, and without
            dev examples.
        metrics: of dev, at that step.
        diverged: what it stopped for, if it did.
    """

    point: Point
    folder: Path
    step: int
    score: float | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    diverged: str | None = None


def grid_points(
    learning_rates: Sequence[float],
    batch_sizes: Sequence[int],
    epochs: Sequence[int],
    first_seed: int,
    num_seeds: int,
) -> list[Point]:
    """All combinations; the seeds count up from the first."""
    seeds = range(first_seed, first_seed + num_seeds)
    return [
        Point(*values)
        for values in itertools.product(
            learning_rates, batch_sizes, epochs, seeds
        )
    ]


@dataclasses.dataclass(frozen=True)
class GridOutcome:
    """What a command goes on with after training, or without any.

    Attributes:
        model: with the best weights.
        run: the command's, which its results will finish.
        best: the run that the weights are from; None without training.
        results: of all runs.
    """

    model: keras.Model
    run: Run
    best: RunResult | None = None
    results: Sequence[RunResult] = ()

    @property
    def point(self) -> Point | None:
        """The best run's hyper-parameters."""
        return self.best and self.best.point

    def notes(self) -> dict[str, str]:
        """Lines for the model card."""
        if self.best is None:
            return {}
        notes = {"Trained with": f"{self.point}, until step {self.best.step}"}
        if len(self.results) > 1:
            table = "\n".join(f"      {line}" for line in summary(self.results))
            notes["Chosen on dev"] = (
                f"the best of {len(self.results)} runs, so its dev results "
                f"flatter it; all of them:\n\n{table}\n"
            )
        return notes


def run_grid(
    points: Sequence[Point],
    output_dir: str | os.PathLike,
    start: Callable[[Point, Path], FineTuningRun],
    settings: Mapping,
) -> GridOutcome:
    """Trains at every point that is not done yet.

    Of several runs only the best keeps its weights.

    Args:
        points: hyper-parameters and seeds.
        output_dir: the command's folder.
        start: makes the run of a point in a folder.
        settings: what all runs have in common (see `Run`).

    Returns:
        The best run's model; in a process that is not the chief, of whose runs
        there may be one only, the model as it was trained last.

    Raises:
        NonFiniteLoss: if the only run, or every run, diverged.
    """
    output_dir = Path(output_dir)
    if len(points) == 1:
        run = start(points[0], output_dir)
        result = _result(run, output_dir, points[0], may_diverge=False)
        return _outcome(run, run.run, result, [result])
    record = Run(output_dir, (), settings=settings)
    results = []
    best = None
    for number, point in enumerate(points, start=1):
        folder = output_dir / RUNS_FOLDER / point.name
        print(f"Run {number} of {len(points)}: {point}", flush=True)
        results.append(_result_in_grid(start, folder, point))
        worse = results[-1]
        if worse.score is not None and (
            best is None or worse.score > best.score
        ):
            best, worse = worse, best
        if worse is not None:
            _drop_weights(worse.folder)
        _write_table(output_dir / TABLE_FILE, results)
    print("\n".join(summary(results)), flush=True)
    if best is None:
        raise NonFiniteLoss(f"every run diverged: {results[0].diverged}")
    print(f"The best is {best.folder.name}, step {best.step}", flush=True)
    return _outcome(start(best.point, best.folder), record, best, results)


def summary(results: Sequence[RunResult]) -> list[str]:
    """Lines of a table: for each point the median and spread over seeds."""
    lines = [
        "learning rate  batch  epochs  seeds  median  lowest  highest",
        "------------------------------------------------------------",
    ]
    by_setting = {}
    for result in results:
        setting = dataclasses.replace(result.point, seed=0)
        by_setting.setdefault(setting, []).append(result)
    for setting, runs in by_setting.items():
        scores = [run.score for run in runs if run.score is not None]
        line = (
            f"{setting.learning_rate:>13g}  {setting.batch_size:>5}  "
            f"{setting.num_epochs:>6}  {len(runs):>5}"
        )
        if scores:
            line += f"  {statistics.median(scores):6.4f}"
            line += f"  {min(scores):6.4f}  {max(scores):7.4f}"
        diverged = len(runs) - len(scores)
        lines.append(line + (f"  {diverged} diverged" if diverged else ""))
    return lines


def _result_in_grid(
    start: Callable[[Point, Path], FineTuningRun], folder: Path, point: Point
) -> RunResult:
    result = _read_result(folder, point)
    if result is not None:
        print(f"done before: score {result.score}", flush=True)
        return result
    run = start(point, folder)
    result = _result(run, folder, point, may_diverge=True)
    run.run.log.close()
    del run
    # A model's graphs and variables are in cycles of references.
    policy = keras.config.dtype_policy()
    keras.backend.clear_session()
    # Cleared with the rest: the next run would compute in float32.
    keras.config.set_dtype_policy(policy)
    gc.collect()
    return result


def _result(
    run: FineTuningRun, folder: Path, point: Point, may_diverge: bool
) -> RunResult:
    """Trains, unless that is over, and records what came out."""
    distribution = run.run.devices
    result = _read_result(folder, point) if distribution.is_chief else None
    if distribution.from_chief(int(result is not None)):
        return result or RunResult(point, folder, 0)
    try:
        values = run.train()
    except NonFiniteLoss as error:
        if not may_diverge:
            raise
        print(f"diverged: {error}", flush=True)
        values = {"diverged": str(error), "step": 0}
    result = RunResult(point, folder, **values)
    if not distribution.is_chief:
        return result
    record = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in ("point", "folder")
    }
    with atomic_file(folder / RESULT_FILE) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")
    return result


def _read_result(folder: Path, point: Point) -> RunResult | None:
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    return RunResult(point, folder, **read_json_object(path))


def _outcome(
    run: FineTuningRun, record: Run, best: RunResult, results
) -> GridOutcome:
    if run.run.devices.is_chief:
        load_weights(run.model, best.folder / BEST_FOLDER)
    return GridOutcome(run.model, record, best, results)


def _drop_weights(folder: Path) -> None:
    """Removes a run's checkpoints; its record and result stay."""
    for path in sorted((folder / BEST_FOLDER).parent.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()


def _write_table(path: Path, results: Sequence[RunResult]) -> None:
    """Writes every run with its metrics; more columns come with more runs."""
    names = list(dict.fromkeys(n for run in results for n in run.metrics))
    columns = [field.name for field in dataclasses.fields(Point)]
    lines = ["\t".join([*columns, "step", "score", *names])]
    for result in results:
        values = [*dataclasses.astuple(result.point), result.step]
        score = "diverged" if result.score is None else f"{result.score:.6f}"
        values += [score]
        values += [f"{result.metrics.get(name, 0.0):.6f}" for name in names]
        lines.append("\t".join(map(str, values)))
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
