"""Batches of windows of about the same length, in a few static shapes.

Owns the width each batch of windows is padded to. Half of SQuAD's windows are
less than half as long as the longest: padded to that, most of a step would be
spent on nothing. The order is that of `bucketing.py`.
"""

import math

import numpy as np
import tensorflow as tf

from mobilebert_tf.data.bucketing import (
    INPUTS,
    Bucket,
    rows_by_width,
    shuffled_batches,
)
from mobilebert_tf.data.squad_windows import Windows

# Each width is compiled, so they are few. On SQuAD at 384 these four make the
# mean window 217 columns wide; six that are 64 apart would make it 210.
WIDTHS = (1 / 3, 1 / 2, 2 / 3)


def bucket_lengths(max_seq_length: int) -> list[int]:
    """The widths of batches, multiples of 8, and the longest at the end."""
    widths = {8 * math.ceil(part * max_seq_length / 8) for part in WIDTHS}
    widths = sorted(width for width in widths if width < max_seq_length)
    return [*widths, max_seq_length]


def bucketed_rows(windows: Windows, max_seq_length: int) -> list[Bucket]:
    """Each width and the windows whose batches have it."""
    return rows_by_width(windows.lengths, bucket_lengths(max_seq_length))


def training_dataset(
    windows: Windows,
    labels: dict[str, np.ndarray],
    *,
    batch_size: int,
    max_seq_length: int,
    seed: int,
    start_step: int = 0,
    one_width: bool = False,
) -> tf.data.Dataset:
    """Endless batches of labelled windows, in a new order every epoch.

    An epoch has `len(windows) // batch_size` batches. Windows that are left
    over in a width go into the next larger one; what is left over at the end
    is dropped, others each epoch.

    Args:
        windows: what to train on.
        labels: of `label_windows`, [W].
        batch_size: B, over all replicas.
        max_seq_length: the largest width.
        seed: of the order, 0 or more.
        start_step: number of the first batch.
        one_width: pad all batches to the largest width, for whoever needs a
            single shape.

    Returns:
        Dictionaries of the inputs [B, width], for one of `bucket_lengths`, and
        of the labels [B].

    Raises:
        ValueError: there are fewer windows than make a batch.
    """
    buckets = [(max_seq_length, np.arange(len(windows)))]
    if not one_width:
        buckets = bucketed_rows(windows, max_seq_length)

    def make_batch(rows: np.ndarray, width: int) -> dict[str, np.ndarray]:
        batch = windows.inputs(rows, width)
        return batch | {name: labels[name][rows] for name in labels}

    signature = {
        name: tf.TensorSpec([batch_size, None], tf.int32) for name in INPUTS
    } | {name: tf.TensorSpec([batch_size], tf.int32) for name in labels}
    return shuffled_batches(
        buckets,
        make_batch,
        signature,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
    )
