"""Records against protobuf, TensorFlow and bytes written out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.data.example_protos import (
    feature_lengths,
    parse_examples,
    serialize_examples,
)
from mobilebert_tf.errors import InputError

# Where integers get another byte: seven bits fill one.
EDGES = [0, 1, 127, 128, 16383, 16384, 30521, 2**21 - 1, 2**21, 2**31 - 1]


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


def parse(records, length=16, predictions=3, vocab_size=30522):
    return parse_examples(
        records,
        [("some.tfrecord", 7 + number) for number in range(len(records))],
        max_seq_length=length,
        max_predictions_per_seq=predictions,
        vocab_size=vocab_size,
    )


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
    records = serialize_examples(batch)
    assert len(records) == 5
    for row, record in enumerate(records):
        example = example_of(batch, row)
        assert record == example.SerializeToString(deterministic=True)


def test_long_rows_have_lengths_of_several_bytes(rng):
    batch = random_batch(rng, num_rows=2, length=9000, predictions=200)
    for row, record in enumerate(serialize_examples(batch)):
        assert tf.train.Example.FromString(record) == example_of(batch, row)


def test_tensorflow_reads_what_was_written(rng):
    batch = random_batch(rng)
    spec = {
        name: tf.io.FixedLenFeature(
            [array.shape[1]],
            tf.float32 if array.dtype == np.float32 else tf.int64,
        )
        for name, array in batch.items()
    }
    parsed = tf.io.parse_example(serialize_examples(batch), spec)
    for name, array in batch.items():
        np.testing.assert_array_equal(parsed[name], array)


def test_parsing_gives_the_batches_of_training(rng):
    batch = random_batch(rng)
    parsed = parse(serialize_examples(batch))
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


def test_a_record_of_the_original_written_by_hand():
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
    parsed = parse([b"\x0a" + size + features], length=6, predictions=2)
    expected = {
        "input_ids": [[101, 2040, 103, 5, 102, 0]],
        "input_mask": [[1, 1, 1, 1, 1, 0]],
        "segment_ids": [[0, 0, 0, 1, 1, 0]],
        "masked_lm_positions": [[3, 0]],
        "masked_lm_ids": [[2000, 0]],
        "masked_lm_weights": [[1.0, 0.0]],
        "next_sentence_labels": [[1]],
    }
    assert {name: array.tolist() for name, array in parsed.items()} == expected


def test_junk_names_file_and_record(rng):
    records = serialize_examples(random_batch(rng))
    records[2] = b"\xff\xff\xff"
    message = "some.tfrecord, record 9: expected a tf.Example, found something"
    with pytest.raises(InputError, match=message):
        parse(records)


@pytest.mark.parametrize("name", feature_lengths(16, 3))
def test_a_missing_feature_is_named(rng, name):
    batch = random_batch(rng)
    records = serialize_examples(batch)
    del batch[name]
    records[1] = serialize_examples(batch)[1]
    with pytest.raises(InputError, match=f"record 8.* of {name} .*found none"):
        parse(records)


def test_another_length_is_named(rng):
    records = serialize_examples(random_batch(rng))
    with pytest.raises(InputError) as error:
        parse(records, length=17)
    assert str(error.value) == (
        "some.tfrecord, record 7: expected 17 int64 values of input_ids "
        "(--max_seq_length and --max_predictions_per_seq must be those that "
        "the file was made with), found 16 int64 values"
    )
    with pytest.raises(InputError, match="4 int64 values of masked_lm_posi"):
        parse(records, predictions=4)


def test_another_type_is_named(rng):
    batch = random_batch(rng)
    batch["input_mask"] = batch["input_mask"].astype(np.float32)
    with pytest.raises(InputError, match="int64.*input_mask.*16 float values"):
        parse(serialize_examples(batch))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("input_ids", 30522, r"input_ids from 0 to 30521 \(the vocabulary"),
        ("masked_lm_ids", 40000, "masked_lm_ids from 0 to 30521 .*found 40000"),
        ("masked_lm_positions", 16, "positions from 0 to 15, found 16"),
        ("segment_ids", 2, "segment_ids from 0 to 1, found 2"),
        ("input_mask", 2, "input_mask from 0 to 1, found 2"),
        ("next_sentence_labels", 2, "next_sentence_labels from 0 to 1"),
        ("masked_lm_weights", np.nan, "masked_lm_weights of 0 or more"),
    ],
)
def test_values_out_of_range_are_refused(rng, name, value, message):
    batch = random_batch(rng)
    batch[name][3, 0] = value
    with pytest.raises(
        InputError, match=f"some.tfrecord, record 10.*{message}"
    ):
        parse(serialize_examples(batch))


def test_a_negative_id_is_refused(rng):
    example = example_of(random_batch(rng), 0)
    example.features.feature["input_ids"].int64_list.value[4] = -1
    with pytest.raises(InputError, match="record 7.*input_ids.*found -1"):
        parse([example.SerializeToString()])
