"""TFRecord files of pre-training examples: bytes, checks, and random access.

The format is google-research/bert's: files of the original
`create_pretraining_data.py` are read, and its readers read ours. A record is
its length (8 bytes, little endian), a checksum of the length (4), a
`tf.Example`, and a checksum of that (4).

TensorFlow reads a TFRecord file from its start only, so a run that resumes
after a million steps would first read everything that it has seen. Here an
index, made from the lengths of the records, finds each record with one seek.
"""

import array
import dataclasses
import functools
import mmap
import os
import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from mobilebert_tf.data.batches import Arrays
from mobilebert_tf.errors import InputError

# Records that are read together.
CHUNK_SIZE = 64

_CHUNK = [
    ("file", np.int32),
    ("start", np.int64),
    ("end", np.int64),
    ("first", np.int64),
    ("size", np.int64),
]
_HEADER_BYTES = 12
_FRAME_BYTES = 16
_LENGTH = struct.Struct("<Q")
_GZIP_MAGIC = b"\x1f\x8b"
_HEADERS_AT_A_TIME = 65536
# A pre-training example of 512 pieces has 2,500.
_MAX_RECORD_BYTES = 65536
# The polynomial of CRC-32C (Castagnoli), lowest power first.
_POLYNOMIAL = 0x82F63B78


class Record(NamedTuple):
    """A message and its checksum (4 bytes), and where they come from."""

    content: bytes
    file: str
    number: int

    @property
    def message(self) -> bytes:
        return self.content[:-4]

    def error(self, expected: str, found: object) -> InputError:
        """Returns the error that refuses this record."""
        return InputError(self.file, expected, found, f"record {self.number}")


@dataclasses.dataclass(frozen=True, eq=False)
class RecordIndex:
    """Finds chunks of records in TFRecord files.

    Attributes:
        files: names.
        chunks: [num_chunks], each with its `file` (a number), `start` and `end`
            in bytes, the number of its `first` record, and its `size` in
            records, at least 1.
    """

    files: tuple[str, ...]
    chunks: np.ndarray

    @property
    def num_records(self) -> int:
        return int(self.chunks["size"].sum())

    def split(self, held_out_fraction: float) -> "list[RecordIndex]":
        """Divides the chunks into those to train on and the last ones.

        Neighbouring records share text, so the end of the last file has least
        in common with the rest. Separate files of other text are better.

        Args:
            held_out_fraction: share of the chunks to hold out; at least one is.

        Raises:
            InputError: there is only one chunk.
        """
        if len(self.chunks) < 2:
            raise InputError(
                ", ".join(self.files),
                f"more than {CHUNK_SIZE} records, to hold some out",
                self.num_records,
            )
        num_held_out = max(1, round(held_out_fraction * len(self.chunks)))
        return [
            dataclasses.replace(self, chunks=chunks)
            for chunks in np.split(self.chunks, [-num_held_out])
        ]

    def read_chunk(self, chunk: int) -> list[Record]:
        """Reads a chunk's records.

        Raises:
            InputError: the file has changed since the index was made.
        """
        file, start, end, first, size = self.chunks[chunk].tolist()
        name = self.files[file]
        try:
            with open(name, "rb") as stream:
                stream.seek(start)
                content = stream.read(end - start)
        except OSError as error:
            raise InputError(
                name, "a readable file", error.strerror or error
            ) from error
        records, position = [], 0
        for number in range(first, first + size):
            begin = position + _HEADER_BYTES
            length = int.from_bytes(content[position : position + 8], "little")
            position = begin + length + 4
            records.append(Record(content[begin:position], name, number))
        if position != len(content):
            raise InputError(
                name,
                "the file that the run began with",
                "another or a shorter one",
                f"records {first} to {first + size - 1}",
            )
        return records


def index_records(files: Sequence[str | os.PathLike]) -> RecordIndex:
    """Finds the chunks of TFRecord files from the lengths of their records.

    The index takes 36 bytes of memory for each 64 records.

    Raises:
        InputError: a file cannot be read, is empty, is compressed, is not a
            TFRecord file or is cut short.
    """
    names = tuple(map(os.fspath, files))
    chunks = []
    for index, name in enumerate(names):
        offsets = _record_offsets(name)
        firsts = np.arange(0, len(offsets) - 1, CHUNK_SIZE)
        lasts = np.minimum(firsts + CHUNK_SIZE, len(offsets) - 1)
        chunks.append(np.empty(len(firsts), _CHUNK))
        chunks[-1]["file"] = index
        chunks[-1]["start"] = offsets[firsts]
        chunks[-1]["end"] = offsets[lasts]
        chunks[-1]["first"] = firsts
        chunks[-1]["size"] = lasts - firsts
    return RecordIndex(names, np.concatenate(chunks))


