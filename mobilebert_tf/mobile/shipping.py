"""From a fine-tuned classifier to .tflite files with a metric on each."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mobilebert_tf.data.batching import array_dataset
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.export import KINDS, export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification
from mobilebert_tf.training.fine_tuning import task_metrics
from mobilebert_tf.training.optimization import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.step import build_train_step

Arrays = dict[str, np.ndarray]

# Enough for ranges that hold for the rest; some hundred examples.
_CALIBRATION_EXAMPLES = 512


def check_kinds(kinds: Sequence[str]) -> None:
    """Checks the values of --export.

    Raises:
        InputError: for a kind that cannot be exported.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise InputError("--export", f"kinds among {KINDS}", repr(kind))


def train_quantized(
    model: MobileBertForSequenceClassification,
    train: Arrays,
    folder: str | Path,
    *,
    num_steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> QuantizationAwareModel:
    """Calibrates the deployment graph and trains it under quantisation.

    A run of its own in `folder`, which resumes like any other. The float model
    teaches.

    Args:
        model: the fine-tuned classifier.
        train: its training examples, encoded.
        folder: the run's folder.
        num_steps: 0 calibrates only (post-training quantisation).
        learning_rate: peak, with linear decay and no warm-up.
        batch_size: examples a step.
        seed: of their order.
    """
    quantized = QuantizationAwareModel(deployment_model(model), model)
    batch_size = min(batch_size, len(train["labels"]))
    calibration = array_dataset(
        train, batch_size=batch_size, seed=seed, shuffle=True
    )
    quantized.calibrate(
        calibration.take(max(1, _CALIBRATION_EXAMPLES // batch_size))
    )
    if not num_steps:
        return quantized
    variables = quantized.trainable_variables

    def build():
        schedule = WarmupPolynomialDecay(learning_rate, num_steps)
        optimizer = AdamW(
            schedule,
            decay_rate=0.0,
            bias_correction=True,
            global_clipnorm=1.0,
        )
        step = build_train_step(quantized.compute_loss, variables, optimizer)
        return step, optimizer

    def dataset(start_step):
        return array_dataset(
            train,
            batch_size=batch_size,
            seed=seed,
            shuffle=True,
            repeat=True,
            start_step=start_step,
        )

    settings = {
        "num_steps": num_steps,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
    }
    run = Run(folder, settings, [*variables, quantized.ranges])
    run.phase(
        "quantization_aware_training",
        num_steps,
        build,
        dataset,
        batch_size * train["input_ids"].shape[1],
        shown=("loss", "task_loss", "distillation_loss"),
    )
    run.log.close()
    return quantized


def evaluate_files(
    folder: str | Path, kinds: Sequence[str], splits: dict[str, Arrays]
) -> dict[str, dict[str, float]]:
    """Runs each exported file on the examples with labels.

    Args:
        folder: holds `KIND.tflite`.
        kinds: which.
        splits: encoded examples by split.

    Returns:
        For each kind: `SPLIT_METRIC` values, `megabytes`, and `latency_ms`,
        the median of single inferences on one thread.
    """
    table = {}
    for kind in kinds:
        path = Path(folder) / f"{kind}.tflite"
        model = TFLiteModel(path)
        row = {}
        for split, arrays in splits.items():
            logits = model.predict(arrays)
            for name, value in task_metrics(logits, arrays["labels"]).items():
                row[f"{split}_{name}"] = value
        row["megabytes"] = path.stat().st_size / 1e6
        row["latency_ms"] = model.latency_ms()
        table[kind] = row
    return table


def export_and_evaluate(
    model: MobileBertForSequenceClassification,
    kinds: Sequence[str],
    folder: str | Path,
    splits: dict[str, Arrays],
    **quantization,
) -> dict[str, dict[str, float]]:
    """Writes `KIND.tflite` into `folder` for each kind and evaluates it.

    Args:
        model: the fine-tuned classifier.
        kinds: of `export_tflite`.
        folder: a model folder.
        splits: encoded examples; int8 needs `train`.
        **quantization: of `train_quantized`.

    Returns:
        What `evaluate_files` returns.

    Raises:
        InputError: if int8 is asked for without training examples.
    """
    folder = Path(folder)
    max_seq_length = next(iter(splits.values()))["input_ids"].shape[1]
    for kind in kinds:
        quantized = None
        if kind == "int8":
            if "train" not in splits:
                raise InputError(
                    "--export", "training examples for int8", "none"
                )
            quantized = train_quantized(
                model, splits["train"], folder / "int8_training", **quantization
            )
        path = folder / f"{kind}.tflite"
        export_tflite(
            model,
            kind,
            path,
            max_seq_length=max_seq_length,
            quantized=quantized,
        )
        print(f"Wrote {path}", flush=True)
    labelled = {
        split: splits[split] for split in ("dev", "test") if split in splits
    }
    return evaluate_files(folder, kinds, labelled)
