"""Where pre-training text comes from, and what part of it is held out."""

import hashlib
from collections.abc import Sequence

from mobilebert_tf.data.builtin import pretraining_documents
from mobilebert_tf.data.corpus import (
    TokenizedCorpus,
    read_documents,
    split_into_sentences,
    tokenize_documents,
)
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError


def load_text(input_files: Sequence[str]) -> list[list[str]]:
    """Returns documents as lists of sentences.

    Args:
        input_files: names or globs of text files; empty for the documentation
            of the installed packages.

    Raises:
        InputError: if a file cannot be read or holds no text.
    """
    if input_files:
        documents = read_documents(list(input_files))
    else:
        documents = pretraining_documents()
    return list(split_into_sentences(documents))


def split_documents(
    documents: Sequence[list[str]], held_out_fraction: float
) -> tuple[list[list[str]], list[list[str]]]:
    """Splits documents into those to train on and those to evaluate on.

    By a hash of the text, so that a document stays on its side when others
    come or go. Both sides get at least two documents, which random next
    sentences need.

    Raises:
        InputError: if there are fewer than four documents.
    """
    if len(documents) < 4:
        raise InputError(
            "input files",
            "at least 4 documents, separated by blank lines",
            len(documents),
        )
    ranked = sorted(range(len(documents)), key=lambda i: _hash(documents[i]))
    num_held_out = max(2, round(held_out_fraction * len(documents)))
    held_out = set(ranked[: min(num_held_out, len(documents) - 2)])
    return (
        [doc for i, doc in enumerate(documents) if i not in held_out],
        [doc for i, doc in enumerate(documents) if i in held_out],
    )


def tokenize_split(
    input_files: Sequence[str],
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
    held_out_fraction: float = 0.02,
) -> tuple[TokenizedCorpus, TokenizedCorpus]:
    """Reads text and returns it tokenized: to train on, to evaluate on.

    Lines that no sequence could hold are cut.
    """
    sides = split_documents(load_text(input_files), held_out_fraction)
    train, held_out = (
        tokenize_documents(side, tokenizer).split_lines(max_seq_length)
        for side in sides
    )
    return train, held_out


def _hash(document: list[str]) -> bytes:
    return hashlib.sha256("\n".join(document).encode()).digest()
