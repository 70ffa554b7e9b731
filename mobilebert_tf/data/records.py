"""TFRecord files of pre-training examples, readable from any place.

The format is google-research/bert's: files of the original
`create_pretraining_data.py` are read, and its readers read ours.

TensorFlow reads a TFRecord file from its start only, so a run that resumes
after a million steps would first read everything that it has seen. Here an
index of the files, made from the lengths of their records, finds each record
with one seek. An epoch visits chunks of 64 neighbouring records in random order
over all files and mixes the records of 64 chunks at a time, so memory holds
4,096 records.

A record is its length (8 bytes, little endian), a checksum of the length (4),
its bytes, and a checksum of these (4).
"""

import array
import dataclasses
import functools
import mmap
import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from mobilebert_tf.data.batches import Arrays, made_ahead
from mobilebert_tf.data.example_protos import parse_examples
from mobilebert_tf.data.sources import matching_files
from mobilebert_tf.errors import InputError

# Records that are read together, and chunks whose records are mixed.
CHUNK_SIZE = 64
WINDOW_SIZE = 64

# Second word of a generator's seed, as in `stream`.
_CHUNK_STREAM = 2
_RECORD_STREAM = 3

_HEADER_BYTES = 12
_FRAME_BYTES = 16
_LENGTH = struct.Struct("<Q")
_GZIP_MAGIC = b"\x1f\x8b"
_HEADERS_AT_A_TIME = 65536
# A pre-training example of 512 pieces has 2,500.
_MAX_RECORD_BYTES = 65536
# The polynomial of CRC-32C (Castagnoli), lowest power first.
_POLYNOMIAL = 0x82F63B78


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """The places of chunks of records in TFRecord files.

    Attributes:
        files: names.
        chunk_files: int32 [num_chunks], index of the file.
        chunk_offsets: int64 [num_chunks], first byte in the file.
        chunk_ends: int64 [num_chunks], the byte after the last.
        chunk_records: int64 [num_chunks], number of the first record.
        chunk_sizes: int64 [num_chunks], number of records, at least 1.
    """

    files: tuple[str, ...]
    chunk_files: np.ndarray
    chunk_offsets: np.ndarray
    chunk_ends: np.ndarray
    chunk_records: np.ndarray
    chunk_sizes: np.ndarray

    def split(self, held_out_fraction: float) -> tuple["RecordIndex", ...]:
        """Divides the records into those to train on and the last ones.

        Neighbouring records share text, so the end of the last file has least
        in common with the rest. Separate files of other text are better.

        Args:
            held_out_fraction: share of the chunks to hold out; at least one is.

        Raises:
            InputError: there is only one chunk.
        """
        if self.num_chunks < 2:
            raise InputError(
                ", ".join(self.files),
                f"more than {CHUNK_SIZE} records, to hold some out",
                self.num_records,
            )
        num_held_out = max(1, round(held_out_fraction * self.num_chunks))
        bounds = slice(0, -num_held_out), slice(-num_held_out, None)
        return tuple(
            RecordIndex(
                self.files,
                *(
                    getattr(self, field.name)[chosen]
                    for field in dataclasses.fields(self)[1:]
                ),
            )
            for chosen in bounds
        )

    @property
    def num_chunks(self) -> int:
        """Number of chunks, over all files."""
        return len(self.chunk_sizes)

    @property
    def num_records(self) -> int:
        """Number of records, over all files."""
        return int(self.chunk_sizes.sum())

    def read_chunk(
        self, chunk: int
    ) -> tuple[list[bytes], list[tuple[str, int]]]:
        """Returns a chunk's records and the place (file, number) of each.

        A record comes with the four bytes of its checksum, so that only the
        records that are used need to be checked.

        Raises:
            InputError: the file has changed since the index was made.
        """
        name = self.files[self.chunk_files[chunk]]
        start, end = self.chunk_offsets[chunk], self.chunk_ends[chunk]
        try:
            with open(name, "rb") as file:
                file.seek(start)
                content = file.read(end - start)
        except OSError as error:
            raise InputError(
                name, "a readable file", error.strerror or error
            ) from error
        first = int(self.chunk_records[chunk])
        records, places = [], []
        position = 0
        for number in range(first, first + int(self.chunk_sizes[chunk])):
            begin = position + _HEADER_BYTES
            if begin <= len(content):
                length = _LENGTH.unpack_from(content, position)[0]
                position = begin + length + 4
            if max(begin, position) > len(content):
                raise InputError(
                    name,
                    "the file that the run began with",
                    "another or a shorter one",
                    f"record {number}",
                )
            records.append(content[begin:position])
            places.append((name, number))
        return records, places


