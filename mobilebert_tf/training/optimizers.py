"""LAMB and AdamW as in the release, and their learning-rate schedules.

Keras' own optimizers do not do: its `Lamb` decays weights outside the trust
ratio, and none has a learning rate per variable, which soft freezing needs.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np
from keras import ops

from mobilebert_tf import compat
from mobilebert_tf.training.options import OptimizerOptions


class WarmupPolynomialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise, then a polynomial fall.

    As in BERT, the fall is counted from step 0: after the rise, the rate is
    that of a schedule without warm-up. Unlike in BERT, the rise is one step
    ahead, so that the first step is not lost to a rate of 0.

    Args:
        learning_rate: start of the fall, at step 0.
        num_steps: step at which `end_factor * learning_rate` is reached.
        num_warmup_steps: length of the rise.
        end_factor: share that is left at the end (1e-4 in the release; 1.0
            gives a constant rate).
        power: exponent of the share of steps that is left (1 in the release).
    """

    def __init__(
        self,
        learning_rate: float,
        num_steps: int,
        num_warmup_steps: int = 0,
        end_factor: float = 0.0,
        power: float = 1.0,
    ):
        self.learning_rate = learning_rate
        self.num_steps = num_steps
        self.num_warmup_steps = num_warmup_steps
        self.end_factor = end_factor
        self.power = power

    def __call__(self, step):
        step = ops.cast(step, "float32")
        left = 1.0 - ops.minimum(step / max(self.num_steps, 1), 1.0)
        if self.power != 1.0:
            left = ops.power(left, self.power)
        factor = self.end_factor + (1.0 - self.end_factor) * left
        if self.num_warmup_steps:
            rise = (step + 1.0) / self.num_warmup_steps
            factor = ops.where(step < self.num_warmup_steps, rise, factor)
        return self.learning_rate * factor


class TransferStageSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """The rate within one transfer stage: a quick ramp, then nearly flat.

    The release's curve, min(10 t / T, 0.9 + 0.1 sqrt(1 - t / T)), at t = 1 to
    T. In the release t is a remainder, so it is 0 at the last step of a stage,
    which has no rate there.

    Args:
        learning_rate: factor of the curve (0.0045 in the release: its base rate
            of 0.0015 times 3.0).
        num_steps: T.
    """

    def __init__(self, learning_rate: float, num_steps: int):
        self.learning_rate = learning_rate
        progress = np.arange(1, num_steps + 1) / num_steps
        # In float64: float32 would round differently on each backend.
        self._curve = np.minimum(
            0.9 + 0.1 * np.sqrt(1.0 - progress), 10.0 * progress
        )

    def __call__(self, step):
        index = ops.clip(ops.cast(step, "int32"), 0, len(self._curve) - 1)
        curve = ops.convert_to_tensor(self._curve, "float32")
        return self.learning_rate * ops.take(curve, index)


# Most elements in a stack. Larger stacks save no more time, and are copies for
# which a large model has no memory. Larger variables are groups of their own.
LARGEST_STACK = 2**20


@dataclasses.dataclass(frozen=True)
class VariableGroup:
    """N variables of equal shape and dtype, updated as one stacked array.

    The full student has 1,119 variables of sixteen shapes. Updated one by one
    they take 56,000 operations, four fifths of a step; stacked, 3,200, and the
    first step is ready half a minute sooner.

    Attributes:
        variables: the variables.
        multiplier: factor of their learning rate.
    """

    variables: tuple[keras.Variable, ...]
    multiplier: float

    @property
    def shape(self) -> tuple[int, ...]:
        """The stack's shape, [N, ...]."""
        return len(self.variables), *self.variables[0].shape

    @property
    def dtype(self) -> str:
        """The dtype of each."""
        return keras.backend.standardize_dtype(self.variables[0].dtype)

    def stack(self, values: Sequence):
        """Stacks a value of each variable as float32, [N, ...]."""
        return ops.stack([self._as_float32(value) for value in values])

    def _as_float32(self, value):
        # The gradient of an embedding may come as slices.
        value = ops.convert_to_tensor(value, dtype=self.dtype)
        return ops.cast(value, "float32")


