"""TFRecord files that can be read from any place.

Owns the framing: where in a file its records begin, and whether their bytes
are those that were written. TensorFlow reads these files from the start only;
a run that resumes after a million steps would first read all that it has
already seen. A look at the lengths of the records is enough to know where each
begins, and a chunk of neighbouring records is then one seek away.

A record is its length (8 bytes, little endian), a checksum of the length (4),
its bytes, and a checksum of these (4).

Batches from TFRecord files of ready-made pre-training examples.

Owns the order in which stored examples reach a model. As in `batching`, batch
n is a pure function of the files, the settings, the seed and n, and a run that
resumes reads nothing that it has already seen.

An epoch visits chunks of 64 neighbouring records in a random order, over all
files, and mixes the records of 64 such chunks at a time: memory holds 4,096
records, however many there are.

Shape letters: B batch, S sequence length, P predictions per sequence.

Pre-training examples as records: google-research/bert's `tf.Example`.

Owns the wire format: names, types and lengths of the features, and the bytes
that stand for them. Files written by the original `create_pretraining_data.py`
are read, and its readers read ours.

Why the bytes are assembled here: building a protobuf message in Python takes
longer than making the example did. NumPy encodes the integers of a whole batch
at once; the bytes are those of protobuf's own deterministic serialisation.

Shape letters: B batch, S sequence length, P predictions per sequence.
"""

import array
import dataclasses
import functools
import mmap
import os
import struct
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mobilebert_tf.data.batches import generated_dataset, pipeline_rows
from mobilebert_tf.data.sources import matching_files
from mobilebert_tf.errors import InputError

# Records that are read together.
CHUNK_SIZE = 64

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
    """Where the chunks of a list of TFRecord files lie.

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
        """Returns an index of the first records and one of the last.

        The last `held_out_fraction`, in whole chunks, at least one: for
        evaluation. Neighbouring records share their text, in our files and in
        others', so that the end of the last file has least in common with what
        is trained on; files of other text are better.

        Raises:
            InputError: there is one chunk only.
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
        """Returns a chunk's records with their checksums, and their places.

        Each record comes as it lies in the file, its checksum's four bytes
        behind it, so that only what is used needs to be checked.

        Raises:
            InputError: the file is not what it was when the index was made.
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
    """Finds the chunks of TFRecord files, by the lengths of the records.

    Takes 40 bytes of memory for every 64 records, whatever their size.

    Raises:
        InputError: a file cannot be read, holds no record, is compressed, is
            no TFRecord file or is cut short.
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
    """Int64 [records + 1]: where each record begins, and the file's end."""
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
    """Compares records with the checksums behind them.

    A CRC is linear over GF(2): each byte contributes, by exclusive or, what a
    table says for its value and its distance from the end. All bytes of all
    records are so looked up at once, which in NumPy is what is quick.

    Args:
        records: bytes, each followed by its masked CRC-32C (4 bytes).

    Returns:
        Boolean [len(records)]; false for records of fewer than 4 bytes, which
        no example is, or of more than 65,536.
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
    """Uint32 [num_distances, 256]: a byte's share of the CRC, by distance."""
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


# Protobuf: field number and wire type 2, "a length, then so many bytes".
_FIELD_1, _FIELD_2, _FIELD_3 = b"\x0a", b"\x12", b"\x1a"


def feature_lengths(
    max_seq_length: int, max_predictions_per_seq: int
) -> dict[str, int]:
    """Returns the length of every feature of a record, by name.

    All are int64 on the wire but `masked_lm_weights`, which is float32.
    """
    return {
        "input_ids": max_seq_length,
        "input_mask": max_seq_length,
        "segment_ids": max_seq_length,
        "masked_lm_positions": max_predictions_per_seq,
        "masked_lm_ids": max_predictions_per_seq,
        "masked_lm_weights": max_predictions_per_seq,
        "next_sentence_labels": 1,
    }


def serialize_examples(batch: dict[str, np.ndarray]) -> list[bytes]:
    """Returns a batch's examples as serialised `tf.Example` messages.

    Args:
        batch: integer arrays, 0 or more, and float32 arrays, each [B, ...].

    Returns:
        B messages, their features in the order of their names.
    """
    names = sorted(batch)
    payloads = [_payloads(batch[name]) for name in names]
    kinds = [
        _FIELD_2 if batch[name].dtype == np.float32 else _FIELD_3
        for name in names
    ]
    records = []
    for row in zip(*payloads, strict=True):
        parts = []
        for name, kind, payload in zip(names, kinds, row, strict=True):
            parts += [_feature_header(name, kind, len(payload)), payload]
        content = b"".join(parts)
        records.append(_FIELD_1 + _varint(len(content)) + content)
    return records


