"""TFRecord framing: files of TensorFlow's writer, whole and damaged."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.data.records import (
    CHUNK_SIZE,
    _crc_tables,
    index_records,
    intact,
)
from mobilebert_tf.errors import InputError


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


@pytest.fixture
def records(rng):
    """Records of many lengths, more than two chunks of them."""
    return [rng.bytes(4 + number * 7 % 301) for number in range(150)]


def read_all(index):
    records, places = [], []
    for chunk in range(index.num_chunks):
        some_records, some_places = index.read_chunk(chunk)
        records += some_records
        places += some_places
    return records, places


def test_every_record_is_found(tmp_path, records):
    files = [str(tmp_path / name) for name in ("a", "b")]
    write_records(files[0], records)
    write_records(files[1], records[:3])
    index = index_records(files)
    assert index.num_records == 153
    assert index.chunk_sizes.tolist() == [CHUNK_SIZE, CHUNK_SIZE, 22, 3]
    framed, places = read_all(index)
    assert [record[:-4] for record in framed] == records + records[:3]
    assert places == [(files[0], n) for n in range(150)] + [
        (files[1], n) for n in range(3)
    ]
    assert intact(framed).all()


def test_the_checksum_is_crc_32c():
    # The check value that catalogues of CRCs give for CRC-32C.
    tables = _crc_tables(16)
    crc = 0xFFFFFFFF
    for byte in b"123456789":
        crc = crc >> 8 ^ int(tables[0, crc & 0xFF ^ byte])
    assert crc ^ 0xFFFFFFFF == 0xE3069283


def test_any_changed_byte_is_noticed(tmp_path, records):
    write_records(tmp_path / "a", records[40:41])
    ((framed,), _) = index_records([tmp_path / "a"]).read_chunk(0)
    damaged = []
    for position in range(len(framed)):
        changed = bytearray(framed)
        changed[position] ^= 0x10
        damaged.append(bytes(changed))
    assert len(damaged) > 200
    assert not intact(damaged).any()
    assert intact([framed, damaged[0], framed]).tolist() == [True, False, True]


def test_what_no_example_can_be_is_not_intact(tmp_path):
    long = bytes(70000)
    write_records(tmp_path / "a", [b"", b"abc", b"abcd", long])
    framed, _ = index_records([tmp_path / "a"]).read_chunk(0)
    assert intact(framed).tolist() == [False, False, True, False]
    assert intact([]).tolist() == []


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    write_records(tmp_path / "a", [b"first", b"second"])
    content = (tmp_path / "a").read_bytes()
    assert len(content) == 16 + 5 + 16 + 6
    for size in range(1, len(content)):
        if size == 21:
            continue  # The end of the first record: a shorter, whole file.
        (tmp_path / "b").write_bytes(content[:size])
        number = 0 if size < 21 else 1
        with pytest.raises(InputError) as error:
            index_records([tmp_path / "b"])
        assert str(error.value) == (
            f"{tmp_path / 'b'}, record {number}: expected whole records, found "
            "the end of the file (it was cut short)"
        )


def test_a_damaged_length_is_refused(tmp_path):
    write_records(tmp_path / "a", [b"first", b"second", b"third"])
    content = bytearray((tmp_path / "a").read_bytes())
    content[21] += 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match="a, record 1: .*a length that does"):
        index_records([tmp_path / "a"])


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (gzip.compress(b"x" * 100), "gunzip it"),
        (b"Some text that is no TFRecord file.\n", "record 0"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=message):
        index_records([tmp_path / "a"])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="readable TFRecord file, found No su"):
        index_records([tmp_path / "a"])


def test_a_file_that_changed_is_refused(tmp_path, records):
    write_records(tmp_path / "a", records)
    index = index_records([tmp_path / "a"])
    write_records(tmp_path / "a", records[:70])
    index.read_chunk(0)
    with pytest.raises(InputError, match="record 70: .*the run began with"):
        index.read_chunk(1)
    (tmp_path / "a").unlink()
    with pytest.raises(InputError, match="a readable file"):
        index.read_chunk(0)


def test_splitting_holds_out_the_last_chunks(tmp_path, records):
    for name in "ab":
        write_records(tmp_path / name, records)
    index = index_records([tmp_path / "a", tmp_path / "b"])
    train, held_out = index.split(0.3)
    assert (train.num_chunks, held_out.num_chunks) == (4, 2)
    assert read_all(train)[1] + read_all(held_out)[1] == read_all(index)[1]
    assert index.split(0.0)[1].num_chunks == 1
    write_records(tmp_path / "c", records[:CHUNK_SIZE])
    with pytest.raises(InputError, match="more than 64 records.*found 64"):
        index_records([tmp_path / "c"]).split(0.1)


def test_sizes_are_exact_at_chunk_borders(tmp_path, records):
    for count in (CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1):
        write_records(tmp_path / "a", records[:count])
        index = index_records([tmp_path / "a"])
        assert np.sum(index.chunk_sizes) == index.num_records == count
        assert [r[:-4] for r in read_all(index)[0]] == records[:count]
