"""One optimisation step as a compiled function, on any number of devices.

A step is pure: the gradient of the whole batch, summed over replicas and
micro-batches and divided by the counts of the whole batch, then one update,
clipped by the norm of the whole gradient. The device itself leaves out an
update with a NaN or infinite value, so nothing has to be read back for it.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf import compat
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.losses import dividing_by
from mobilebert_tf.training.devices import current_distribution
from mobilebert_tf.training.options import StepOptions

# Stands for a variable's index where all gradients are finite.
NO_VARIABLE = -1


class TrainStep:
    """Computes the gradient of a batch and updates variables.

    It is made in the scope of the devices that it will run on. On several
    devices, or with accumulation, each loss term must be a `losses.mean`, a
    `losses.weighted_mean` (whose weights are an entry of the batch) or a sum
    of these: only then do the parts of a batch add up to the batch.

    Args:
        compute_loss: maps a batch to scalars by name; `loss` is minimised, the
            others are only reported.
        variables: the variables to train.
        optimizer: built here on `variables`.
        options: how the step is carried out.

    Attributes:
        names: names of a step's values, known after the first step: `loss`
            and the other terms, then `gradient_norm` (before clipping) and
            `learning_rate`.
        variable_names: paths of `variables`.
    """

    def __init__(
        self,
        compute_loss: Callable[[dict], dict[str, tf.Tensor]],
        variables: Sequence[keras.Variable | tf.Variable],
        optimizer: keras.optimizers.Optimizer,
        options: StepOptions = StepOptions(),
    ):
        self.optimizer = optimizer
        self.options = options
        self.distribution = current_distribution()
        self.names: tuple[str, ...] = ()
        self._compute_loss = compute_loss
        self._variables = list(variables)
        self._values = [
            v.value if isinstance(v, keras.Variable) else v for v in variables
        ]
        self.variable_names = [getattr(v, "path", v.name) for v in variables]
        # Those with a gradient, known after the first step.
        self._connected: list[keras.Variable | tf.Variable] = []
        optimizer.build(self._variables)
        one_device = self.distribution.num_replicas == 1
        if not one_device:
            # Keras would clip each replica's gradient and then sum. The step
            # has summed by then, so the whole gradient is clipped.
            compat.leave_gradients_unsummed(optimizer)
        # Without autograph: there is no Python control flow on tensors here,
        # so converting every layer's code would only delay the first step.
        # Every width of a batch is traced: with reduce_retracing, rounding
        # would depend on which width came first, and a resumed run differ.
        self._one = tf.function(
            self._step,
            autograph=False,
            jit_compile=options.jit_compile and one_device,
        )
        self._several = tf.function(self._steps, autograph=False)

    def __call__(self, batch: dict) -> dict[str, tf.Tensor]:
        """Takes one step and returns its values by name, as scalars."""
        values, _ = self.run([batch])
        return dict(zip(self.names, tf.unstack(values[0]), strict=True))

    def run(self, batches: Sequence[dict]) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes one step on each batch.

        Args:
            batches: at most `steps_per_execution` of them.

        Returns:
            The values of the steps, [number of batches, number of names], and
            for each step the index of the first variable with a NaN or
            infinite gradient, or `NO_VARIABLE`. A step with a NaN or infinite
            value has changed nothing.
        """
        distribute = self.distribution.distribute
        if self.options.steps_per_execution == 1:
            (batch,) = batches
            return self._one(distribute(batch))
        number = len(batches)
        # A shorter last call is padded: another shape would be traced anew.
        missing = self.options.steps_per_execution - number
        filled = [*batches, *batches[-1:] * missing]
        stacked = {
            name: np.stack([np.asarray(batch[name]) for batch in filled])
            for name in filled[0]
        }
        values, variables = self._several(
            distribute(stacked, axis=1), tf.constant(number)
        )
        return values[:number], variables[:number]

    def _steps(self, stacked, number):
        """Takes the first `number` steps of a stack of batches."""

        def batch_at(index):
            return self.distribution.run(_take, stacked, index)

        size = self.options.steps_per_execution
        shapes = self._one.get_concrete_function(batch_at(0)).output_shapes
        rows = [
            tf.TensorArray(dtype, size, element_shape=shape[1:])
            for dtype, shape in zip((tf.float32, tf.int32), shapes, strict=True)
        ]

        def body(index, *rows):
            values = self._one(batch_at(index))
            written = [
                row.write(index, value[0])
                for row, value in zip(rows, values, strict=True)
            ]
            return [index + 1, *written]

        _, *rows = tf.while_loop(
            lambda index, *_: index < number, body, [0, *rows]
        )
        return [row.stack() for row in rows]

    def _step(self, batch):
        run, first = self.distribution.run, self.distribution.first
        # Read before the update, which advances the optimizer.
        rate = tf.cast(self.optimizer.learning_rate, tf.float32)
        if self.distribution.updates_in_replica:

            def replica_step(batch):
                values, squares, gradients = self._gradients(batch)
                _if_finite(values, lambda: self._update(gradients))
                return values, squares

            values, squares = first(run(replica_step, batch))
        else:
            values, squares, gradients = run(self._gradients, batch)
            values, squares = first(values), first(squares)
            _if_finite(values, lambda: run(self._update, gradients))
        bad = tf.logical_not(tf.math.is_finite(squares))
        variable = tf.where(
            tf.reduce_any(bad),
            tf.argmax(bad, output_type=tf.int32),
            NO_VARIABLE,
        )
        return tf.concat([values, rate[None]], 0)[None], variable[None]

    def _gradients(self, batch):
        """On a replica: the batch's values, squared norms and gradients."""
        sum_over_replicas = self.distribution.sum
        if self.distribution.num_replicas == 1 and (
            self.options.accumulation_steps == 1
        ):
            terms, gradients = self._part(batch)
        else:
            terms, gradients = self._sum_of_parts(batch)
            terms = dict(
                zip(terms, sum_over_replicas(terms.values()), strict=True)
            )
            gradients = sum_over_replicas(gradients)
        self.names = (*terms, "gradient_norm", "learning_rate")
        squares = 2.0 * tf.stack([tf.nn.l2_loss(g) for g in gradients])
        norm = tf.sqrt(tf.reduce_sum(squares))
        values = [tf.cast(value, tf.float32) for value in terms.values()]
        return tf.stack([*values, norm]), squares, gradients

    def _part(self, batch):
        """Terms of the given examples, and the gradients that exist."""
        # Frozen variables are not watched, so what lies below the trained ones
        # is not even recorded.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._values)
            terms = dict(self._compute_loss(batch))
        gradients = tape.gradient(terms["loss"], self._values)
        self._connected = [
            variable
            for variable, gradient in zip(
                self._variables, gradients, strict=True
            )
            if gradient is not None
        ]
        return terms, [
            tf.convert_to_tensor(g) for g in gradients if g is not None
        ]

    def _sum_of_parts(self, batch):
        """Sums terms and gradients over the parts of a replica's examples."""
        number = self.options.accumulation_steps
        examples = next(iter(batch.values())).shape[0]
        if examples % number:
            raise InputError(
                "--accumulation_steps",
                f"a divisor of the {examples} examples that a replica gets",
                number,
            )
        sums = self.distribution.sum(
            [tf.constant(examples, tf.float32)]
            + [tf.reduce_sum(tf.cast(a, tf.float32)) for a in batch.values()]
        )
        num_examples, sums = sums[0], dict(zip(batch, sums[1:], strict=True))

        def part(batch):
            by_tensor = {batch[name].ref(): sums[name] for name in batch}

            def sum_of_weights(weights):
                if weights.ref() not in by_tensor:
                    raise ValueError(
                        "the weights of a mean must be an entry of the batch, "
                        "as it came: their sum over all parts is not known"
                    )
                return by_tensor[weights.ref()]

            with dividing_by(num_examples, sum_of_weights):
                return self._part(batch)

        if self.options.jit_compile or number > 1:
            part = tf.function(
                part, autograph=False, jit_compile=self.options.jit_compile
            )
        if number == 1:
            return part(batch)
        parts = {
            name: tf.reshape(
                array, (number, examples // number, *array.shape[1:])
            )
            for name, array in batch.items()
        }
        zeros = tf.nest.map_structure(
            lambda output: tf.zeros(output.shape, output.dtype),
            part.get_concrete_function(_take(parts, 0)).structured_outputs,
        )

        def body(index, sums):
            new = part(_take(parts, index))
            return index + 1, tf.nest.map_structure(tf.add, sums, new)

        _, sums = tf.while_loop(
            lambda index, _: index < number, body, (0, zeros)
        )
        return sums

    def _update(self, gradients):
        self.optimizer.apply(gradients, self._connected)


def _take(stacked: dict, index) -> dict:
    return {name: array[index] for name, array in stacked.items()}


def _if_finite(values: tf.Tensor, update: Callable[[], None]) -> None:
    finite = tf.reduce_all(tf.math.is_finite(values))
    tf.cond(finite, update, lambda: None)


def rematerialize(blocks: Sequence[keras.layers.Layer]) -> None:
    """Makes blocks keep only their inputs and compute again for the gradient.

    Training needs less memory and more time, and computes the same. Call it
    before a step is built. Keras' own scope for this does not take our blocks,
    whose mask is a pair, and would draw new dropout masks the second time; here
    a block becomes a function of its variables' values, random states included.

    Args:
        blocks: `MobileBertBlock`s.
    """
    for block in blocks:
        block.call = _rematerialized(block, block.call)


def _rematerialized(block, original_call: Callable) -> Callable:

    def call(block_input, mask, training=None):
        trained = block.trainable_variables
        states = block.non_trainable_variables
        factor, addend = mask

        @tf.recompute_grad
        def compute(block_input, addend, trained_values, state_values):
            values = [*trained_values, *state_values]
            mapping = list(zip([*trained, *states], values, strict=True))
            with keras.StatelessScope(mapping) as scope:
                outputs = original_call(
                    block_input, (factor, addend), training=training
                )
            return outputs, [scope.get_current_value(v) for v in states]

        outputs, new_states = compute(
            block_input, addend, _tensors(trained), _tensors(states)
        )
        for state, new in zip(states, new_states, strict=True):
            state.assign(new)
        return outputs

    return call


def _tensors(variables) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(variable.value) for variable in variables]
