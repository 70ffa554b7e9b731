"""Reading text files, whole and in shards."""

import gzip
import random

import pytest

from mobilebert_tf.data.sources import (
    documents_of_shard,
    matching_files,
    read_documents,
)
from mobilebert_tf.errors import InputError


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


def write_random_files(folder, seed):
    """Files with blank lines of all kinds, and without an end of line."""
    rng = random.Random(seed)
    for name in range(rng.randint(1, 4)):
        parts = []
        for number in range(rng.randint(0, 12)):
            parts.append(
                "".join(
                    f"doc {name} {number} é {'x' * rng.randint(0, 30)}\n"
                    for _ in range(rng.randint(1, 3))
                )
            )
        blanks = ["\n", "\n\n", " \t\n", "\r\n", "\u3000\n"]
        text = rng.choice(["", "\ufeff", "\n"])
        for part in parts:
            text += part + rng.choice(blanks)
        text += rng.choice(["", "last", "last\n"])
        (folder / f"{name}.txt").write_text(text + "z", newline="")


@pytest.mark.parametrize("seed", range(25))
def test_shards_hold_every_document_once(tmp_path, seed):
    write_random_files(tmp_path, seed)
    files = matching_files(tmp_path / "*.txt")
    expected = list(read_documents(files))
    for num_shards in (1, 2, 3, 7, 40):
        shards = [
            list(documents_of_shard(files, shard, num_shards))
            for shard in range(num_shards)
        ]
        assert sum(shards, []) == expected


def test_shards_are_alike_in_size(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {n:04d}\n\n" for n in range(1000)))
    for num_shards in (2, 3, 8):
        sizes = [
            len(list(documents_of_shard([str(path)], shard, num_shards)))
            for shard in range(num_shards)
        ]
        assert sum(sizes) == 1000
        assert max(sizes) - min(sizes) <= 2  # The first has no line before it.


def test_a_shard_does_not_read_the_others(tmp_path):
    path = tmp_path / "a.txt"
    good = "".join(f"line {n:04d}\n\n" for n in range(1000)).encode()
    path.write_bytes(good + b"\xff\n" + good)
    files = [str(path)]
    assert len(list(documents_of_shard(files, 0, 4))) == 501
    assert len(list(documents_of_shard(files, 3, 4))) == 500
    with pytest.raises(InputError) as error:
        list(documents_of_shard(files, 1, 4))
    assert str(error.value) == (
        f"{path}, line 2001: expected UTF-8 text, found byte 0xff"
    )


def test_a_compressed_file_is_in_one_shard(tmp_path):
    plain = "".join(f"plain {n}\n\n" for n in range(100))
    (tmp_path / "a.txt").write_text(plain)
    packed = "".join(f"packed {n}\n\n" for n in range(100))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(packed.encode()))
    files = matching_files(tmp_path / "*")
    shards = [list(documents_of_shard(files, n, 5)) for n in range(5)]
    assert sum(shards, []) == list(read_documents(files))
    holding = [any(d[0].startswith("packed") for d in s) for s in shards]
    assert sum(holding) == 1


def test_a_file_that_vanished_is_refused(tmp_path):
    with pytest.raises(InputError, match="a.txt: expected a readable file"):
        list(documents_of_shard([str(tmp_path / "a.txt")], 0, 1))
