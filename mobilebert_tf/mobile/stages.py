"""From a fine-tuned model to .tflite files, each scored on held-out examples.

Every file is scored by the code that scored the float model.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import scipy.special

from mobilebert_tf.data.batches import array_batches
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import calibrate, write_ranges
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.options import (
    CALIBRATED_KINDS,
    INTEGER_KINDS,
    TRAINED_KIND,
    ExportOptions,
    QuantizationOptions,
)
from mobilebert_tf.mobile.quantization import Quantized, train_quantized
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import TextMetadata
from mobilebert_tf.tasks.task import Task
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

MEGABYTES, LATENCY = "megabytes", "latency_ms"

# Ranges measured on a few hundred examples hold for the rest.
_CALIBRATION_EXAMPLES = 512


def export_and_score(
    model: keras.Model,
    task: Task,
    tokenizer: WordpieceTokenizer,
    folder: str | os.PathLike,
    options: ExportOptions,
    quantization: QuantizationOptions,
) -> dict[str, dict[str, float]]:
    """Writes `KIND.tflite` for each kind and scores it.

    Args:
        model: the fine-tuned model.
        task: its task, with examples of the files' length.
        tokenizer: its tokenizer.
        folder: for the files, their `KIND_ranges.tsv` and the run of
            quantisation-aware training; a model folder.
        options: the kinds, and whether they carry metadata.
        quantization: for the kinds that are quantised.

    Returns:
        What `score` returns, by kind.

    Raises:
        InputError: see `check_export`.
    """
    kinds, folder, scores = options.kinds, Path(folder), {}
    file_options = check_export(options, task, tokenizer)
    batches = []
    if needs_calibration(kinds):
        batches = calibration_batches(task, quantization)
    folded = fold(model)
    if any(kind in INTEGER_KINDS for kind in kinds):
        even = equalize(folded, batches) if quantization.equalize else folded
        ranges = calibrate(even, batches)
    for kind in kinds:
        network = folded
        if kind in INTEGER_KINDS:
            network = Quantized(even, ranges)
            write_ranges(folder / f"{kind}_ranges.tsv", ranges)
        if kind == TRAINED_KIND:
            train_quantized(
                network,
                task,
                model,
                batches,
                training_batches(task, quantization),
                folder / f"{kind}_training",
                quantization,
            )
        path = export(
            network,
            folder / f"{kind}.tflite",
            task.max_seq_length,
            kind,
            calibration=batches,
            **file_options,
        )
        print(f"Wrote {path}", flush=True)
        scores[kind] = score(path, task)
    return scores


def check_export(
    options: ExportOptions, task: Task, tokenizer: WordpieceTokenizer
) -> dict:
    """Checks a request before anything is trained.

    Args:
        options: what is requested.
        task: the task, with examples of the files' length.
        tokenizer: the model's.

    Returns:
        Further arguments of `export.export`.

    Raises:
        InputError: metadata without files or for files that no text task of a
            phone opens, or no examples to measure ranges on.
    """
    calibrated = [kind for kind in options.kinds if kind in CALIBRATED_KINDS]
    if calibrated and not task.num_train_examples:
        expected = f"training examples for {', '.join(calibrated)}"
        raise InputError("--export", expected, "none")
    if not options.metadata:
        return task.file_options(None)
    if not options.kinds:
        raise InputError("--metadata", "--export, to have files", "none")
    file_options = task.file_options(tokenizer)
    if not tokenizer.do_lower_case:
        raise InputError(
            "--metadata",
            "an uncased vocabulary (text tasks lower-case every text)",
            "a cased one",
        )
    metadata = TextMetadata(**file_options["metadata"])
    return file_options | {"metadata": metadata}


def needs_calibration(kinds: Sequence[str]) -> bool:
    """Whether a kind needs training examples to measure ranges on."""
    return any(kind in CALIBRATED_KINDS for kind in kinds)


def training_batches(
    task: Task, options: QuantizationOptions
) -> Callable[[int], Iterable[dict]]:
    """Returns a function from a start step to endless labelled batches."""

    def batches(start_step: int) -> Iterable[dict]:
        return array_batches(
            task.splits["train"],
            batch_size=min(options.batch_size, task.num_train_examples),
            seed=options.seed,
            start_step=start_step,
        )

    return batches


def calibration_batches(task: Task, options: QuantizationOptions) -> list[dict]:
    """Returns a few hundred training examples, the same for every kind."""
    batch_size = min(options.batch_size, task.num_train_examples)
    number = min(task.num_train_examples, _CALIBRATION_EXAMPLES) // batch_size
    batches = training_batches(task, options)(0)
    return list(itertools.islice(batches, max(1, number)))


def score(path: Path, task: Task) -> dict[str, float]:
    """Runs an exported file on the dev and test examples with labels.

    Returns:
        The task's metrics, `megabytes` (1e6 bytes), and `latency_ms`, the
        median of single inferences on one thread.
    """
    # On all threads, which does not change the outputs.
    model = TFLiteModel(path, os.cpu_count())

    def predict(arrays):
        outputs = model.predict(arrays)
        if model.output_names == ("probabilities",):
            return _logits(outputs)
        return outputs

    metrics = task.evaluate(predict, "dev") | task.evaluate(predict, "test")
    return metrics | {
        MEGABYTES: path.stat().st_size / 1e6,
        LATENCY: TFLiteModel(path).latency_ms(),
    }


def _logits(probabilities: np.ndarray) -> np.ndarray:
    """Returns values that a metric decides by as it would by logits.

    They keep the order of the classes, and are positive from one half on.
    Probabilities may be rounded to 0 or 1.
    """
    tiny = np.finfo(np.float32).tiny
    return scipy.special.logit(np.clip(probabilities, tiny, 1.0 - 1e-7))


def shown_metrics(task: Task) -> list[str]:
    """Returns the metrics that a table shows: what models are chosen by."""
    return [
        f"{split}_{name}"
        for prefix in ("dev", "test")
        for split in task.labelled(prefix)
        for name in task.chosen_by
    ]


def table(
    scores: Mapping[str, Mapping[str, float]], shown: Sequence[str]
) -> list[str]:
    """Returns a plain-text table of scores, one line per file.

    Args:
        scores: of `export_and_score`.
        shown: the metrics to show.
    """
    cells = [["file", *shown, "MB", "ms"]] + [
        [
            f"{kind}.tflite",
            *[f"{row[name]:.4f}" for name in shown],
            f"{row[MEGABYTES]:.2f}",
            f"{row[LATENCY]:.2f}",
        ]
        for kind, row in scores.items()
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