def index_records(files: Sequence[str | os.PathLike]) -> RecordIndex:
    """Finds the chunks of TFRecord files from the lengths of their records.

    The index takes 40 bytes of memory for each 64 records.

    Raises:
        InputError: a file cannot be read, is empty, is compressed, is not a
            TFRecord file or is cut short.
    """
    columns = []
    for index, name in enumerate(map(os.fspath, files)):
        offsets = _record_offsets(name)  # [records + 1], the end included
        firsts = np.arange(0, len(offsets) - 1, CHUNK_SIZE)
        lasts = np.minimum(firsts + CHUNK_SIZE, len(offsets) - 1)
        columns.append(
            (
                np.full(len(firsts), index, np.int32),
                offsets[firsts],
                offsets[lasts],
                firsts,
                lasts - firsts,
            )
        )
    return RecordIndex(
        tuple(map(os.fspath, files)),
        *(np.concatenate(column) for column in zip(*columns, strict=True)),
    )


def _record_offsets(name: str) -> np.ndarray:
    """Returns int64 [records + 1]: the first byte of each, and the end."""
    try:
        with open(name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if not size:
                raise InputError(name, "a TFRecord file", "an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _walk(name, view, size)
    except OSError as error:
        raise InputError(
            name, "a readable TFRecord file", error.strerror or error
        ) from error


def _walk(name: str, view: mmap.mmap, size: int) -> np.ndarray:
    if view[:2] == _GZIP_MAGIC:
        raise InputError(name, "a TFRecord file", "a gzip stream (gunzip it)")
    unpack = _LENGTH.unpack_from
    offsets, position = array.array("q"), 0
    while position + _FRAME_BYTES <= size:
        offsets.append(position)
        position += _FRAME_BYTES + unpack(view, position)[0]
    starts = np.frombuffer(offsets, np.int64)
    for first in range(0, len(starts), _HEADERS_AT_A_TIME):
        headers = [
            view[start : start + _HEADER_BYTES]
            for start in starts[first : first + _HEADERS_AT_A_TIME].tolist()
        ]
        wrong = np.flatnonzero(~intact(headers))
        if len(wrong):
            number = first + int(wrong[0])
            raise InputError(
                name,
                "a TFRecord",
                "a length that does not match its checksum",
                f"record {number}",
            )
    if position != size:
        raise InputError(
            name,
            "whole records",
            "the end of the file (it was cut short)",
            f"record {len(starts) - (position > size)}",
        )
    return np.append(starts, size)


def intact(records: Sequence[bytes]) -> np.ndarray:
    """Checks records against the checksums that follow them.

    A CRC is linear over GF(2): it is the exclusive or of one table entry for
    each byte, chosen by the byte's value and its distance from the end. NumPy
    looks up all bytes of all records at once.

    Args:
        records: bytes, each followed by its masked CRC-32C (4 bytes).

    Returns:
        bool [len(records)]; False for records of fewer than 4 bytes or more
        than 65,536, which no example has.
    """
    lengths = np.array([len(record) - 4 for record in records])
    checked = (lengths >= 4) & (lengths <= _MAX_RECORD_BYTES)
    if not checked.all():
        checked[checked] = intact(
            [records[index] for index in np.flatnonzero(checked)]
        )
        return checked
    if not len(records):
        return checked
    content = np.frombuffer(
        b"".join([record[:-4] for record in records]), np.uint8
    ).copy()
    starts = np.cumsum(lengths) - lengths
    # The register starts with all bits set: the first four bytes inverted.
    content[starts[:, None] + np.arange(4)] ^= 0xFF
    distances = np.repeat(starts + lengths, lengths) - 1
    distances -= np.arange(len(content))
    tables = _crc_tables(1 << int(lengths.max() - 1).bit_length())
    contributions = tables.reshape(-1).take(distances * 256 + content)
    crc = ~np.bitwise_xor.reduceat(contributions, starts)
    masked = (crc >> 15 | crc << 17) + np.uint32(0xA282EAD8)
    stored = np.frombuffer(b"".join([record[-4:] for record in records]), "<u4")
    return masked == stored


@functools.lru_cache(maxsize=4)
def _crc_tables(num_distances: int) -> np.ndarray:
    """Returns uint32 [num_distances, 256], a byte's part of the CRC."""
    first = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        first = first >> 1 ^ np.where(first & 1, _POLYNOMIAL, 0).astype(
            np.uint32
        )
    tables = np.empty((num_distances, 256), np.uint32)
    tables[0] = first
    for distance in range(1, num_distances):
        before = tables[distance - 1]
        tables[distance] = before >> 8 ^ first[before & 0xFF]
    return tables


def are_tfrecords(patterns: Sequence[str]) -> bool:
    """Tells from their names whether input files are TFRecords or text.

    Raises:
        InputError: some are TFRecords and some are not.
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
    """Indexes the files that names or globs match (see `index_records`).

    Raises:
        InputError: a pattern matches no file, or a file is not a TFRecord file.
    """
    return index_records(matching_files(patterns))


def record_batches(
    index: RecordIndex,
    *,
    batch_size: int,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
    seed: int,
    start_step: int = 0,
) -> Iterator[Arrays]:
    """Yields batches of stored examples without end, in a new order each epoch.

    Args:
        index: of `tfrecord_index`.
        batch_size: B, over all replicas.
        max_seq_length: S that the files were made with.
        max_predictions_per_seq: P that the files were made with.
        vocab_size: size of the vocabulary that the files were made with.
        seed: decides the order.
        start_step: number of the first batch; those before it cost nothing.

    Returns:
        The arrays of `TextStream.batches`. Records that do not fill a batch at
        the end of an epoch are dropped.

    Raises:
        InputError: there are too few records for a batch, or a record that is
            read is damaged or does not fit the arguments; the first batch is
            read at once.
    """
    batches = _RecordBatches(
        index,
        batch_size,
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
    next(batches.run(start_step))
    return made_ahead(batches.run(start_step))


@dataclasses.dataclass(frozen=True)
class _RecordBatches:
    """The order of records."""

    index: RecordIndex
    batch_size: int
    seed: int
    parsing: dict[str, int]

    @property
    def num_batches(self) -> int:
        return self.index.num_records // self.batch_size

    def run(self, step: int) -> Iterator[Arrays]:
        """Yields batch after batch, from number `step`."""
        epoch, first_batch = divmod(step, self.num_batches)
        while True:
            left = self.num_batches - first_batch
            waiting = []
            for rows in self._windows(epoch, first_batch * self.batch_size):
                waiting += rows
                while len(waiting) >= self.batch_size and left:
                    yield self._parse(waiting[: self.batch_size])
                    del waiting[: self.batch_size]
                    left -= 1
            epoch, first_batch = epoch + 1, 0

    def _windows(
        self, epoch: int, first_row: int
    ) -> Iterator[list[tuple[bytes, tuple[str, int]]]]:
        """Yields the records of an epoch from row `first_row` on."""
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
