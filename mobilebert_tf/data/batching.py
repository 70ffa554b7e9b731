"""Batches whose content depends on their number alone.

Owns the order in which examples reach a model. Batch n is a pure function of
the data, the settings, the seed and n, so a run that was killed after step k
goes on with `start_step=k` and sees exactly the batches that it would have
seen, without making the ones before. Every shape is static: accelerators
compile a step once, and a smaller last batch would make them compile it again.

Shape letters: B batch, S sequence length, P predictions per sequence.
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from mobilebert_tf.data import masking, pretraining
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.wordpiece import WordpieceTokenizer

NUM_BATCHES_AHEAD = 8

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
) -> tf.data.Dataset:
    """Endless batches for MLM and NSP, with new pairs and masks every epoch.

    Args:
        corpus: the text; at least two documents.
        tokenizer: the one that made it.
        batch_size: B, over all replicas.
        max_seq_length: S.
        max_predictions_per_seq: P.
        seed: 0 or more.
        masked_lm_prob: share of the pieces that are predicted.
        short_seq_prob: probability that a document makes shorter pairs.
        whole_word_mask: hide all pieces of a word or none.
        start_step: number of the first batch. Skipped epochs are packed again,
            to learn how many batches they held (0.1 s for 2.5 million pieces);
            skipped batches are not made.

    Returns:
        Dictionaries of `input_ids`, `input_mask`, `segment_ids` int32 [B, S];
        `masked_lm_positions`, `masked_lm_ids` int32 [B, P]; `masked_lm_weights`
        float32 [B, P]; `next_sentence_labels` int32 [B, 1]. Pairs that an epoch
        leaves over, too few for a batch, are dropped.

    Raises:
        ValueError: an epoch does not fill one batch, or `corpus` or
            `max_seq_length` is unfit for pairs.
    """

    def epoch_instances(epoch: int) -> pretraining.Instances:
        rng = np.random.default_rng([seed, INSTANCE_STREAM, epoch])
        return pretraining.epoch_instances(
            corpus, max_seq_length, rng, short_seq_prob
        )

    def make_batch(
        step: int, instances: pretraining.Instances
    ) -> dict[str, np.ndarray]:
        batch = pretraining.pair_inputs(
            corpus.tokens,
            instances,
            max_seq_length,
            pad_id=tokenizer.pad_id,
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
        )
        masked = masking.mask_tokens(
            batch["input_ids"],
            tokenizer,
            max_predictions_per_seq=max_predictions_per_seq,
            rng=np.random.default_rng([seed, MASK_STREAM, step]),
            masked_lm_prob=masked_lm_prob,
            whole_word_mask=whole_word_mask,
        )
        labels = instances.next_sentence_labels[:, None]  # [B, 1]
        return batch | masked | {"next_sentence_labels": labels}

    # Found here and not in the generator, whose errors would reach the caller
    # as errors of a TensorFlow operation.
    first = epoch_instances(0)
    if len(first) < batch_size:
        raise ValueError(
            f"the text gives {len(first)} pairs of segments an epoch, fewer "
            f"than one batch of {batch_size}: use a smaller batch or more text"
        )
    first_epoch, first_batch = 0, start_step
    while first_batch >= len(first) // batch_size:
        first_batch -= len(first) // batch_size
        first_epoch += 1
        first = epoch_instances(first_epoch)

    def generate() -> Iterator[dict[str, np.ndarray]]:
        step, epoch, batch = start_step, first_epoch, first_batch
        instances = first
        while True:
            for index in range(batch, len(instances) // batch_size):
                rows = slice(index * batch_size, (index + 1) * batch_size)
                yield make_batch(step, instances.take(rows))
                step += 1
            epoch, batch = epoch + 1, 0
            instances = epoch_instances(epoch)

    signature = {
        name: tf.TensorSpec(array.shape, array.dtype)
        for name, array in make_batch(
            start_step, first.take(slice(batch_size))
        ).items()
    }
    return _dataset(generate, signature, tf.data.INFINITE_CARDINALITY)


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

    signature = {
        name: tf.TensorSpec(array.shape, array.dtype)
        for name, array in make_batch(np.arange(num_examples), 0).items()
    }
    cardinality = tf.data.INFINITE_CARDINALITY
    if not repeat:
        cardinality = max(0, num_batches - start_step)
    return _dataset(generate, signature, cardinality)


def _num_examples(arrays: dict[str, np.ndarray]) -> int:
    """Returns the common first dimension of `arrays`."""
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(
            "arrays must be given and hold equally many examples. "
            f"Received: {lengths}"
        )
    return next(iter(lengths.values()))


def _dataset(
    generate: Callable[[], Iterator[dict[str, np.ndarray]]],
    signature: dict[str, tf.TensorSpec],
    cardinality: int,
) -> tf.data.Dataset:
    """Wraps a generator of batches, which runs ahead on a thread of its own.

    The thread is Python's and not the one of `Dataset.prefetch`: a process
    that exits while TensorFlow's thread is inside a generator, as after an
    interrupt, hangs for ever (seen with TensorFlow 2.21). Python waits for its
    own threads before it takes the interpreter down.
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

    dataset = tf.data.Dataset.from_generator(
        run_ahead, output_signature=signature
    )
    return dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
