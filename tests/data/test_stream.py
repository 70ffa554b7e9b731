"""Batches of text and of records: content, order, resuming, refusals."""

import itertools
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.data import stream
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.data.records import (
    RecordIndex,
    index_records,
    serialize_examples,
)
from mobilebert_tf.data.stream import RecordStream, TextStream
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.tiny import SPECIAL

TOKENIZER = WordpieceTokenizer(
    [*SPECIAL, *(f"w{k}" for k in range(700)), *(f"##c{k}" for k in range(295))]
)
OPTIONS = TextOptions(max_seq_length=24, max_predictions_per_seq=5)
BATCH_SIZE = 4


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


def write_examples(path, first, count):
    """Examples that carry their number as their first id."""
    numbers = np.arange(first, first + count)[:, None]
    ones = np.ones((count, 24), np.int64)
    batch = {
        "input_ids": numbers * ones,
        "input_mask": ones,
        "segment_ids": 0 * ones,
        "masked_lm_positions": numbers % 24 * ones[:, :5],
        "masked_lm_ids": numbers * ones[:, :5],
        "masked_lm_weights": np.ones((count, 5), np.float32),
        "next_sentence_labels": numbers % 2,
    }
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in serialize_examples(batch):
            writer.write(record)


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """500 examples in three files: 125 batches, without a rest."""
    folder = tmp_path_factory.mktemp("records")
    write_examples(folder / "a.tfrecord", 0, 300)
    write_examples(folder / "b.tfrecord", 300, 1)
    write_examples(folder / "c.tfrecord", 301, 199)
    return index_records(sorted(folder.iterdir()))


@pytest.fixture
def make(corpus, index, monkeypatch):
    """Makes batches; three chunks of records are mixed at a time."""
    monkeypatch.setattr(stream, "WINDOW_SIZE", 3)

    def batches(kind, start=0, count=1, size=BATCH_SIZE, seed=3, **options):
        part = index if kind is RecordStream else corpus
        changed = TextOptions(
            **{"max_seq_length": 24, "max_predictions_per_seq": 5} | options
        )
        made = kind(part, TOKENIZER, size, seed, changed).batches(start)
        return list(itertools.islice(made, count))

    return batches


def assert_same(batches, expected):
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


def numbers_of(batches):
    return np.concatenate([batch["input_ids"][:, 0] for batch in batches])


@pytest.mark.parametrize("kind", [TextStream, RecordStream])
def test_shapes_and_types(make, kind):
    (batch,) = make(kind)
    assert {name: (a.shape, a.dtype.name) for name, a in batch.items()} == {
        "input_ids": ((4, 24), "int32"),
        "input_mask": ((4, 24), "int32"),
        "segment_ids": ((4, 24), "int32"),
        "masked_lm_positions": ((4, 5), "int32"),
        "masked_lm_ids": ((4, 5), "int32"),
        "masked_lm_weights": ((4, 5), "float32"),
        "next_sentence_labels": ((4, 1), "int32"),
    }


@pytest.mark.parametrize(
    "kind, starts, count",
    [
        (TextStream, (0, 1, 9, 10, 11, 12, 27), 40),
        # Windows end after 48 batches or fewer, the epoch after 125.
        (RecordStream, (0, 1, 47, 48, 49, 124, 125, 126), 140),
    ],
)
def test_resuming_gives_the_batches_of_the_uninterrupted_run(
    make, kind, starts, count
):
    uninterrupted = make(kind, count=count)
    for start in starts:
        expected = uninterrupted[start : start + 15]
        assert_same(make(kind, start, len(expected)), expected)


@pytest.mark.parametrize("kind", [TextStream, RecordStream])
def test_seed_decides(make, kind):
    batches = make(kind, count=3)
    assert_same(make(kind, count=3), batches)
    (other,) = make(kind, seed=4)
    assert np.any(other["input_ids"] != batches[0]["input_ids"])


