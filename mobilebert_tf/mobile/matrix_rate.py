"""How fast this machine multiplies matrices in the same kernels.

Latencies alone say little about a file on an unknown machine. Beside the rate
of large dense layers, run by the same interpreter in the same minute, they say
how much is left to gain.
"""

import tempfile

import numpy as np
import tensorflow as tf

from mobilebert_tf.mobile.signatures import SIGNATURE

# Large enough that nothing but the products counts, in caches of a core.
_ROWS, _WIDTH, _LAYERS = 512, 1024, 4


class _Layers(tf.Module):
    """Dense layers one behind the other, rounded as int8 if asked."""

    def __init__(self, is_integer: bool):
        super().__init__(name="layers")
        rng = np.random.default_rng(0)
        self._is_integer = is_integer
        self.kernels = [
            tf.Variable(rng.uniform(-1.0, 1.0, (_WIDTH, _WIDTH)), dtype="float")
            for _ in range(_LAYERS)
        ]

    def __call__(self, rows):
        rows = self._rounded(rows)
        for kernel in self.kernels:
            rows = self._rounded(tf.nn.relu(rows @ kernel / _WIDTH))
        return {"rows": rows}

    def _rounded(self, rows):
        if not self._is_integer:
            return rows
        return tf.quantization.fake_quant_with_min_max_args(rows, -1.0, 1.0)


def dense_layers(is_integer: bool) -> bytes:
    """Returns a .tflite file of dense layers, float32 or int8 throughout."""
    layers = _Layers(is_integer)
    spec = tf.TensorSpec((_ROWS, _WIDTH), tf.float32, name="rows")
    function = tf.function(layers.__call__).get_concrete_function(rows=spec)
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(layers, folder, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if is_integer:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        return converter.convert()
