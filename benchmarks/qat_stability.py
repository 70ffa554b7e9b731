"""Twenty trainings under quantisation: is any step not finite, any end worse?

    python -m benchmarks.qat_stability --seeds=1 --learning_rate=1e-3

Two tasks on synthetic pieces, classification and question answering, each
learned by a three-block student, by default with two seeds; then
quantisation-aware training from the same calibrated ranges at rates from 1e-4
to 1e-2, with the schedule of `mobile.quantization` and the float model as
teacher. A tenth of the labels is wrong, so that no example is certain. Printed
is the loss of held-out examples, half of it the teacher's: calibrated only,
after training, and after undoing a training that made the calibration examples
worse. Exits with 1 if a step was not finite, or a loss ended more than 0.005
above the calibrated one. Eight minutes on one idle core.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

import mobilebert_tf as mb
from benchmarks.instruments import start
from mobilebert_tf.config import inputs_of
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
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.question_answering import QuestionAnsweringTask
from mobilebert_tf.tasks.squad_windows import SquadSettings
from mobilebert_tf.tasks.task import Task
from mobilebert_tf.training.fine_tuning import training_loss
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.step import TrainStep

LENGTH, VOCAB_SIZE = 24, 64
FLOAT_STEPS, QAT_STEPS, BATCH_SIZE = 400, 100, 32
CALIBRATION_EXAMPLES = 512
LABEL_NOISE, TOLERANCE = 0.1, 0.005
OPENS, CLOSES = 4, 5
LABELS = ("no", "yes")


@dataclasses.dataclass(frozen=True)
class StabilityOptions(Options):
    """How many trainings; twenty by default."""

    seeds: tuple[int, ...] = option((1, 2), "Seeds.")
    learning_rate: tuple[float, ...] = option(
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), "Rates of the quantised training."
    )


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


def quantized_loss(quantized: Quantized, model, task: Task, batch: dict):
    """Half the loss against labels, half the distance from the float model."""
    inputs = inputs_of(batch)
    taught = model(inputs, training=False)
    taught = tf.nest.map_structure(tf.stop_gradient, taught)
    return task.terms(quantized(inputs), batch, taught)


def batches(arrays: dict, num: int, seed: int):
    """Yields `num` random batches."""
    rng = np.random.default_rng(seed)
    size = len(arrays["input_ids"])
    for _ in range(num):
        rows = rng.integers(0, size, BATCH_SIZE)
        yield {name: array[rows] for name, array in arrays.items()}


def fine_tuned(task: Task, arrays: dict, seed: int) -> keras.Model:
    """Returns a student that has learned the task."""
    keras.utils.set_random_seed(seed)
    config = mb.MobileBertConfig.from_preset(
        "mobilebert_small",
        vocab_size=VOCAB_SIZE,
        max_position_embeddings=LENGTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if isinstance(task, ClassificationTask):
        model = mb.MobileBertForSequenceClassification(config, LABELS)
    else:
        model = mb.MobileBertForQuestionAnswering(config)
    schedule = WarmupPolynomialDecay(2e-3, FLOAT_STEPS, FLOAT_STEPS // 10)
    optimizer = AdamW(
        schedule, decay_rate=0.0, bias_correction=True, global_clipnorm=1.0
    )
    step = TrainStep(
        training_loss(task, model), model.trainable_variables, optimizer
    )
    for batch in batches(arrays, FLOAT_STEPS, seed):
        step(batch)
    return model


def trainings(name: str, seed: int, rates: Sequence[float]) -> bool:
    """Prints a row a rate; returns whether all went well."""
    task, make = TASKS[name]
    rng = np.random.default_rng(seed)
    arrays, test = make(8000, rng), make(1000, rng)
    model = fine_tuned(task, arrays, seed)
    calibration = list(
        batches(arrays, CALIBRATION_EXAMPLES // BATCH_SIZE, seed)
    )
    folded = equalize(fold(model), calibration)
    quantized = Quantized(folded, calibrate(folded, calibration))
    compute_loss = functools.partial(quantized_loss, quantized, model, task)
    variables = [*quantized.trainable_variables, quantized.ranges]
    begin = [variable.numpy() for variable in variables]
    follower = RangeFollower(quantized, calibration[0])
    calibrated = float(compute_loss(test)["loss"])
    sizes = typical_sizes(quantized.weights)
    went_well = True
    for rate in rates:
        for variable, value in zip(variables, begin, strict=True):
            variable.assign(value)
        optimizer = build_optimizer(quantized.weights, sizes, rate, QAT_STEPS)
        step = TrainStep(compute_loss, quantized.trainable_variables, optimizer)
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
            f"{name:<20}{seed:>4} {rate:8.0e}  {'yes' if finite else 'NO':<7}"
            f"{calibrated:10.4f}{trained:9.4f}{end:9.4f}"
            f"  {'kept' if kept else 'undone'}",
            flush=True,
        )
    return went_well


TASKS = {
    "classification": (ClassificationTask(LABELS), counting_task),
    "question answering": (
        QuestionAnsweringTask({}, None, SquadSettings(LENGTH, 8, 8)),
        bracket_task,
    ),
}


def main(options: StabilityOptions) -> None:
    """Runs both tasks with all seeds at all rates."""
    print(f"{'task':<20}seed     rate  finite calibrated  trained      end")
    went_well = [
        trainings(name, seed, options.learning_rate)
        for name in TASKS
        for seed in options.seeds
    ]
    sys.exit(not all(went_well))


if __name__ == "__main__":
    start(main, StabilityOptions, __doc__)
