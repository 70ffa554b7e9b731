"""Masking: shares against binomial bounds, structure against plain loops."""

import numpy as np
import pytest

from mobilebert_tf.data.examples import mask_tokens
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

WORDS = [f"w{k}" for k in range(600)]
CONTINUATIONS = [f"##c{k}" for k in range(395)]
TOKENIZER = WordpieceTokenizer(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *CONTINUATIONS]
)
PAD, UNK, CLS, SEP, MASK = range(5)
FIRST_TEXT_ID = 5
FIRST_CONTINUATION = 605


def assert_binomial(count, trials, probability):
    """Fails by chance once in a million: 4.9 standard deviations."""
    deviation = np.sqrt(trials * probability * (1 - probability))
    assert abs(count - trials * probability) <= 4.9 * deviation


def make_batch(batch_size, length, seed=0):
    """Rows of [CLS] text [SEP] text [SEP] and padding, of various lengths."""
    rng = np.random.default_rng(seed)
    input_ids = np.full((batch_size, length), PAD, np.int32)
    for row in input_ids:
        end = rng.integers(4, length)
        row[:end] = rng.integers(FIRST_TEXT_ID, 1000, end)
        row[rng.random(length) < 0.02] = UNK
        row[end:] = PAD
        row[0], row[rng.integers(2, end)], row[end] = CLS, SEP, SEP
    return input_ids


def mask(input_ids, seed=0, max_predictions_per_seq=20, **changes):
    options = TextOptions(
        max_predictions_per_seq=max_predictions_per_seq, **changes
    )
    rng = np.random.default_rng(seed)
    return mask_tokens(input_ids, TOKENIZER, options, rng)


def test_shapes_and_types():
    masked = mask(make_batch(6, 32), max_predictions_per_seq=40)
    assert masked["input_ids"].shape == (6, 32)
    for name in ("positions", "ids", "weights"):
        assert masked[f"masked_lm_{name}"].shape == (6, 40)
    assert masked["masked_lm_weights"].dtype == np.float32
    for name in ("input_ids", "masked_lm_positions", "masked_lm_ids"):
        assert masked[name].dtype == np.int32


@pytest.mark.parametrize("whole_word_mask", [False, True])
def test_putting_the_ids_back_restores_the_input(whole_word_mask):
    input_ids = make_batch(200, 64)
    before = input_ids.copy()
    masked = mask(input_ids, whole_word_mask=whole_word_mask)
    np.testing.assert_array_equal(input_ids, before)
    restored = masked["input_ids"].copy()
    for row in range(200):
        for position, piece, weight in zip(
            masked["masked_lm_positions"][row],
            masked["masked_lm_ids"][row],
            masked["masked_lm_weights"][row],
            strict=True,
        ):
            if weight:
                restored[row, position] = piece
    np.testing.assert_array_equal(restored, before)
    assert np.any(masked["input_ids"] != before)


@pytest.mark.parametrize("whole_word_mask", [False, True])
def test_special_pieces_are_never_hidden_or_drawn(whole_word_mask):
    input_ids = make_batch(2000, 64)
    masked = mask(input_ids, whole_word_mask=whole_word_mask)
    special = input_ids < FIRST_TEXT_ID
    np.testing.assert_array_equal(
        masked["input_ids"][special], input_ids[special]
    )
    used = masked["masked_lm_weights"] == 1
    assert np.all(masked["masked_lm_ids"][used] >= FIRST_TEXT_ID)
    changed = masked["input_ids"] != input_ids
    replacements = masked["input_ids"][changed]
    assert np.all((replacements == MASK) | (replacements >= FIRST_TEXT_ID))


def test_slots_are_ascending_and_unused_ones_are_empty():
    masked = mask(make_batch(300, 64))
    for positions, ids, weights in zip(
        masked["masked_lm_positions"],
        masked["masked_lm_ids"],
        masked["masked_lm_weights"],
        strict=True,
    ):
        count = int(weights.sum())
        np.testing.assert_array_equal(weights, np.arange(20) < count)
        assert np.all(np.diff(positions[:count]) > 0)
        assert positions[0] > 0
        assert not positions[count:].any()
        assert not ids[count:].any()


