"""The mathematics of a train step by way of JAX, to be held against ours.

Models, losses and optimizers are the same objects, made under Keras' JAX
backend; what makes a step of them is JAX's differentiation instead of
TensorFlow's. The loop is TensorFlow's alone: this step is compiled and
compared, not trained with. It has no sum over replicas, and does not leave
out an update that is not finite.
"""

import io
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf


class JaxStep:
    """A pure function from variables' values and a batch to new values.

    Args:
        model: owns all variables that the loss reads.
        compute_loss: from a batch to a dict of scalars; `loss` is minimised.
        variables: what is trained.
        optimizer: built on `variables`.

    Raises:
        RuntimeError: if Keras has another backend.
    """

    def __init__(
        self,
        model: keras.Model,
        compute_loss: Callable[[dict], dict],
        variables: Sequence[keras.Variable],
        optimizer: keras.optimizers.Optimizer,
    ):
        if keras.backend.backend() != "jax":
            raise RuntimeError("made under KERAS_BACKEND=jax only")
        self.trained = list(variables)
        trained = {id(variable) for variable in self.trained}
        self.others = [v for v in model.variables if id(v) not in trained]
        self.optimizer = optimizer
        self._compute_loss = compute_loss

    def values(self) -> tuple[list, list, list]:
        """Returns what `__call__` takes before the batch, as it is now."""
        groups = self.trained, self.optimizer.variables, self.others
        return tuple([variable.value for variable in group] for group in groups)

    def __call__(self, trained, state, others, batch):
        """Takes a step.

        Args:
            trained: values of what is trained.
            state: values of the optimizer's variables.
            others: values of what the loss reads besides, teacher and random
                states say.
            batch: arrays by name.

        Returns:
            The loss terms; new values of `trained` and `state`; of `others`
            those that changed, by their index.
        """
        import jax

        def loss_of(trained):
            variables = [*self.trained, *self.others]
            values = [*trained, *others]
            mapping = list(zip(variables, values, strict=True))
            with keras.StatelessScope(mapping) as scope:
                terms = dict(self._compute_loss(batch))
            after = map(scope.get_current_value, self.others)
            changed = {
                index: new
                for index, (new, old) in enumerate(
                    zip(after, others, strict=True)
                )
                if new is not old
            }
            return terms["loss"], (terms, changed)

        gradient = jax.grad(loss_of, has_aux=True)
        gradients, (terms, changed) = gradient(trained)
        trained, state = self.optimizer.stateless_apply(
            state, gradients, trained
        )
        return terms, trained, state, changed


def lower_jax_step(step: JaxStep, batch: Mapping[str, tf.TensorSpec]) -> bytes:
    """Returns a step for one TPU device, as StableHLO.

    Args:
        step: its values are needed for their shapes only.
        batch: shapes without unknowns.
    """
    import jax

    trained, state, others = jax.tree.map(_shape, step.values())
    batch = {
        name: jax.ShapeDtypeStruct(
            tuple(spec.shape), np.dtype(spec.dtype.as_numpy_dtype)
        )
        for name, spec in batch.items()
    }
    # What is given back is updated in place, as variables are.
    function = jax.jit(step.__call__, donate_argnums=(0, 1))
    lowered = function.trace(trained, state, others, batch).lower(
        lowering_platforms=("tpu",)
    )
    module = io.BytesIO()
    lowered.compiler_ir("stablehlo").operation.write_bytecode(module)
    return module.getvalue()


def _shape(value):
    import jax

    return jax.ShapeDtypeStruct(value.shape, value.dtype)
