"""Batches whose content depends on their number alone.

Owns the order in which examples reach a model. Batch n is a pure function of
the data, the settings, the seed and n, so a run that was killed after step k
goes on with `start_step=k` and sees exactly the batches that it would have
seen, without making the ones before. Every shape is static: accelerators
compile a step once, and a smaller last batch would make them compile it again.

Shape letters: B batch, S sequence length, P predictions per sequence.

Batches of examples of about the same length, in a few static shapes.

Owns the order of examples for fine-tuning and evaluation, and the width each
batch is cut to. Most sentences are a tenth of the longest one: padded to that,
nine tenths of a step would be spent on nothing. Batch n is a pure function of
the data, the settings, the seed and n, as in `batching.py`.
"""

import collections
import concurrent.futures
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from mobilebert_tf.data import examples as pretraining
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.examples import masked_examples
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

NUM_BATCHES_AHEAD = 8

_INPUT_ERROR = re.compile(r"InputError: (.+?): expected (.+), found (.+)")

# Second word of a generator's seed. NumPy pads seeds with zeros, so [seed, 1]
# and [seed, 1, 0] are the same stream: the two kinds must differ before the
# number that counts, not by how many numbers there are.
INSTANCE_STREAM = 0
MASK_STREAM = 1


def pretraining_dataset(
    corpus: TokenizedCorpus,
    tokenizer: WordpieceTokenizer,
    *,
    batch_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
    seed: int,
    masked_lm_prob: float = 0.15,
    short_seq_prob: float = 0.1,
    whole_word_mask: bool = False,
    start_step: int = 0,
    num_input_pipelines: int = 1,
    input_pipeline_id: int = 0,
) -> tf.data.Dataset:
    """Endless batches for MLM and NSP, with new pairs and masks every epoch.

    Args:
        corpus: the text; at least two documents.
        tokenizer: the one that made it.
        batch_size: B, over all replicas and pipelines.
        max_seq_length: S.
        max_predictions_per_seq: P.
        seed: 0 or more.
        masked_lm_prob: share of the pieces that are predicted.
        short_seq_prob: probability that a document makes shorter pairs.
        whole_word_mask: hide all pieces of a word or none.
        start_step: number of the first batch. Skipped epochs are packed again,
            to learn how many batches they held (0.1 s for 2.5 million pieces);
            skipped batches are not made.
        num_input_pipelines: number of processes that feed one model.
        input_pipeline_id: which of them this is: it gets its rows of every
            batch, so that the batch is the same however many there are.

    Returns:
        Dictionaries of `input_ids`, `input_mask`, `segment_ids` int32 [B, S];
        `masked_lm_positions`, `masked_lm_ids` int32 [B, P]; `masked_lm_weights`
        float32 [B, P]; `next_sentence_labels` int32 [B, 1]. Pairs that an epoch
        leaves over, too few for a batch, are dropped.

    Raises:
        InputError: an epoch does not fill one batch, or `corpus` has a single
            document.
        ValueError: `max_seq_length` is unfit for pairs, or `batch_size` does
            not divide among the pipelines.
    """
    batches = _PretrainingBatches(
        corpus,
        tokenizer,
        batch_size,
        pipeline_rows(batch_size, num_input_pipelines, input_pipeline_id),
        max_seq_length,
        max_predictions_per_seq,
        seed,
        masked_lm_prob,
        short_seq_prob,
        whole_word_mask,
    )
    # Looked up here and not in the generator, whose errors would reach the
    # caller as errors of a TensorFlow operation.
    epoch, index, instances = batches.locate(start_step)
    return generated_dataset(
        lambda: batches.run(start_step, epoch, index, instances),
        batches.make(start_step, instances.take(slice(batch_size))),
        tf.data.INFINITE_CARDINALITY,
    )


@dataclasses.dataclass(frozen=True)
class _PretrainingBatches:
    """The settings of `pretraining_dataset`, and what follows from them."""

    corpus: TokenizedCorpus
    tokenizer: WordpieceTokenizer
    batch_size: int
    rows: slice
    max_seq_length: int
    max_predictions_per_seq: int
    seed: int
    masked_lm_prob: float
    short_seq_prob: float
    whole_word_mask: bool

    def epoch_instances(self, epoch: int) -> pretraining.Instances:
        return pretraining.epoch_instances(
            self.corpus,
            self.max_seq_length,
            np.random.default_rng([self.seed, INSTANCE_STREAM, epoch]),
            self.short_seq_prob,
        )

    def make(
        self, step: int, instances: pretraining.Instances
    ) -> dict[str, np.ndarray]:
        """Makes batch number `step` of its B pairs, and keeps its rows."""
        batch = masked_examples(
            self.corpus.tokens,
            instances,
            self.tokenizer,
            max_seq_length=self.max_seq_length,
            max_predictions_per_seq=self.max_predictions_per_seq,
            rng=np.random.default_rng([self.seed, MASK_STREAM, step]),
            masked_lm_prob=self.masked_lm_prob,
            whole_word_mask=self.whole_word_mask,
        )
        return {name: array[self.rows] for name, array in batch.items()}

    def locate(self, step: int) -> tuple[int, int, pretraining.Instances]:
        """Finds the epoch of a batch, its place there, and the epoch's pairs.

        Raises:
            InputError: the first epoch does not fill one batch.
        """
        epoch, index = 0, step
        instances = self.epoch_instances(epoch)
        if len(instances) < self.batch_size:
            raise InputError(
                "training text",
                f"a batch of {self.batch_size} pairs of segments an epoch "
                "(use a smaller batch or more text)",
                f"{len(instances)} pairs",
            )
        while index >= len(instances) // self.batch_size:
            index -= len(instances) // self.batch_size
            epoch += 1
            instances = self.epoch_instances(epoch)
        return epoch, index, instances

    def run(
        self,
        step: int,
        epoch: int,
        index: int,
        instances: pretraining.Instances,
    ) -> Iterator[dict[str, np.ndarray]]:
        """Makes batch after batch, from the place that `locate` found."""
        while True:
            while (index + 1) * self.batch_size <= len(instances):
                first = index * self.batch_size
                rows = slice(first, first + self.batch_size)
                yield self.make(step, instances.take(rows))
                step, index = step + 1, index + 1
            epoch, index = epoch + 1, 0
            instances = self.epoch_instances(epoch)


