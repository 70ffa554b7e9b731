"""What an integer kernel does to a tensor, or a stand-in for it.

The deployment graph calls a `Rounding` at every place where the integer kernels
of LiteRT round: behind each dense layer (its fused activation included), each
residual sum and batch product, and at each kernel and table. The kinds compute
exactly, note ranges, or fake-quantise for training and for the converter.

The arithmetic is TensorFlow's fake-quantisation operations, called directly.
The quantisers of tensorflow_model_optimization wrap the same operations, give
the same numbers (the tests compare), and run here behind an adapter; but each
owns two variables, for weights too, and weights' are assigned in every forward
pass. That is some 1,800 variables for 24 blocks, and state that replicas must
agree on, where one variable of ranges is enough.
"""

from typing import Protocol

import numpy as np
import tensorflow as tf


class Rounding(Protocol):
    """What becomes of a tensor where an integer kernel would round it."""

    def kernel(self, kernel):
        """A dense layer's kernel, [in, out]."""

    def look_up(self, name, table, ids):
        """Rows `ids` of a table, [..., W]."""

    def activation(self, name, tensor):
        """A tensor whose range is learned from data."""

    def symmetric(self, name, tensor):
        """The same, with zero point 0: the right side of a batch product."""

    def fixed(self, tensor, low, high):
        """A tensor whose range is known beforehand."""


class Exact:
    """No rounding: the float graph."""

    def kernel(self, kernel):
        return kernel

    def look_up(self, name, table, ids):
        return tf.gather(table, ids)

    def activation(self, name, tensor):
        return tensor

    def symmetric(self, name, tensor):
        return tensor

    def fixed(self, tensor, low, high):
        return tensor


class RangeRecorder(Exact):
    """Computes exactly and notes every range, [2], by name."""

    def __init__(self):
        self.ranges: dict[str, tf.Tensor] = {}
        self.symmetric_names: set[str] = set()

    def look_up(self, name, table, ids):
        self.activation(name, table)
        return tf.gather(table, ids)

    def activation(self, name, tensor):
        self.ranges[name] = tf.stack(
            [tf.reduce_min(tensor), tf.reduce_max(tensor)]
        )
        return tensor

    def symmetric(self, name, tensor):
        self.symmetric_names.add(name)
        return self.activation(name, tensor)


class ChannelRecorder(Exact):
    """Computes exactly and notes every channel's range, [2, W], by name.

    Of tensors of rank 2 only: rows of channels, and tables.
    """

    def __init__(self):
        self.ranges: dict[str, tf.Tensor] = {}

    def look_up(self, name, table, ids):
        self.activation(name, table)
        return tf.gather(table, ids)

    def activation(self, name, tensor):
        if tensor.shape.rank == 2:
            self.ranges[name] = tf.stack(
                [tf.reduce_min(tensor, axis=0), tf.reduce_max(tensor, axis=0)]
            )
        return tensor

    def symmetric(self, name, tensor):
        return self.activation(name, tensor)


class SampleRecorder(Exact):
    """Computes exactly and notes a sample of each activation, by name.

    Tables are left out: a batch says little about their rarer rows.

    Args:
        seed: of which values are drawn.
        size: how many of a tensor, which stays whole if it is no larger.
    """

    def __init__(self, seed: int, size: int = 2**16):
        self.samples: dict[str, tf.Tensor] = {}
        self._rng = np.random.default_rng(seed)
        self._size = size

    def activation(self, name, tensor):
        values = tf.reshape(tensor, (-1,))
        if len(values) > self._size:
            drawn = self._rng.integers(0, len(values), self._size)
            values = tf.gather(values, drawn)
        self.samples[name] = values
        return tensor

    def symmetric(self, name, tensor):
        return self.activation(name, tensor)


class WeightRounding(Exact):
    """Rounds kernels per output channel and nothing else."""

    def kernel(self, kernel):
        # The converter's own choice of scale: the largest weight becomes 127.
        largest = tf.stop_gradient(tf.reduce_max(tf.abs(kernel), axis=0))
        # A channel without weights still needs a scale.
        largest = tf.where(largest > 0.0, largest, 1.0)
        return tf.quantization.fake_quant_with_min_max_vars_per_channel(
            kernel, -largest, largest, narrow_range=True
        )


class DynamicRounding(WeightRounding):
    """Rounds activations too, each to the range that it happens to have.

    An estimate of a dynamic-range file: that rounds the inputs of dense layers
    only, but row by row.
    """

    def activation(self, name, tensor):
        low = tf.minimum(tf.reduce_min(tensor), 0.0)
        high = tf.maximum(tf.reduce_max(tensor), 0.0)
        high = tf.where(high > low, high, 1.0)
        return tf.quantization.fake_quant_with_min_max_vars(tensor, low, high)

    def symmetric(self, name, tensor):
        return self.activation(name, tensor)


class FakeQuantization(WeightRounding):
    """Rounds kernels, and activations to their ranges.

    Args:
        ranges: activation name to its lowest and highest value, [2].
    """

    def __init__(self, ranges: dict):
        self._ranges = ranges

    def look_up(self, name, table, ids):
        # Rows first: rounding the whole table would make its gradient dense.
        return self.activation(name, tf.gather(table, ids))

    def activation(self, name, tensor):
        low, high = tf.unstack(self._ranges[name], num=2)
        return tf.quantization.fake_quant_with_min_max_vars(tensor, low, high)

    def symmetric(self, name, tensor):
        return self.activation(name, tensor)

    def fixed(self, tensor, low, high):
        return tf.quantization.fake_quant_with_min_max_args(tensor, low, high)


class ExportRounding(FakeQuantization):
    """The same numbers, spelled as the TFLite converter understands them.

    Ranges are constants. Kernels stay bare: the converter quantises them per
    channel itself, and fails where they are fake-quantised. Tables are rounded
    before the look-up, which makes them int8 in the file.
    """

    def kernel(self, kernel):
        return kernel

    def look_up(self, name, table, ids):
        return tf.gather(self.activation(name, table), ids)

    def activation(self, name, tensor):
        low, high = (float(value) for value in self._ranges[name])
        return tf.quantization.fake_quant_with_min_max_args(tensor, low, high)
