"""Batches by length: every example, few widths, the same from any start."""

import itertools

import numpy as np
import pytest

from mobilebert_tf.data.batches import (
    array_batches,
    bucketed_rows,
    evaluation_batches,
    training_batches,
)

WIDTHS = (4, 8)


@pytest.fixture
def arrays(rng):
    """103 examples of 1 to 12 pieces, ids unique, the label the number."""
    lengths = rng.integers(1, 13, 103)
    mask = (np.arange(12) < lengths[:, None]).astype(np.int32)
    ids = (np.arange(103)[:, None] * 100 + np.arange(12) + 1) * mask
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": mask,
        "segment_ids": 1 - mask,
        "labels": np.arange(103, dtype=np.int32),
    }


def batches(arrays, number, **kwargs):
    endless = training_batches(
        arrays, batch_size=5, seed=3, bucket_lengths=WIDTHS, **kwargs
    )
    return list(itertools.islice(endless, number))


@pytest.mark.parametrize(
    "length, widths",
    [(128, [16, 32, 64, 128]), (100, [16, 32, 64, 100]), (8, [8])],
)
def test_default_widths(length, widths):
    arrays = {"input_mask": np.ones((1, length), np.int32)}
    assert [width for width, _ in bucketed_rows(arrays)] == widths
    assert [width for width, _ in bucketed_rows(arrays, ())] == [length]


def test_each_example_is_in_the_narrowest_bucket_that_leaves_a_column(arrays):
    lengths = arrays["input_mask"].sum(1)
    buckets = bucketed_rows(arrays, WIDTHS)
    assert [width for width, _ in buckets] == [4, 8, 12]
    for (width, rows), bounds in zip(
        buckets, [(0, 3), (4, 7), (8, 12)], strict=True
    ):
        assert len(rows), width
        assert bounds[0] <= lengths[rows].min()
        assert lengths[rows].max() <= bounds[1]
    assert sorted(np.concatenate([rows for _, rows in buckets])) == list(
        range(103)
    )


def test_an_epoch_has_every_example_but_a_rest_smaller_than_a_batch(arrays):
    epoch = batches(arrays, 20)
    seen = np.concatenate([batch["labels"] for batch in epoch])
    assert len(seen) == len(set(seen)) == 100
    assert {batch["input_ids"].shape for batch in epoch} == {
        (5, 4),
        (5, 8),
        (5, 12),
    }
    for batch in epoch:
        width = batch["input_ids"].shape[1]
        rows = batch["labels"]
        assert not arrays["input_mask"][rows, width:].any()  # Nothing is lost.
        for name in ("input_ids", "input_mask", "segment_ids"):
            np.testing.assert_array_equal(
                batch[name], arrays[name][rows, :width]
            )


def test_epochs_differ_in_order_and_in_what_shares_a_batch(arrays):
    two = batches(arrays, 40)
    first, second = two[:20], two[20:]
    labels = [[tuple(b["labels"]) for b in epoch] for epoch in (first, second)]
    assert labels[0] != labels[1]
    assert not {frozenset(b) for b in labels[0]} & {
        frozenset(b) for b in labels[1]
    }
    widths = [batch["input_ids"].shape[1] for batch in first]
    assert widths != sorted(widths)


@pytest.mark.parametrize("start", [1, 19, 20, 33])
def test_a_later_start_sees_the_same_batches(arrays, start):
    whole = batches(arrays, 45)
    for ours, theirs in zip(
        batches(arrays, 12, start_step=start), whole[start:], strict=False
    ):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_evaluation_sees_every_example_once_in_full_batches(arrays):
    del arrays["labels"]
    seen = []
    for rows, batch in evaluation_batches(arrays, 8, WIDTHS):
        assert batch["input_ids"].shape[0] == 8
        width = batch["input_ids"].shape[1]
        np.testing.assert_array_equal(
            batch["input_ids"][: len(rows)], arrays["input_ids"][rows, :width]
        )
        seen += list(rows)
    assert sorted(seen) == list(range(103))


@pytest.mark.parametrize("make", [training_batches, array_batches])
def test_fewer_examples_than_a_batch_are_refused(arrays, make):
    with pytest.raises(ValueError, match="103 examples .* batch of 104"):
        make(arrays, batch_size=104, seed=1)


def test_batches_of_one_width_show_every_row_once_an_epoch(arrays):
    endless = array_batches(arrays, batch_size=5, seed=3)
    two = list(itertools.islice(endless, 40))
    for epoch in (two[:20], two[20:]):
        labels = np.concatenate([batch["labels"] for batch in epoch])
        assert len(set(labels)) == 100
    for batch in two:
        assert batch["input_ids"].shape == (5, 12)
        np.testing.assert_array_equal(
            batch["input_ids"], arrays["input_ids"][batch["labels"]]
        )
    later = array_batches(arrays, batch_size=5, seed=3, start_step=23)
    np.testing.assert_array_equal(next(later)["labels"], two[23]["labels"])
