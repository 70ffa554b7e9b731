"""From a fine-tuned model to .tflite files with a metric on each.

Knows no task: what it is good for, and what it is trained on, a `ShippedTask`
says (`shipped_tasks` makes them). Every file is scored by the code that scored
the float model.

Tasks as shipping sees them: what quantises a model, what scores its files.

Examples are those of fine-tuning, at the one width that a file has, and so are
the losses and the metrics.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import scipy.special
import tensorflow as tf

from mobilebert_tf.data.batches import array_batches
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import write_ranges
from mobilebert_tf.mobile.deployment import INPUT_NAMES, deployment_model
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import INTEGER_KINDS, KINDS, export_tflite
from mobilebert_tf.mobile.quantization import (
    QuantizationAwareModel,
    build_optimizer,
    following_ranges,
    keep_better,
    snapshot,
    typical_sizes,
)
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import TextMetadata
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.tasks.classification import ClassificationTask, task_loss
from mobilebert_tf.tasks.classification_sources import MULTI_LABEL
from mobilebert_tf.tasks.question_answering import (
    QuestionSplit,
    SquadSettings,
    answer_questions,
    score_answers,
)
from mobilebert_tf.tasks.squad_windows import Windows, training_dataset
from mobilebert_tf.tasks.tagging import TokenClassificationTask
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.fine_tuning import distillation_loss
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.step import TrainStep

# Kinds whose activations need ranges, and the one that is trained with them.
CALIBRATED_KINDS = (*INTEGER_KINDS, "int16x8")
TRAINED_KIND = "int8_qat"

MEGABYTES, LATENCY = "megabytes", "latency_ms"

# Enough for ranges that hold for the rest; some hundred examples.
_CALIBRATION_EXAMPLES = 512

# From inputs, arrays [num, S] by name or batches of them, to the outputs.
Predictor = Callable[
    [dict | Iterable[dict]], np.ndarray | dict[str, np.ndarray]
]


@dataclasses.dataclass(frozen=True)
class ShippedTask:
    """A fine-tuned model, and what shipping needs to know of its task.

    Attributes:
        model: a Keras model that has a deployment graph.
        max_seq_length: S of all examples, and of the files.
        num_train_examples: 0 if there are none to calibrate with.
        train_batches: from a batch size, a seed and the number of the first
            batch to endless batches [B, S] of training examples, labelled.
        score: from a `Predictor` to metrics by name; empty if there is
            nothing to score on.
        shown: the names of the metrics that a table shows.
        quantized_loss: from a quantised model to a function from a batch to
            its loss terms.
        file_options: further arguments of `export_tflite`.
    """

    model: keras.Model
    max_seq_length: int
    num_train_examples: int
    train_batches: Callable[[int, int, int], Iterable[dict]]
    score: Callable[[Predictor], dict[str, float]]
    shown: Sequence[str]
    quantized_loss: Callable[[QuantizationAwareModel], Callable] = (
        lambda quantized: quantized.compute_loss
    )
    file_options: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class QuantizationOptions:
    """How a model is quantised.

    Attributes:
        num_steps: of quantisation-aware training.
        learning_rate: its peak, relative to the weights' sizes.
        batch_size: examples a step, and at once in calibration.
        seed: of their order.
        calibration_method: of `calibration.METHODS`.
        equalize: whether ranges of channels are made alike before.
    """

    num_steps: int = 200
    learning_rate: float = 1e-3
    batch_size: int = 32
    seed: int = 1
    calibration_method: str = "min_max"
    equalize: bool = True


def check_kinds(kinds: Sequence[str]) -> None:
    """Checks the values of --export.

    Raises:
        InputError: for a kind that cannot be exported.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError(
                "--export", f"kinds among {', '.join(KINDS)}", repr(kind)
            )


def needs_calibration(kinds: Sequence[str]) -> bool:
    """Whether a kind needs training examples to measure ranges on."""
    return any(kind in CALIBRATED_KINDS for kind in kinds)


def check_calibration(kinds: Sequence[str], num_train_examples: int) -> None:
    """Checks that there is something to measure ranges on.

    Raises:
        InputError: if a kind needs it and there is nothing.
    """
    wanting = [kind for kind in kinds if kind in CALIBRATED_KINDS]
    if wanting and not num_train_examples:
        raise InputError(
            "--export", f"training examples for {', '.join(wanting)}", "none"
        )


def calibrate(
    task: ShippedTask,
    options: QuantizationOptions,
    *reports: str | os.PathLike,
) -> QuantizationAwareModel:
    """Returns the deployment graph, its ranges measured on real examples.

    Args:
        task: what is shipped.
        options: how.
        *reports: files to write the ranges to.
    """
    batches = _calibration_batches(task, options)
    deployment = deployment_model(task.model)
    if options.equalize:
        deployment = equalize(deployment, batches)
    quantized = QuantizationAwareModel(deployment, task.model)
    ranges = quantized.calibrate(batches, options.calibration_method)
    for report in reports:
        write_ranges(report, ranges)
    return quantized