def input_error(error: tf.errors.OpError) -> InputError | None:
    """Returns the `InputError` with which making a batch ended, if it did.

    A dataset's Python code runs inside a TensorFlow operation, and what it
    raises comes out as that operation's failure, the error's text in its own.
    """
    match = _INPUT_ERROR.search(error.message)
    return InputError(*match.groups()) if match else None


def pipeline_rows(
    batch_size: int, num_input_pipelines: int, input_pipeline_id: int
) -> slice:
    """Returns the rows of every batch that one of several processes makes.

    Raises:
        ValueError: the batch does not divide, or there is no such process.
    """
    if not 0 <= input_pipeline_id < num_input_pipelines:
        raise ValueError(
            f"input_pipeline_id must be below {num_input_pipelines}. "
            f"Received: {input_pipeline_id}"
        )
    num_rows, rest = divmod(batch_size, num_input_pipelines)
    if rest:
        raise ValueError(
            f"batch_size must divide among {num_input_pipelines} input "
            f"pipelines. Received: {batch_size}"
        )
    first = input_pipeline_id * num_rows
    return slice(first, first + num_rows)


def array_dataset(
    arrays: dict[str, np.ndarray],
    *,
    batch_size: int,
    seed: int | None = None,
    shuffle: bool = False,
    repeat: bool = False,
    start_step: int = 0,
    pad_last: bool = False,
) -> tf.data.Dataset:
    """Batches of examples that are ready, for fine-tuning and evaluation.

    Args:
        arrays: features by name, each [number of examples, ...].
        batch_size: B, over all replicas.
        seed: 0 or more; needed to shuffle.
        shuffle: draw a new order every epoch, instead of the given one.
        repeat: go on for ever, instead of for one epoch.
        start_step: number of the first batch.
        pad_last: what becomes of an epoch's last batch when it is incomplete.
            By default it is dropped. With `pad_last` it is filled up with
            examples that it already holds, and every batch gets
            `example_weights`, float32 [B]: 1 for an example, 0 for filling.

    Returns:
        Dictionaries of the arrays' names, each [B, ...].

    Raises:
        ValueError: no arrays, arrays of different numbers of examples, fewer
            examples than make a batch, or `shuffle` without `seed`.
    """
    if shuffle and seed is None:
        raise ValueError("shuffle=True needs a seed. Received: seed=None")
    num_examples = _num_examples(arrays)
    num_batches = num_examples // batch_size
    if pad_last:
        num_batches = -(-num_examples // batch_size)
    if not num_batches:
        raise ValueError(
            f"{num_examples} examples do not make one batch of {batch_size}"
        )

    def make_batch(order: np.ndarray, index: int) -> dict[str, np.ndarray]:
        rows = order[index * batch_size : (index + 1) * batch_size]
        filled = np.resize(rows, batch_size)  # From the start again, if short.
        batch = {name: array[filled] for name, array in arrays.items()}
        if pad_last:
            is_example = np.arange(batch_size) < len(rows)
            batch["example_weights"] = is_example.astype(np.float32)
        return batch

    def generate() -> Iterator[dict[str, np.ndarray]]:
        epoch, first_batch = divmod(start_step, num_batches)
        while repeat or epoch == 0:
            order = np.arange(num_examples)
            if shuffle:
                order = np.random.default_rng([seed, epoch]).permutation(order)
            for index in range(first_batch, num_batches):
                yield make_batch(order, index)
            epoch, first_batch = epoch + 1, 0

    cardinality = tf.data.INFINITE_CARDINALITY
    if not repeat:
        cardinality = max(0, num_batches - start_step)
    example = make_batch(np.arange(num_examples), 0)
    return generated_dataset(generate, example, cardinality)


def _num_examples(arrays: dict[str, np.ndarray]) -> int:
    """Returns the common first dimension of `arrays`."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            "arrays must be given and hold equally many examples. "
            f"Received: {lengths}"
        )
    return next(iter(lengths.values()))


def generated_dataset(
    generate: Callable[[], Iterator[dict[str, np.ndarray]]],
    example: dict[str, np.ndarray],
    cardinality: int,
) -> tf.data.Dataset:
    """Wraps a generator of batches of the shapes and types of `example`.

    The generator runs ahead of its consumer, on a thread of Python's and not
    on that of `Dataset.prefetch`: a process that exits while TensorFlow's
    thread is inside a generator, as after an interrupt, hangs for ever (seen
    with TensorFlow 2.21). Python waits for its own threads before it takes the
    interpreter down.
    """

    def run_ahead() -> Iterator[dict[str, np.ndarray]]:
        batches = generate()
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

    signature = {
        name: tf.TensorSpec(array.shape, array.dtype)
        for name, array in example.items()
    }
    dataset = tf.data.Dataset.from_generator(
        run_ahead, output_signature=signature
    ).apply(tf.data.experimental.assert_cardinality(cardinality))
    # TensorFlow would add its own prefetching, for nothing.
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False
    return dataset.with_options(options)


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
