"""Sources of pre-training text: files, TensorFlow Datasets or built-in text.

Each source yields documents, one at a time, as lists of lines. A text file
holds a sentence or paragraph a line and a blank line between documents, like
the original BERT's pre-training data.
"""

import array
import glob
import gzip
import hashlib
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from mobilebert_tf.data.builtin import (
    documentation_fingerprints,
    pretraining_documents,
)
from mobilebert_tf.data.corpus import (
    TokenizedCorpus,
    split_into_sentences,
    tokenize_documents,
)
from mobilebert_tf.data.options import ExampleOptions, TextOptions
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# wiki40b's markup: a title, a heading or paragraphs follow.
# Where a prepared dataset has its version and the sizes of its parts.
_TFDS_INFO = "dataset_info.json"
_MARKER = re.compile(r"_START_(ARTICLE|SECTION|PARAGRAPH)_")
_LINE_BREAK = "_NEWLINE_"
# A compressed file of a megabyte may hold a line of a gigabyte.
_LONGEST_LINE = 2**26


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
    return any(named)


def read_text(options: ExampleOptions) -> Iterator[list[str]]:
    """Reads documents of sentences from text files or a dataset.

    With neither, reads the documentation of the installed packages.

    Raises:
        InputError: both are given, or one is refused.
    """
    refuse_two_sources(options)
    if options.tfds_name:
        documents = tfds_documents(options)
    elif options.input_files:
        documents = read_documents(options.input_files)
    else:
        documents = pretraining_documents()
    return split_into_sentences(documents)


def text_sources(options: ExampleOptions) -> dict[str, list]:
    """Lists the files or fingerprints that stand for what `options` name.

    Raises:
        InputError: as `read_text`, at once.
    """
    refuse_two_sources(options)
    if options.tfds_name:
        return {
            "tfds_name": [Path(_tfds_builder(options).data_dir, _TFDS_INFO)]
        }
    if options.input_files:
        return {"input_files": matching_files(options.input_files)}
    return {"built_in_text": documentation_fingerprints()}


def refuse_two_sources(options: ExampleOptions) -> None:
    """Raises an `InputError` if both files and a dataset are named."""
    if options.input_files and options.tfds_name:
        raise InputError("--input_files", "either this or --tfds_name", "both")


def tokenize_split(
    options: TextOptions, tokenizer: WordpieceTokenizer
) -> list[TokenizedCorpus]:
    """Tokenizes text into a training corpus and a held-out corpus.

    Lines longer than a sequence are cut. The text is read twice, so that memory
    holds only its pieces and the held-out documents.

    Raises:
        InputError: as `read_text`, and for fewer than four documents.
    """
    indices = held_out_documents(read_text(options), options.held_out_fraction)
    held_out = []

    def training_documents() -> Iterator[list[str]]:
        for index, document in enumerate(read_text(options)):
            if index in indices:
                held_out.append(document)
            else:
                yield document

    # In this order: reading the training documents collects the others.
    return [
        tokenize_documents(documents, tokenizer).split_lines(
            options.max_seq_length
        )
        for documents in (training_documents(), held_out)
    ]


def held_out_documents(
    documents: Iterable[list[str]], held_out_fraction: float
) -> set[int]:
    """Returns the indices of the documents to evaluate on.

    They are chosen by a hash of the text, so that a document stays on its side
    when others are added or removed. Both sides get at least two documents,
    which random next sentences need.

    Raises:
        InputError: there are fewer than four documents.
    """
    hashes = np.frombuffer(array.array("Q", map(_hash, documents)), np.uint64)
    if len(hashes) < 4:
        raise InputError(
            "input files",
            "at least 4 documents, separated by blank lines",
            len(hashes),
        )
    num_held_out = max(2, round(held_out_fraction * len(hashes)))
    ranked = np.argsort(hashes, stable=True)
    return set(ranked[: min(num_held_out, len(hashes) - 2)].tolist())


def _hash(document: list[str]) -> int:
    digest = hashlib.sha256("\n".join(document).encode()).digest()
    return int.from_bytes(digest[:8], "big")


def read_documents(patterns: Sequence[str]) -> Iterator[list[str]]:
    """Reads documents of text files as lists of stripped lines.

    A document ends at a blank line and at the end of its file. Files whose
    names end in ".gz" are decompressed.

    Raises:
        InputError: a pattern matches no file (at once), or, when the iterator
            reaches it, a file cannot be read, is a damaged gzip stream, is not
            UTF-8 or contains no text.
    """
    return (
        document
        for name in matching_files(patterns)
        for document in _whole_file(name)
    )


def matching_files(patterns: Sequence[str]) -> list[str]:
    """Returns files by names or globs, each once, sorted within a pattern.

    Raises:
        InputError: a pattern matches no file.
    """
    files = {}
    for pattern in patterns:
        # The name of an existing file may contain brackets.
        matches = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
        matches = sorted(name for name in matches if os.path.isfile(name))
        if not matches:
            raise InputError(
                pattern or "input files",
                "a text file, or a pattern that matches some",
                "no such file",
            )
        files.update(dict.fromkeys(matches))
    return list(files)


