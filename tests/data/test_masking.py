"""Masking: shares against binomial bounds, structure against plain loops."""

import numpy as np
import pytest

from mobilebert_tf.data.examples import mask_tokens
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
