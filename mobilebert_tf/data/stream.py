"""Batch n of pre-training examples, a pure function of n.

Text (files, a dataset of TensorFlow Datasets, the built-in documentation) gets
new pairs and masks in each epoch. TFRecord files hold examples that are ready.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from mobilebert_tf.data.batches import Arrays, made_ahead
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.examples import epoch_instances, masked_examples
from mobilebert_tf.data.options import ExampleOptions, TextOptions
from mobilebert_tf.data.records import (
    Record,
    RecordIndex,
    index_records,
    parse_records,
)
from mobilebert_tf.data.sources import (
    are_tfrecords,
    matching_files,
    refuse_two_sources,
    tokenize_split,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# Held-out text is paired and masked alike for every model.
_HELD_OUT_SEED = 0

# Second word of a generator's seed. NumPy pads seeds with zeros, so [seed, 1]
# and [seed, 1, 0] are the same stream: streams must differ in the second word.
_INSTANCE_STREAM = 0
_MASK_STREAM = 1
_CHUNK_STREAM = 2
_RECORD_STREAM = 3

# Chunks of stored records that are in memory together, to mix their records.
WINDOW_SIZE = 64


@dataclasses.dataclass(frozen=True)
class TextStream:
    """Batches of segment pairs out of a corpus, masked.

    The seed decides pairs, order and masks; the batch size counts all replicas.
    """

    corpus: TokenizedCorpus
    tokenizer: WordpieceTokenizer
    batch_size: int
    seed: int
    options: ExampleOptions

    def batches(self, start_step: int = 0) -> Iterator[Arrays]:
        """Yields batches without end. Pairs left over by an epoch are dropped.

        Epochs before `start_step` are packed again, to learn how many batches
        they held (0.1 s for 2.5 million pieces); batches are not made again.

        Returns:
            `input_ids`, `input_mask`, `segment_ids` int32 [B, S];
            `masked_lm_positions`, `masked_lm_ids` int32 [B, P];
            `masked_lm_weights` float32 [B, P]; `next_sentence_labels` int32
            [B, 1].

        Raises:
            InputError: an epoch does not fill one batch, or there is only one
                document.
            ValueError: `max_seq_length` has no room for two segments.
        """
        # Here rather than in the generator, so that the call refuses bad input.
        epoch, index, instances = self._locate(start_step)
        return made_ahead(self._generate(start_step, epoch, index, instances))

    def _generate(
        self, step: int, epoch: int, index: int, instances: np.recarray
    ) -> Iterator[Arrays]:
        while True:
            while (index + 1) * self.batch_size <= len(instances):
                first = index * self.batch_size
                yield masked_examples(
                    self.corpus.tokens,
                    instances[first : first + self.batch_size],
                    self.tokenizer,
                    self.options,
                    np.random.default_rng([self.seed, _MASK_STREAM, step]),
                )
                step, index = step + 1, index + 1
            epoch, index = epoch + 1, 0
            instances = self._epoch(epoch)

    def _locate(self, step: int) -> tuple[int, int, np.recarray]:
        """Returns a batch's epoch, its index there, and the epoch's pairs."""
        epoch, index, instances = 0, step, self._epoch(0)
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
            instances = self._epoch(epoch)
        return epoch, index, instances

    def _epoch(self, epoch: int) -> np.recarray:
        return epoch_instances(
            self.corpus,
            self.options.max_seq_length,
            np.random.default_rng([self.seed, _INSTANCE_STREAM, epoch]),
        )


@dataclasses.dataclass(frozen=True)
class RecordStream:
    """Batches of stored examples, in a new order each epoch.

    An epoch visits chunks of 64 neighbouring records in random order over all
    files and mixes the records of 64 chunks at a time, so memory holds 4,096
    records. Records that do not fill a batch at its end are dropped. Vocabulary
    and lengths must be those that the records were made with.
    """

    index: RecordIndex
    tokenizer: WordpieceTokenizer
    batch_size: int
    seed: int
    options: ExampleOptions

    def batches(self, start_step: int = 0) -> Iterator[Arrays]:
        """Yields the arrays of `TextStream.batches` without end.

        Batches before `start_step` cost nothing.

        Raises:
            InputError: there are too few records for a batch, or a record that
                is read is damaged or does not fit the options; the first batch
                is read at once.
        """
        if not self._num_batches:
            raise InputError(
                ", ".join(self.index.files),
                f"a batch of {self.batch_size} records (use a smaller one)",
                self.index.num_records,
            )
        next(self.generate(start_step))
        return made_ahead(self.generate(start_step))

    @property
    def _num_batches(self) -> int:
        return self.index.num_records // self.batch_size

    def generate(self, step: int) -> Iterator[Arrays]:
        """Yields batch after batch from number `step`, none ahead."""
        epoch, first_batch = divmod(step, self._num_batches)
        while True:
            left = self._num_batches - first_batch
            waiting = []
            for records in self._windows(epoch, first_batch * self.batch_size):
                waiting += records
                while len(waiting) >= self.batch_size and left:
                    yield parse_records(
                        waiting[: self.batch_size],
                        self.options.max_seq_length,
                        self.options.num_predictions,
                        self.tokenizer.vocab_size,
                    )
                    del waiting[: self.batch_size]
                    left -= 1
            epoch, first_batch = epoch + 1, 0

    def _windows(self, epoch: int, first_row: int) -> Iterator[list[Record]]:
        """Yields the records of an epoch from row `first_row` on."""
        chunks = self.index.chunks
        order = np.random.default_rng(
            [self.seed, _CHUNK_STREAM, epoch]
        ).permutation(len(chunks))
        ends = np.cumsum(chunks["size"][order])
        window_ends = ends[WINDOW_SIZE - 1 :: WINDOW_SIZE]
        first = int(np.searchsorted(window_ends, first_row, side="right"))
        skipped = first_row - (int(window_ends[first - 1]) if first else 0)
        for window in range(first, -(-len(order) // WINDOW_SIZE)):
            begin = window * WINDOW_SIZE
            records = []
            for chunk in order[begin : begin + WINDOW_SIZE]:
                records += self.index.read_chunk(chunk)
            mixed = np.random.default_rng(
                [self.seed, _RECORD_STREAM, epoch, window]
            ).permutation(len(records))
            yield [records[row] for row in mixed[skipped:]]
            skipped = 0


@dataclasses.dataclass(frozen=True)
class PretrainingInput:
    """Text or records to train on, and those held out for evaluation."""

    train: TokenizedCorpus | RecordIndex
    held_out: TokenizedCorpus | RecordIndex
    tokenizer: WordpieceTokenizer
    batch_size: int
    options: ExampleOptions

    def batches(self, seed: int, start_step: int = 0) -> Iterator[Arrays]:
        """Yields batches without end, from number `start_step` on.

        Raises:
            InputError: there is not enough for one batch.
        """
        return self._batches(self.train, self.batch_size, seed, start_step)

    def held_out_batches(self) -> tuple[Iterator[Arrays], int]:
        """Returns batches, and how many of them cover the held-out part.

        Where it does not fill a batch, batches are smaller.
        """
        part, size = self.held_out, self.batch_size
        if isinstance(part, RecordIndex):
            size = min(size, part.num_records)
            batches = self._batches(part, size, _HELD_OUT_SEED)
            return batches, part.num_records // size
        while True:
            try:
                batches = self._batches(part, size, _HELD_OUT_SEED)
                break
            except InputError:
                if size == 1:
                    raise
                size //= 2
        tokens_per_batch = size * self.options.max_seq_length
        return batches, max(1, part.num_tokens // tokens_per_batch)

    def summary(self) -> str:
        """Describes how much text or how many records there are."""
        if isinstance(self.train, RecordIndex):
            return (
                f"{self.train.num_records:,} records "
                f"({self.held_out.num_records:,} held out)"
            )
        unknown = (self.held_out.tokens == self.tokenizer.unk_id).mean()
        return (
            f"{self.train.num_documents:,} documents, "
            f"{self.train.num_tokens:,} tokens "
            f"({self.held_out.num_tokens:,} held out, {unknown:.2%} [UNK]), "
            f"vocabulary {self.tokenizer.vocab_size:,}"
        )

    def _batches(self, part, batch_size, seed, start_step=0):
        stream = RecordStream if isinstance(part, RecordIndex) else TextStream
        return stream(
            part, self.tokenizer, batch_size, seed, self.options
        ).batches(start_step)


def open_pretraining_input(
    options: TextOptions, tokenizer: WordpieceTokenizer, batch_size: int
) -> PretrainingInput:
    """Opens text (see `read_text`) or TFRecord files.

    Raises:
        InputError: the input does not exist, is malformed or is too short.
    """
    if are_tfrecords(options.input_files):
        refuse_two_sources(options)
        index = index_records(matching_files(options.input_files))
        parts = index.split(options.held_out_fraction)
    else:
        parts = tokenize_split(options, tokenizer)
    return PretrainingInput(*parts, tokenizer, batch_size, options)
