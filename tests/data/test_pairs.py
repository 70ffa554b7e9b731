"""Segment pairs: on corpora whose every piece is its own index."""

import itertools
import random

import numpy as np
import pytest

from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.examples import (
    INSTANCE,
    IS_NEXT,
    IS_RANDOM,
    _truncate,
    epoch_instances,
    pair_inputs,
)
from tests import tiny


def make_corpus(documents):
    """A corpus of documents given as lists of line lengths."""
    lengths = list(itertools.chain(*documents))
    return TokenizedCorpus(
        tokens=np.arange(sum(lengths), dtype=np.int32),
        line_starts=np.cumsum([0, *lengths]),
        document_starts=np.cumsum([0, *map(len, documents)]),
    )


def random_documents(seed, num_documents):
    rng = random.Random(seed)
    return [
        [rng.randint(1, 12) for _ in range(rng.randint(1, 15))]
        for _ in range(num_documents)
    ]


def assert_binomial(count, trials, probability):
    """Fails by chance once in a million: 4.9 standard deviations."""
    deviation = np.sqrt(trials * probability * (1 - probability))
    assert abs(count - trials * probability) <= 4.9 * deviation


def recipe(documents, max_seq_length, rng, short_seq_prob):
    """The recipe told plainly: lines as ranges, one draw after another.

    Yields label, length of A and length of B before anything is cut off.
    """
    for index, document in enumerate(documents):
        target = max_seq_length - 3
        if rng.random() < short_seq_prob:
            target = rng.randint(2, max_seq_length - 3)
        waiting = list(document)
        while waiting:
            chunk = [waiting.pop(0)]
            while waiting and sum(chunk) < target:
                chunk.append(waiting.pop(0))
            split = rng.randint(1, max(1, len(chunk) - 1))
            segment_a, segment_b = chunk[:split], chunk[split:]
            if not segment_b or rng.random() < 0.5:
                waiting = segment_b + waiting
                other = rng.choice(documents[:index] + documents[index + 1 :])
                line = rng.randrange(len(other))
                segment_b = [other[line]]
                for length in other[line + 1 :]:
                    if sum(segment_b) < target - sum(segment_a):
                        segment_b.append(length)
                yield IS_RANDOM, sum(segment_a), sum(segment_b)
            else:
                yield IS_NEXT, sum(segment_a), sum(segment_b)


def cut_one_by_one(a_length, b_length, max_num_pieces):
    while a_length + b_length > max_num_pieces:
        if a_length > b_length:
            a_length -= 1
        else:
            b_length -= 1
    return a_length, b_length


def test_next_starts_where_a_ends():
    documents = random_documents(1, 300)
    corpus = make_corpus(documents)
    pairs = epoch_instances(corpus, 64, np.random.default_rng(2))
    # Pairs shorter than a sequence have lost nothing.
    whole = pairs.a_length + pairs.b_length < 61
    is_next = pairs.next_sentence_labels == IS_NEXT
    assert np.sum(whole & is_next) > 100
    ends = pairs.a_start + pairs.a_length
    np.testing.assert_array_equal(
        ends[whole & is_next], pairs.b_start[whole & is_next]
    )
    assert np.isin(pairs.a_start[whole], corpus.line_starts).all()
    assert np.isin(pairs.b_start[whole], corpus.line_starts).all()
    assert np.isin(ends[whole], corpus.line_starts).all()
    # Where something was cut off, B still follows A within their document.
    assert np.all(ends[is_next] <= pairs.b_start[is_next])


def test_random_segments_come_from_other_documents_only():
    documents = random_documents(3, 200)
    corpus = make_corpus(documents)
    pairs = epoch_instances(corpus, 32, np.random.default_rng(4))
    bounds = corpus.line_starts[corpus.document_starts]
    documents_of = [
        np.searchsorted(bounds, starts, side="right") - 1
        for starts in (
            pairs.a_start,
            pairs.a_start + pairs.a_length - 1,
            pairs.b_start,
            pairs.b_start + pairs.b_length - 1,
        )
    ]
    np.testing.assert_array_equal(documents_of[0], documents_of[1])
    np.testing.assert_array_equal(documents_of[2], documents_of[3])
    np.testing.assert_array_equal(
        documents_of[0] == documents_of[2],
        pairs.next_sentence_labels == IS_NEXT,
    )


def test_random_segments_are_uniform_over_documents_then_lines():
    # Documents of one, one and four lines; A is all of the first.
    corpus = make_corpus([[5], [5], [5, 5, 5, 5]])
    starts = []
    for seed in range(1500):
        pairs = epoch_instances(corpus, 13, np.random.default_rng(seed), 0.0)
        starts.append(pairs.b_start[pairs.a_start == 0].item())
    assert_binomial(starts.count(5), 1500, 1 / 2)
    for start in (10, 15, 20, 25):
        assert_binomial(starts.count(start), 1500, 1 / 8)


def test_every_split_is_equally_likely():
    corpus = make_corpus([[10, 10, 10, 10]] * 4000)
    pairs = epoch_instances(corpus, 43, np.random.default_rng(5), 0.0)
    is_whole = pairs.next_sentence_labels == IS_NEXT
    is_whole &= pairs.a_length + pairs.b_length == 40
    lengths = pairs.a_length[is_whole]
    for length in (10, 20, 30):
        assert_binomial(np.sum(lengths == length), len(lengths), 1 / 3)


