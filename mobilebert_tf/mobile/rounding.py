"""What happens to a tensor where an integer kernel would round it.

`deployment.forward` calls a rounding at every place where the integer kernels
of LiteRT round: after each dense layer with its fused activation, after each
residual sum and batch product, and at each kernel and table. The classes here
compute exactly, cut, or fake-quantise for training and for the converter.

The arithmetic is TensorFlow's fake-quantisation operations, called directly.
The quantisers of tensorflow_model_optimization wrap the same operations and
give the same numbers (`tests/mobile/test_tfmot_oracle.py`), but each owns two
variables, and those of weights are assigned in every forward pass. That would
be some 1,800 variables for 24 blocks, and state that replicas must agree on.
One variable of ranges is enough here.
"""

from collections.abc import Mapping

import tensorflow as tf


class Exact:
    """No rounding: the float graph. Base class of all roundings."""

    def kernel(self, kernel):
        """Rounds a dense layer's kernel, [in, out]."""
        return kernel

    def product(self, name, rows, kernel):
        """Multiplies rows [R, in] by a dense layer's kernel, rounded."""
        return rows @ self.kernel(kernel)

    def look_up(self, name, table, ids):
        """Returns rows `ids` of a table, [..., W]."""
        return tf.gather(table, ids)

    def activation(self, name, tensor):
        """Rounds a tensor whose range is measured on data."""
        return tensor

    def total(self, name, left, right):
        """Adds two activations and rounds the sum."""
        return self.activation(name, left + right)

    def symmetric(self, name, tensor):
        """Rounds the right side of a batch product, with zero point 0."""
        return self.activation(name, tensor)

    def fixed(self, tensor, low, high):
        """Rounds a tensor whose range is known beforehand."""
        return tensor


class Clipping(Exact):
    """Cuts activations to given ranges, and rounds nothing.

    Args:
        ranges: lowest and highest value first, by activation name.
    """

    def __init__(self, ranges: Mapping):
        self._ranges = ranges

    def look_up(self, name, table, ids):
        return self.activation(name, tf.gather(table, ids))

    def activation(self, name, tensor):
        low, high = self._ranges[name][:2]
        return tf.clip_by_value(tensor, low, high)


class HalfWeights(Exact):
    """Rounds kernels and tables to float16, in which float16 files keep them.

    Small weights that read a scaled outlier become zero.
    """

    def kernel(self, kernel):
        return tf.cast(tf.cast(kernel, tf.float16), tf.float32)

    def look_up(self, name, table, ids):
        return self.kernel(tf.gather(table, ids))


class WeightRounding(Exact):
    """Rounds kernels per output channel and nothing else."""

    def kernel(self, kernel):
        # The converter chooses the same scale: the largest weight becomes 127.
        largest = tf.stop_gradient(self._largest(tf.abs(kernel)))
        # A channel without weights still needs a scale.
        largest = tf.where(largest > 0.0, largest, 1.0)
        return tf.quantization.fake_quant_with_min_max_vars_per_channel(
            kernel, -largest, largest, narrow_range=True
        )

    def _largest(self, sizes):
        """Returns the largest weight of each channel: [in, out] to [out]."""
        return tf.reduce_max(sizes, axis=0)


class DynamicRounding(WeightRounding):
    """Also rounds each row of an activation to the range that it has.

    An estimate of a dynamic-range file, which rounds only the inputs of dense
    layers.

    Args:
        per_tensor: round a whole kernel with one scale.
    """

    def __init__(self, per_tensor: bool = False):
        self._per_tensor = per_tensor

    def _largest(self, sizes):
        by_channel = super()._largest(sizes)
        if not self._per_tensor:
            return by_channel
        return tf.fill(tf.shape(by_channel), tf.reduce_max(by_channel))

    def activation(self, name, tensor):
        low = tf.minimum(tf.reduce_min(tensor, -1, keepdims=True), 0.0)
        high = tf.maximum(tf.reduce_max(tensor, -1, keepdims=True), 0.0)
        step = tf.where(high > low, high - low, 255.0) / 255.0
        # Zero is a multiple of the step: else one large channel would move all.
        return step * tf.round(tensor / step)


class FakeQuantization(WeightRounding):
    """Rounds kernels, and activations to given ranges.

    Args:
        ranges: lowest and highest value first, by activation name.
    """

    def __init__(self, ranges: Mapping):
        self._ranges = ranges

    def look_up(self, name, table, ids):
        # Rows first: rounding the whole table would make its gradient dense.
        return self.activation(name, tf.gather(table, ids))

    def activation(self, name, tensor):
        low, high = self._ranges[name][:2]
        return tf.quantization.fake_quant_with_min_max_vars(tensor, low, high)

    def fixed(self, tensor, low, high):
        return tf.quantization.fake_quant_with_min_max_args(tensor, low, high)


class ExportRounding(FakeQuantization):
    """Gives the same numbers in the form that the TFLite converter reads.

    Ranges are constants. Kernels stay bare: the converter quantises them per
    channel itself, and fails where they are fake-quantised. Tables are rounded
    before the look-up, which makes them int8 in the file.
    """

    def kernel(self, kernel):
        return kernel

    def look_up(self, name, table, ids):
        return tf.gather(self.activation(name, table), ids)

    def activation(self, name, tensor):
        low, high = (float(value) for value in self._ranges[name][:2])
        return tf.quantization.fake_quant_with_min_max_args(tensor, low, high)
