"""Reading, cutting and tokenizing corpora, on files a few lines long."""

import gzip

import numpy as np
import pytest

from mobilebert_tf.data import corpus
from mobilebert_tf.data.corpus import (
    TokenizedCorpus,
    read_documents,
    sentences,
    split_into_sentences,
    tokenize_documents,
)
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c ##a ##b ##c .".split()


def test_documents_end_at_blank_lines_and_files(tmp_path):
    (tmp_path / "2.txt").write_bytes(b"\xef\xbb\xbfone\r\n two \r\n \t\r\n")
    (tmp_path / "1.txt").write_text("\n\n\nthree\n\n\nfour\x85five\u2028six")
    with gzip.open(tmp_path / "3.txt.gz", "wt", encoding="utf-8") as file:
        file.write("sévèn\n")
    documents = list(read_documents(str(tmp_path / "*")))
    assert documents == [
        ["three"],
        ["four\x85five\u2028six"],
        ["one", "two"],
        ["sévèn"],
    ]


def test_patterns_as_list_commas_and_paths(tmp_path):
    for name in ("a.txt", "b.txt", "c[1].txt"):
        (tmp_path / name).write_text(name)
    (tmp_path / "d.txt").mkdir()
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    assert list(read_documents(f"{b}, {a}")) == [["b.txt"], ["a.txt"]]
    assert list(read_documents([b, str(tmp_path / "[ab].txt")])) == (
        [["b.txt"], ["a.txt"]]
    )
    assert list(read_documents(tmp_path / "c[1].txt")) == [["c[1].txt"]]
    assert len(list(read_documents(f"{tmp_path}/*.txt"))) == 3


def test_a_pattern_without_files_is_refused_at_once(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(InputError, match=r"b\*: expected .* no such file"):
        read_documents([tmp_path / "a.txt", tmp_path / "b*"])
    with pytest.raises(InputError, match="no such file"):
        read_documents(f"{tmp_path}/a.txt,")
    with pytest.raises(InputError, match="found none"):
        read_documents([])


def test_invalid_utf8_names_file_and_line(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("good é\n\ncafé\n".encode() + b"caf\xe9\n")
    documents = read_documents(path)
    assert next(documents) == ["good é"]
    message = f"{path}, line 4: expected UTF-8 text, found byte 0xe9"
    with pytest.raises(InputError) as error:
        next(documents)
    assert str(error.value) == message


@pytest.mark.parametrize("content", [b"", b"\n \n\t\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_text_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match="a.txt: expected text, found blank"):
        list(read_documents(tmp_path / "a.txt"))


def damaged(content, kind):
    if kind == "truncated":
        return content[:-20]
    if kind == "not gzip":
        return b"plain text\n"
    if kind == "checksum":
        return content[:-8] + bytes(8)
    # An impossible block type right behind the ten-byte header.
    return content[:10] + b"\xff" + content[11:]


@pytest.mark.parametrize(
    "kind", ["truncated", "not gzip", "checksum", "corrupted"]
)
def test_a_damaged_gzip_file_is_refused(tmp_path, kind):
    path = tmp_path / "a.gz"
    lines = "".join(f"line {number}\n" for number in range(5000))
    path.write_bytes(damaged(gzip.compress(lines.encode()), kind))
    with pytest.raises(InputError, match="a whole gzip file") as error:
        list(read_documents(path))
    assert str(path) in str(error.value)


def test_reading_streams(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    documents = read_documents([tmp_path / "a.txt"])
    (tmp_path / "a.txt").unlink()
    # The file is opened only when its turn comes.
    with pytest.raises(InputError, match="readable file, found No such file"):
        next(documents)


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


def test_documents_of_sentences():
    documents = [["A b. C d.", "E"], ["F"]]
    assert list(split_into_sentences(documents)) == (
        [["A b.", "C d.", "E"], ["F"]]
    )


def lines_of(tokenized):
    return [
        [tokenized.line(index).tolist() for index in range(first, last)]
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
    assert (tokenized.num_tokens, tokenized.num_lines) == (6, 3)
    assert tokenized.num_documents == 2
    with pytest.raises(IndexError):
        tokenized.line(3)
    with pytest.raises(IndexError):
        tokenized.line(-1)


def test_every_document_may_hold_text():
    tokenized = tokenize_documents(
        [["a", "b"], ["c"], ["b"]], WordpieceTokenizer(VOCAB)
    )
    assert lines_of(tokenized) == [[[5], [6]], [[7]], [[6]]]


@pytest.mark.parametrize("documents", [[], [[]], [["", "\x00"]]])
def test_no_text_gives_an_empty_corpus(documents):
    tokenized = tokenize_documents(documents, WordpieceTokenizer(VOCAB))
    assert tokenized.num_tokens == 0
    assert tokenized.num_lines == tokenized.num_documents == 0
    assert tokenized.split_lines(4).num_lines == 0


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
    assert tokenized.split_lines(1).num_lines == 17
    with pytest.raises(ValueError, match="max_pieces"):
        tokenized.split_lines(0)
