"""Segment pairs and masks against plain loops and binomial bounds."""

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
    mask_tokens,
    pair_inputs,
)
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.tiny import SPECIAL

TOKENIZER = WordpieceTokenizer(
    [*SPECIAL, *(f"w{k}" for k in range(600)), *(f"##c{k}" for k in range(395))]
)
PAD, UNK, CLS, SEP, MASK = range(5)
FIRST_TEXT_ID = 5
FIRST_CONTINUATION = 605


def assert_binomial(count, trials, probability):
    """Fails by chance once in a million: 4.9 standard deviations."""
    deviation = np.sqrt(trials * probability * (1 - probability))
    assert abs(count - trials * probability) <= 4.9 * deviation


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
    batch = pair_inputs(tokens, pairs, TOKENIZER, 8)
    assert {name: array.tolist() for name, array in batch.items()} == {
        "input_ids": [
            [2, 102, 103, 104, 3, 107, 108, 3],
            [2, 119, 3, 100, 3, 0, 0, 0],
        ],
        "input_mask": [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0, 0]],
        "segment_ids": [[0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]],
    }
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def make_batch(batch_size, length):
    """Rows of [CLS] text [SEP] text [SEP] and padding, of various lengths."""
    rng = np.random.default_rng(0)
    input_ids = np.full((batch_size, length), PAD, np.int32)
    for row in input_ids:
        end = rng.integers(4, length)
        row[:end] = rng.integers(FIRST_TEXT_ID, 1000, end)
        row[rng.random(length) < 0.02] = UNK
        row[end:] = PAD
        row[0], row[rng.integers(2, end)], row[end] = CLS, SEP, SEP
    return input_ids


def mask(input_ids, max_predictions_per_seq=20, **changes):
    options = TextOptions(
        max_predictions_per_seq=max_predictions_per_seq, **changes
    )
    rng = np.random.default_rng(0)
    return mask_tokens(np.array(input_ids, np.int32), TOKENIZER, options, rng)


def hidden_positions(masked):
    return [
        positions[weights == 1].tolist()
        for positions, weights in zip(
            masked["masked_lm_positions"],
            masked["masked_lm_weights"],
            strict=True,
        )
    ]


@pytest.mark.parametrize("whole_word_mask", [False, True])
def test_originals_are_recorded_and_special_pieces_stay(whole_word_mask):
    input_ids = make_batch(500, 64)
    masked = mask(input_ids, whole_word_mask=whole_word_mask)
    restored = masked["input_ids"].copy()
    for row, hidden in enumerate(hidden_positions(masked)):
        count = len(hidden)
        assert hidden == sorted(set(hidden))
        assert np.all(input_ids[row, hidden] >= FIRST_TEXT_ID)
        restored[row, hidden] = masked["masked_lm_ids"][row, :count]
        for name in ("positions", "ids", "weights"):
            assert not masked[f"masked_lm_{name}"][row, count:].any()
    np.testing.assert_array_equal(restored, input_ids)
    drawn = masked["input_ids"][masked["input_ids"] != input_ids]
    assert len(drawn) > 1000
    assert np.all((drawn == MASK) | (drawn >= FIRST_TEXT_ID))


@pytest.mark.parametrize(
    ("num_pieces", "limit", "share", "expected"),
    [
        (0, 20, 0.15, 0),
        (1, 20, 0.15, 1),
        (9, 20, 0.15, 1),
        (11, 20, 0.15, 2),
        (61, 7, 0.15, 7),
        (125, 19, 0.15, 19),
        (125, 20, 0.15, 19),
        (100, 60, 0.4, 40),
    ],
)
def test_number_of_predictions(num_pieces, limit, share, expected):
    row = [CLS, *[77] * num_pieces, SEP, PAD]
    masked = mask([row, row], limit, masked_lm_prob=share)
    assert masked["masked_lm_weights"].sum(axis=1).tolist() == [expected] * 2


def test_every_position_is_equally_likely():
    masked = mask(np.full((8000, 20), 77), 3)
    counts = np.bincount(masked["masked_lm_positions"].ravel(), minlength=20)
    for count in counts:
        assert_binomial(count, 8000, 3 / 20)


def test_hidden_pieces_become_mask_random_or_stay():
    # One original piece, so that what stays and what is random differ.
    masked = mask(np.full((4000, 100), 77))["input_ids"]
    total = 4000 * 15
    assert_binomial(np.sum(masked == MASK), total, 0.8)
    # A random piece is the original one in 1 of 995 cases.
    drawn = masked[(masked != MASK) & (masked != 77)]
    assert_binomial(len(drawn), total, 0.1 * 994 / 995)
    assert_binomial(np.sum(drawn < 300), len(drawn), 294 / 994)
    assert_binomial(np.sum(drawn >= FIRST_CONTINUATION), len(drawn), 395 / 994)


def words_of(row):
    """Positions of each word, one piece after another."""
    words = []
    for position, piece in enumerate(row):
        if piece < FIRST_TEXT_ID:
            continue
        follows_text = position and row[position - 1] >= FIRST_TEXT_ID
        if piece >= FIRST_CONTINUATION and follows_text:
            words[-1].add(position)
        else:
            words.append({position})
    return words


@pytest.mark.parametrize("whole_word_mask", [False, True])
def test_words_are_hidden_entirely_if_asked(whole_word_mask):
    input_ids = make_batch(500, 64)
    masked = mask(input_ids, 8, whole_word_mask=whole_word_mask)
    num_split = num_long_words = 0
    for row, positions in zip(input_ids, hidden_positions(masked), strict=True):
        hidden = set(positions)
        limit = min(8, max(1, round(float(np.sum(row >= 5) * 0.15))))
        assert len(hidden) <= limit
        words = words_of(row)
        num_split += sum(bool(w & hidden) and not w <= hidden for w in words)
        num_long_words += sum(len(w) > 1 and w <= hidden for w in words)
        # Full: no word that was left out would still have fitted.
        left_out = [len(word) for word in words if not word & hidden]
        assert not left_out or min(left_out) > limit - len(hidden)
    if whole_word_mask:
        assert num_split == 0 and num_long_words > 100
    else:
        assert num_split > 100


def test_a_word_longer_than_the_number_of_predictions_is_passed_over():
    # Six pieces, of which one may be hidden: [CLS] w ##c ##c ##c ##c ##c [SEP]
    row = [CLS, 77, 700, 701, 702, 703, 704, SEP]
    masked = mask([row], whole_word_mask=True)
    assert not masked["masked_lm_weights"].any()
    assert masked["input_ids"].tolist() == [row]


def test_continuation_after_a_separator_is_a_word_of_its_own():
    # Two one-piece words, of which one is hidden: never both.
    masked = mask([[CLS, 77, SEP, 700, SEP]] * 2000, whole_word_mask=True)
    assert masked["masked_lm_weights"].sum(axis=1).tolist() == [1] * 2000
    assert_binomial(np.sum(masked["masked_lm_positions"][:, 0] == 3), 2000, 0.5)
