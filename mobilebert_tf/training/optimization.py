"""LAMB and AdamW as the release has them, and their learning-rate schedules.

Own optimizers, because Keras' differ where it matters: its `Lamb` decays
weights outside the trust ratio, and none of them has a learning rate per
variable, which soft freezing needs.
"""

import math
from collections.abc import Iterable

import keras
from keras import ops

from mobilebert_tf.distillation.schedule import transfer_rate


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class WarmupLinearDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to `learning_rate`, then a linear fall.

    As in BERT, the fall is counted from step 0, so that after the rise it
    goes on where a schedule without warm-up would be.

    Args:
        learning_rate: the peak, were there no fall during the rise.
        num_steps: when `end_factor * learning_rate` is reached.
        num_warmup_steps: length of the rise.
        end_factor: what is left at the end (1e-4 in the release; 1.0 gives
            a constant rate).
    """

    def __init__(
        self,
        learning_rate: float,
        num_steps: int,
        num_warmup_steps: int = 0,
        end_factor: float = 0.0,
    ):
        self.learning_rate = learning_rate
        self.num_steps = num_steps
        self.num_warmup_steps = num_warmup_steps
        self.end_factor = end_factor

    def __call__(self, step):
        step = ops.cast(step, "float32")
        done = ops.minimum(step / max(self.num_steps, 1), 1.0)
        factor = 1.0 - (1.0 - self.end_factor) * done
        if self.num_warmup_steps:
            rise = (step + 1.0) / self.num_warmup_steps
            factor = ops.where(step < self.num_warmup_steps, rise, factor)
        return self.learning_rate * factor

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "num_steps": self.num_steps,
            "num_warmup_steps": self.num_warmup_steps,
            "end_factor": self.end_factor,
        }


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class TransferStageSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The rate within one transfer stage: a quick ramp, then nearly flat.

    Args:
        learning_rate: its peak.
        num_steps: length of the stage.
    """

    def __init__(self, learning_rate: float, num_steps: int):
        self.learning_rate = learning_rate
        self.num_steps = num_steps

    def __call__(self, step):
        # A table of the pure-Python curve keeps its formula in one place.
        # Step 0 takes the value of step 1, or it would be lost.
        curve = [
            transfer_rate(min(index + 1, self.num_steps) / self.num_steps)
            for index in range(self.num_steps)
        ]
        index = ops.clip(ops.cast(step, "int32"), 0, self.num_steps - 1)
        return self.learning_rate * ops.take(
            ops.convert_to_tensor(curve, "float32"), index
        )

    def get_config(self):
        return {
            "learning_rate": self.learning_rate,
            "num_steps": self.num_steps,
        }


class _AdamCore(keras.optimizers.Optimizer):
    """Moments, decay inside the update, and a rate per variable."""

    def __init__(
        self,
        learning_rate,
        *,
        decay_rate: float = 0.01,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-6,
        bias_correction: bool = False,
        multipliers: Iterable[tuple[keras.Variable, float]] = (),
        **kwargs,
    ):
        super().__init__(learning_rate=learning_rate, **kwargs)
        self.decay_rate = decay_rate
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.bias_correction = bias_correction
        self._multipliers = {
            self._var_key(variable): factor for variable, factor in multipliers
        }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._momentums = self.add_optimizer_variables(variables, "momentum")
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(self, gradient, variable, learning_rate):
        # An embedding's gradient may come as slices; decay is dense anyway.
        gradient = ops.convert_to_tensor(gradient, dtype=variable.dtype)
        index = self._get_variable_index(variable)
        momentum, velocity = self._momentums[index], self._velocities[index]
        self.assign_add(momentum, (1 - self.beta_1) * (gradient - momentum))
        self.assign_add(
            velocity, (1 - self.beta_2) * (ops.square(gradient) - velocity)
        )
        first, second = momentum, velocity
        if self.bias_correction:
            step = ops.cast(self.iterations + 1, variable.dtype)
            first = momentum / (1 - ops.power(self.beta_1, step))
            second = velocity / (1 - ops.power(self.beta_2, step))
        update = first / (ops.sqrt(second) + self.epsilon)
        adapted = is_adapted(variable)
        if adapted and self.decay_rate:
            update = update + self.decay_rate * variable
        rate = ops.cast(learning_rate, variable.dtype)
        rate = rate * self._multipliers.get(self._var_key(variable), 1.0)
        if adapted:
            rate = rate * self._trust_ratio(variable, update)
        self.assign_sub(variable, rate * update)

    def _trust_ratio(self, variable, update):
        return 1.0

    def get_config(self):
        return super().get_config() | {
            "decay_rate": self.decay_rate,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
            "bias_correction": self.bias_correction,
        }


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class AdamW(_AdamCore):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        learning_rate: a number or a schedule.
        decay_rate: weight decay, multiplied by the learning rate.
        beta_1, beta_2, epsilon: as in Adam.
        bias_correction: off in the release, and by default.
        multipliers: (variable, factor) pairs; a variable's learning rate is
            multiplied by its factor (1 where there is none).
        **kwargs: of `keras.optimizers.Optimizer`, `global_clipnorm` say.
    """


@keras.saving.register_keras_serializable(package="mobilebert_tf")
class Lamb(_AdamCore):
    """LAMB (You et al. 2020): AdamW's update, scaled by a trust ratio.

    The ratio is |w| / |update|, decay included in the update, 1 where either
    norm is zero. Norms and biases are neither decayed nor scaled. Arguments
    are those of `AdamW`.
    """

    def _trust_ratio(self, variable, update):
        weight_norm = ops.norm(ops.reshape(variable, (-1,)))
        update_norm = ops.norm(ops.reshape(update, (-1,)))
        ratio = weight_norm / ops.where(update_norm > 0, update_norm, 1.0)
        known = ops.logical_and(weight_norm > 0, update_norm > 0)
        return ops.where(known, ratio, 1.0)


OPTIMIZERS = {"adamw": AdamW, "lamb": Lamb}


def is_adapted(variable) -> bool:
    """Whether decay and trust ratio apply: to matrices and tables only.

    By rank, because every norm and bias has rank 1 and nothing else has; name
    patterns silently match nothing when names change.
    """
    return len(variable.shape) > 1


def describe_parameters(variables: list[keras.Variable]) -> str:
    """Says how many parameters are decayed and how many are not."""
    groups = {True: [], False: []}
    for variable in variables:
        groups[is_adapted(variable)].append(math.prod(variable.shape))
    return (
        f"{sum(groups[True]):,} parameters in {len(groups[True])} matrices "
        f"(decayed), {sum(groups[False]):,} in {len(groups[False])} norms and "
        "biases (not decayed)"
    )
