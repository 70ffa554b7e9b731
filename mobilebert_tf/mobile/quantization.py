"""Quantisation-aware training of the deployment graph.

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
"""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import (
    DEFAULT_PERCENTILE,
    CalibratedRange,
    choose_ranges,
    measure_extremes,
)
from mobilebert_tf.mobile.deployment import INPUT_NAMES, DeploymentModel
from mobilebert_tf.mobile.quantized_losses import quantized_loss
from mobilebert_tf.mobile.rounding import (
    ExportRounding,
    FakeQuantization,
    RangeRecorder,
)

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