@pytest.mark.parametrize(
    ("num_pieces", "limit", "expected"),
    [
        (0, 20, 0),
        (1, 20, 1),
        (9, 20, 1),
        (11, 20, 2),
        (61, 20, 9),
        (61, 7, 7),
        (125, 19, 19),
        (125, 20, 19),
    ],
)
def test_number_of_predictions(num_pieces, limit, expected):
    input_ids = np.full((3, 128), PAD, np.int32)
    input_ids[:, 0] = CLS
    input_ids[:, 1 : 1 + num_pieces] = 77
    input_ids[:, 1 + num_pieces] = SEP
    masked = mask(input_ids, max_predictions_per_seq=limit)
    assert masked["masked_lm_weights"].sum(axis=1).tolist() == [expected] * 3


def test_a_given_share_is_hidden():
    input_ids = np.full((2, 100), 77, np.int32)
    masked = mask(input_ids, max_predictions_per_seq=60, masked_lm_prob=0.4)
    assert masked["masked_lm_weights"].sum(axis=1).tolist() == [40, 40]


def test_every_position_is_equally_likely():
    input_ids = np.full((8000, 20), 77, np.int32)
    masked = mask(input_ids, max_predictions_per_seq=3)
    counts = np.bincount(masked["masked_lm_positions"].ravel(), minlength=20)
    for count in counts:
        assert_binomial(count, 8000, 3 / 20)


def test_hidden_pieces_become_mask_random_or_stay():
    # One original piece, so that what stays and what is random differ.
    input_ids = np.full((4000, 100), 77, np.int32)
    masked = mask(input_ids)["input_ids"]
    total = 4000 * 15
    num_mask = np.sum(masked == MASK)
    is_random = (masked != MASK) & (masked != 77)
    assert_binomial(num_mask, total, 0.8)
    # A random piece is the original one in 1 of 995 cases.
    assert_binomial(is_random.sum(), total, 0.1 * 994 / 995)
    drawn = masked[is_random]
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


def test_whole_words_are_hidden_entirely_or_not_at_all():
    input_ids = make_batch(500, 64)
    masked = mask(input_ids, max_predictions_per_seq=8, whole_word_mask=True)
    num_long_words = 0
    for row, positions, weights in zip(
        input_ids,
        masked["masked_lm_positions"],
        masked["masked_lm_weights"],
        strict=True,
    ):
        hidden = set(positions[weights == 1].tolist())
        num_pieces = np.sum(row >= FIRST_TEXT_ID)
        limit = min(8, max(1, round(float(num_pieces * 0.15))))
        assert len(hidden) <= limit
        words = words_of(row)
        for word in words:
            assert word <= hidden or not word & hidden
            num_long_words += len(word) > 1 and word <= hidden
        # Full: no word that was left out would still have fitted.
        left_out = [len(word) for word in words if not word & hidden]
        assert not left_out or min(left_out) > limit - len(hidden)
    assert num_long_words > 100


def test_pieces_of_a_word_are_hidden_apart_without_whole_words():
    input_ids = make_batch(500, 64)
    masked = mask(input_ids)
    split = 0
    for row, positions, weights in zip(
        input_ids,
        masked["masked_lm_positions"],
        masked["masked_lm_weights"],
        strict=True,
    ):
        hidden = set(positions[weights == 1].tolist())
        for word in words_of(row):
            split += bool(word & hidden) and not word <= hidden
    assert split > 100


def test_a_word_longer_than_the_number_of_predictions_is_passed_over():
    # Six pieces, of which one may be hidden: [CLS] w ##c ##c ##c ##c ##c [SEP]
    row = [CLS, 77, 700, 701, 702, 703, 704, SEP]
    masked = mask(np.array([row], np.int32), whole_word_mask=True)
    assert not masked["masked_lm_weights"].any()
    assert masked["input_ids"].tolist() == [row]


def test_continuation_after_a_separator_is_a_word_of_its_own():
    # Two one-piece words, of which one is hidden: never both.
    input_ids = np.tile(np.array([CLS, 77, SEP, 700, SEP], np.int32), (2000, 1))
    masked = mask(input_ids, whole_word_mask=True)
    assert masked["masked_lm_weights"].sum(axis=1).tolist() == [1] * 2000
    assert_binomial(np.sum(masked["masked_lm_positions"][:, 0] == 3), 2000, 0.5)


def test_the_generator_decides_the_masks():
    input_ids = make_batch(20, 64)
    one, same, other = (
        mask(input_ids, 1),
        mask(input_ids, 1),
        mask(input_ids, 2),
    )
    for name, array in one.items():
        np.testing.assert_array_equal(array, same[name])
    assert np.any(one["masked_lm_positions"] != other["masked_lm_positions"])
