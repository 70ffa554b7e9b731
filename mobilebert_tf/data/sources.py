"""Where pre-training text comes from, and what part of it is held out."""

import array
import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mobilebert_tf.data.builtin import pretraining_documents
from mobilebert_tf.data.corpus import (
    TokenizedCorpus,
    split_into_sentences,
    tokenize_documents,
)
from mobilebert_tf.data.text_files import read_documents
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError


def read_text(
    input_files: Sequence[str],
    tfds_name: str | None = None,
    tfds_data_dir: str | None = None,
) -> Iterator[list[str]]:
    """Reads documents as lists of sentences, one at a time.

    Args:
        input_files: names or globs of text files.
        tfds_name: instead, a dataset of TensorFlow Datasets; see
            `tfds_text.tfds_documents`. With neither, the documentation of the
            installed packages.
        tfds_data_dir: where the dataset was prepared.

    Raises:
        InputError: if both are named, there is no such file or dataset, or,
            when the iterator reaches it, a file cannot be read or holds no
            text.
    """
    if input_files and tfds_name:
        raise InputError("--input_files", "either this or --tfds_name", "both")
    if tfds_name:
        # An import that only those who need it should wait for.
        from mobilebert_tf.data.tfds_text import tfds_documents

        documents = tfds_documents(tfds_name, tfds_data_dir)
    elif input_files:
        documents = read_documents(list(input_files))
    else:
        documents = pretraining_documents()
    return split_into_sentences(documents)


def load_text(
    input_files: Sequence[str],
    tfds_name: str | None = None,
    tfds_data_dir: str | None = None,
) -> list[list[str]]:
    """Returns all documents of `read_text`.

    Raises:
        InputError: as `read_text`.
    """
    return list(read_text(input_files, tfds_name, tfds_data_dir))


def held_out_documents(
    documents: Iterable[list[str]], held_out_fraction: float
) -> set[int]:
    """Chooses the documents that are not trained on but evaluated.

    By a hash of the text, so that a document stays on its side when others
    come or go. Both sides get at least two documents, which random next
    sentences need.

    Returns:
        Indices of documents.

    Raises:
        InputError: if there are fewer than four documents.
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


def tokenize_split(
    input_files: Sequence[str],
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    held_out_fraction: float = 0.02,
    *,
    tfds_name: str | None = None,
    tfds_data_dir: str | None = None,
) -> tuple[TokenizedCorpus, TokenizedCorpus]:
    """Reads text and returns it tokenized: to train on, to evaluate on.

    Lines that no sequence could hold are cut. The text is read twice, so that
    memory need not hold it: only its pieces, and the held-out documents.

    Raises:
        InputError: as `read_text`, and for fewer than four documents.
    """
    source = (input_files, tfds_name, tfds_data_dir)
    indices = held_out_documents(read_text(*source), held_out_fraction)
    held_out = []

    def trained_on() -> Iterator[list[str]]:
        for index, document in enumerate(read_text(*source)):
            if index in indices:
                held_out.append(document)
            else:
                yield document

    # In this order: reading one side collects the other.
    sides = [
        tokenize_documents(trained_on(), tokenizer),
        tokenize_documents(held_out, tokenizer),
    ]
    train, held_out_corpus = (
        side.split_lines(max_seq_length) for side in sides
    )
    return train, held_out_corpus


def _hash(document: list[str]) -> int:
    """A 64-bit number that is the same in every process and Python."""
    digest = hashlib.sha256("\n".join(document).encode()).digest()
    return int.from_bytes(digest[:8], "big")
