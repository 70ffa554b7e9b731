"""Batches of pairs: their text, resuming, and the end of the process."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.stream import TextStream
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


def make_batches(corpus, start_step=0, **options):
    settings = dict(
        batch_size=BATCH_SIZE,
        max_seq_length=LENGTH,
        max_predictions_per_seq=PREDICTIONS,
        seed=3,
    )
    stream = TextStream(corpus, TOKENIZER, **(settings | options))
    return stream.batches(start_step)


def first_batches(batches, count):
    return list(itertools.islice(batches, count))


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


def test_shapes_and_types(corpus):
    (batch,) = first_batches(make_batches(corpus), 1)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "input_ids": ((4, 24), "int32"),
        "input_mask": ((4, 24), "int32"),
        "segment_ids": ((4, 24), "int32"),
        "masked_lm_positions": ((4, 5), "int32"),
        "masked_lm_ids": ((4, 5), "int32"),
        "masked_lm_weights": ((4, 5), "float32"),
        "next_sentence_labels": ((4, 1), "int32"),
    }


def test_rows_are_text_of_the_corpus_between_special_pieces(corpus):
    text = " ".join(map(str, corpus.tokens)) + " "
    for batch in first_batches(make_batches(corpus), 12):
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
    uninterrupted = first_batches(make_batches(corpus), 40)
    for start_step in (0, 1, 9, 10, 11, 12, 27):
        resumed = make_batches(corpus, start_step=start_step)
        assert_same(
            first_batches(resumed, 40 - start_step), uninterrupted[start_step:]
        )


def test_epochs_differ_in_pairs_and_masks(corpus):
    batches = first_batches(make_batches(corpus), 40)
    rows = [row.tobytes() for batch in batches for row in unmasked(batch)]
    assert len(set(rows)) > 0.9 * len(rows)
    # A step's masks are drawn for that step, not once for a slot in the batch.
    positions = [batch["masked_lm_positions"].tobytes() for batch in batches]
    assert len(set(positions)) == 40


def test_seed_decides(corpus):
    batches = first_batches(make_batches(corpus, seed=3), 3)
    assert_same(first_batches(make_batches(corpus, seed=3), 3), batches)
    (other,) = first_batches(make_batches(corpus, seed=4), 1)
    assert np.any(other["input_ids"] != batches[0]["input_ids"])


def test_whole_words_reach_the_batches(corpus):
    piecewise = first_batches(make_batches(corpus), 10)
    whole = first_batches(make_batches(corpus, whole_word_mask=True), 10)
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
        make_batches(corpus, batch_size=1000)


def test_one_document_is_refused_before_the_first_batch(corpus):
    lines = np.array([0, 10, 20])
    single = TokenizedCorpus(corpus.tokens[:20], lines, np.array([0, 2]))
    with pytest.raises(InputError, match="at least 2 documents"):
        make_batches(single)


def test_the_process_ends_while_a_batch_is_being_made():
    # As after Ctrl-C: the iterator outlives the script, its thread is at work.
    script = """
        import time
        from mobilebert_tf.data.batches import made_ahead

        def slow():
            while True:
                time.sleep(0.5)
                yield {}

        batches = made_ahead(slow())
        next(batches)
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
