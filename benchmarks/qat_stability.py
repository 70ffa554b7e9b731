"""Twenty trainings under quantisation: is any step not finite, any end worse?

    python benchmarks/qat_stability.py

Two tasks on synthetic pieces, classification and question answering, each
learned by a three-block student with two seeds; then quantisation-aware
training from the same calibrated ranges at rates from 1e-4 to 1e-2, with the
schedule of `mobile.quantization` and the float model as teacher. A tenth of the
labels is wrong, so that nobody can be sure. Printed are the loss, half of it
the teacher's, and the accuracy on held-out examples: calibrated only, after
training, and after taking back a training that made the calibration examples
worse. Exits with 1 if a step was not finite, or a loss ended more than
0.005 above the calibrated one. Five minutes on one idle core.
"""

import functools
import sys

import keras
import numpy as np
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import (
    Quantized,
    RangeFollower,
    build_optimizer,
    keep_better,
    typical_sizes,
)
from mobilebert_tf.modeling.losses import (
    classification_loss,
    kl_divergence,
    mean,
    span_loss,
)
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.step import TrainStep

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


def task_loss(logits, batch: dict):
    """The loss of outputs against labels."""
    if "labels" in batch:
        return classification_loss(logits, batch["labels"])
    return span_loss(
        logits["start_logits"],
        logits["end_logits"],
        batch["start_positions"],
        batch["end_positions"],
    )


def quantized_loss(quantized: Quantized, model, batch: dict):
    """Half the loss against labels, half the distance from the float model."""
    inputs = {name: batch[name] for name in INPUT_NAMES}
    outputs, taught = quantized(inputs), model(inputs, training=False)
    pairs = zip(tf.nest.flatten(outputs), tf.nest.flatten(taught), strict=True)
    distances = [
        mean(kl_divergence(ours, tf.stop_gradient(theirs)))
        for ours, theirs in pairs
    ]
    labelled = task_loss(outputs, batch)
    return {"loss": (labelled + sum(distances) / len(distances)) / 2.0}


def accuracy(quantized: Quantized, arrays: dict) -> float:
    """Share of examples, or of span ends, that are right."""
    outputs = quantized(arrays)
    if "labels" in arrays:
        right = outputs.numpy().argmax(-1) == arrays["labels"]
    else:
        right = [
            outputs[f"{end}_logits"].numpy().argmax(1)
            == arrays[f"{end}_positions"]
            for end in ("start", "end")
        ]
    return float(np.mean(right))


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

    def compute_loss(batch):
        inputs = {name: batch[name] for name in INPUT_NAMES}
        return {"loss": task_loss(model(inputs, training=True), batch)}

    optimizer = AdamW(
        schedule, decay_rate=0.0, bias_correction=True, global_clipnorm=1.0
    )
    step = TrainStep(
        compute_loss,
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
    folded = equalize(fold(model), calibration)
    quantized = Quantized(folded, calibrate(folded, calibration))
    compute_loss = functools.partial(quantized_loss, quantized, model)
    variables = [*quantized.trainable_variables, quantized.ranges]
    begin = [variable.numpy() for variable in variables]
    follower = RangeFollower(quantized, calibration[0])
    calibrated = float(compute_loss(test)["loss"])
    accuracy_before = 100 * accuracy(quantized, test)
    learning_rate = tf.Variable(0.0)
    sizes = typical_sizes(quantized.weights)
    optimizer = build_optimizer(
        quantized.weights, sizes, learning_rate, QAT_STEPS
    )
    step = TrainStep(compute_loss, quantized.trainable_variables, optimizer)
    went_well, unused = True, None
    for rate in LEARNING_RATES:
        assign(variables, begin)
        if unused is None:
            unused = [variable.numpy() for variable in optimizer.variables]
        assign(optimizer.variables, unused)
        learning_rate.assign(rate)
        random = batches(arrays, QAT_STEPS, 10 * seed)
        losses = [
            float(step(batch)["loss"])
            for batch in follower.batches(random, 0, QAT_STEPS)
        ]
        finite = bool(np.isfinite(losses).all())
        trained = float(compute_loss(test)["loss"])
        kept = keep_better(quantized, begin, calibration, compute_loss)
        end = float(compute_loss(test)["loss"])
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
