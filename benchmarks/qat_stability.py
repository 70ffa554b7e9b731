"""Twenty trainings under quantisation: is any step not finite, any end worse?

    python benchmarks/qat_stability.py

Two tasks on synthetic pieces, classification and question answering, each
learned by a three-block student with two seeds; then quantisation-aware
training from the same calibrated ranges at rates from 1e-4 to 1e-2, with the
schedule of `range_schedule` and the float model as teacher. A tenth of the
labels is wrong, so that nobody can be sure. Printed are the loss, half of it
the teacher's, and the accuracy on held-out examples: calibrated only, after
training, and after taking back a training that made the calibration examples
worse. Exits with 1 if a step was not finite, or a loss ended more than
0.005 above the calibrated one. Five minutes on one idle core.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import INPUT_NAMES, deployment_model
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.quantization import (
    QuantizationAwareModel,
    build_optimizer,
    following_ranges,
    keep_better,
    snapshot,
    typical_sizes,
)
from mobilebert_tf.modeling.losses import classification_loss, span_loss
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.step import build_train_step

LENGTH, VOCAB_SIZE = 24, 64
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SEEDS = (1, 2)
FLOAT_STEPS, QAT_STEPS, BATCH_SIZE = 400, 100, 32
CALIBRATION_EXAMPLES = 512
LABEL_NOISE, TOLERANCE = 0.1, 0.005
OPENS, CLOSES = 4, 5


def random_pieces(num: int, rng) -> dict[str, np.ndarray]:
    """Returns inputs of `num` examples, labels to follow."""
    lengths = rng.integers(LENGTH // 2, LENGTH + 1, num)
    mask = np.arange(LENGTH) < lengths[:, None]
    ids = rng.integers(6, VOCAB_SIZE, (num, LENGTH)) * mask
    ids[:, 0] = 2
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": mask.astype(np.int32),
        "segment_ids": np.zeros_like(ids, np.int32),
    }


def counting_task(num: int, rng) -> dict[str, np.ndarray]:
    """Are there more pieces below 25 than above?"""
    arrays = random_pieces(num, rng)
    ids = arrays["input_ids"]
    low = ((ids >= 6) & (ids < 25)).sum(1)
    high = ((ids >= 25) & (ids < 44)).sum(1)
    labels = (low > high) ^ (rng.random(num) < LABEL_NOISE)
    return arrays | {"labels": labels.astype(np.int32)}


def bracket_task(num: int, rng) -> dict[str, np.ndarray]:
    """Which stretch is between the two brackets?"""
    arrays = random_pieces(num, rng)
    start = rng.integers(2, LENGTH // 2 - 4, num)
    end = start + rng.integers(0, 3, num)
    rows = np.arange(num)
    arrays["input_ids"][rows, start - 1] = OPENS
    arrays["input_ids"][rows, end + 1] = CLOSES
    end = np.where(rng.random(num) < LABEL_NOISE, start, end)
    positions = {"start_positions": start, "end_positions": end}
    return arrays | {key: p.astype(np.int32) for key, p in positions.items()}


def float_loss(model, batch: dict, training: bool):
    """The task's loss of a Keras model."""
    inputs = {name: batch[name] for name in INPUT_NAMES}
    logits = model(inputs, training=training)
    if "labels" in batch:
        return classification_loss(logits, batch["labels"])
    return span_loss(
        logits["start_logits"],
        logits["end_logits"],
        batch["start_positions"],
        batch["end_positions"],
    )


def accuracy(quantized: QuantizationAwareModel, arrays: dict) -> float:
    """Share of examples, or of span ends, that are right; of a graph."""
    logits = quantized(*(arrays[name] for name in INPUT_NAMES)).numpy()
    if "labels" in arrays:
        return float((logits.argmax(-1) == arrays["labels"]).mean())
    ends = np.stack([arrays["start_positions"], arrays["end_positions"]], 1)
    return float((logits.argmax(1) == ends).mean())


