"""Batches of arrays: their order, their width, and making them ahead.

Batch n depends on the data, the settings, the seed and n alone, so a run that
was killed after step k continues with `start_step=k` and sees the batches it
would have seen. Most texts are a tenth as long as the longest, so a batch holds
texts of similar length and is cut to one of a few widths: an accelerator
compiles the step once for each.
"""

import collections
import concurrent.futures
from collections.abc import Iterator, Sequence

import numpy as np

from mobilebert_tf.config import INPUT_NAMES

NUM_BATCHES_AHEAD = 8

# Each width is compiled, so there are few. Twice as wide is twice the work: at
# most half of a batch is padding; on SST-2, two fifths.
BUCKET_LENGTHS = (16, 32, 64, 128, 256, 512)

Arrays = dict[str, np.ndarray]

# A width, and the numbers of the examples that are cut to it.
Bucket = tuple[int, np.ndarray]


def made_ahead(batches: Iterator[Arrays]) -> Iterator[Arrays]:
    """Makes a few batches ahead of their consumer, on a thread.

    The thread is Python's and not one of `tf.data`: a process that exits while
    TensorFlow's thread is inside a generator, as after an interrupt, hangs
    (seen with TensorFlow 2.21). Python waits for its own threads.
    """
    executor = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    try:
        pending = collections.deque(
            executor.submit(next, batches, None)
            for _ in range(NUM_BATCHES_AHEAD)
        )
        while (batch := pending.popleft().result()) is not None:
            pending.append(executor.submit(next, batches, None))
            yield batch
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def widths_up_to(
    max_seq_length: int, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> list[int]:
    """Returns the widths of batches, ascending, `max_seq_length` included."""
    widths = {width for width in bucket_lengths if width < max_seq_length}
    return [*sorted(widths), max_seq_length]


def bucketed_rows(
    arrays: Arrays, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> list[Bucket]:
    """Sorts examples by the width that they are cut to.

    Args:
        arrays: with `input_mask` [N, S]; padding is at the end.
        bucket_lengths: widths besides S; those above S are not used.
    """
    mask = arrays["input_mask"]
    widths = widths_up_to(mask.shape[1], bucket_lengths)
    return rows_by_width(mask.sum(axis=1), widths)


def rows_by_width(lengths: np.ndarray, widths: Sequence[int]) -> list[Bucket]:
    """Sorts rows into the narrowest width that is longer than they are.

    Each row keeps a column of padding, unless it fills the last width. So the
    right neighbour of its last piece is the embedding of [PAD] at any width;
    without that column its trigram would differ.

    Args:
        lengths: [N], none above the last width.
        widths: ascending.
    """
    buckets = np.searchsorted(widths[:-1], lengths, side="right")
    return [
        (width, np.flatnonzero(buckets == index))
        for index, width in enumerate(widths)
    ]


def rows_cut_to(arrays: Arrays, rows: np.ndarray, width: int) -> Arrays:
    """Returns some examples: inputs cut to `width` columns, labels whole."""
    return {
        name: array[rows, :width] if name in INPUT_NAMES else array[rows]
        for name, array in arrays.items()
    }


def mean_width(
    arrays: Arrays, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> float:
    """Returns the width of the average example's batch."""
    buckets = bucketed_rows(arrays, bucket_lengths)
    columns = sum(width * len(rows) for width, rows in buckets)
    return columns / len(arrays["input_mask"])


def training_batches(
    arrays: Arrays,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
) -> Iterator[Arrays]:
    """Yields batches without end, in a new order each epoch.

    An epoch has N // batch_size batches. Examples that do not fill a batch of
    their width go into the next wider one; what remains at the end of an epoch
    is dropped.

    Args:
        arrays: inputs [N, S] and labels [N, ...].
        batch_size: B, over all replicas.
        seed: decides the order.
        start_step: number of the first batch.
        bucket_lengths: widths besides S.

    Raises:
        ValueError: there are fewer examples than a batch holds.
    """
    _check_one_batch(len(arrays["input_ids"]), batch_size)
    buckets = bucketed_rows(arrays, bucket_lengths)
    num_batches = len(arrays["input_ids"]) // batch_size

    def generate() -> Iterator[Arrays]:
        epoch, first = divmod(start_step, num_batches)
        while True:
            rng = np.random.default_rng([seed, epoch])
            for width, rows in _epoch(buckets, batch_size, rng)[first:]:
                yield rows_cut_to(arrays, rows, width)
            epoch, first = epoch + 1, 0

    # Not made ahead: a batch takes a fraction of a millisecond.
    return generate()


def array_batches(
    arrays: Arrays, *, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[Arrays]:
    """Yields batches of one width without end, in a new order each epoch.

    Raises:
        ValueError: there are fewer examples than a batch holds.
    """
    num_examples = len(arrays["input_ids"])
    _check_one_batch(num_examples, batch_size)
    num_batches = num_examples // batch_size

    def generate() -> Iterator[Arrays]:
        epoch, first = divmod(start_step, num_batches)
        while True:
            order = np.random.default_rng([seed, epoch]).permutation(
                num_examples
            )
            for index in range(first, num_batches):
                rows = order[index * batch_size : (index + 1) * batch_size]
                yield {name: array[rows] for name, array in arrays.items()}
            epoch, first = epoch + 1, 0

    return generate()


def evaluation_batches(
    arrays: Arrays,
    batch_size: int,
    bucket_lengths: Sequence[int] = BUCKET_LENGTHS,
) -> Iterator[tuple[np.ndarray, Arrays]]:
    """Yields each example once, width by width.

    Args:
        arrays: inputs [N, S].
        batch_size: B.
        bucket_lengths: widths besides S.

    Yields:
        The numbers of a batch's examples, [at most B], and the batch, always
        [B, ...]: a shorter one is filled up with its own examples.
    """
    for width, rows in bucketed_rows(arrays, bucket_lengths):
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            filled = np.resize(some, batch_size)  # Repeats from the start.
            yield some, rows_cut_to(arrays, filled, width)


def _epoch(
    buckets: Sequence[Bucket], batch_size: int, rng: np.random.Generator
) -> list[Bucket]:
    """Returns the batches of an epoch: width and example numbers [B]."""
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


def _check_one_batch(num_examples: int, batch_size: int) -> None:
    if num_examples < batch_size:
        raise ValueError(
            f"{num_examples} examples do not make one batch of {batch_size}"
        )
