"""Stored examples: order, resuming, bad records."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.data import records as tfrecords
from mobilebert_tf.data.example_protos import serialize_examples
from mobilebert_tf.data.records import (
    are_tfrecords,
    record_batches,
    tfrecord_index,
)
from mobilebert_tf.errors import InputError

LENGTH, PREDICTIONS, BATCH_SIZE = 8, 2, 6


def write_examples(path, first, count):
    """Examples that carry their number as their first id."""
    numbers = np.arange(first, first + count)[:, None]
    ones = np.ones((count, LENGTH), np.int64)
    batch = {
        "input_ids": numbers * ones,
        "input_mask": ones,
        "segment_ids": 0 * ones,
        "masked_lm_positions": numbers % LENGTH * [[1, 1]],
        "masked_lm_ids": numbers * [[1, 1]],
        "masked_lm_weights": np.ones((count, PREDICTIONS), np.float32),
        "next_sentence_labels": numbers % 2,
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in serialize_examples(batch):
            writer.write(record)


@pytest.fixture
def index(tmp_path, monkeypatch):
    """500 examples in three files; three chunks are mixed at a time."""
    monkeypatch.setattr(tfrecords, "WINDOW_SIZE", 3)
    write_examples(tmp_path / "a.tfrecord", 0, 300)
    write_examples(tmp_path / "b.tfrecord", 300, 1)
    write_examples(tmp_path / "c.tfrecord", 301, 199)
    return tfrecord_index([str(tmp_path / "*.tfrecord")])


def make_batches(index, **options):
    settings = dict(
        batch_size=BATCH_SIZE,
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        vocab_size=500,
        seed=3,
    )
    return record_batches(index, **(settings | options))


def first_batches(batches, count):
    return list(itertools.islice(batches, count))


def numbers_of(batches):
    return np.concatenate([batch["input_ids"][:, 0] for batch in batches])


def test_shapes_and_types_are_those_of_training(index):
    (batch,) = first_batches(make_batches(index), 1)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "input_ids": ((6, 8), "int32"),
        "input_mask": ((6, 8), "int32"),
        "segment_ids": ((6, 8), "int32"),
        "masked_lm_positions": ((6, 2), "int32"),
        "masked_lm_ids": ((6, 2), "int32"),
        "masked_lm_weights": ((6, 2), "float32"),
        "next_sentence_labels": ((6, 1), "int32"),
    }
    numbers = batch["input_ids"][:, :1]
    np.testing.assert_array_equal(batch["masked_lm_ids"], numbers * [[1, 1]])
    np.testing.assert_array_equal(batch["next_sentence_labels"], numbers % 2)


def test_an_epoch_shows_every_example_at_most_once(index):
    # 500 = 83 batches of 6 and a rest of two, other ones in each epoch.
    batches = first_batches(make_batches(index), 2 * 83)
    epochs = numbers_of(batches[:83]), numbers_of(batches[83:])
    for numbers in epochs:
        assert len(set(numbers.tolist())) == 498
    assert epochs[0].tolist() != epochs[1].tolist()


def test_neighbours_in_a_file_are_parted(index):
    numbers = numbers_of(first_batches(make_batches(index), 83))
    assert np.mean(np.abs(np.diff(numbers)) == 1) < 0.05
    # And the files themselves come in no order.
    order = np.corrcoef(np.arange(498), numbers)[0, 1]
    assert abs(order) < 0.6


def test_resuming_gives_the_batches_of_the_uninterrupted_run(index):
    uninterrupted = first_batches(make_batches(index), 180)
    for start_step in (0, 1, 31, 32, 33, 82, 83, 84, 170):
        resumed = first_batches(make_batches(index, start_step=start_step), 10)
        for batch, expected in zip(
            resumed, uninterrupted[start_step:], strict=False
        ):
            for name, array in batch.items():
                np.testing.assert_array_equal(array, expected[name])


def test_resuming_reads_only_what_is_needed(index, monkeypatch):
    read = []
    original = type(index).read_chunk
    monkeypatch.setattr(
        type(index),
        "read_chunk",
        lambda self, chunk: read.append(chunk) or original(self, chunk),
    )
    # As far as the generator runs ahead: nine batches are two windows at most.
    batches = tfrecords._RecordBatches(
        index,
        BATCH_SIZE,
        3,
        dict(
            max_seq_length=LENGTH,
            max_predictions_per_seq=PREDICTIONS,
            vocab_size=500,
        ),
    )
    next(batches.run(83 * 1_000_000 + 80))
    assert len(read) <= 3


def test_seed_decides(index):
    numbers = numbers_of(first_batches(make_batches(index), 9)).tolist()
    same = numbers_of(first_batches(make_batches(index), 9)).tolist()
    other = numbers_of(first_batches(make_batches(index, seed=4), 9)).tolist()
    assert numbers == same != other


def test_too_few_examples_are_refused(tmp_path):
    write_examples(tmp_path / "a.tfrecord", 0, 5)
    index = tfrecord_index([str(tmp_path / "a.tfrecord")])
    with pytest.raises(InputError, match="a batch of 6 records.*found 5"):
        make_batches(index)


def test_another_length_is_refused_at_once(index):
    with pytest.raises(InputError, match="9 int64 values of input_ids"):
        make_batches(index, max_seq_length=9)


def test_a_damaged_record_ends_the_iteration_with_its_name(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_examples(path, 0, 500)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"segment_ids") + 20] ^= 1
    path.write_bytes(content)
    batches = make_batches(tfrecord_index([str(path)]))
    with pytest.raises(InputError) as error:
        first_batches(batches, 83 * 2)
    assert str(error.value) == (
        f"{path}, record 499: expected a TFRecord, found bytes that do not "
        "match their checksum"
    )


def test_an_id_outside_the_vocabulary_ends_the_iteration(index):
    batches = make_batches(index, vocab_size=499)
    expected = "c.tfrecord, record 198: expected input_ids from 0 to 498"
    with pytest.raises(InputError, match=expected):
        first_batches(batches, 83 * 2)


def test_names_tell_records_from_text():
    assert are_tfrecords(["a/*.tfrecord", "b.tfrecord-00000-of-00001"])
    assert are_tfrecords(["a/train.tf_record"])
    assert not are_tfrecords(["a/*.txt", "b.txt.gz"])
    assert not are_tfrecords([])
    with pytest.raises(InputError, match="files, found both"):
        are_tfrecords(["a.tfrecord", "b.txt"])
