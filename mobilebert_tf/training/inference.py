"""A model over arrays of any number of examples, in batches of a few widths."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.config import INPUT_NAMES, inputs_of
from mobilebert_tf.data.batches import BUCKET_LENGTHS, evaluation_batches


class Predictor:
    """Runs a model over examples, without dropout.

    The model is traced once, for all widths. It may be trained further between
    two calls.

    Args:
        model: any model with a task head.
        batch_size: examples at once.
        bucket_lengths: widths of batches, besides that of the arrays.
    """

    def __init__(
        self,
        model: keras.Model,
        batch_size: int,
        bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
    ):
        self._batch_size = batch_size
        self._bucket_lengths = bucket_lengths
        signature = {
            name: tf.TensorSpec([batch_size, None], tf.int32)
            for name in INPUT_NAMES
        }
        self._step = tf.function(
            lambda batch: model(batch, training=False),
            autograph=False,
            input_signature=[signature],
        )

    def __call__(
        self, arrays: Mapping[str, np.ndarray]
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Returns the outputs of all examples, in the order of the arrays.

        Args:
            arrays: `input_ids`, `input_mask`, `segment_ids`, int32 [N, S].
                Others are ignored.

        Returns:
            float32 [N, C], or [N, S, C] for a tagger, or [N, S] by name for a
            question answerer. Where an example's batch was narrower than S,
            the positions beyond are 0.
        """
        inputs = inputs_of(arrays)
        number, length = inputs["input_ids"].shape

        def zeros(spec):
            sizes = [length if size is None else size for size in spec.shape]
            return np.zeros((number, *sizes[1:]), np.float32)

        results = tf.nest.map_structure(
            zeros, self._step.get_concrete_function().structured_outputs
        )
        for rows, batch in evaluation_batches(
            inputs, self._batch_size, self._bucket_lengths
        ):
            outputs = self._step(tf.nest.map_structure(tf.constant, batch))
            for result, output in zip(
                tf.nest.flatten(results), tf.nest.flatten(outputs), strict=True
            ):
                # [rows, width] of a result [N, S], all columns of [N, C].
                result[rows, : output.shape[1]] = output[: len(rows)]
        return results