def train_quantized(
    quantized: QuantizationAwareModel,
    task: ShippedTask,
    folder: str | os.PathLike,
    options: QuantizationOptions,
) -> None:
    """Trains a calibrated graph under quantisation; the float model teaches.

    A run of its own in `folder`, which resumes like any other. Where training
    has made the loss of the calibration examples worse, it is taken back.
    """
    variables = quantized.trainable_variables
    compute_loss = task.quantized_loss(quantized)
    calibrated = snapshot(quantized)
    sizes = typical_sizes(quantized.deployment.weights)
    batch_size = min(options.batch_size, task.num_train_examples)

    def build():
        optimizer = build_optimizer(
            quantized, sizes, options.learning_rate, options.num_steps
        )
        return TrainStep(compute_loss, variables, optimizer)

    def dataset(start_step):
        batches = task.train_batches(batch_size, options.seed, start_step)
        return following_ranges(
            quantized, batches, start_step, options.num_steps
        )

    run = Run(
        folder,
        [*variables, quantized.ranges],
        settings=dataclasses.asdict(options)
        | {"max_seq_length": task.max_seq_length},
    )
    run.train(
        Phase(
            "quantization_aware_training",
            options.num_steps,
            build,
            dataset,
            shown=("loss", "task_loss", "distillation_loss"),
        )
    )
    run.log.close()
    batches = _calibration_batches(task, options)
    if not keep_better(quantized, calibrated, batches, compute_loss):
        print("It made the model worse, and is taken back", flush=True)


def evaluate_file(path: Path, task: ShippedTask) -> dict[str, float]:
    """Runs an exported file on the examples with labels.

    Returns:
        The task's metrics, `megabytes` (1e6 bytes), and `latency_ms`, the
        median of single inferences on one thread.
    """
    # On all threads: what it computes is the same.
    metrics = task.score(TFLiteModel(path, os.cpu_count()).predict)
    return metrics | {
        MEGABYTES: path.stat().st_size / 1e6,
        LATENCY: TFLiteModel(path).latency_ms(),
    }


def export_and_evaluate(
    task: ShippedTask,
    kinds: Sequence[str],
    folder: str | os.PathLike,
    options: QuantizationOptions,
) -> dict[str, dict[str, float]]:
    """Writes `KIND.tflite` into `folder` for each kind and evaluates it.

    Args:
        task: what is shipped.
        kinds: of `export.KINDS`.
        folder: a model folder.
        options: for the kinds that are quantised.

    Returns:
        For each kind what `evaluate_file` returns.

    Raises:
        InputError: if a kind must be calibrated and there are no training
            examples.
    """
    check_calibration(kinds, task.num_train_examples)
    folder, rows, quantized = Path(folder), {}, None
    reports = [
        folder / f"{kind}_ranges.tsv" for kind in kinds if kind in INTEGER_KINDS
    ]
    if reports:
        quantized = calibrate(task, options, *reports)
    # What trains comes last: its weights move away from the calibrated ones.
    for kind in sorted(kinds, key=lambda kind: kind == TRAINED_KIND):
        batches = ()
        if kind == "int16x8":
            batches = _calibration_batches(task, options)
        if kind == TRAINED_KIND:
            train_quantized(
                quantized, task, folder / f"{kind}_training", options
            )
        path = folder / f"{kind}.tflite"
        export_tflite(
            task.model,
            kind,
            path,
            max_seq_length=task.max_seq_length,
            quantized=quantized,
            calibration=batches,
            **task.file_options,
        )
        print(f"Wrote {path}", flush=True)
        rows[kind] = evaluate_file(path, task)
    return {kind: rows[kind] for kind in kinds}


def table(
    rows: Mapping[str, Mapping[str, float]], shown: Sequence[str]
) -> list[str]:
    """Sets what files are good for in lines of plain text.

    Args:
        rows: of `export_and_evaluate`.
        shown: the metrics to show.
    """
    cells = [["file", *shown, "MB", "ms"]] + [
        [
            f"{kind}.tflite",
            *[f"{row[name]:.4f}" for name in shown],
            f"{row[MEGABYTES]:.2f}",
            f"{row[LATENCY]:.2f}",
        ]
        for kind, row in rows.items()
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            [line[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(line[1:], widths[1:], strict=True)
            ]
        )
        for line in cells
    ]
    return [lines[0], "-" * len(lines[0]), *lines[1:]]


def _calibration_batches(
    task: ShippedTask, options: QuantizationOptions
) -> list[dict]:
    """Some hundred training examples, the same for every kind."""
    batch_size = min(options.batch_size, task.num_train_examples)
    number = min(task.num_train_examples, _CALIBRATION_EXAMPLES) // batch_size
    batches = task.train_batches(batch_size, options.seed, 0)
    return list(itertools.islice(batches, max(1, number)))


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
        return array_batches(
            task.splits["train"],
            batch_size=batch_size,
            seed=seed,
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
