"""From a fine-tuned model to .tflite files with a metric on each.

Knows no task: what it is good for, and what it is trained on, a `ShippedTask`
says (`shipped_tasks` makes them). Every file is scored by the code that scored
the float model.
"""

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import write_ranges
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import INTEGER_KINDS, KINDS, export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.range_schedule import (
    build_optimizer,
    following_ranges,
    keep_better,
    snapshot,
)
from mobilebert_tf.mobile.relative_steps import typical_sizes
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.step import build_train_step

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
        step = build_train_step(compute_loss, variables, optimizer)
        return step, optimizer

    def dataset(start_step):
        batches = task.train_batches(batch_size, options.seed, start_step)
        return following_ranges(
            quantized, batches, start_step, options.num_steps
        )

    run = Run(
        folder,
        dataclasses.asdict(options) | {"max_seq_length": task.max_seq_length},
        [*variables, quantized.ranges],
    )
    run.phase(
        "quantization_aware_training",
        options.num_steps,
        build,
        dataset,
        batch_size * task.max_seq_length,
        shown=("loss", "task_loss", "distillation_loss"),
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