def test_rows_are_text_of_the_corpus_between_special_pieces(make, corpus):
    text = " ".join(map(str, corpus.tokens)) + " "
    for batch in make(TextStream, count=12):
        for ids, mask, segments in zip(
            unmasked(batch),
            batch["input_mask"],
            batch["segment_ids"],
            strict=True,
        ):
            end = mask.sum()
            assert np.all(mask == (np.arange(24) < end))
            separators = np.flatnonzero(ids == TOKENIZER.sep_id)
            assert ids[0] == TOKENIZER.cls_id
            assert separators.tolist() == [separators[0], end - 1]
            assert not ids[end:].any()
            in_b = np.arange(24) > separators[0]
            np.testing.assert_array_equal(segments, in_b & (mask == 1))
            segment_a = ids[1 : separators[0]]
            segment_b = ids[separators[0] + 1 : end - 1]
            assert len(segment_a) and len(segment_b)
            assert " ".join(map(str, segment_a)) + " " in text
            assert " ".join(map(str, segment_b)) + " " in text


def test_epochs_of_text_differ_in_pairs_and_masks(make):
    batches = make(TextStream, count=40)
    rows = [row.tobytes() for batch in batches for row in unmasked(batch)]
    assert len(set(rows)) > 0.9 * len(rows)
    # A step's masks are drawn for that step, not once for a slot in the batch.
    positions = [batch["masked_lm_positions"].tobytes() for batch in batches]
    assert len(set(positions)) == 40


def test_whole_words_reach_the_batches(make):
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

    whole = make(TextStream, count=10, whole_word_mask=True)
    assert num_split_words(whole) == 0
    assert num_split_words(make(TextStream, count=10)) > 0


def test_epochs_of_records_show_each_once_in_another_order(make):
    # 83 batches of 6 and a rest of two, other ones in each epoch.
    batches = make(RecordStream, count=2 * 83, size=6)
    epochs = numbers_of(batches[:83]), numbers_of(batches[83:])
    for numbers in epochs:
        assert len(set(numbers.tolist())) == 498
    assert epochs[0].tolist() != epochs[1].tolist()
    # Neighbours are parted, and the files come in no order.
    assert np.mean(np.abs(np.diff(epochs[0])) == 1) < 0.05
    assert abs(np.corrcoef(np.arange(498), epochs[0])[0, 1]) < 0.6
    for batch in batches:
        numbers = batch["input_ids"][:, :1]
        np.testing.assert_array_equal(
            batch["masked_lm_ids"], np.tile(numbers, 5)
        )
        np.testing.assert_array_equal(
            batch["next_sentence_labels"], numbers % 2
        )


def test_resuming_reads_only_what_is_needed(index, monkeypatch):
    monkeypatch.setattr(stream, "WINDOW_SIZE", 3)
    read = []
    original = RecordIndex.read_chunk
    monkeypatch.setattr(
        RecordIndex,
        "read_chunk",
        lambda self, chunk: read.append(chunk) or original(self, chunk),
    )
    records = RecordStream(index, TOKENIZER, BATCH_SIZE, 3, OPTIONS)
    next(records.generate(125 * 1_000_000 + 120))
    assert len(read) <= 3


@pytest.mark.parametrize(
    "kind, changes, message",
    [
        (TextStream, {"size": 1000}, "a batch of 1000 .* found"),
        (RecordStream, {"size": 1000}, "a batch of 1000 records.*found 500"),
        (RecordStream, {"max_seq_length": 9}, "9 int64 values of input_ids"),
    ],
)
def test_unfit_input_is_refused_before_the_first_batch(
    make, kind, changes, message
):
    with pytest.raises(InputError, match=message):
        make(kind, count=0, **changes)


def test_one_document_is_refused_before_the_first_batch(corpus):
    lines = np.array([0, 10, 20])
    single = TokenizedCorpus(corpus.tokens[:20], lines, np.array([0, 2]))
    with pytest.raises(InputError, match="at least 2 documents"):
        TextStream(single, TOKENIZER, 4, 3, OPTIONS).batches()


def test_a_damaged_record_ends_the_iteration_with_its_name(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_examples(path, 0, 500)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"segment_ids") + 20] ^= 1
    path.write_bytes(content)
    records = RecordStream(index_records([path]), TOKENIZER, 5, 3, OPTIONS)
    with pytest.raises(InputError, match="a.tfrecord, record 499: .*checksum"):
        list(itertools.islice(records.batches(), 100))


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