def _record_offsets(name: str) -> np.ndarray:
    """Returns int64 [records + 1]: the first byte of each, and the end."""
    try:
        with open(name, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise InputError(name, "a TFRecord file", "an empty file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _walk(name, view)
    except OSError as error:
        raise InputError(
            name, "a readable TFRecord file", error.strerror or error
        ) from error


def _walk(name: str, view: mmap.mmap) -> np.ndarray:
    if view[:2] == _GZIP_MAGIC:
        raise InputError(name, "a TFRecord file", "a gzip stream (gunzip it)")
    unpack, size = _LENGTH.unpack_from, len(view)
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
            raise InputError(
                name,
                "a TFRecord",
                "a length that does not match its checksum",
                f"record {first + int(wrong[0])}",
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
    lengths = np.array([len(record) - 4 for record in records], np.int64)
    usable = (lengths >= 4) & (lengths <= _MAX_RECORD_BYTES)
    if not usable.all():
        usable[usable] = intact([records[row] for row in np.nonzero(usable)[0]])
        return usable
    if not len(records):
        return usable
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
        first = first >> 1 ^ (first & 1) * np.uint32(_POLYNOMIAL)
    tables = np.empty((num_distances, 256), np.uint32)
    tables[0] = first
    for distance in range(1, num_distances):
        before = tables[distance - 1]
        tables[distance] = before >> 8 ^ first[before & 0xFF]
    return tables


def feature_lengths(
    max_seq_length: int, max_predictions_per_seq: int
) -> dict[str, int]:
    """Returns the length of each feature of a record, by name.

    In the file `masked_lm_weights` is float32 and the others are int64.
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


def serialize_examples(batch: Arrays) -> list[bytes]:
    """Serialises integer and float32 arrays [B, ...] as B `tf.Example`s.

    The bytes are those of protobuf's deterministic serialisation, with features
    in the order of their names. `tf.io.encode_proto` makes them for the whole
    batch, level by level of the nested messages; building messages in Python
    takes longer than masking does.
    """
    entries = []
    for name in sorted(batch):
        values = np.reshape(batch[name], (len(batch[name]), -1))
        kind = "float" if values.dtype == np.float32 else "int64"
        values = values.astype(kind.replace("float", "float32"))
        packed = _encode(f"{kind.capitalize()}List", value=values)
        feature = _encode("Feature", **{f"{kind}_list": packed})
        key = np.full((len(values), 1), name.encode(), object)
        entries.append(_encode("Features.FeatureEntry", key=key, value=feature))
    features = _encode("Features", feature=np.hstack(entries))
    return _encode("Example", features=features)[:, 0].tolist()


def _encode(message: str, **fields: np.ndarray) -> np.ndarray:
    """Encodes fields, each [B, count], as messages, object [B, 1]."""
    sizes = [np.full(len(array), array.shape[1]) for array in fields.values()]
    messages = tf.io.encode_proto(
        np.stack(sizes, axis=1).astype(np.int32),
        list(fields.values()),
        list(fields),
        f"tensorflow.{message}",
    )
    return messages.numpy()[:, None]


def parse_records(
    records: Sequence[Record],
    max_seq_length: int,
    max_predictions_per_seq: int,
    vocab_size: int,
) -> Arrays:
    """Parses B records into the arrays that `serialize_examples` was given.

    Raises:
        InputError: a record does not match its checksum; or a feature is
            missing, has another type or length, or a value out of range.
    """
    wrong = np.flatnonzero(~intact([record.content for record in records]))
    if len(wrong):
        raise records[wrong[0]].error(
            "a TFRecord", "bytes that do not match their checksum"
        )
    lengths = feature_lengths(max_seq_length, max_predictions_per_seq)
    spec = {
        name: tf.io.FixedLenFeature(
            [length],
            tf.float32 if name == "masked_lm_weights" else tf.int64,
        )
        for name, length in lengths.items()
    }
    contents = np.array([record.message for record in records], object)
    try:
        parsed = tf.io.parse_example(contents, spec)
    # UnicodeDecodeError: TensorFlow's message quotes bytes that are not text.
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        for record in records:
            _check_features(record, lengths)
        raise
    batch = {name: tensor.numpy() for name, tensor in parsed.items()}
    _check_ranges(batch, records, vocab_size)
    return {
        name: array if array.dtype == np.float32 else array.astype(np.int32)
        for name, array in batch.items()
    }


def _check_features(record: Record, lengths: dict[str, int]) -> None:
    """Raises an error that says why TensorFlow could not parse a record."""
    try:
        example = tf.train.Example.FromString(record.message)
    except DecodeError as error:
        raise record.error("a tf.Example", "something else") from error
    features = example.features.feature
    for name, length in lengths.items():
        kind = "float" if name == "masked_lm_weights" else "int64"
        found = "none"
        if name in features:
            field = features[name].WhichOneof("kind") or "no_list"
            count = len(getattr(features[name], field).value)
            found = f"{count} {field.removesuffix('_list')} values"
        if found != f"{length} {kind} values":
            raise record.error(
                f"{length} {kind} values of {name} (--max_seq_length and "
                "--max_predictions_per_seq must be those that the file was "
                "made with)",
                found,
            )


def _check_ranges(
    batch: Arrays, records: Sequence[Record], vocab_size: int
) -> None:
    bounds = {
        "input_ids": vocab_size,
        "masked_lm_ids": vocab_size,
        "input_mask": 2,
        "segment_ids": 2,
        "next_sentence_labels": 2,
        "masked_lm_positions": batch["input_ids"].shape[1],
        "masked_lm_weights": np.inf,
    }
    for name, bound in bounds.items():
        values = batch[name]
        wrong = np.argwhere(~((values >= 0) & (values < bound)))  # NaN as well.
        if len(wrong):
            expected = f"{name} from 0 to {bound - 1}"
            if name in ("input_ids", "masked_lm_ids"):
                expected += " (the vocabulary's size)"
            row, column = wrong[0]
            raise records[row].error(expected, values[row, column])
