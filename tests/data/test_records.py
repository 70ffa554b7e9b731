"""TFRecord files against TensorFlow's writer, protobuf and hand-made bytes."""

import gzip

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.data.records import (
    CHUNK_SIZE,
    Record,
    _crc_tables,
    feature_lengths,
    index_records,
    intact,
    parse_records,
    serialize_examples,
)
from mobilebert_tf.errors import InputError

# Where integers get another byte: seven bits fill one.
EDGES = [0, 1, 127, 128, 16383, 16384, 30521, 2**21 - 1, 2**21, 2**31 - 1]


def write_records(path, records):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    return path


@pytest.fixture
def messages(rng):
    """Bytes of many lengths, more than two chunks of them."""
    return [rng.bytes(4 + number * 7 % 301) for number in range(150)]


def read_all(index):
    chunks = range(len(index.chunks))
    return [record for chunk in chunks for record in index.read_chunk(chunk)]


def test_every_record_is_found(tmp_path, messages):
    files = [str(tmp_path / name) for name in ("a", "b")]
    write_records(files[0], messages)
    write_records(files[1], messages[:3])
    index = index_records(files)
    assert index.num_records == 153
    assert index.chunks["size"].tolist() == [CHUNK_SIZE, CHUNK_SIZE, 22, 3]
    records = read_all(index)
    assert [record.message for record in records] == messages + messages[:3]
    assert [record[1:] for record in records] == [
        *((files[0], number) for number in range(150)),
        *((files[1], number) for number in range(3)),
    ]
    assert intact([record.content for record in records]).all()


@pytest.mark.parametrize("count", [CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1])
def test_sizes_are_exact_at_chunk_borders(tmp_path, messages, count):
    index = index_records([write_records(tmp_path / "a", messages[:count])])
    assert index.chunks["size"].sum() == index.num_records == count
    assert [record.message for record in read_all(index)] == messages[:count]


def test_the_checksum_is_crc_32c():
    # The check value that catalogues of CRCs give for CRC-32C.
    tables = _crc_tables(16)
    crc = 0xFFFFFFFF
    for byte in b"123456789":
        crc = crc >> 8 ^ int(tables[0, crc & 0xFF ^ byte])
    assert crc ^ 0xFFFFFFFF == 0xE3069283


def test_any_changed_byte_is_noticed(tmp_path, messages):
    write_records(tmp_path / "a", messages[40:41])
    ((whole, *_),) = index_records([tmp_path / "a"]).read_chunk(0)
    damaged = []
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 0x10
        damaged.append(bytes(changed))
    assert len(damaged) > 200
    assert not intact(damaged).any()
    assert intact([whole, damaged[0], whole]).tolist() == [True, False, True]


