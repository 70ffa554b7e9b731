"""Batches: resuming, shapes and padding, compared batch by batch."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.data.batches import array_dataset, pretraining_dataset
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENIZER = WordpieceTokenizer(
    SPECIAL + [f"w{k}" for k in range(700)] + [f"##c{k}" for k in range(295)]
)
BATCH_SIZE, LENGTH, PREDICTIONS = 4, 24, 5


@pytest.fixture(scope="module")
def corpus():
    """Some 40 pairs: an epoch is ten batches or so."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 15, 80)
    return TokenizedCorpus(
        tokens=rng.integers(5, 1000, lengths.sum()).astype(np.int32),
        line_starts=np.cumsum([0, *lengths]),
        document_starts=np.arange(0, 81, 8),
    )


def make_dataset(corpus, **options):
    settings = dict(
        batch_size=BATCH_SIZE,
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        seed=3,
    )
    return pretraining_dataset(corpus, TOKENIZER, **(settings | options))


def first_batches(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, expected_batch in zip(batches, expected, strict=True):
        assert batch.keys() == expected_batch.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, expected_batch[name])


def unmasked(batch):
    """The ids before masking."""
    ids = batch["input_ids"].copy()
    rows, slots = np.nonzero(batch["masked_lm_weights"])
    positions = batch["masked_lm_positions"][rows, slots]
    ids[rows, positions] = batch["masked_lm_ids"][rows, slots]
    return ids


def test_shapes_and_types_are_static(corpus):
    dataset = make_dataset(corpus)
    expected = {
        "input_ids": ((4, 24), tf.int32),
        "input_mask": ((4, 24), tf.int32),
        "segment_ids": ((4, 24), tf.int32),
        "masked_lm_positions": ((4, 5), tf.int32),
        "masked_lm_ids": ((4, 5), tf.int32),
        "masked_lm_weights": ((4, 5), tf.float32),
        "next_sentence_labels": ((4, 1), tf.int32),
    }
    assert {
        name: (tuple(spec.shape), spec.dtype)
        for name, spec in dataset.element_spec.items()
    } == expected
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    (batch,) = first_batches(dataset, 1)
    assert {
        name: (array.shape, tf.as_dtype(array.dtype))
        for name, array in batch.items()
    } == expected


def test_rows_are_text_of_the_corpus_between_special_pieces(corpus):
    text = " ".join(map(str, corpus.tokens)) + " "
    for batch in first_batches(make_dataset(corpus), 12):
        for ids, mask, segments in zip(
            unmasked(batch),
            batch["input_mask"],
            batch["segment_ids"],
            strict=True,
        ):
            end = mask.sum()
            assert np.all(mask == (np.arange(LENGTH) < end))
            separators = np.flatnonzero(ids == TOKENIZER.sep_id)
            assert ids[0] == TOKENIZER.cls_id
            assert separators.tolist() == [separators[0], end - 1]
            assert not ids[end:].any()
            in_b = np.arange(LENGTH) > separators[0]
            np.testing.assert_array_equal(segments, in_b & (mask == 1))
            segment_a = ids[1 : separators[0]]
            segment_b = ids[separators[0] + 1 : end - 1]
            assert len(segment_a) and len(segment_b)
            assert " ".join(map(str, segment_a)) + " " in text
            assert " ".join(map(str, segment_b)) + " " in text


def test_resuming_gives_the_batches_of_the_uninterrupted_run(corpus):
    uninterrupted = first_batches(make_dataset(corpus), 40)
    for start_step in (0, 1, 9, 10, 11, 12, 27):
        resumed = make_dataset(corpus, start_step=start_step)
        assert_same(
            first_batches(resumed, 40 - start_step), uninterrupted[start_step:]
        )


