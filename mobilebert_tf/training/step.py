"""One optimisation step as a compiled function."""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

LossTerms = dict[str, tf.Tensor]


def build_train_step(
    compute_loss: Callable[[dict], LossTerms],
    variables: Sequence[keras.Variable | tf.Variable],
    optimizer: keras.optimizers.Optimizer,
    jit_compile: bool = False,
) -> Callable[[dict], LossTerms]:
    """Returns a function that takes a batch and takes a step.

    Args:
        compute_loss: from a batch to a dict of scalars; `loss` is minimised,
            the others are reported.
        variables: what is trained.
        optimizer: built here on `variables`.
        jit_compile: compile the step with XLA.

    Returns:
        A function of a batch that returns the terms, `learning_rate` and
        `gradient_norm` (before clipping) added.
    """
    variables = list(variables)
    optimizer.build(variables)
    values = [
        variable.value if isinstance(variable, keras.Variable) else variable
        for variable in variables
    ]

    # Without autograph: there is no Python control flow on tensors here, so
    # converting every layer's code would only delay the first step.
    @tf.function(jit_compile=jit_compile, autograph=False)
    def train_step(batch):
        with tf.GradientTape() as tape:
            terms = compute_loss(batch)
        gradients = tape.gradient(terms["loss"], values)
        terms = dict(terms)
        terms["gradient_norm"] = tf.linalg.global_norm(gradients)
        terms["learning_rate"] = tf.identity(optimizer.learning_rate)
        optimizer.apply(gradients, variables)
        return terms

    return train_step