def test_what_no_example_can_be_is_not_intact(tmp_path):
    write_records(tmp_path / "a", [b"", b"abc", b"abcd", bytes(70000)])
    records = index_records([tmp_path / "a"]).read_chunk(0)
    whole = intact([record.content for record in records])
    assert whole.tolist() == [False, False, True, False]
    assert intact([]).tolist() == []


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    content = write_records(tmp_path / "a", [b"first", b"second"]).read_bytes()
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


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "an empty file"),
        (gzip.compress(b"x" * 100, mtime=0), "gunzip it"),
        (b"Some text that is no TFRecord file.\n", "record 0: .*its checksum"),
        (None, "readable TFRecord file, found No such"),
        ("damaged", "record 1: .*a length that does not match its checksum"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "a"
    if content == "damaged":
        write_records(path, [b"first", b"second", b"third"])
        content = bytearray(path.read_bytes())
        content[21] += 1
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        index_records([path])


def test_a_file_that_changed_is_refused(tmp_path, messages):
    index = index_records([write_records(tmp_path / "a", messages)])
    write_records(tmp_path / "a", messages[:70])
    index.read_chunk(0)
    with pytest.raises(InputError, match="records 64 to 127: .*run began with"):
        index.read_chunk(1)
    (tmp_path / "a").unlink()
    with pytest.raises(InputError, match="a readable file"):
        index.read_chunk(0)


def test_splitting_holds_out_the_last_chunks(tmp_path, messages):
    for name in "ab":
        write_records(tmp_path / name, messages)
    index = index_records([tmp_path / "a", tmp_path / "b"])
    train, held_out = index.split(0.3)
    assert (len(train.chunks), len(held_out.chunks)) == (4, 2)
    assert read_all(train) + read_all(held_out) == read_all(index)
    assert len(index.split(0.0)[1].chunks) == 1
    write_records(tmp_path / "c", messages[:CHUNK_SIZE])
    with pytest.raises(InputError, match="more than 64 records.*found 64"):
        index_records([tmp_path / "c"]).split(0.1)


def random_batch(rng, num_rows=5, length=16, predictions=3):
    return {
        "input_ids": rng.integers(0, 30522, (num_rows, length)),
        "input_mask": rng.integers(0, 2, (num_rows, length)),
        "segment_ids": rng.integers(0, 2, (num_rows, length)),
        "masked_lm_positions": rng.integers(0, length, (num_rows, predictions)),
        "masked_lm_ids": rng.integers(0, 30522, (num_rows, predictions)),
        "masked_lm_weights": rng.random((num_rows, predictions), np.float32),
        "next_sentence_labels": rng.integers(0, 2, (num_rows, 1)),
    }


def parse(folder, messages, length=16, predictions=3, vocab_size=30522):
    path = write_records(folder / "some.tfrecord", messages)
    records = index_records([path]).read_chunk(0)
    return parse_records(records, length, predictions, vocab_size)


def example_of(batch, row):
    """One example as protobuf's own classes build it."""
    example = tf.train.Example()
    for name, array in batch.items():
        feature = example.features.feature[name]
        if array.dtype == np.float32:
            feature.float_list.value.extend(array[row].tolist())
        else:
            feature.int64_list.value.extend(array[row].tolist())
    return example


def test_the_bytes_are_those_of_protobuf(rng):
    batch = random_batch(rng)
    batch["input_ids"][0, : len(EDGES)] = EDGES
    batch["input_ids"][1] = 0
    # Lengths of several bytes.
    long = random_batch(rng, num_rows=1, length=9000, predictions=200)
    for made in (batch, long):
        messages = serialize_examples(made)
        assert len(messages) == len(made["input_ids"])
        for row, message in enumerate(messages):
            example = example_of(made, row)
            assert message == example.SerializeToString(deterministic=True)


def test_parsing_gives_back_what_was_written(rng, tmp_path):
    batch = random_batch(rng)
    parsed = parse(tmp_path, serialize_examples(batch))
    assert parsed.keys() == feature_lengths(16, 3).keys()
    for name, array in batch.items():
        np.testing.assert_array_equal(parsed[name], array)
        is_float = name == "masked_lm_weights"
        assert parsed[name].dtype == (np.float32 if is_float else np.int32)


def entry(name, values):
    """A feature as protobuf has it: every length below 128, counted here."""
    key = b"\x0a" + bytes([len(name)]) + name
    feature = b"\x12" + bytes([len(values)]) + values
    return b"\x0a" + bytes([len(key) + len(feature)]) + key + feature


def test_a_record_of_the_original_written_by_hand(tmp_path):
    # google-research/bert adds features in this order. The lists:
    # 0x1a int64 list or 0x12 float list, its length, 0x0a "packed values",
    # their length, the values. 2040 = 0xf8 0x0f: 0x78 + 15 * 128.
    features = (
        entry(b"input_ids", b"\x1a\x09\x0a\x07" + b"\x65\xf8\x0f\x67\x05\x66\0")
        + entry(b"input_mask", b"\x1a\x08\x0a\x06" + b"\1\1\1\1\1\0")
        + entry(b"segment_ids", b"\x1a\x08\x0a\x06" + b"\0\0\0\1\1\0")
        + entry(b"masked_lm_positions", b"\x1a\x04\x0a\x02" + b"\3\0")
        + entry(b"masked_lm_ids", b"\x1a\x05\x0a\x03" + b"\xd0\x0f\0")
        + entry(
            b"masked_lm_weights",
            b"\x12\x0a\x0a\x08" + b"\0\0\x80\x3f" + b"\0\0\0\0",
        )
        + entry(b"next_sentence_labels", b"\x1a\x03\x0a\x01" + b"\1")
    )
    size = bytes([len(features) & 0x7F | 0x80, len(features) >> 7])
    message = b"\x0a" + size + features
    parsed = parse(tmp_path, [message], length=6, predictions=2)
    assert {name: array.tolist() for name, array in parsed.items()} == {
        "input_ids": [[101, 2040, 103, 5, 102, 0]],
        "input_mask": [[1, 1, 1, 1, 1, 0]],
        "segment_ids": [[0, 0, 0, 1, 1, 0]],
        "masked_lm_positions": [[3, 0]],
        "masked_lm_ids": [[2000, 0]],
        "masked_lm_weights": [[1.0, 0.0]],
        "next_sentence_labels": [[1]],
    }


@pytest.mark.parametrize("name", [*feature_lengths(16, 3), "all"])
def test_a_missing_feature_is_named(rng, name, tmp_path):
    batch = random_batch(rng)
    messages = serialize_examples(batch)
    expected = f"values of {name} .*found none"
    if name == "all":
        messages[1] = b"\xff" * 5
        expected = "a tf.Example, found something else"
    else:
        del batch[name]
        messages[1] = serialize_examples(batch)[1]
    with pytest.raises(InputError, match=f"record 1: .*{expected}"):
        parse(tmp_path, messages)


def test_another_length_or_type_is_named(rng, tmp_path):
    batch = random_batch(rng)
    messages = serialize_examples(batch)
    with pytest.raises(InputError) as error:
        parse(tmp_path, messages, length=17)
    assert str(error.value) == (
        f"{tmp_path}/some.tfrecord, record 0: expected 17 int64 values of "
        "input_ids (--max_seq_length and --max_predictions_per_seq must be "
        "those that the file was made with), found 16 int64 values"
    )
    with pytest.raises(InputError, match="4 int64 values of masked_lm_posi"):
        parse(tmp_path, messages, predictions=4)
    batch["input_mask"] = batch["input_mask"].astype(np.float32)
    with pytest.raises(InputError, match="int64.*input_mask.*16 float values"):
        parse(tmp_path, serialize_examples(batch))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("input_ids", 30522, r"input_ids from 0 to 30521 \(the vocabulary"),
        ("input_ids", -1, "input_ids from 0 to 30521 .*found -1"),
        ("masked_lm_ids", 40000, "masked_lm_ids from 0 to 30521 .*found 40000"),
        ("masked_lm_positions", 16, "positions from 0 to 15, found 16"),
        ("segment_ids", 2, "segment_ids from 0 to 1, found 2"),
        ("input_mask", 2, "input_mask from 0 to 1, found 2"),
        ("next_sentence_labels", 2, "next_sentence_labels from 0 to 1"),
        ("masked_lm_weights", np.nan, "masked_lm_weights from 0 .*found nan"),
        ("masked_lm_weights", np.inf, "masked_lm_weights from 0 .*found inf"),
        ("masked_lm_weights", -1.0, "masked_lm_weights from 0 .*found -1.0"),
    ],
)
def test_values_out_of_range_are_refused(rng, name, value, message, tmp_path):
    batch = random_batch(rng)
    batch[name][3, 0] = value
    messages = [example_of(batch, row).SerializeToString() for row in range(5)]
    with pytest.raises(InputError, match=f"some.tfrecord, record 3.*{message}"):
        parse(tmp_path, messages)


def test_a_damaged_record_is_named():
    with pytest.raises(InputError) as error:
        parse_records([Record(b"no checksum", "some.tfrecord", 7)], 16, 3, 9)
    assert str(error.value) == (
        "some.tfrecord, record 7: expected a TFRecord, found bytes that do not "
        "match their checksum"
    )
