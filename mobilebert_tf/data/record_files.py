"""TFRecord files that can be read from any place.

Owns the framing: where in a file its records begin, and whether their bytes
are those that were written. TensorFlow reads these files from the start only;
a run that resumes after a million steps would first read all that it has
already seen. A look at the lengths of the records is enough to know where each
begins, and a chunk of neighbouring records is then one seek away.

A record is its length (8 bytes, little endian), a checksum of the length (4),
its bytes, and a checksum of these (4).
"""

import array
import dataclasses
import functools
import mmap
import os
import struct
from collections.abc import Sequence

import numpy as np

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
