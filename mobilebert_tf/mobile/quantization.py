"""Steps of quantisation-aware training that are relative to the weights.

The rewrite and the equalisation of ranges multiply rows and columns of weights
by whatever makes a graph smaller or ranges alike: one channel's weights may be
a thousandth of the next one's. Adam's steps have the same size for all of them,
so that a rate which suits one destroys another. Here a step is multiplied by
the typical size of the weights in its row and column. A rescaled channel then
trains much as if it had not been, and a rate of 1e-3 means a thousandth.

What a rounded network learns: its task's labels, and the float model.

The losses are those of fine-tuning, on outputs as the deployment graph gives
them; by default the float model's answers are half of it.

Quantisation-aware training of the deployment graph.

Activations are fake-quantised exactly where the integer kernels round, weights
per channel, so that the loss is that of the phone. Three rules make it train:

* ranges are calibrated on real batches *before* the first step. Moving averages
  that begin at (-6, 6), the usual default, are wrong for as long as a
  fine-tuning lasts;
* a step does not touch them: it has no state beyond the weights, and replicas
  need not agree on statistics. Between steps `follow_ranges` may move them, as
  `range_schedule` does in the first part of a training; then they are frozen
  and the weights adapt;
* right sides of batch products are symmetric, with zero point 0 exactly.

The arithmetic is `rounding`'s, the choice of ranges `calibration`'s.

What quantisation-aware training changes when: rates and ranges.

A training of n steps warms up for a tenth of them and then decays linearly to
nothing. In its first half ranges follow the activations, whose weights change;
then they are frozen, so that the last and smallest steps are taken on the very
grid that ships. At its end the calibrated model stays if it was better.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf import compat
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import (
    DEFAULT_PERCENTILE,
    CalibratedRange,
    choose_ranges,
    measure_extremes,
)
from mobilebert_tf.mobile.deployment import INPUT_NAMES, DeploymentModel
from mobilebert_tf.mobile.rounding import (
    ExportRounding,
    FakeQuantization,
    RangeRecorder,
)
from mobilebert_tf.modeling.losses import (
    classification_loss,
    masked_lm_loss,
    mean,
    regression_loss,
    span_loss,
    weighted_mean,
)
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay

_KERNEL, _BIAS = "/kernel", "/bias"


def typical_sizes(
    weights: Mapping[str, tf.Variable],
) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns how large the weights of a graph are, by row and column.

    Args:
        weights: of a `DeploymentModel`, by name.

    Returns:
        For each name factors whose product broadcasts to the shape of the
        weight. For a matrix [I, O]: root mean squares of its rows, over that
        of all of it, [I, 1], and of its columns, [O]. For a bias: those of its
        kernel's columns, [O], times what the bias as a whole is to the kernel
        as a whole. For another vector: its root mean square.
    """
    arrays = {name: variable.numpy() for name, variable in weights.items()}
    sizes = {}
    for name, array in arrays.items():
        kernel = arrays.get(name.removesuffix(_BIAS) + _KERNEL)
        if array.ndim == 2:
            rows = _mean_root(array, axis=1, keepdims=True)
            whole = _mean_root(array) or 1.0
            sizes[name] = rows / whole, _mean_root(array, axis=0)
        elif name.endswith(_BIAS) and kernel is not None:
            columns = _mean_root(kernel, axis=0)
            # A bias that is zero throughout has the size of its kernel.
            share = _mean_root(array) / (_mean_root(kernel) or 1.0)
            sizes[name] = (columns * (share or 1.0),)
        else:
            sizes[name] = (_mean_root(array),)
    return {
        name: tuple(np.asarray(factor, np.float32) for factor in factors)
        for name, factors in sizes.items()
    }


