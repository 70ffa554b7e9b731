"""Cutting and tokenizing corpora a few lines long."""

import numpy as np
import pytest

from mobilebert_tf.data import corpus
from mobilebert_tf.data.corpus import (
    TokenizedCorpus,
    sentences,
    tokenize_documents,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c ##a ##b ##c .".split()


@pytest.mark.parametrize(
    "line, expected",
    [
        ("", []),
        ("No end", ["No end"]),
        ("One. Two!  Three? 4 is.", ["One.", "Two!", "Three?", "4 is."]),
        ('He said "No." Then "Yes!"', ['He said "No."', 'Then "Yes!"']),
        ("Stop. “Élan” (so). [See]", ["Stop.", "“Élan” (so).", "[See]"]),
        ("It cost 3.5 m. and more.", ["It cost 3.5 m. and more."]),
        ("See No. 5. No. It is.", ["See No. 5.", "No.", "It is."]),
        ("Dr. Smith met J. R. Doe.", ["Dr. Smith met J. R. Doe."]),
        ("The U.S. Army left. It won.", ["The U.S. Army left.", "It won."]),
        ("wait... what? yes", ["wait... what? yes"]),
        ("Wait... What", ["Wait...", "What"]),
        (" (Mr. A) See e.g. B. ", ["(Mr. A) See e.g. B."]),
        ("Ends. ", ["Ends."]),
    ],
)
def test_sentences(line, expected):
    assert sentences(line) == expected
    assert " ".join(expected).split() == line.split()


def lines_of(tokenized):
    return [
        [
            tokenized.tokens[
                slice(*tokenized.line_starts[line : line + 2])
            ].tolist()
            for line in range(first, last)
        ]
        for first, last in zip(
            tokenized.document_starts[:-1],
            tokenized.document_starts[1:],
            strict=True,
        )
    ]


@pytest.mark.parametrize("lines_at_a_time", [1, 3, 8192])
def test_tokenize_documents(monkeypatch, lines_at_a_time):
    monkeypatch.setattr(corpus, "_LINES_AT_A_TIME", lines_at_a_time)
    documents = [
        ["\x00"],
        ["ab c.", "", "\u200b", "x"],
        [],
        ["\x01", "\x02"],
        ["c"],
    ]
    tokenized = tokenize_documents(documents, WordpieceTokenizer(VOCAB))
    assert lines_of(tokenized) == [[[5, 9, 7, 11], [1]], [[7]]]
    assert tokenized.tokens.dtype == np.int32
    assert tokenized.line_starts.tolist() == [0, 4, 5, 6]
    assert tokenized.document_starts.tolist() == [0, 2, 3]
    assert tokenized.line_starts.dtype == np.int64
    assert tokenized.document_starts.dtype == np.int64
    assert (tokenized.num_tokens, tokenized.num_documents) == (6, 2)


@pytest.mark.parametrize("documents", [[], [[]], [["", "\x00"]]])
def test_no_text_gives_an_empty_corpus(documents):
    tokenized = tokenize_documents(documents, WordpieceTokenizer(VOCAB))
    assert tokenized.num_tokens == 0
    assert (
        tokenized.num_documents == tokenized.split_lines(4).num_documents == 0
    )


def test_split_lines():
    tokenized = TokenizedCorpus(
        tokens=np.arange(17, dtype=np.int32),
        line_starts=np.array([0, 3, 4, 13, 17]),
        document_starts=np.array([0, 2, 4]),
    )
    split = tokenized.split_lines(4)
    assert lines_of(split) == [
        [[0, 1, 2], [3]],
        [[4, 5, 6], [7, 8, 9], [10, 11, 12], [13, 14, 15, 16]],
    ]
    assert lines_of(tokenized.split_lines(9)) == lines_of(tokenized)
    assert tokenized.split_lines(1).line_starts.tolist() == [*range(18)]
