"""Quantisation-aware training of the folded network.

Activations are fake-quantised exactly where the integer kernels round, and
weights per channel, so that the loss is the phone's. Four rules make it train:

* Ranges are calibrated on real batches *before* the first step. Moving averages
  that begin at (-6, 6), the usual default, stay wrong throughout a fine-tuning.
* A step does not change ranges: it has no state beyond the weights, and
  replicas need not agree on statistics. In the first half of the training the
  ranges follow the activations, between steps; then they are frozen, so that
  the last and smallest steps are taken on the grid that ships.
* Steps are relative to the size of the weights. Folding and equalisation scale
  rows and columns of weights: one channel's may be a thousandth of the next
  one's, and Adam's steps have the same size for all of them. Here a step is
  multiplied by the typical size of the weights in its row and column, so that a
  rescaled channel trains much as if it had not been rescaled.
* The float model teaches: half of the loss is the distance from its outputs. If
  training increased the loss of the calibration examples, it is undone.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf import compat
from mobilebert_tf.config import inputs_of
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import Fingerprint
from mobilebert_tf.mobile.calibration import Range, usable_ranges
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.folding import Folded
from mobilebert_tf.mobile.measurement import activations, measure_batch
from mobilebert_tf.mobile.options import QuantizationOptions
from mobilebert_tf.mobile.rounding import ExportRounding, FakeQuantization
from mobilebert_tf.ownership import Identity, changed_inputs
from mobilebert_tf.tasks.task import Task, TeacherWeights
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.run_folder import SETTINGS_FILE, delete_run
from mobilebert_tf.training.step import TrainStep

_KERNEL, _BIAS = "/kernel", "/bias"

WARMUP_SHARE = 0.1
FOLLOWING_SHARE = 0.5
# Measuring ranges costs a forward pass without a compiled graph.
STEPS_BETWEEN_MEASUREMENTS = 10
# Ranges stay within these multiples of the calibrated ones.
_FOLLOWED_RATIOS = (0.5, 2.0)


class Quantized:
    """A folded network in variables that rounds as the phone does.

    Args:
        folded: the network.
        ranges: the range of each of its activations (`calibration.calibrate`).

    Attributes:
        weights: trainable variables by name.
        ranges: float32 variable [P, 2], lowest and highest value of each of
            the P activations. Not trainable.
        folded: the network, its arrays being `weights`.

    Raises:
        InputError: if an activation has no finite range.
    """

    def __init__(self, folded: Folded, ranges: Mapping[str, Range]):
        symmetric = activations(folded)
        limits = [ranges.get(name, (np.nan, np.nan))[:2] for name in symmetric]
        missing = ~np.isfinite(limits).all(axis=1)
        if missing.any():
            raise InputError(
                "int8 export",
                "ranges calibrated on real examples",
                f"none for {missing.sum()} of {len(missing)} activations",
                list(symmetric)[int(np.argmax(missing))],
            )
        self.names = tuple(symmetric)
        self.symmetric = np.array(list(symmetric.values()))
        self.weights = {
            name: tf.Variable(array, name=name)
            for name, array in folded.arrays.items()
        }
        self.ranges = tf.Variable(
            np.array(limits, np.float32), trainable=False, name="ranges"
        )
        self.folded = dataclasses.replace(folded, arrays=self.weights)

    @property
    def trainable_variables(self) -> list[tf.Variable]:
        """All weights, by name."""
        return [self.weights[name] for name in sorted(self.weights)]

    def __call__(self, inputs: Mapping):
        """Returns what `deployment.forward` returns, rounded."""
        return forward(self.folded, inputs, self.rounding())

    def rounding(self) -> FakeQuantization:
        """Returns the rounding of training and of the phone."""
        ranges = map(tf.unstack, tf.unstack(self.ranges))
        return FakeQuantization(dict(zip(self.names, ranges, strict=True)))

    def export_rounding(self) -> ExportRounding:
        """Returns the rounding whose graph the TFLite converter reads."""
        ranges = self.ranges.numpy()
        return ExportRounding(dict(zip(self.names, ranges, strict=True)))


def train_quantized(
    quantized: Quantized,
    task: Task,
    model: keras.Model,
    calibration: Sequence[dict],
    batches: Callable[[int], Iterable[dict]],
    folder: str | os.PathLike,
    options: QuantizationOptions,
) -> None:
    """Trains a calibrated network under quantisation, in place.

    A run of its own in `folder`, which resumes like any other; with another
    float model it begins again. Training that increased the loss of the
    calibration examples is undone.

    Args:
        quantized: the network.
        task: what it is trained for.
        model: the fine-tuned model, whose outputs are half of what it learns.
        calibration: the labelled batches that it was calibrated on.
        batches: maps a start step to endless labelled batches.
        folder: the run's folder.
        options: how long and how fast.
    """
    variables = quantized.trainable_variables
    compute_loss = _taught_loss(quantized, task, model)
    # Before the run, which may restore trained weights at once.
    calibrated = _state(quantized)
    following = RangeFollower(quantized, calibration[0])
    sizes = typical_sizes(quantized.weights)

    def build():
        optimizer = build_optimizer(
            quantized.weights, sizes, options.learning_rate, options.num_steps
        )
        return TrainStep(compute_loss, variables, optimizer)

    def examples(start_step):
        return following.batches(
            batches(start_step), start_step, options.num_steps
        )

    length = calibration[0]["input_ids"].shape[1]
    identity = Identity(
        dataclasses.asdict(options) | {"max_seq_length": int(length)},
        dataclasses.asdict(QuantizationOptions()),
        {"float_weights": [_fingerprint_of(model)]},
        "use another --output_dir, or delete this folder",
    )
    record = Path(folder) / SETTINGS_FILE
    if changed_inputs(record, identity):
        print(f"{folder}: other float weights, training again", flush=True)
        delete_run(record.parent)
    run = Run(folder, [*variables, quantized.ranges], identity=identity)
    run.train(
        Phase(
            "quantization_aware_training",
            options.num_steps,
            build,
            examples,
            shown=("loss", "task_loss", "distillation_loss"),
        )
    )
    run.log.close()
    if not keep_better(quantized, calibrated, calibration, compute_loss):
        print(
            "Quantisation-aware training increased the loss; keeping the "
            "calibrated model",
            flush=True,
        )


def _taught_loss(quantized: Quantized, task: Task, model: keras.Model):
    """Returns a function that maps a batch to its loss terms."""

    def compute_loss(batch):
        inputs = inputs_of(batch)
        taught = tf.nest.map_structure(
            tf.stop_gradient, model(inputs, training=False)
        )
        return task.terms(quantized(inputs), batch, taught, TeacherWeights())

    return compute_loss


class RangeFollower:
    """Moves all ranges as much as the activations have moved.

    A batch of calibration is measured again, in the float graph with the
    weights as they are, and each range grows or shrinks by the ratio to what
    that batch reached at first. The batch of a step would not do: its extremes
    are smaller than those of all examples. Every replica reads the same ranges.

    Args:
        quantized: the network, just calibrated.
        batch: the batch to measure.
    """

    def __init__(self, quantized: Quantized, batch: Mapping):
        self._quantized, self._batch = quantized, batch
        self._calibrated = quantized.ranges.numpy()
        self._reached = self._reach(self._measure())

    def follow(self, rate: float = 0.5) -> None:
        """Moves the ranges by a share of the way, 1 being all of it.

        The range of an activation that is not finite stays.
        """
        now = self._measure()
        ratio = self._reach(now) / self._reached
        ranges = self._quantized.ranges.numpy()
        target = np.where(
            np.isfinite(now).all(axis=1)[:, None],
            self._calibrated * np.clip(ratio, *_FOLLOWED_RATIOS),
            ranges,
        )
        self._quantized.ranges.assign(ranges + rate * (target - ranges))

    def batches(
        self, batches: Iterable[dict], start_step: int, num_steps: int
    ) -> Iterator[dict]:
        """Yields batches for training; ranges follow during the first half.

        A resumed run measures what it would have measured otherwise, given
        that ranges are among its variables.

        Args:
            batches: whole batches, from `start_step` on.
            start_step: the number of the first.
            num_steps: of the whole training.
        """
        for step, batch in enumerate(batches, start_step):
            is_frozen = step >= FOLLOWING_SHARE * num_steps
            is_due = step % STEPS_BETWEEN_MEASUREMENTS == 0
            # At step 0 nothing has moved.
            if step and is_due and not is_frozen:
                self.follow()
            yield batch

    def _measure(self) -> np.ndarray:
        found = measure_batch(self._quantized.folded, self._batch)
        limits = [found[name].limits for name in self._quantized.names]
        return np.array(limits, np.float32)

    def _reach(self, limits: np.ndarray) -> np.ndarray:
        """Returns how far ranges have to go to either side, [P, 2]."""
        low, high = usable_ranges(limits, self._quantized.symmetric).T
        # A side that is not used has no ratio.
        low, high = (
            np.where(low < 0.0, low, 1.0),
            np.where(high > 0.0, high, 1.0),
        )
        return np.stack([low, high], axis=-1)


def typical_sizes(
    weights: Mapping[str, tf.Variable],
) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns how large the weights of a network are, by row and column.

    Returns:
        For each name factors whose product broadcasts to the shape of the
        weight. For a matrix [I, O]: the root mean squares of its rows divided
        by that of the whole matrix, [I, 1], and those of its columns, [O]. For
        a bias: those of its kernel's columns, [O], times the ratio of the root
        mean squares of bias and kernel. For another vector: its root mean
        square.
    """
    arrays = {name: variable.numpy() for name, variable in weights.items()}
    sizes = {}
    for name, array in arrays.items():
        kernel = arrays.get(name.removesuffix(_BIAS) + _KERNEL)
        if array.ndim == 2:
            rows = _root_mean_square(array, axis=1, keepdims=True)
            whole = _root_mean_square(array) or 1.0
            sizes[name] = rows / whole, _root_mean_square(array, axis=0)
        elif name.endswith(_BIAS) and kernel is not None:
            columns = _root_mean_square(kernel, axis=0)
            # A bias that is zero throughout has the size of its kernel.
            share = _root_mean_square(array) / (
                _root_mean_square(kernel) or 1.0
            )
            sizes[name] = (columns * (share or 1.0),)
        else:
            sizes[name] = (_root_mean_square(array),)
    return {
        name: tuple(np.asarray(factor, np.float32) for factor in factors)
        for name, factors in sizes.items()
    }