def test_epochs_differ_in_pairs_and_masks(corpus):
    batches = first_batches(make_dataset(corpus), 40)
    rows = [row.tobytes() for batch in batches for row in unmasked(batch)]
    assert len(set(rows)) > 0.9 * len(rows)
    # A step's masks are drawn for that step, not once for a slot in the batch.
    positions = [batch["masked_lm_positions"].tobytes() for batch in batches]
    assert len(set(positions)) == 40


def test_seed_decides(corpus):
    batches = first_batches(make_dataset(corpus, seed=3), 3)
    assert_same(first_batches(make_dataset(corpus, seed=3), 3), batches)
    (other,) = first_batches(make_dataset(corpus, seed=4), 1)
    assert np.any(other["input_ids"] != batches[0]["input_ids"])


def test_a_dataset_can_be_read_twice(corpus):
    dataset = make_dataset(corpus, start_step=5)
    assert_same(first_batches(dataset, 15), first_batches(dataset, 15))


@pytest.mark.parametrize("num_pipelines", [2, 4])
def test_pipelines_share_the_batches_of_one(corpus, num_pipelines):
    whole = first_batches(make_dataset(corpus), 15)
    shares = [
        first_batches(
            make_dataset(
                corpus,
                num_input_pipelines=num_pipelines,
                input_pipeline_id=pipeline,
            ),
            15,
        )
        for pipeline in range(num_pipelines)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        for name, array in batch.items():
            np.testing.assert_array_equal(
                np.concatenate([part[name] for part in parts]), array
            )


def test_pipelines_that_do_not_fit_are_refused(corpus):
    with pytest.raises(ValueError, match="divide among 3 input pipelines"):
        make_dataset(corpus, num_input_pipelines=3)


def test_whole_words_reach_the_batches(corpus):
    piecewise = first_batches(make_dataset(corpus), 10)
    whole = first_batches(make_dataset(corpus, whole_word_mask=True), 10)
    is_continuation = TOKENIZER.continuation_mask

    def num_split_words(batches):
        count = 0
        for batch in batches:
            ids = unmasked(batch)
            hidden = np.zeros(ids.shape, bool)
            rows, slots = np.nonzero(batch["masked_lm_weights"])
            hidden[rows, batch["masked_lm_positions"][rows, slots]] = True
            joined = is_continuation[ids[:, 1:]] & (ids[:, :-1] >= 5)
            count += np.sum(joined & (hidden[:, 1:] != hidden[:, :-1]))
        return count

    assert num_split_words(whole) == 0 < num_split_words(piecewise)


def test_text_for_less_than_a_batch_is_refused(corpus):
    with pytest.raises(InputError, match="a batch of 1000 .* found"):
        make_dataset(corpus, batch_size=1000)


def test_one_document_is_refused_before_the_first_batch(corpus):
    lines = np.array([0, 10, 20])
    single = TokenizedCorpus(corpus.tokens[:20], lines, np.array([0, 2]))
    with pytest.raises(InputError, match="at least 2 documents"):
        make_dataset(single)


def make_arrays(num_examples):
    rng = np.random.default_rng(1)
    return {
        "index": np.arange(num_examples, dtype=np.int32),
        "features": rng.normal(size=(num_examples, 3)).astype(np.float32),
    }


def test_array_dataset_keeps_order_and_drops_the_rest():
    dataset = array_dataset(make_arrays(10), batch_size=4)
    batches = first_batches(dataset, 99)
    assert dataset.cardinality() == 2
    assert [batch["index"].tolist() for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
    ]


def test_array_dataset_pads_the_last_batch():
    arrays = make_arrays(10)
    dataset = array_dataset(arrays, batch_size=4, pad_last=True)
    batches = first_batches(dataset, 99)
    assert dataset.cardinality() == 3
    assert batches[2]["index"].tolist() == [8, 9, 8, 9]
    assert batches[2]["example_weights"].tolist() == [1, 1, 0, 0]
    assert batches[0]["example_weights"].tolist() == [1, 1, 1, 1]
    assert batches[0]["example_weights"].dtype == np.float32
    real = [
        batch["features"][batch["example_weights"] == 1] for batch in batches
    ]
    np.testing.assert_array_equal(np.concatenate(real), arrays["features"])


def test_array_dataset_pads_a_batch_larger_than_the_data():
    dataset = array_dataset(make_arrays(2), batch_size=5, pad_last=True)
    (batch,) = first_batches(dataset, 99)
    assert batch["index"].tolist() == [0, 1, 0, 1, 0]
    assert batch["example_weights"].tolist() == [1, 1, 0, 0, 0]


def test_array_dataset_adds_no_filling_to_full_batches():
    dataset = array_dataset(make_arrays(8), batch_size=4, pad_last=True)
    assert dataset.cardinality() == 2
    for batch in first_batches(dataset, 99):
        assert batch["example_weights"].tolist() == [1, 1, 1, 1]


def test_array_dataset_shuffles_rows_together_anew_each_epoch():
    arrays = make_arrays(12)
    dataset = array_dataset(
        arrays, batch_size=4, seed=5, shuffle=True, repeat=True
    )
    assert dataset.cardinality() == tf.data.INFINITE_CARDINALITY
    batches = first_batches(dataset, 9)
    for batch in batches:
        np.testing.assert_array_equal(
            batch["features"], arrays["features"][batch["index"]]
        )
    order = np.concatenate([batch["index"] for batch in batches])
    epochs = order.reshape(3, 12).tolist()
    for epoch in epochs:
        assert sorted(epoch) == list(range(12))
    assert len({tuple(epoch) for epoch in epochs}) == 3


@pytest.mark.parametrize("pad_last", [False, True])
def test_array_dataset_resumes(pad_last):
    def batches_from(start_step, count):
        dataset = array_dataset(
            make_arrays(11),
            batch_size=4,
            seed=5,
            shuffle=True,
            repeat=True,
            start_step=start_step,
            pad_last=pad_last,
        )
        return first_batches(dataset, count)

    uninterrupted = batches_from(0, 10)
    for start_step in range(8):
        assert_same(
            batches_from(start_step, 10 - start_step),
            uninterrupted[start_step:],
        )


def test_array_dataset_without_repeat_starts_within_its_epoch():
    arrays = make_arrays(12)
    dataset = array_dataset(arrays, batch_size=4, start_step=2)
    assert dataset.cardinality() == 1
    (batch,) = first_batches(dataset, 99)
    assert batch["index"].tolist() == [8, 9, 10, 11]
    finished = array_dataset(arrays, batch_size=4, start_step=3)
    assert first_batches(finished, 99) == []


@pytest.mark.parametrize(
    ("arrays", "options", "message"),
    [
        ({}, {}, "equally many"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, {}, r"'a': 3, 'b': 4"),
        ({"a": np.zeros(3)}, {}, "3 examples do not make one batch of 4"),
        ({"a": np.zeros(0)}, {"pad_last": True}, "0 examples"),
        ({"a": np.zeros(9)}, {"shuffle": True}, "needs a seed"),
    ],
)
def test_array_dataset_refuses(arrays, options, message):
    with pytest.raises(ValueError, match=message):
        array_dataset(arrays, batch_size=4, **options)


@pytest.mark.slow
def test_the_process_ends_while_a_batch_is_being_made():
    # As after Ctrl-C: the iterator outlives the script, its thread is at work.
    script = """
        import time
        import numpy as np
        from mobilebert_tf.data.batching import array_dataset

        class Slow(np.ndarray):
            def __getitem__(self, rows):
                time.sleep(0.5)
                return np.asarray(self)[rows]

        arrays = {"x": np.zeros((64, 2)).view(Slow)}
        iterator = iter(array_dataset(arrays, batch_size=4, repeat=True))
        next(iterator)
        print("left", flush=True)
        """
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        timeout=120,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout == "left\n"
