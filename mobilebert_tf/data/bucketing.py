"""Batches of examples of about the same length, in a few static shapes.

Owns the order of examples for fine-tuning and evaluation, and the width each
batch is cut to. Most sentences are a tenth of the longest one: padded to that,
nine tenths of a step would be spent on nothing. Batch n is a pure function of
the data, the settings, the seed and n, as in `batching.py`.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

# Each width is compiled, so they are few. Twice as wide, twice the work: at
# most a half of a batch is padding, on SST-2 two fifths.
BUCKET_LENGTHS = (16, 32, 64, 128, 256, 512)

# Arrays [num_examples, S], which are cut; all others are labels.
INPUTS = ("input_ids", "input_mask", "segment_ids")

Arrays = dict[str, np.ndarray]

# A width, and the numbers of examples that are cut to it.
Bucket = tuple[int, np.ndarray]


def widths_up_to(
    max_seq_length: int, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> list[int]:
    """The widths of batches, the longest, which is always there, at the end."""
    widths = {width for width in bucket_lengths if width < max_seq_length}
    return [*sorted(widths), max_seq_length]


def bucketed_rows(
    arrays: Arrays, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> list[Bucket]:
    """Each width and the examples whose batches have it.

    Args:
        arrays: with `input_mask` [num_examples, S], padded at the end.
        bucket_lengths: widths; S is always one, and none is above it.
    """
    mask = arrays["input_mask"]
    widths = widths_up_to(mask.shape[1], bucket_lengths)
    return rows_by_width(mask.sum(axis=1), widths)


def rows_by_width(lengths: np.ndarray, widths: Sequence[int]) -> list[Bucket]:
    """Each width and the rows that are shorter, but not than the one before.

    A row always keeps a column of padding, unless it fills the last width: the
    last piece has the embedding of [PAD] for its neighbour then, at any width.
    Without that column its trigram would differ.

    Args:
        lengths: of the rows, [num_rows], none above the last width.
        widths: ascending.
    """
    buckets = np.searchsorted(widths[:-1], lengths, side="right")
    return [
        (width, np.flatnonzero(buckets == index))
        for index, width in enumerate(widths)
    ]


def rows_cut_to(arrays: Arrays, rows: np.ndarray, width: int) -> Arrays:
    """The examples of some rows, their inputs `width` columns wide."""
    return {
        name: array[rows, :width] if name in INPUTS else array[rows]
        for name, array in arrays.items()
    }


def mean_width(
    arrays: Arrays, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> float:
    """Columns of the average example in its batch."""
    buckets = bucketed_rows(arrays, bucket_lengths)
    columns = sum(width * len(rows) for width, rows in buckets)
    return columns / len(arrays["input_mask"])


def training_dataset(
    arrays: Arrays,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
) -> tf.data.Dataset:
    """Endless batches, in a new order every epoch.

    An epoch has `num_examples // batch_size` batches. Examples that are left
    over in a width go into the next larger one; what is left over at the end
    is dropped, others each epoch.

    Args:
        arrays: of `encode_examples`, with `labels`.
        batch_size: B, over all replicas.
        seed: of the order, 0 or more.
        start_step: number of the first batch.
        bucket_lengths: widths; the longest is that of the arrays.

    Returns:
        Dictionaries of the arrays' names: inputs [B, width], labels [B, ...].

    Raises:
        ValueError: there are fewer examples than make a batch.
    """
    signature = {
        name: tf.TensorSpec(
            [batch_size, None]
            if name in INPUTS
            else [batch_size, *array.shape[1:]],
            array.dtype,
        )
        for name, array in arrays.items()
    }
    return shuffled_batches(
        bucketed_rows(arrays, bucket_lengths),
        lambda rows, width: rows_cut_to(arrays, rows, width),
        signature,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
    )


def shuffled_batches(
    buckets: Sequence[Bucket],
    make_batch: Callable[[np.ndarray, int], Arrays],
    signature: dict[str, tf.TensorSpec],
    *,
    batch_size: int,
    seed: int,
    start_step: int,
) -> tf.data.Dataset:
    """Endless batches out of buckets (see `training_dataset`).

    Args:
        buckets: by width, ascending.
        make_batch: from example numbers [B] and a width to a batch.
        signature: of a batch.
        batch_size: B.
        seed: of the order.
        start_step: number of the first batch.

    Raises:
        ValueError: there are fewer examples than make a batch.
    """
    num_examples = sum(len(rows) for _, rows in buckets)
    num_batches = num_examples // batch_size
    if not num_batches:
        raise ValueError(
            f"{num_examples} examples do not make one batch of {batch_size}"
        )

    def generate() -> Iterator[Arrays]:
        epoch, first = divmod(start_step, num_batches)
        while True:
            rng = np.random.default_rng([seed, epoch])
            for width, rows in _epoch(buckets, batch_size, rng)[first:]:
                yield make_batch(rows, width)
            epoch, first = epoch + 1, 0

    # A batch takes a fraction of a millisecond, so nothing is made ahead: a
    # process that exits while TensorFlow's thread is inside a generator hangs.
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return tf.data.Dataset.from_generator(
        generate, output_signature=signature
    ).with_options(options)


def evaluation_batches(
    arrays: Arrays,
    batch_size: int,
    bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """Yields every example once, width by width.

    Args:
        arrays: of `encode_examples`.
        batch_size: B.
        bucket_lengths: widths; the longest is that of the arrays.

    Yields:
        The numbers of a batch's examples, [at most B], and the batch, [B, ...]
        always: an incomplete one is filled up with examples that it holds.
    """
    for width, rows in bucketed_rows(arrays, bucket_lengths):
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            filled = np.resize(some, batch_size)  # From the start again.
            yield some, rows_cut_to(arrays, filled, width)


def _epoch(
    buckets: Sequence[Bucket], batch_size: int, rng: np.random.Generator
) -> list[Bucket]:
    """The batches of an epoch: their width, and their examples [B]."""
    batches = []
    left_over = np.zeros(0, np.int64)
    for width, rows in buckets:
        rows = np.concatenate([left_over, rng.permutation(rows)])
        num_full = len(rows) // batch_size * batch_size
        batches += [
            (width, rows[first : first + batch_size])
            for first in range(0, num_full, batch_size)
        ]
        left_over = rows[num_full:]
    return [batches[index] for index in rng.permutation(len(batches))]
