"""Batches of arrays: their order, their width, and making them ahead.

Batch n depends on the data, the settings, the seed and n alone, so a run that
was killed after step k continues with `start_step=k` and sees the batches it
would have seen. Most texts are a tenth as long as the longest, so a batch holds
texts of similar length and is cut to one of a few widths: an accelerator
compiles the step once for each.
"""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterator, Sequence

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


def bucketed_rows(
    arrays: Arrays, bucket_lengths: Sequence[int] = BUCKET_LENGTHS
) -> list[Bucket]:
    """Sorts examples into the narrowest width that is longer than they are.

    Each example keeps a column of padding, unless it fills the last width. So
    the right neighbour of its last piece is the embedding of [PAD] at any
    width; without that column its trigram would differ.

    Args:
        arrays: with `input_mask` [N, S]; padding is at the end.
        bucket_lengths: widths besides S; those above S are not used.

    Returns:
        A bucket for each width, ascending, S included.
    """
    mask = arrays["input_mask"]
    widths = sorted(
        {width for width in bucket_lengths if width < mask.shape[1]}
    )
    buckets = np.searchsorted(widths, mask.sum(axis=1), side="right")
    return [
        (width, np.flatnonzero(buckets == index))
        for index, width in enumerate([*widths, mask.shape[1]])
    ]


def rows_cut_to(arrays: Arrays, rows: np.ndarray, width: int) -> Arrays:
    """Returns some examples: inputs cut to `width` columns, labels whole."""
    return {
        name: array[rows, :width] if name in INPUT_NAMES else array[rows]
        for name, array in arrays.items()
    }


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
    buckets = bucketed_rows(arrays, bucket_lengths)

    def epoch(number: int, first: int) -> Iterator[Arrays]:
        rng = np.random.default_rng([seed, number])
        for width, rows in _shuffled(buckets, batch_size, rng)[first:]:
            yield rows_cut_to(arrays, rows, width)

    return _endless(epoch, len(arrays["input_ids"]), batch_size, start_step)


def array_batches(
    arrays: Arrays, *, batch_size: int, seed: int, start_step: int = 0
) -> Iterator[Arrays]:
    """Yields batches of one width without end, in a new order each epoch.

    Raises:
        ValueError: there are fewer examples than a batch holds.
    """
    num_examples = len(arrays["input_ids"])

    def epoch(number: int, first: int) -> Iterator[Arrays]:
        order = np.random.default_rng([seed, number]).permutation(num_examples)
        for index in range(first, num_examples // batch_size):
            rows = order[index * batch_size : (index + 1) * batch_size]
            yield {name: array[rows] for name, array in arrays.items()}

    return _endless(epoch, num_examples, batch_size, start_step)


def _endless(
    epoch: Callable[[int, int], Iterator[Arrays]],
    num_examples: int,
    batch_size: int,
    start_step: int,
) -> Iterator[Arrays]:
    """Yields epoch after epoch; `epoch(number, first)` begins with a batch.

    Not made ahead: a batch takes a fraction of a millisecond.
    """
    if num_examples < batch_size:
        raise ValueError(
            f"{num_examples} examples do not make one batch of {batch_size}"
        )
    number, first = divmod(start_step, num_examples // batch_size)
    starts = itertools.chain([first], itertools.repeat(0))
    return itertools.chain.from_iterable(
        map(epoch, itertools.count(number), starts)
    )


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


def _shuffled(
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