def batches(arrays: dict, num: int, seed: int):
    """Yields `num` random batches."""
    rng = np.random.default_rng(seed)
    size = len(arrays["input_ids"])
    for _ in range(num):
        rows = rng.integers(0, size, BATCH_SIZE)
        yield {name: array[rows] for name, array in arrays.items()}


def fine_tuned(task: str, arrays: dict, seed: int) -> keras.Model:
    """Returns a student that has learned the task."""
    keras.utils.set_random_seed(seed)
    config = mb.MobileBertConfig.from_preset(
        "mobilebert_small",
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if task == "classification":
        model = mb.MobileBertForSequenceClassification(config, ["no", "yes"])
    else:
        model = mb.MobileBertForQuestionAnswering(config)
    schedule = WarmupPolynomialDecay(2e-3, FLOAT_STEPS, FLOAT_STEPS // 10)
    optimizer = AdamW(
        schedule, decay_rate=0.0, bias_correction=True, global_clipnorm=1.0
    )
    step = build_train_step(
        lambda batch: {"loss": float_loss(model, batch, training=True)},
        model.trainable_variables,
        optimizer,
    )
    for batch in batches(arrays, FLOAT_STEPS, seed):
        step(batch)
    return model


def trainings(task: str, make, seed: int) -> bool:
    """Prints a row a rate; returns whether all went well."""
    rng = np.random.default_rng(seed)
    arrays, test = make(8000, rng), make(1000, rng)
    model = fine_tuned(task, arrays, seed)
    calibration = list(
        batches(arrays, CALIBRATION_EXAMPLES // BATCH_SIZE, seed)
    )
    deployment = equalize(deployment_model(model), calibration)
    quantized = QuantizationAwareModel(deployment, model)
    quantized.calibrate(calibration)
    begin = snapshot(quantized)
    calibrated = float(quantized.compute_loss(test)["loss"])
    accuracy_before = 100 * accuracy(quantized, test)
    learning_rate = tf.Variable(0.0)
    sizes = typical_sizes(quantized.deployment.weights)
    optimizer = build_optimizer(quantized, sizes, learning_rate, QAT_STEPS)
    step = build_train_step(
        quantized.compute_loss, quantized.trainable_variables, optimizer
    )
    went_well, unused = True, None
    for rate in LEARNING_RATES:
        assign([*quantized.trainable_variables, quantized.ranges], begin)
        if unused is None:
            unused = [variable.numpy() for variable in optimizer.variables]
        assign(optimizer.variables, unused)
        learning_rate.assign(rate)
        random = batches(arrays, QAT_STEPS, 10 * seed)
        losses = [
            float(step(batch)["loss"])
            for batch in following_ranges(quantized, random, 0, QAT_STEPS)
        ]
        finite = bool(np.isfinite(losses).all())
        trained = float(quantized.compute_loss(test)["loss"])
        kept = keep_better(quantized, begin, calibration)
        end = float(quantized.compute_loss(test)["loss"])
        went_well = went_well and finite and end <= calibrated + TOLERANCE
        print(
            f"{task:<20}{seed:>4} {rate:8.0e}  {'yes' if finite else 'NO':<7}"
            f"{calibrated:10.4f}{trained:9.4f}{end:9.4f}"
            f"  {'kept' if kept else 'taken back':<11}"
            f"{accuracy_before:9.1f}{100 * accuracy(quantized, test):7.1f}",
            flush=True,
        )
    return went_well


def assign(variables, values) -> None:
    """Sets variables to values."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def main() -> None:
    """Runs both tasks with both seeds at all rates."""
    print(
        f"{'task':<20}seed     rate  finite calibrated  trained      end"
        "             accuracy, %"
    )
    went_well = [
        trainings(task, make, seed)
        for task, make in (
            ("classification", counting_task),
            ("question answering", bracket_task),
        )
        for seed in SEEDS
    ]
    sys.exit(0 if all(went_well) else 1)


if __name__ == "__main__":
    main()
