"""Steps of quantisation-aware training that are relative to the weights.

The rewrite and the equalisation of ranges multiply rows and columns of weights
by whatever makes a graph smaller or ranges alike: one channel's weights may be
a thousandth of the next one's. Adam's steps have the same size for all of them,
so that a rate which suits one destroys another. Here a step is multiplied by
the typical size of the weights in its row and column. A rescaled channel then
trains much as if it had not been, and a rate of 1e-3 means a thousandth.
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mobilebert_tf.training.optimization import AdamW

_KERNEL, _BIAS = "/kernel", "/bias"


def typical_sizes(
    weights: Mapping[str, tf.Variable],
) -> dict[str, tuple[np.ndarray, ...]]:
    """Returns how large the weights of a graph are, by row and column.

    Args:
        weights: of a `DeploymentModel`, by name.

    Returns:
        For each name factors whose product broadcasts to the shape of the
        weight. For a matrix [I, O]: root mean squares of its rows, over that
        of all of it, [I, 1], and of its columns, [O]. For a bias: those of its
        kernel's columns, [O], times what the bias as a whole is to the kernel
        as a whole. For another vector: its root mean square.
    """
    arrays = {name: variable.numpy() for name, variable in weights.items()}
    sizes = {}
    for name, array in arrays.items():
        kernel = arrays.get(name.removesuffix(_BIAS) + _KERNEL)
        if array.ndim == 2:
            rows = _mean_root(array, axis=1, keepdims=True)
            whole = _mean_root(array) or 1.0
            sizes[name] = rows / whole, _mean_root(array, axis=0)
        elif name.endswith(_BIAS) and kernel is not None:
            columns = _mean_root(kernel, axis=0)
            # A bias that is zero throughout has the size of its kernel.
            share = _mean_root(array) / (_mean_root(kernel) or 1.0)
            sizes[name] = (columns * (share or 1.0),)
        else:
            sizes[name] = (_mean_root(array),)
    return {
        name: tuple(np.asarray(factor, np.float32) for factor in factors)
        for name, factors in sizes.items()
    }


class RelativeAdamW(AdamW):
    """AdamW whose steps are multiplied by given sizes.

    Args:
        learning_rate: a number or a schedule; a share of a weight's size.
        weights: what is trained, by name.
        sizes: factors of each, by the same names (see `typical_sizes`).
        **kwargs: of `AdamW`.
    """

    def __init__(
        self,
        learning_rate,
        weights: Mapping[str, tf.Variable],
        sizes: Mapping[str, tuple[np.ndarray, ...]],
        **kwargs,
    ):
        super().__init__(learning_rate, **kwargs)
        self._sizes = {
            self._var_key(variable): sizes[name]
            for name, variable in weights.items()
        }

    def _subtract(self, variable, change):
        for factor in self._sizes[self._var_key(variable)]:
            change = change * factor
        super()._subtract(variable, change)


def _mean_root(array: np.ndarray, **kwargs):
    return np.sqrt(np.mean(np.square(array.astype(np.float64)), **kwargs))
