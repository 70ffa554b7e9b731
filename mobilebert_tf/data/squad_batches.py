"""Batches of windows of about the same length, in a few static shapes.

Owns the order of training windows and the width each batch is padded to. Half
of SQuAD's windows are less than half as long as the longest: padded to that,
most of a step would be spent on nothing. Batch n is a pure function of the
data, the settings, the seed and n, as in `batching.py`.
"""

import math
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from mobilebert_tf.data.squad_windows import Windows

# Each width is compiled, so they are few. On SQuAD at 384 these four make the
# mean window 217 columns wide; six that are 64 apart would make it 210.
WIDTHS = (1 / 3, 1 / 2, 2 / 3)


def bucket_lengths(max_seq_length: int) -> list[int]:
    """The widths of batches, multiples of 8, and the longest at the end."""
    widths = {8 * math.ceil(part * max_seq_length / 8) for part in WIDTHS}
    widths = sorted(width for width in widths if width < max_seq_length)
    return [*widths, max_seq_length]


def bucketed_rows(
    windows: Windows, max_seq_length: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Yields each width and the windows that it is just enough for."""
    widths = np.array(bucket_lengths(max_seq_length))
    buckets = np.searchsorted(widths, windows.lengths)
    for index, width in enumerate(widths):
        yield int(width), np.flatnonzero(buckets == index)


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
    num_batches = len(windows) // batch_size
    if not num_batches:
        raise ValueError(
            f"{len(windows)} windows do not make one batch of {batch_size}"
        )
    buckets = [(max_seq_length, np.arange(len(windows)))]
    if not one_width:
        buckets = list(bucketed_rows(windows, max_seq_length))

    def generate() -> Iterator[dict[str, np.ndarray]]:
        epoch, first = divmod(start_step, num_batches)
        while True:
            rng = np.random.default_rng([seed, epoch])
            for width, rows in _epoch(buckets, batch_size, rng)[first:]:
                batch = windows.inputs(rows, width)
                yield batch | {name: labels[name][rows] for name in labels}
            epoch, first = epoch + 1, 0

    signature = {
        name: tf.TensorSpec([batch_size, None], tf.int32)
        for name in ("input_ids", "input_mask", "segment_ids")
    } | {name: tf.TensorSpec([batch_size], tf.int32) for name in labels}
    # A batch takes a fraction of a millisecond, so nothing is made ahead: a
    # process that exits while TensorFlow's thread is inside a generator hangs.
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.from_generator(
        generate, output_signature=signature
    ).with_options(options)


def _epoch(
    buckets: list[tuple[int, np.ndarray]],
    batch_size: int,
    rng: np.random.Generator,
) -> list[tuple[int, np.ndarray]]:
    """The batches of an epoch: their width, and their windows [B]."""
    batches = []
    left_over = np.zeros(0, np.int64)
    for width, rows in buckets:
        rows = np.concatenate([left_over, rng.permutation(rows)])
        num_full = len(rows) // batch_size * batch_size
        for first in range(0, num_full, batch_size):
            batches.append((width, rows[first : first + batch_size]))
        left_over = rows[num_full:]
    return [batches[index] for index in rng.permutation(len(batches))]