def documents_of_shard(
    files: Sequence[str], shard: int, num_shards: int
) -> Iterator[list[str]]:
    """Reads shard `shard` (from 0) of `num_shards` of about equal size.

    A shard is a range of the bytes of all files in a row. A document belongs to
    the shard in which the blank line before it begins, so every document is in
    one shard, and reading a shard reads little else. A ".gz" file cannot be
    read from the middle: it belongs to one shard as a whole.

    Raises:
        InputError: when the iterator reaches it, a file cannot be read, is a
            damaged gzip stream or is not UTF-8.
    """
    sizes = [file_size(name) for name in files]
    first = sum(sizes) * shard // num_shards
    last = sum(sizes) * (shard + 1) // num_shards
    for name, size in zip(files, sizes, strict=True):
        if name.endswith(".gz"):
            if first <= 0 < last:
                yield from _documents_between(name)
        elif first < size and last > 0:
            yield from _documents_between(name, max(first, 0), last)
        first, last = first - size, last - size


def file_size(name: str) -> int:
    """Returns a file's size in bytes; an `InputError` if it has none."""
    try:
        return os.stat(name).st_size
    except OSError as error:
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: OSError) -> InputError:
    return InputError(name, "a readable file", error.strerror or error)


def _whole_file(name: str) -> Iterator[list[str]]:
    is_empty = True
    for document in _documents_between(name):
        is_empty = False
        yield document
    if is_empty:
        raise InputError(name, "text", "blank lines only or nothing")


def _documents_between(
    name: str, start: int = 0, end: int | None = None
) -> Iterator[list[str]]:
    """Yields documents after a blank line at a byte in [start, end)."""
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
    """Yields (first byte, stripped text) of lines from byte `start` on."""
    position = start
    try:
        with _opened(name) as file:
            if start:
                file.seek(start - 1)
                position += len(file.readline()) - 1
            for line in iter(lambda: file.readline(_LONGEST_LINE + 1), b""):
                if len(line) > _LONGEST_LINE:
                    raise InputError(
                        name,
                        f"lines of at most {_LONGEST_LINE >> 20} MB",
                        "a longer one",
                        _line_at(name, position),
                    )
                encoding = "utf-8" if position else "utf-8-sig"
                yield position, line.decode(encoding).strip()
                position += len(line)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            name, "UTF-8 text", f"byte {byte:#04x}", _line_at(name, position)
        ) from error
    # Cut short; a wrong header or checksum; invalid codes.
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        after = _line_at(name, position) - 1
        raise InputError(
            name, "a whole gzip file", error, f"after line {after}"
        ) from error
    except OSError as error:
        raise _unreadable(name, error) from error


def _line_at(name: str, position: int) -> int:
    """Returns the number of the line that begins at a byte, from 1."""
    number = 1
    with _opened(name) as file:
        while position > 0:
            position -= len(file.readline())
            number += 1
    return number


def _opened(name: str):
    return (gzip.open if name.endswith(".gz") else open)(name, "rb")


def tfds_documents(
    options: ExampleOptions, shard: int = 0, num_shards: int = 1
) -> Iterator[list[str]]:
    """Reads the `text` feature of a dataset's training split.

    Each example is a document of paragraphs, in the order of the files. The
    dataset is never downloaded: the large dumps take hours to prepare and need
    packages of their own.

    Args:
        options: `tfds_name`, such as "wikipedia/20230601.en" or "wiki40b/en",
            and `tfds_data_dir`.
        shard: which of `num_shards` equal parts to read, from 0.
        num_shards: number of parts.

    Raises:
        InputError: at once, if no dataset has that name, it is not prepared,
            or it has no training split or no text.
    """
    import tensorflow_datasets as tfds

    # One file after another, in place of the order in which threads read them.
    config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    part = tfds.even_splits("train", num_shards)[shard]
    dataset = _tfds_builder(options).as_dataset(split=part, read_config=config)
    return (
        lines
        for example in tfds.as_numpy(dataset)
        if (lines := paragraphs(example["text"].decode("utf-8")))
    )


def _tfds_builder(options: ExampleOptions):
    """Returns the builder of a dataset, once it has been checked."""
    import tensorflow_datasets as tfds

    def refuse(expected: str, found: object):
        place = f"--tfds_name={options.tfds_name}"
        raise InputError(place, expected, found) from None

    data_dir = options.tfds_data_dir
    try:
        builder = tfds.builder(options.tfds_name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        refuse(
            "a name that TensorFlow Datasets knows, such as "
            "wikipedia/20230601.en or wiki40b/en",
            "an unknown one",
        )
    # An unknown configuration or version, or a malformed name.
    except (ValueError, AssertionError) as error:
        refuse(
            "NAME/CONFIGURATION, both as TensorFlow Datasets has them",
            str(error).splitlines()[0],
        )
    if not builder.is_prepared():
        directory = f" --data_dir={data_dir}" if data_dir else ""
        refuse(
            f"a dataset in {builder.data_dir}; prepare it where there is a "
            f"network: tfds build {options.tfds_name}{directory}",
            "nothing there",
        )
    features, splits = builder.info.features, builder.info.splits
    if "text" not in features or not isinstance(
        features["text"], tfds.features.Text
    ):
        refuse("a dataset with a feature named text", ", ".join(features))
    if "train" not in splits:
        refuse("a split named train", ", ".join(splits) or "none")
    return builder


def paragraphs(text: str) -> list[str]:
    """Splits an article into its non-blank lines, without surrounding space.

    Of wiki40b's articles only the paragraphs are kept: titles and headings are
    not sentences.
    """
    _, *parts = _MARKER.split(text)
    if parts:
        text = "\n".join(
            part
            for kind, part in zip(parts[::2], parts[1::2], strict=True)
            if kind == "PARAGRAPH"
        ).replace(_LINE_BREAK, "\n")
    return [line for line in map(str.strip, text.split("\n")) if line]