def group_variables(
    variables: Sequence[keras.Variable],
    multiplier_of: Callable[[keras.Variable], float],
) -> tuple[VariableGroup, ...]:
    """Groups variables by shape, dtype and multiplier, in their order."""
    kinds = {}
    for variable in variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        key = tuple(variable.shape), dtype, multiplier_of(variable)
        kinds.setdefault(key, []).append(variable)
    groups = []
    for (shape, _, multiplier), members in kinds.items():
        most = max(1, LARGEST_STACK // max(1, math.prod(shape)))
        groups += [
            VariableGroup(tuple(members[start : start + most]), multiplier)
            for start in range(0, len(members), most)
        ]
    return tuple(groups)


@compat.with_update_hooks
class AdamW(keras.optimizers.Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    With `bias_correction` it equals `torch.optim.AdamW` up to rounding: epsilon
    is added to the root of the corrected second moment. Without it, as in the
    release, epsilon is added to the root of the raw moment.

    All arithmetic is float32, and so are the moments, whatever the dtype of
    a variable and its gradient: bfloat16 has 8 bits, too few for an average
    that moves by a thousandth.

    Args:
        learning_rate: a number or a schedule.
        decay_rate: weight decay, multiplied by the learning rate.
        beta_1, beta_2, epsilon: as in Adam.
        bias_correction: off in the release.
        multipliers: factors, 1 by default, of variables' learning rates.
        **kwargs: of `keras.optimizers.Optimizer`, such as `global_clipnorm`.
    """

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
            compat.variable_key(self, variable): factor
            for variable, factor in multipliers
        }

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._groups = group_variables(
            variables,
            lambda variable: self._multipliers.get(
                compat.variable_key(self, variable), 1.0
            ),
        )
        self._momentums, self._velocities = (
            [
                self.add_variable(group.shape, name=f"{moment}_{index:03d}")
                for index, group in enumerate(self._groups)
            ]
            for moment in ("momentum", "velocity")
        )
        self._group_indices = {
            compat.variable_key(self, momentum): index
            for index, momentum in enumerate(self._momentums)
        }

    def add_variable(self, shape, initializer="zeros", dtype=None, **kwargs):
        return super().add_variable(shape, initializer, "float32", **kwargs)

    def clip(self, gradients, keras_clip):
        # By the global norm it is done later, in fewer operations: on stacks.
        return gradients if self.global_clipnorm else keras_clip(gradients)

    def update(self, gradients, variables, learning_rate, keras_update):
        """Has Keras update groups, in whatever way it updates variables.

        A group's momentum stands for it where Keras expects a variable.
        """
        gradient_of = {
            compat.variable_key(self, variable): gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        }
        self._connected = frozenset(gradient_of)
        stacks, momentums = [], []
        for group, momentum in zip(self._groups, self._momentums, strict=True):
            keys = [
                compat.variable_key(self, variable)
                for variable in group.variables
            ]
            if self._connected.isdisjoint(keys):
                continue
            zeros = ops.zeros(group.shape[1:], group.dtype)
            stacks.append(
                group.stack([gradient_of.get(k, zeros) for k in keys])
            )
            momentums.append(momentum)
        if self.global_clipnorm:
            squares = [ops.sum(ops.square(stack)) for stack in stacks]
            norm = ops.sqrt(ops.sum(ops.stack(squares)))
            factor = self.global_clipnorm / ops.maximum(
                norm, self.global_clipnorm
            )
            stacks = [stack * factor for stack in stacks]
        keras_update(stacks, momentums, learning_rate)

    def update_step(self, gradient, variable, learning_rate):
        """Updates the group whose momentum `variable` is.

        `gradient` is that of the group, [N, ...].
        """
        index = self._group_indices[compat.variable_key(self, variable)]
        group = self._groups[index]
        momentum, velocity = self._momentums[index], self._velocities[index]
        connected = [
            compat.variable_key(self, member) in self._connected
            for member in group.variables
        ]
        first = (1 - self.beta_1) * (gradient - momentum)
        second = (1 - self.beta_2) * (ops.square(gradient) - velocity)
        if not all(connected):
            # Moments without a gradient stay as they are.
            rows = np.reshape(connected, (-1, *[1] * (len(group.shape) - 1)))
            first, second = (
                ops.where(rows, change, 0.0) for change in (first, second)
            )
        self.assign_add(momentum, first)
        self.assign_add(velocity, second)
        update = self._update(group, momentum, velocity)
        rate = ops.cast(learning_rate, "float32") * group.multiplier
        changes = ops.unstack(rate * update, len(connected))
        for member, change, is_connected in zip(
            group.variables, changes, connected, strict=True
        ):
            if is_connected:
                self._subtract(member, change)

    def _update(self, group, momentum, velocity):  # at a rate of 1, [N, ...]
        if self.bias_correction:
            momentum = momentum / self._missing_mass(self.beta_1)
            velocity = velocity / self._missing_mass(self.beta_2)
        update = momentum / (ops.sqrt(velocity) + self.epsilon)
        if not is_adapted(group.variables[0]):
            return update
        weights = group.stack(group.variables)
        if self.decay_rate:
            update = update + self.decay_rate * weights
        return update * self._trust_ratio(weights, update)

    def _subtract(self, variable, change):
        if keras.backend.standardize_dtype(variable.dtype) == "float32":
            self.assign_sub(variable, change)
        else:
            # Rounded once, after the difference.
            weight = ops.cast(ops.convert_to_tensor(variable), "float32")
            self.assign(variable, ops.cast(weight - change, variable.dtype))

    def _missing_mass(self, beta):
        """Returns 1 - beta ** step, the divisor of a moment that began at 0.

        Without cancellation: in float32, 1 - 0.999 is wrong in the fifth digit.
        """
        step = ops.cast(self.iterations + 1, "float32")
        return -ops.expm1(step * math.log(beta))

    def _trust_ratio(self, weights, updates):
        return 1.0


class Lamb(AdamW):
    """LAMB (You et al. 2020): AdamW's update, scaled by a trust ratio.

    The ratio is |w| / |update|, with decay included in the update; 1 where
    either is zero. Norms and biases are neither decayed nor scaled.
    """

    def _trust_ratio(self, weights, updates):
        axes = tuple(range(1, len(weights.shape)))
        weight_norms, update_norms = (
            ops.sqrt(ops.sum(ops.square(values), axes, keepdims=True))
            for values in (weights, updates)
        )
        known = ops.logical_and(weight_norms > 0, update_norms > 0)
        return ops.where(
            known, weight_norms / ops.where(known, update_norms, 1.0), 1.0
        )


OPTIMIZERS = {"adamw": AdamW, "lamb": Lamb}


def build_schedule(
    options: OptimizerOptions, learning_rate: float, num_steps: int
) -> WarmupPolynomialDecay:
    """Returns the schedule that the options describe, over `num_steps`."""
    return WarmupPolynomialDecay(
        learning_rate,
        num_steps,
        round(options.warmup_proportion * num_steps),
        options.end_learning_rate_factor,
        options.decay_power,
    )


def optimizer_with(
    options: OptimizerOptions,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    multipliers: Iterable[tuple[keras.Variable, float]] = (),
) -> keras.optimizers.Optimizer:
    """Returns an optimizer with any schedule, clipping to a norm of 1."""
    return OPTIMIZERS[options.optimizer](
        schedule,
        decay_rate=options.weight_decay,
        bias_correction=options.bias_correction,
        multipliers=multipliers,
        global_clipnorm=1.0,
    )


def build_optimizer(
    options: OptimizerOptions, learning_rate: float, num_steps: int
) -> keras.optimizers.Optimizer:
    """Returns an optimizer with the schedule that the options describe."""
    return optimizer_with(
        options, build_schedule(options, learning_rate, num_steps)
    )


def is_adapted(variable) -> bool:
    """Whether weight decay and trust ratio apply: to matrices and tables only.

    Decided by rank: norms and biases have rank 1 and nothing else has, whereas
    name patterns silently match nothing when names change.
    """
    return len(variable.shape) > 1


def describe_parameters(variables: Sequence[keras.Variable]) -> str:
    """Describes how much is decayed and adapted, in two lines."""
    groups = {True: [], False: []}
    for variable in variables:
        groups[is_adapted(variable)].append(math.prod(variable.shape))
    return (
        f"{sum(groups[True]):,} parameters in {len(groups[True])} matrices and "
        "tables: decayed, and adapted by LAMB\n"
        f"{sum(groups[False]):,} parameters in {len(groups[False])} norms and "
        "biases: neither decayed nor adapted"
    )
