"""A model's forward pass over batches of one size and a few widths.

What predictors of all tasks share. Traced once for any width, so that it may
be called again while the model is trained.
"""

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.data.batches import INPUTS


def inference_step(
    model: keras.Model, batch_size: int
) -> Callable[[Mapping[str, np.ndarray]], np.ndarray | dict[str, np.ndarray]]:
    """Returns a function from a batch to the model's outputs without dropout.

    Args:
        model: any model with a task head.
        batch_size: B of all batches.

    Returns:
        From inputs, int32 [B, S] of any width S, to the outputs, [B, ...];
        a dict of them where the model has several. Other entries of a batch
        are ignored.
    """
    signature = {
        name: tf.TensorSpec([batch_size, None], tf.int32) for name in INPUTS
    }
    step = tf.function(
        lambda batch: model(batch, training=False),
        autograph=False,
        input_signature=[signature],
    )

    def run(batch):
        outputs = step({name: tf.constant(batch[name]) for name in INPUTS})
        return tf.nest.map_structure(lambda tensor: tensor.numpy(), outputs)

    return run
