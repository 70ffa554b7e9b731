"""Batches from TFRecord files of ready-made pre-training examples.

Owns the order in which stored examples reach a model. As in `batching`, batch
n is a pure function of the files, the settings, the seed and n, and a run that
resumes reads nothing that it has already seen.

An epoch visits chunks of 64 neighbouring records in a random order, over all
files, and mixes the records of 64 such chunks at a time: memory holds 4,096
records, however many there are.

Shape letters: B batch, S sequence length, P predictions per sequence.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from mobilebert_tf.data.batching import generated_dataset, pipeline_rows
from mobilebert_tf.data.example_protos import parse_examples
from mobilebert_tf.data.record_files import RecordIndex, index_records, intact
from mobilebert_tf.data.text_files import matching_files
from mobilebert_tf.errors import InputError

# Chunks whose records are mixed.
WINDOW_SIZE = 64

# Second word of a generator's seed, as in `batching`.
_CHUNK_STREAM = 2
_RECORD_STREAM = 3


def are_tfrecords(patterns: Sequence[str]) -> bool:
    """Whether input files are TFRecords rather than text, by their names.

    Raises:
        InputError: some are and some are not.
    """
    named = [
        ".tfrecord" in pattern or ".tf_record" in pattern
        for pattern in patterns
    ]
    if any(named) and not all(named):
        raise InputError(
            "--input_files", "TFRecord files or text files", "both"
        )
    return bool(patterns) and all(named)


def tfrecord_index(patterns: Sequence[str]) -> RecordIndex:
    """Finds the records of TFRecord files; see `index_records`.

    Args:
        patterns: file names or globs, as of `text_files.read_documents`.

    Raises:
        InputError: a pattern matches no file, or a file is no TFRecord file.
    """
    return index_records(matching_files(patterns))


def tfrecord_dataset(
    index: RecordIndex,
    *,
    batch_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
    seed: int,
    start_step: int = 0,
    num_input_pipelines: int = 1,
    input_pipeline_id: int = 0,
) -> tf.data.Dataset:
    """Endless batches of stored examples, in a new order every epoch.

    Args:
        index: of `tfrecord_index`.
        batch_size: B, over all replicas and pipelines.
        max_seq_length: S, that the files were made with.
        max_predictions_per_seq: P, that the files were made with.
        vocab_size: of the vocabulary they were made with.
        seed: 0 or more.
        start_step: number of the first batch; those before cost nothing.
        num_input_pipelines: number of processes that feed one model.
        input_pipeline_id: which of them this is: it gets its rows of every
            batch, so that the batch is the same however many there are.

    Returns:
        Dictionaries as of `batching.pretraining_dataset`. What an epoch leaves
        over, too few for a batch, is dropped.

    Raises:
        InputError: there are too few records for a batch, or the first batch
            cannot be read. A record that turns out to be unfit later ends the
            iteration with a TensorFlow error: see `batching.input_error`.
        ValueError: `batch_size` does not divide among the pipelines.
    """
    batches = _RecordBatches(
        index,
        batch_size,
        pipeline_rows(batch_size, num_input_pipelines, input_pipeline_id),
        seed,
        {
            "max_seq_length": max_seq_length,
            "max_predictions_per_seq": max_predictions_per_seq,
            "vocab_size": vocab_size,
        },
    )
    if not batches.num_batches:
        raise InputError(
            ", ".join(index.files),
            f"a batch of {batch_size} records (use a smaller one)",
            index.num_records,
        )
    return generated_dataset(
        lambda: batches.run(start_step),
        next(batches.run(start_step)),
        tf.data.INFINITE_CARDINALITY,
    )


@dataclasses.dataclass(frozen=True)
class _RecordBatches:
    """The settings of `tfrecord_dataset`, and what follows from them."""

    index: RecordIndex
    batch_size: int
    rows: slice
    seed: int
    parsing: dict[str, int]

    @property
    def num_batches(self) -> int:
        return self.index.num_records // self.batch_size

    def run(self, step: int) -> Iterator[dict[str, np.ndarray]]:
        """Makes batch after batch, from number `step`."""
        epoch, first_batch = divmod(step, self.num_batches)
        while True:
            left = self.num_batches - first_batch
            waiting = []
            for rows in self._windows(epoch, first_batch * self.batch_size):
                waiting += rows
                while len(waiting) >= self.batch_size and left:
                    yield self._parse(waiting[: self.batch_size][self.rows])
                    del waiting[: self.batch_size]
                    left -= 1
            epoch, first_batch = epoch + 1, 0

    def _windows(
        self, epoch: int, first_row: int
    ) -> Iterator[list[tuple[bytes, tuple[str, int]]]]:
        """Yields an epoch's records from its row `first_row` on."""
        order = np.random.default_rng(
            [self.seed, _CHUNK_STREAM, epoch]
        ).permutation(self.index.num_chunks)
        ends = np.cumsum(self.index.chunk_sizes[order])
        window_ends = ends[WINDOW_SIZE - 1 :: WINDOW_SIZE]
        first = int(np.searchsorted(window_ends, first_row, side="right"))
        skipped = first_row - (int(window_ends[first - 1]) if first else 0)
        num_windows = -(-len(order) // WINDOW_SIZE)
        for window in range(first, num_windows):
            rows = []
            begin = window * WINDOW_SIZE
            for chunk in order[begin : begin + WINDOW_SIZE]:
                rows += zip(*self.index.read_chunk(chunk), strict=True)
            mixed = np.random.default_rng(
                [self.seed, _RECORD_STREAM, epoch, window]
            ).permutation(len(rows))
            yield [rows[row] for row in mixed[skipped:]]
            skipped = 0

    def _parse(
        self, rows: list[tuple[bytes, tuple[str, int]]]
    ) -> dict[str, np.ndarray]:
        records, places = zip(*rows, strict=True)
        wrong = np.flatnonzero(~intact(records))
        if len(wrong):
            file, number = places[wrong[0]]
            raise InputError(
                file,
                "a TFRecord",
                "bytes that do not match their checksum",
                f"record {number}",
            )
        return parse_examples(
            [record[:-4] for record in records], places, **self.parsing
        )