class RelativeAdamW(AdamW):
    """AdamW whose steps are multiplied by given sizes.

    Args:
        learning_rate: a number or a schedule; a share of a weight's size.
        weights: the variables to train, by name.
        sizes: factors for each, by the same names (see `typical_sizes`).
        **kwargs: arguments of `AdamW`.
    """

    def __init__(
        self,
        learning_rate,
        weights: Mapping[str, tf.Variable],
        sizes: Mapping[str, tuple[np.ndarray, ...]],
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        self._sizes = {
            compat.variable_key(self, variable): sizes[name]
            for name, variable in weights.items()
        }

    def _subtract(self, variable, change):
        for factor in self._sizes[compat.variable_key(self, variable)]:
            change = change * factor
        super()._subtract(variable, change)


def _fingerprint_of(model: keras.Model) -> Fingerprint:
    digest = hashlib.sha256()
    for variable in model.weights:
        digest.update(np.ascontiguousarray(variable.value))
    return Fingerprint("float weights", digest.hexdigest())


def build_optimizer(
    weights: Mapping[str, tf.Variable],
    sizes: Mapping[str, tuple[np.ndarray, ...]],
    learning_rate: float,
    num_steps: int,
) -> RelativeAdamW:
    """Returns the optimizer of quantisation-aware training.

    Args:
        weights: the variables to train, by name.
        sizes: their `typical_sizes` before the training.
        learning_rate: the peak, relative to those sizes. It rises for a tenth
            of the steps, then falls linearly to zero.
        num_steps: of the whole training.
    """
    warmup = int(WARMUP_SHARE * num_steps)
    return RelativeAdamW(
        WarmupPolynomialDecay(learning_rate, num_steps, warmup),
        weights,
        sizes,
        decay_rate=0.0,
        bias_correction=True,
        global_clipnorm=1.0,
    )


def keep_better(
    quantized: Quantized,
    before: Sequence[np.ndarray],
    batches: Sequence[dict],
    compute_loss,
) -> bool:
    """Undoes a training that increased the loss.

    Where rounding costs next to nothing, steps at a large rate cost more.

    Args:
        quantized: the network after the training.
        before: values of its variables before, ranges last.
        batches: labelled examples to compare on.
        compute_loss: maps a batch to its loss terms.

    Returns:
        Whether the training was kept: its mean loss is finite and no higher.
    """
    after = _state(quantized)
    trained_loss = _mean_loss(compute_loss, batches)
    _assign(quantized, before)
    # Negated, so that NaN is undone.
    if not trained_loss <= _mean_loss(compute_loss, batches):
        return False
    _assign(quantized, after)
    return True


def _state(quantized: Quantized) -> list[np.ndarray]:
    variables = [*quantized.trainable_variables, quantized.ranges]
    return [variable.numpy() for variable in variables]


def _assign(quantized: Quantized, values: Sequence[np.ndarray]) -> None:
    variables = [*quantized.trainable_variables, quantized.ranges]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def _mean_loss(compute_loss, batches) -> float:
    losses = [float(compute_loss(batch)["loss"]) for batch in batches]
    return sum(losses) / len(losses)


def _root_mean_square(array: np.ndarray, **kwargs):
    return np.sqrt(np.mean(np.square(array.astype(np.float64)), **kwargs))