def _payloads(array: np.ndarray) -> list[bytes]:
    """Each row's values as a packed list."""
    if array.dtype == np.float32:
        return [row.tobytes() for row in array.astype("<f4")]
    values = array.reshape(len(array), -1)
    largest = int(values.max(initial=0))
    if largest <= 0x7F:
        return [row.tobytes() for row in values.astype(np.uint8)]
    # Seven bits a byte, the lowest first; the high bit says that more follow.
    num_bytes = np.ones(values.shape, np.int64)
    for shift in range(7, largest.bit_length(), 7):
        num_bytes += values >> shift > 0
    ends = np.cumsum(num_bytes)
    starts = ends.reshape(values.shape) - num_bytes
    encoded = np.empty(ends[-1], np.uint8)
    for index in range(num_bytes.max()):
        chosen = num_bytes > index
        seven_bits = values[chosen] >> 7 * index & 0x7F
        more = num_bytes[chosen] > index + 1
        encoded[starts[chosen] + index] = seven_bits | more << 7
    content = encoded.tobytes()
    bounds = [*starts[:, 0].tolist(), len(content)]
    return [
        content[start:end]
        for start, end in zip(bounds[:-1], bounds[1:], strict=True)
    ]


@functools.lru_cache(maxsize=4096)
def _feature_header(name: str, kind: bytes, length: int) -> bytes:
    """What stands before a packed list: a map entry's key, three lengths."""
    packed = _FIELD_1 + _varint(length)
    values = kind + _varint(len(packed) + length) + packed
    feature = _FIELD_2 + _varint(len(values) + length) + values
    key = _FIELD_1 + _varint(len(name)) + name.encode()
    return _FIELD_1 + _varint(len(key) + len(feature) + length) + key + feature


@functools.lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def parse_examples(
    records: Sequence[bytes],
    places: Sequence[tuple[str, int]],
    *,
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
) -> dict[str, np.ndarray]:
    """Reads serialised examples; the reverse of `serialize_examples`.

    Args:
        records: B messages.
        places: file and number, from 0, of each record, for errors.
        max_seq_length: S.
        max_predictions_per_seq: P.
        vocab_size: ids reach up to here.

    Returns:
        The arrays of `batching.pretraining_dataset`: int32 and, for
        `masked_lm_weights`, float32.

    Raises:
        InputError: a feature is missing, is of another type or length, or
            holds what no model with this vocabulary could read.
    """
    lengths = feature_lengths(max_seq_length, max_predictions_per_seq)
    spec = {
        name: tf.io.FixedLenFeature(
            [length],
            tf.float32 if name == "masked_lm_weights" else tf.int64,
        )
        for name, length in lengths.items()
    }
    try:
        parsed = tf.io.parse_example(np.array(records, object), spec)
    # The second when TensorFlow's message quotes bytes that are no text.
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        for record, place in zip(records, places, strict=True):
            _check_features(record, place, lengths)
        raise
    batch = {name: tensor.numpy() for name, tensor in parsed.items()}
    _check_ranges(batch, places, vocab_size)
    return {
        name: array if array.dtype == np.float32 else array.astype(np.int32)
        for name, array in batch.items()
    }


def _check_features(
    record: bytes, place: tuple[str, int], lengths: dict[str, int]
) -> None:
    """Says what is wrong with a record that TensorFlow could not parse."""
    file, number = place
    try:
        features = tf.train.Example.FromString(record).features.feature
    except DecodeError as error:
        raise InputError(
            file, "a tf.Example", "something else", f"record {number}"
        ) from error
    for name, length in lengths.items():
        kind = "float" if name == "masked_lm_weights" else "int64"
        expected = f"{length} {kind} values of {name}"
        found = "none"
        if name in features:
            field = features[name].WhichOneof("kind") or "no_list"
            count = len(getattr(features[name], field).value)
            found = f"{count} {field.removesuffix('_list')} values"
        if found != f"{length} {kind} values":
            raise InputError(
                file,
                f"{expected} (--max_seq_length and --max_predictions_per_seq "
                "must be those that the file was made with)",
                found,
                f"record {number}",
            )


def _check_ranges(
    batch: dict[str, np.ndarray],
    places: Sequence[tuple[str, int]],
    vocab_size: int,
) -> None:
    bounds = {
        "input_ids": vocab_size,
        "masked_lm_ids": vocab_size,
        "input_mask": 2,
        "segment_ids": 2,
        "next_sentence_labels": 2,
        "masked_lm_positions": batch["input_ids"].shape[1],
    }
    for name, bound in bounds.items():
        values = batch[name]
        wrong = (values < 0) | (values >= bound)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            file, number = places[row]
            hint = " (the vocabulary's size)" if name.endswith("_ids") else ""
            raise InputError(
                file,
                f"{name} from 0 to {bound - 1}"
                f"{hint if bound == vocab_size else ''}",
                values[row, column],
                f"record {number}",
            )
    weights = batch["masked_lm_weights"]
    wrong = ~(np.isfinite(weights) & (weights >= 0)).all(axis=1)
    if wrong.any():
        file, number = places[np.flatnonzero(wrong)[0]]
        raise InputError(
            file,
            "masked_lm_weights of 0 or more",
            "others",
            f"record {number}",
        )
