"""Text files as documents: all of them, or a shard's part.

A file holds one sentence or paragraph a line and a blank line between
documents, as the original BERT's pre-training data does. Reading streams.
"""

import glob
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mobilebert_tf.errors import InputError


def read_documents(
    patterns: str | os.PathLike | Sequence[str | os.PathLike],
) -> Iterator[list[str]]:
    """Reads documents from text files, a document at a time.

    Args:
        patterns: file names or globs, several separated by commas or given as
            a sequence. Names ending in ".gz" are decompressed. The files of a
            pattern are read in sorted order, a file matched twice once.

    Returns:
        An iterator over documents, each the list of its lines without
        surrounding white space. A document ends at a blank line and with its
        file.

    Raises:
        InputError: a pattern matches no file (at once), or, when the iterator
            reaches it, a file cannot be read, is a broken gzip stream, is not
            UTF-8 or holds no text.
    """
    return (
        document
        for name in matching_files(patterns)
        for document in _whole_file(name)
    )


def matching_files(
    patterns: str | os.PathLike | Sequence[str | os.PathLike],
) -> list[str]:
    """Returns the files of names or globs, as `read_documents` reads them.

    Raises:
        InputError: a pattern matches no file.
    """
    if isinstance(patterns, str):
        patterns = [part.strip() for part in patterns.split(",")]
    elif isinstance(patterns, os.PathLike):
        patterns = [patterns]
    files = {}
    for pattern in map(os.fspath, patterns):
        # A name that exists may well have brackets in it.
        matches = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
        matches = sorted(name for name in matches if os.path.isfile(name))
        if not matches:
            raise InputError(
                pattern or "input files",
                "a text file, or a pattern that matches some",
                "no such file",
            )
        files.update(dict.fromkeys(matches))
    if not files:
        raise InputError("input files", "at least one file", "none")
    return list(files)


def documents_of_shard(
    files: Sequence[str], shard: int, num_shards: int
) -> Iterator[list[str]]:
    """Reads one of `num_shards` parts, alike in size, of all documents.

    A shard is a range of the bytes of all files in a row; a document is in the
    shard where the blank line before it begins. Every document is so in one
    shard, and reading a shard reads little else. A ".gz" file has no such
    ranges: it goes to one shard as a whole.

    Args:
        files: of `matching_files`.
        shard: from 0.
        num_shards: what the text is divided into.

    Raises:
        InputError: when the iterator reaches it, a file that cannot be read, is
            a broken gzip stream or is not UTF-8.
    """
    sizes = [file_size(name) for name in files]
    first = sum(sizes) * shard // num_shards
    last = sum(sizes) * (shard + 1) // num_shards
    for name, size in zip(files, sizes, strict=True):
        if _is_compressed(name):
            if first <= 0 < last:
                yield from _documents_between(name, 0, None)
        elif first < size and last > 0:
            yield from _documents_between(name, max(first, 0), last)
        first, last = first - size, last - size


def file_size(name: str) -> int:
    """Returns a file's size in bytes.

    Raises:
        InputError: there is no such file, or it cannot be looked at.
    """
    try:
        return os.stat(name).st_size
    except OSError as error:
        raise InputError(
            name, "a readable file", error.strerror or error
        ) from error


def _whole_file(name: str) -> Iterator[list[str]]:
    is_empty = True
    for document in _documents_between(name, 0, None):
        is_empty = False
        yield document
    if is_empty:
        raise InputError(name, "text", "blank lines only or nothing")


def _documents_between(
    name: str, start: int, end: int | None
) -> Iterator[list[str]]:
    """Documents whose blank line before them begins from `start` to `end`."""
    document = []
    is_ours = start == 0
    for position, line in _lines_from(name, start):
        if line and is_ours:
            document.append(line)
        elif not line:
            if document:
                yield document
            document = []
            if end is not None and position >= end:
                return
            is_ours = True
    if document:
        yield document


def _lines_from(name: str, start: int) -> Iterator[tuple[int, str]]:
    """Lines that begin at byte `start` or later, and where they begin.

    Without surrounding white space.
    """
    position = start
    try:
        with _opened(name) as file:
            if start:
                file.seek(start - 1)
                position += len(file.readline()) - 1
            for content in file:
                line = content
                if position == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                yield position, line.decode("utf-8").strip()
                position += len(content)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            name, "UTF-8 text", f"byte {byte:#04x}", _line_at(name, position)
        ) from error
    # Python reports a damaged gzip stream in three ways, by where it is
    # damaged: a stream cut short, a wrong header or checksum, wrong codes.
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        after = _line_at(name, position) - 1
        raise InputError(
            name, "a whole gzip file", error, f"after line {after}"
        ) from error
    except OSError as error:
        raise InputError(
            name, "a readable file", error.strerror or error
        ) from error


def _line_at(name: str, position: int) -> int:
    """Number of the line that begins at a byte."""
    number = 1
    with _opened(name) as file:
        while position > 0:
            position -= len(file.readline())
            number += 1
    return number


def _opened(name: str) -> BinaryIO:
    if _is_compressed(name):
        return gzip.open(name, "rb")
    return open(name, "rb")


def _is_compressed(name: str) -> bool:
    return Path(name).suffix == ".gz"