def test_no_line_is_lost_or_used_twice():
    # Lines of ten pieces fill sequences of forty exactly: nothing is cut off.
    corpus = make_corpus([[10] * (1 + k % 23) for k in range(300)])
    pairs = epoch_instances(corpus, 43, np.random.default_rng(6), 0.0)
    is_next = pairs.next_sentence_labels == IS_NEXT
    runs = [
        *zip(pairs.a_start, pairs.a_length, strict=True),
        *zip(pairs.b_start[is_next], pairs.b_length[is_next], strict=True),
    ]
    seen = np.concatenate(
        [np.arange(start, start + length) for start, length in runs]
    )
    np.testing.assert_array_equal(np.sort(seen), corpus.tokens)


@pytest.mark.parametrize("short_seq_prob", [0.0, 0.1, 1.0])
def test_statistics_agree_with_the_recipe_told_plainly(short_seq_prob):
    documents = random_documents(7, 40)
    corpus = make_corpus(documents)

    def statistics(labels, a_lengths, b_lengths):
        num_pieces = np.array(a_lengths) + b_lengths
        return [
            len(labels),
            np.sum(labels),
            np.sum(a_lengths),
            np.sum(b_lengths),
            np.sum(num_pieces == 37),
            np.sum(num_pieces < 20),
            np.sum(np.multiply(a_lengths, labels)),
        ]

    ours, theirs = [], []
    plain_rng = random.Random(8)
    for seed in range(150):
        rng = np.random.default_rng(seed)
        pairs = epoch_instances(corpus, 40, rng, short_seq_prob)
        ours.append(
            statistics(
                pairs.next_sentence_labels, pairs.a_length, pairs.b_length
            )
        )
        plain = [
            (label, *cut_one_by_one(a_length, b_length, 37))
            for label, a_length, b_length in recipe(
                documents, 40, plain_rng, short_seq_prob
            )
        ]
        theirs.append(statistics(*zip(*plain, strict=True)))
    difference = np.mean(ours, axis=0) - np.mean(theirs, axis=0)
    error = np.sqrt((np.var(ours, axis=0) + np.var(theirs, axis=0)) / 150)
    assert np.all(np.abs(difference) <= 4.9 * error)


def test_truncation_takes_from_the_longer_segment():
    a_length, b_length = np.mgrid[1:30, 1:30].reshape(2, -1)
    a_start = np.zeros(len(a_length), np.int64)
    pairs = np.rec.fromarrays(
        [a_start, a_length, a_start + 100, b_length, a_start], INSTANCE
    )
    for max_num_pieces in (2, 3, 17, 18, 40):
        cut = pairs.copy()
        _truncate(cut, max_num_pieces, np.random.default_rng(0))
        expected = [
            cut_one_by_one(a, b, max_num_pieces)
            for a, b in zip(a_length, b_length, strict=True)
        ]
        np.testing.assert_array_equal(
            np.stack([cut.a_length, cut.b_length], axis=1), expected
        )
        assert np.all(cut.a_start >= 0)
        assert np.all(cut.a_start + cut.a_length <= a_length)
        assert np.all(cut.b_start >= 100)
        assert np.all(cut.b_start + cut.b_length <= 100 + b_length)


def test_truncation_takes_from_both_ends_alike():
    # 200 pieces into 40: each line loses 80.
    corpus = make_corpus([[100, 100]] * 500)
    pairs = epoch_instances(corpus, 43, np.random.default_rng(9), 0.0)
    assert set(pairs.a_length) == set(pairs.b_length) == {20}
    for starts in (pairs.a_start, pairs.b_start):
        from_front = starts % 100
        assert_binomial(from_front.sum(), 80 * len(pairs), 0.5)
        assert len(set(from_front.tolist())) > 10


def test_pairs_come_in_random_order():
    corpus = make_corpus(random_documents(11, 100))
    pairs = epoch_instances(corpus, 64, np.random.default_rng(1))
    # In corpus order nearly all neighbours would ascend; shuffled, half do.
    ascending = np.sum(np.diff(pairs.a_start) > 0)
    assert abs(ascending / len(pairs) - 0.5) < 0.15


def test_a_length_without_room_for_two_segments_is_refused():
    corpus = make_corpus([[5], [5]])
    with pytest.raises(ValueError, match="at least 5.*Received: 4"):
        epoch_instances(corpus, 4, np.random.default_rng(0))
    pairs = epoch_instances(corpus, 5, np.random.default_rng(0))
    assert pairs.a_length.tolist() == pairs.b_length.tolist() == [1, 1]


def test_pair_inputs_lays_out_a_hand_worked_batch():
    tokens = np.arange(100, 120, dtype=np.int32)
    pairs = np.array([(2, 3, 7, 2, 0), (19, 1, 0, 1, 1)], INSTANCE)
    pairs = pairs.view(np.recarray)
    batch = pair_inputs(tokens, pairs, tiny.tokenizer(), 8)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [
            [2, 102, 103, 104, 3, 107, 108, 3],
            [2, 119, 3, 100, 3, 0, 0, 0],
        ],
        "input_mask": [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]],
        "segment_ids": [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]],
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}
