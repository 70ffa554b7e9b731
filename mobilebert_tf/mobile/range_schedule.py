"""What quantisation-aware training changes when: rates and ranges.

A training of n steps warms up for a tenth of them and then decays linearly to
nothing. In its first half ranges follow the activations, whose weights change;
then they are frozen, so that the last and smallest steps are taken on the very
grid that ships. At its end the calibrated model stays if it was better.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.relative_steps import RelativeAdamW
from mobilebert_tf.training.optimization import WarmupPolynomialDecay

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