class RelativeAdamW(AdamW):
    """AdamW whose steps are multiplied by given sizes.

    Args:
        learning_rate: a number or a schedule; a share of a weight's size.
        weights: what is trained, by name.
        sizes: factors of each, by the same names (see `typical_sizes`).
        **kwargs: of `AdamW`.
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


def _mean_root(array: np.ndarray, **kwargs):
    return np.sqrt(np.mean(np.square(array.astype(np.float64)), **kwargs))


def quantized_loss(
    task: str, logits, batch: dict, teacher_logits=None
) -> dict[str, tf.Tensor]:
    """Returns scalar losses, "loss" being what to minimise.

    Args:
        task: one of `deployment.TASKS`, but for features.
        logits: of the deployment graph, as its task has them.
        batch: the labels: `labels` int32 [B] (float for regression),
            `labels` and `label_weights` [B, S] for tokens, or
            `start_positions` and `end_positions` [B].
        teacher_logits: what the float model answers, as a Keras model gives
            it, or None.

    Returns:
        `loss`; with a teacher also its two parts, `task_loss` and
        `distillation_loss`, of which it is the mean.

    Raises:
        ValueError: for a task that has no labels.
    """
    if task not in _LOSSES:
        raise ValueError(
            f"quantisation-aware training needs one of the tasks "
            f"{', '.join(_LOSSES)}. Received: {task}"
        )
    labelled_loss, answers_loss = _LOSSES[task]
    labelled = labelled_loss(logits, batch)
    if teacher_logits is None:
        return {"loss": labelled}
    teacher_logits = tf.nest.map_structure(tf.stop_gradient, teacher_logits)
    taught = answers_loss(logits, teacher_logits, batch)
    return {
        "loss": (labelled + taught) / 2.0,
        "task_loss": labelled,
        "distillation_loss": taught,
    }


def _classification_loss(logits, batch):
    if logits.shape[-1] == 1:
        return regression_loss(logits, tf.cast(batch["labels"], tf.float32))
    return classification_loss(logits, batch["labels"])


def _classification_answers_loss(logits, teacher_logits, batch):
    if logits.shape[-1] == 1:
        return mean(tf.square(logits - teacher_logits))
    return mean(_soft_cross_entropy(logits, teacher_logits))


def _token_loss(logits, batch):
    return masked_lm_loss(logits, batch["labels"], batch["label_weights"])


def _token_answers_loss(logits, teacher_logits, batch):
    per_token = _soft_cross_entropy(logits, teacher_logits)
    return weighted_mean(per_token, batch["label_weights"])


def _span_loss(logits, batch):
    return span_loss(
        logits[..., 0],
        logits[..., 1],
        batch["start_positions"],
        batch["end_positions"],
    )


def _span_answers_loss(logits, teacher_logits, batch):
    start, end = (
        mean(_soft_cross_entropy(logits[..., index], teacher_logits[name]))
        for index, name in enumerate(("start_logits", "end_logits"))
    )
    return (start + end) / 2.0


def _soft_cross_entropy(logits, teacher_logits):
    """-sum(teacher probability * log probability) over the last axis."""
    return tf.nn.softmax_cross_entropy_with_logits(
        labels=tf.nn.softmax(teacher_logits), logits=logits
    )


# Task -> (loss against labels, loss against the float model's answers).
_LOSSES = {
    "sequence_classification": (
        _classification_loss,
        _classification_answers_loss,
    ),
    "token_classification": (_token_loss, _token_answers_loss),
    "question_answering": (_span_loss, _span_answers_loss),
}


# 8 bits reach from -128 to 127: this range has scale m / 127, zero point 0.
_SYMMETRIC_RATIO = 128.0 / 127.0

# Ranges follow to no more than this share, or multiple, of the calibrated ones.
_FOLLOWED_RATIOS = (0.5, 2.0)


class QuantizationAwareModel(tf.Module):
    """A deployment graph that rounds as the phone will, trainable.

    Args:
        deployment: the folded network. Its variables are what is trained.
        float_model: the fine-tuned Keras model, which then teaches: half of
            the loss is the cross-entropy with its probabilities. None trains
            on labels alone.

    Attributes:
        deployment: as given.
        ranges: float32 [P, 2], lowest and highest value of each of the P
            activations, NaN before calibration. Not trainable.

    Call arguments:
        input_ids, input_mask, segment_ids: int32 [B, S], S static.

    Returns:
        What `deployment` returns, rounded.
    """

    def __init__(
        self,
        deployment: DeploymentModel,
        float_model: keras.Model | None = None,
    ):
        super().__init__(name="quantization_aware")
        self.deployment = deployment
        # In a closure: a checkpoint of this module must not hold the teacher.
        self._float_logits = None
        if float_model is not None:
            self._float_logits = lambda batch: float_model(
                batch, training=False
            )
        # One token tells the names of the activations.
        recorder = RangeRecorder()
        one = tf.ones((1, 1), tf.int32)
        deployment(one, one, one - 1, rounding=recorder)
        self._names = tuple(recorder.ranges)
        self._symmetric = np.array(
            [name in recorder.symmetric_names for name in self._names]
        )
        # Of calibration: a batch, how far it reached, and all ranges then.
        self._reference = None
        self.ranges = tf.Variable(
            np.full((len(self._names), 2), np.nan, np.float32),
            trainable=False,
            name="ranges",
        )

    @property
    def trainable_variables(self):
        return self.deployment.trainable_variables

    @property
    def is_calibrated(self) -> bool:
        """Whether ranges have been measured, or restored."""
        return bool(np.isfinite(self.ranges.numpy()).all())

    def calibrate(
        self,
        batches: Iterable[dict],
        method: str = "min_max",
        percentile: float = DEFAULT_PERCENTILE,
    ) -> tuple[CalibratedRange, ...]:
        """Measures the ranges of all activations in the float graph.

        Args:
            batches: dicts with `input_ids`, `input_mask` and `segment_ids`,
                some hundred examples of the training set in all. Other
                entries are ignored.
            method: one of `calibration.METHODS`.
            percentile: the share of values, in percent, that `percentile`
                keeps within a range.

        Returns:
            What was found and chosen, for `calibration.write_ranges`.

        Raises:
            ValueError: if there is no batch, an activation is not finite, or
                there is no such method.
        """
        batches = list(batches)
        extremes, chosen = choose_ranges(
            self.deployment, batches, method, percentile
        )
        ranges = self._usable(*self._columns(chosen))
        self.ranges.assign(ranges)
        first = {name: batches[0][name] for name in INPUT_NAMES}
        reached = self._columns(measure_extremes(self.deployment, first))
        self._reference = first, reached, ranges
        return tuple(
            CalibratedRange(
                name,
                *(float(limit) for limit in extremes[name]),
                method,
                *(float(limit) for limit in limits),
            )
            for name, limits in zip(self._names, ranges, strict=True)
        )

    def follow_ranges(self, rate: float = 0.5) -> None:
        """Moves all ranges as much as the activations have moved.

        The first batch of calibration is measured again, in the float graph
        with the weights as they are, and each range grows or shrinks by the
        ratio to what that batch reached then. One batch of training would not
        do: its extremes are smaller than those of all examples. To be called
        between steps; every replica reads the same ranges.

        Args:
            rate: how far, 1 being all the way. An activation that is not
                finite moves nothing.

        Raises:
            ValueError: if `calibrate` was not called before.
        """
        if self._reference is None:
            raise ValueError("ranges follow only after calibrate()")
        batch, extremes, calibrated = self._reference
        now = self._columns(measure_extremes(self.deployment, batch))
        ratio = self._reach(now) / self._reach(extremes)
        ranges = self.ranges.numpy()
        target = np.where(
            np.isfinite(now).all(axis=0)[:, None],
            calibrated * np.clip(ratio, *_FOLLOWED_RATIOS),
            ranges,
        )
        self.ranges.assign(ranges + rate * (target - ranges))

    def _reach(self, extremes) -> np.ndarray:
        """Returns how far ranges have to go to either side, [P, 2]."""
        low, high = self._usable(*extremes).T
        # A side that is not used has no ratio.
        return np.stack(
            [np.where(low < 0.0, low, 1.0), np.where(high > 0.0, high, 1.0)], -1
        )

    def _columns(self, limits: dict[str, np.ndarray]):
        """Returns lowest and highest values in the order of the names, [P]."""
        return np.stack([limits[name] for name in self._names], axis=1)

    def _usable(self, low, high) -> np.ndarray:
        """Makes ranges hold zero, have a width, and be symmetric if needed."""
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        # An activation that is always zero still needs a scale.
        high = np.where(high - low == 0.0, 1.0, high)
        largest = np.maximum(-low, high)
        low = np.where(self._symmetric, -largest * _SYMMETRIC_RATIO, low)
        high = np.where(self._symmetric, largest, high)
        return np.stack([low, high], axis=-1).astype(np.float32)

    def __call__(self, input_ids, input_mask, segment_ids):
        return self.deployment(
            input_ids, input_mask, segment_ids, rounding=self.rounding()
        )

    def rounding(self) -> FakeQuantization:
        """Returns the rounding of training and of the phone."""
        ranges = tf.unstack(self.ranges)
        return FakeQuantization(dict(zip(self._names, ranges, strict=True)))

    def compute_loss(self, batch: dict) -> dict[str, tf.Tensor]:
        """Returns `quantized_loss` of a batch of inputs and labels."""
        inputs = {name: batch[name] for name in INPUT_NAMES}
        teacher_logits = None
        if self._float_logits is not None:
            teacher_logits = self._float_logits(inputs)
        return quantized_loss(
            self.deployment.task, self(**inputs), batch, teacher_logits
        )

    def export_rounding(self) -> ExportRounding:
        """Returns the rounding whose graph the TFLite converter reads.

        Raises:
            InputError: if a range was never measured: a model, or the
                checkpoint it comes from, that nobody calibrated.
        """
        finite = np.isfinite(self.ranges.numpy()).all(axis=1)
        if not finite.all():
            raise InputError(
                "int8 export",
                "ranges calibrated on real examples",
                f"none for {int((~finite).sum())} of {len(finite)} activations",
                self._names[int(np.argmin(finite))],
            )
        ranges = self.ranges.numpy()
        return ExportRounding(dict(zip(self._names, ranges, strict=True)))


WARMUP_SHARE = 0.1
FOLLOWING_SHARE = 0.5
# To measure ranges costs a forward pass without a compiled graph.
STEPS_BETWEEN_MEASUREMENTS = 10


def build_optimizer(
    quantized: QuantizationAwareModel,
    sizes: Mapping[str, tuple[np.ndarray, ...]],
    learning_rate: float,
    num_steps: int,
) -> RelativeAdamW:
    """Returns the optimizer of quantisation-aware training.

    Args:
        quantized: what is trained.
        sizes: `typical_sizes` of its weights before the training.
        learning_rate: its peak, relative to those sizes.
        num_steps: of the whole training.
    """
    schedule = WarmupPolynomialDecay(
        learning_rate, num_steps, int(WARMUP_SHARE * num_steps)
    )
    return RelativeAdamW(
        schedule,
        quantized.deployment.weights,
        sizes,
        decay_rate=0.0,
        bias_correction=True,
        global_clipnorm=1.0,
    )


def following_ranges(
    quantized: QuantizationAwareModel,
    batches: Iterable[dict],
    start_step: int,
    num_steps: int,
) -> Iterator[dict]:
    """Yields batches for training; ranges follow some of the first.

    A run that was stopped and goes on measures what it would have measured,
    given that ranges are among its variables.

    Args:
        quantized: calibrated.
        batches: whole batches, from `start_step` on.
        start_step: the number of the first.
        num_steps: of the whole training.
    """
    for step, batch in enumerate(batches, start_step):
        is_frozen = step >= FOLLOWING_SHARE * num_steps
        # At step 0 nothing has moved.
        if step and not is_frozen and step % STEPS_BETWEEN_MEASUREMENTS == 0:
            quantized.follow_ranges()
        yield batch


def snapshot(quantized: QuantizationAwareModel) -> list[np.ndarray]:
    """Returns copies of all weights and ranges, for `keep_better`."""
    return [variable.numpy() for variable in _state(quantized)]


def keep_better(
    quantized: QuantizationAwareModel,
    before: Sequence[np.ndarray],
    batches: Sequence[dict],
    compute_loss: Callable[[dict], dict] | None = None,
) -> bool:
    """Takes back a training that has made things worse.

    Where rounding costs next to nothing, steps at a large rate cost more.

    Args:
        quantized: after the training.
        before: the `snapshot` of the calibrated model.
        batches: labelled examples to compare on.
        compute_loss: of a batch; `quantized.compute_loss` by default.

    Returns:
        Whether the training was kept: its mean loss is finite and no higher.
    """
    compute_loss = compute_loss or quantized.compute_loss
    after = snapshot(quantized)
    trained_loss = _mean_loss(compute_loss, batches)
    _assign(quantized, before)
    # Negated, so that NaN is taken back.
    if not trained_loss <= _mean_loss(compute_loss, batches):
        return False
    _assign(quantized, after)
    return True


def _state(quantized: QuantizationAwareModel) -> list[tf.Variable]:
    return [*quantized.trainable_variables, quantized.ranges]


def _assign(quantized, values) -> None:
    for variable, value in zip(_state(quantized), values, strict=True):
        variable.assign(value)


def _mean_loss(compute_loss, batches) -> float:
    losses = [float(compute_loss(batch)["loss"]) for batch in batches]
    return sum(losses) / len(losses)
