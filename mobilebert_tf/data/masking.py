"""Masked language model examples: which pieces to hide, and behind what.

Owns the 15 % and the 80/10/10 of BERT (section 3.1; MobileBERT, appendix D).

Why NumPy, when `tensorflow_text.mask_language_model` exists: it shuffles and
draws with TensorFlow's stateful random operations. Even after
`tf.random.set_seed` a batch depends on how many draws came before it, so batch
n cannot be had without making all before it, and a killed run could not go on
with the masks that it would have seen. Here every draw comes from the generator
that the caller passes, a new one for each batch.

Shape letters: B batch, S sequence length, P predictions per sequence, W words.
"""

import numpy as np

from mobilebert_tf.data.pretraining import Instances, pair_inputs
from mobilebert_tf.data.wordpiece import WordpieceTokenizer

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1  # The remaining tenth keeps its piece.


def masked_examples(
    tokens: np.ndarray,
    instances: Instances,
    tokenizer: WordpieceTokenizer,
    *,
    max_seq_length: int,
    **masking,
) -> dict[str, np.ndarray]:
    """Makes complete examples of segment pairs.

    Args:
        tokens: int32, the flat pieces that `instances` points into.
        instances: B pairs.
        tokenizer: the one that made `tokens`.
        max_seq_length: S.
        **masking: of `mask_tokens`.

    Returns:
        The arrays of `pair_inputs` and `mask_tokens`, and
        `next_sentence_labels` int32 [B, 1].
    """
    inputs = pair_inputs(
        tokens,
        instances,
        max_seq_length,
        pad_id=tokenizer.pad_id,
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    masked = mask_tokens(inputs["input_ids"], tokenizer, **masking)
    labels = instances.next_sentence_labels[:, None]  # [B, 1]
    return inputs | masked | {"next_sentence_labels": labels}


def mask_tokens(
    input_ids: np.ndarray,
    tokenizer: WordpieceTokenizer,
    *,
    max_predictions_per_seq: int,
    rng: np.random.Generator,
    masked_lm_prob: float = 0.15,
    whole_word_mask: bool = False,
) -> dict[str, np.ndarray]:
    """Hides a share of each sequence's pieces and records what was hidden.

    A sequence of n pieces that are not special gets max(1, round(0.15 n))
    predictions, at most P. Of these, 80 % are replaced by [MASK], 10 % by a
    random piece, and 10 % stay as they are.

    With `whole_word_mask`, words are drawn instead of pieces, and a word that
    no longer fits in the number of predictions is passed over. The number is
    then a bound: a sequence whose every word is longer gets no prediction.

    Args:
        input_ids: int32 [B, S]. Not modified.
        tokenizer: the one that made them. Its special pieces, [UNK] included,
            are neither hidden nor used as a random replacement.
        max_predictions_per_seq: P.
        rng: source of every draw.
        masked_lm_prob: share of the pieces that are predicted.
        whole_word_mask: hide all pieces of a word or none.

    Returns:
        `input_ids` int32 [B, S] with the replacements; `masked_lm_positions`
        and `masked_lm_ids`, the original pieces, int32 [B, P], ascending by
        position; `masked_lm_weights` float32 [B, P], 1 for a prediction. Slots
        that are not used hold position 0, id 0 and weight 0.
    """
    is_special = np.zeros(tokenizer.vocab_size, bool)
    is_special[list(tokenizer.special_ids)] = True
    candidates = ~is_special[input_ids]  # [B, S]
    if whole_word_mask:
        word_starts = _word_starts(
            candidates, tokenizer.continuation_mask[input_ids]
        )
    else:
        word_starts = candidates
    num_candidates = candidates.sum(axis=1)  # [B]
    num_predictions = np.minimum(
        np.maximum(1, np.rint(num_candidates * masked_lm_prob)),
        max_predictions_per_seq,
    )
    selected = _select_words(candidates, word_starts, num_predictions, rng)
    return _hide(
        input_ids,
        selected,
        max_predictions_per_seq,
        tokenizer.mask_id,
        np.flatnonzero(~is_special),
        rng,
    )


def _word_starts(
    candidates: np.ndarray, continuations: np.ndarray
) -> np.ndarray:
    """Returns bool [B, S], true where a word begins.

    A "##" piece whose predecessor is special opens a word too: its beginning
    was cut off when the segment was shortened.
    """
    follows_text = np.zeros_like(candidates)
    follows_text[:, 1:] = candidates[:, :-1]
    return candidates & ~(continuations & follows_text)


def _select_words(
    candidates: np.ndarray,
    word_starts: np.ndarray,
    num_predictions: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draws words, in random order, for as long as they fit.

    Args:
        candidates: bool [B, S], pieces that may be hidden.
        word_starts: bool [B, S], true at the first piece of each word.
        num_predictions: [B], the most pieces to take.
        rng: source of the order.

    Returns:
        bool [B, S], the pieces taken.
    """
    batch_size, length = candidates.shape
    rows = np.arange(batch_size)
    # The running number of the word that a piece belongs to, within its row.
    words = np.maximum(np.cumsum(word_starts, axis=1) - 1, 0)  # [B, S]
    sizes = np.bincount(
        (words + rows[:, None] * length)[candidates],
        minlength=batch_size * length,
    ).reshape(batch_size, length)  # [B, W], with W = S; 0 beyond the last word
    order = np.argsort(
        np.where(sizes > 0, rng.random(sizes.shape), 1.0), axis=1
    )  # [B, W]
    taken = np.zeros(sizes.shape, bool)
    remaining = num_predictions.copy()
    # All rows together, one word of each at a time. Without whole words every
    # size is 1 and the loop ends after the largest number of predictions.
    for word in order.T:
        size = sizes[rows, word]
        fits = (size > 0) & (size <= remaining)
        taken[rows, word] = fits
        remaining -= size * fits
        if not remaining.any():
            break
    return candidates & np.take_along_axis(taken, words, axis=1)


def _hide(
    input_ids: np.ndarray,
    selected: np.ndarray,
    max_predictions_per_seq: int,
    mask_id: int,
    text_ids: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Replaces the selected pieces and lists them, row by row."""
    rows, columns = np.nonzero(selected)  # Sorted by row, then by position.
    counts = selected.sum(axis=1)
    slots = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    originals = input_ids[rows, columns]
    draws = rng.random(len(rows))
    replacements = np.select(
        [draws < MASK_SHARE, draws < MASK_SHARE + RANDOM_SHARE],
        [np.full(len(rows), mask_id), rng.choice(text_ids, len(rows))],
        originals,
    )
    masked_input_ids = input_ids.astype(np.int32, copy=True)
    masked_input_ids[rows, columns] = replacements

    shape = (len(input_ids), max_predictions_per_seq)
    positions = np.zeros(shape, np.int32)
    ids = np.zeros(shape, np.int32)
    weights = np.zeros(shape, np.float32)
    positions[rows, slots] = columns
    ids[rows, slots] = originals
    weights[rows, slots] = 1.0
    return {
        "input_ids": masked_input_ids,
        "masked_lm_positions": positions,
        "masked_lm_ids": ids,
        "masked_lm_weights": weights,
    }
