"""The dense layer every other layer is made of, and its activations."""

from collections.abc import Callable

import keras
from keras import ops


def activation_function(name: str) -> Callable:
    """Returns the activation that the config calls `name`.

    `gelu` is the tanh approximation, as in the release; `gelu_erf` is exact.
    """
    return {
        "relu": ops.relu,
        "relu6": ops.relu6,
        "gelu": _gelu_tanh,
        "gelu_erf": _gelu_erf,
        "tanh": ops.tanh,
        "linear": _identity,
    }[name]


def build_dense(
    units: int, initializer_range: float, name: str
) -> keras.layers.Dense:
    """Returns a linear dense layer initialised as the release does.

    Each layer gets an initializer of its own: one Keras initializer object
    draws the same numbers every time it is called.
    """
    return keras.layers.Dense(
        units,
        kernel_initializer=truncated_normal(initializer_range),
        name=name,
    )


def truncated_normal(stddev: float) -> keras.initializers.Initializer:
    """Returns a fresh truncated normal initializer."""
    return keras.initializers.TruncatedNormal(stddev=stddev)


def _gelu_tanh(inputs):
    return ops.gelu(inputs, approximate=True)


def _gelu_erf(inputs):
    return ops.gelu(inputs, approximate=False)


def _identity(inputs):
    return inputs
