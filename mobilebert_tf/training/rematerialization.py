"""Blocks that keep their input only and are computed again for the gradient.

Keras' own scope for it does not take our blocks, whose mask is a pair, and
would draw new dropout masks the second time. Here a block is made a function
of its variables' values, random states among them, so that both times compute
the same.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf


def rematerialize(blocks: Sequence[keras.layers.Layer]) -> None:
    """Makes these blocks need less memory in training, and more time.

    What they compute stays the same. Call it before a step is built.

    Args:
        blocks: `MobileBertBlock`s.
    """
    for block in blocks:
        block.call = _rematerialized(block)


def _rematerialized(block):
    # Bound before it is replaced.
    original_call = block.call

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
