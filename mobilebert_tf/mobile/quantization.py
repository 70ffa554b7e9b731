"""Quantisation-aware training of the deployment graph.

Activations are fake-quantised exactly where the integer kernels round, weights
per channel, so that the loss is that of the phone. Three rules make it train:

* ranges are calibrated on real batches *before* the first step, as the lowest
  and highest value seen. Moving averages that begin at (-6, 6), the usual
  default, are wrong for as long as a fine-tuning lasts;
* they stay fixed afterwards. The weights adapt to them, a step has no state
  beyond the weights, and replicas need not agree on statistics;
* right sides of batch products are symmetric, with zero point 0 exactly.

The arithmetic is `rounding`'s.
"""

from collections.abc import Iterable

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.mobile.deployment import INPUT_NAMES, DeploymentModel
from mobilebert_tf.mobile.rounding import (
    ExportRounding,
    FakeQuantization,
    RangeRecorder,
)
from mobilebert_tf.modeling.losses import (
    classification_loss,
    regression_loss,
    span_loss,
)

# 8 bits reach from -128 to 127: this range has scale m / 127, zero point 0.
_SYMMETRIC_RATIO = 128.0 / 127.0


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

    Raises:
        ValueError: for a task that has no loss here.
    """

    def __init__(
        self,
        deployment: DeploymentModel,
        float_model: keras.Model | None = None,
    ):
        super().__init__(name="quantization_aware")
        if deployment.task not in _TASK_LOSSES:
            raise ValueError(
                f"quantisation-aware training knows the tasks "
                f"{', '.join(_TASK_LOSSES)}. Received: {deployment.task}"
            )
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

    def calibrate(self, batches: Iterable[dict]) -> None:
        """Measures the ranges of all activations in the float graph.

        Args:
            batches: dicts with `input_ids`, `input_mask` and `segment_ids`,
                some hundred examples of the training set in all. Other
                entries are ignored.

        Raises:
            ValueError: if there is no batch, or an activation is not finite.
        """
        measured = [self._measure(batch) for batch in batches]
        if not measured:
            raise ValueError("calibration needs at least one batch")
        measured = np.stack(measured)  # [batches, P, 2]
        low, high = measured[..., 0].min(0), measured[..., 1].max(0)
        finite = np.isfinite(low) & np.isfinite(high)
        if not finite.all():
            bad = self._names[int(np.argmin(finite))]
            raise ValueError(f"activation {bad} is not finite on the batches")
        self.ranges.assign(self._usable(low, high))

    def _measure(self, batch: dict) -> np.ndarray:
        """Returns the lowest and highest value of each activation, [P, 2].

        Eagerly: to trace 24 blocks takes longer than some batches do.
        """
        recorder = RangeRecorder()
        inputs = (tf.cast(batch[name], tf.int32) for name in INPUT_NAMES)
        self.deployment(*inputs, rounding=recorder)
        return np.stack([recorder.ranges[name] for name in self._names])

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
        """Returns scalar losses of a batch, "loss" being what to minimise.

        Args:
            batch: the inputs and the labels: `labels` int32 [B] (float for
                regression), or `start_positions` and `end_positions` [B].

        Returns:
            `loss`; with a float model also its two parts, `task_loss` and
            `distillation_loss`, of which it is the mean.
        """
        logits = self(*(batch[name] for name in INPUT_NAMES))
        task_loss, distillation_loss = _TASK_LOSSES[self.deployment.task]
        loss = task_loss(logits, batch)
        if self._float_logits is None:
            return {"loss": loss}
        teacher = self._float_logits(
            {name: batch[name] for name in INPUT_NAMES}
        )
        teacher = tf.nest.map_structure(tf.stop_gradient, teacher)
        distilled = distillation_loss(logits, teacher)
        return {
            "loss": (loss + distilled) / 2.0,
            "task_loss": loss,
            "distillation_loss": distilled,
        }

    def export_rounding(self) -> ExportRounding:
        """Returns the rounding whose graph the TFLite converter reads."""
        ranges = self.ranges.numpy()
        return ExportRounding(dict(zip(self._names, ranges, strict=True)))


def _classification_loss(logits, batch):
    if logits.shape[-1] == 1:
        return regression_loss(logits, tf.cast(batch["labels"], tf.float32))
    return classification_loss(logits, batch["labels"])


def _classification_distillation_loss(logits, teacher_logits):
    if logits.shape[-1] == 1:
        return tf.reduce_mean(tf.square(logits - teacher_logits))
    return _soft_cross_entropy(logits, teacher_logits)


def _span_loss(logits, batch):
    return span_loss(
        logits[..., 0],
        logits[..., 1],
        batch["start_positions"],
        batch["end_positions"],
    )


def _span_distillation_loss(logits, teacher_logits):
    start = _soft_cross_entropy(logits[..., 0], teacher_logits["start_logits"])
    end = _soft_cross_entropy(logits[..., 1], teacher_logits["end_logits"])
    return (start + end) / 2.0


def _soft_cross_entropy(logits, teacher_logits):
    """Mean over the batch of -sum(teacher probability * log probability)."""
    return tf.reduce_mean(
        tf.nn.softmax_cross_entropy_with_logits(
            labels=tf.nn.softmax(teacher_logits), logits=logits
        )
    )


# Task -> (loss against labels, loss against the float model's logits).
_TASK_LOSSES = {
    "sequence_classification": (
        _classification_loss,
        _classification_distillation_loss,
    ),
    "question_answering": (_span_loss, _span_distillation_loss),
}
