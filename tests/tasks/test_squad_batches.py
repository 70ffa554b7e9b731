"""Batches of windows: widths, the order of an epoch, and where it goes on."""

import itertools

import numpy as np
import pytest

from mobilebert_tf.tasks.squad import Questions
from mobilebert_tf.tasks.squad_windows import (
    bucket_lengths,
    bucketed_rows,
    make_windows,
    training_dataset,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h".split()


@pytest.fixture(scope="module")
def windows():
    """45 windows of 1 to 8 pieces beside 2 of the question and 3 special."""
    contexts = [" ".join("abcdefgh"[: 1 + n % 8]) for n in range(45)]
    questions = Questions(
        contexts,
        np.arange(45),
        [f"q{number}" for number in range(45)],
        ["who?"] * 45,
    )
    return make_windows(
        questions,
        WordpieceTokenizer(VOCAB),
        max_seq_length=24,
        doc_stride=8,
        max_query_length=2,
    )


def batches_of(windows, number, **settings):
    """Batches with the number of each window among them."""
    settings = {"batch_size": 8, "max_seq_length": 24, "seed": 3} | settings
    labels = {"number": np.arange(45, dtype=np.int32)}
    dataset = training_dataset(windows, labels, **settings)
    return list(itertools.islice(dataset, number))


def test_widths_are_few_and_end_with_the_longest():
    assert bucket_lengths(384) == [128, 192, 256, 384]
    assert bucket_lengths(128) == [48, 64, 88, 128]
    assert bucket_lengths(10) == [8, 10]


def test_every_window_is_in_the_least_width_that_leaves_a_column(windows):
    seen = []
    for width, rows in bucketed_rows(windows, 24):
        smaller = [w for w in bucket_lengths(24) if w < width]
        assert (windows.lengths[rows] < width + (width == 24)).all()
        assert (windows.lengths[rows] >= max(smaller, default=0)).all()
        seen += rows.tolist()
    assert sorted(seen) == list(range(45))


def test_an_epoch_shows_no_window_twice(windows):
    epoch = batches_of(windows, 5)  # 45 windows leave 5 over.
    numbers = np.concatenate([batch["number"] for batch in epoch])
    assert len(set(numbers.tolist())) == 40
    second = batches_of(windows, 5, start_step=5)
    left_over = set(range(45)) - set(numbers.tolist())
    again = np.concatenate([batch["number"] for batch in second])
    assert len(set(again.tolist())) == 40
    assert left_over != set(range(45)) - set(again.tolist())


def test_batches_hold_the_inputs_of_their_windows(windows):
    widths = set()
    for batch in batches_of(windows, 5):
        rows, width = batch["number"], batch["input_ids"].shape[1]
        widths.add(width)
        for name, array in windows.inputs(rows, width).items():
            np.testing.assert_array_equal(batch[name], array)
    # Short windows pay for short ones only.
    assert len(widths) > 1 and widths <= set(bucket_lengths(24))


def test_one_width_serves_all(windows):
    batches = batches_of(windows, 5, one_width=True)
    assert {batch["input_ids"].shape for batch in batches} == {(8, 24)}
    numbers = np.concatenate([batch["number"] for batch in batches])
    assert len(set(numbers.tolist())) == 40


def test_a_batch_is_a_function_of_its_number(windows):
    first = batches_of(windows, 12)
    # 7 is the third batch of the second epoch.
    for start in (0, 7):
        again = batches_of(windows, 12 - start, start_step=start)
        for one, other in zip(again, first[start:], strict=True):
            for name, array in other.items():
                np.testing.assert_array_equal(one[name], array)
    other = batches_of(windows, 12, seed=4)
    assert [batch["number"].tolist() for batch in other] != [
        batch["number"].tolist() for batch in first
    ]


def test_too_few_windows_for_a_batch_are_refused(windows):
    with pytest.raises(ValueError, match="do not make one batch of 50"):
        batches_of(windows, 1, batch_size=50)
