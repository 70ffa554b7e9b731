"""Pre-training examples by BERT's recipe: segment pairs, then masks.

A pair is a segment A and a segment B, labelled by whether B follows A (BERT,
appendix A.2). A corpus keeps its pieces in one flat array, so a segment is a
start and a length, and an epoch of pairs is one array of `INSTANCE`s.

Then 15 % of the pieces are chosen for masked LM, of which 80 % become [MASK],
10 % a random piece and 10 % stay (BERT, section 3.1; MobileBERT, appendix D).
This is NumPy rather than `tensorflow_text.mask_language_model`, whose draws
depend on all draws before them: a killed run could not continue with the masks
that it would have seen. Here each draw comes from the caller's generator, a new
one for each batch.

Shape letters: B batch, S sequence length, P predictions per sequence, N pairs
in an epoch, W words.
"""

import array
import bisect
from collections.abc import Iterator

import numpy as np

from mobilebert_tf.data.batches import Arrays
from mobilebert_tf.data.corpus import TokenizedCorpus
from mobilebert_tf.data.options import ExampleOptions
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

IS_NEXT = 0  # B follows A: the first output of the next sentence head.
IS_RANDOM = 1  # B comes from another document.

# A segment pair as runs of pieces in a corpus' flat `tokens`: the index of the
# first piece and the number of pieces, at least 1.
INSTANCE = [
    ("a_start", np.int64),
    ("a_length", np.int64),
    ("b_start", np.int64),
    ("b_length", np.int64),
    ("next_sentence_labels", np.int32),  # `IS_NEXT` or `IS_RANDOM`.
]

# [CLS] A [SEP] B [SEP]
NUM_SPECIAL_PIECES = 3

MASK_SHARE = 0.8
RANDOM_SHARE = 0.1  # The remaining tenth keeps its piece.


def epoch_instances(
    corpus: TokenizedCorpus,
    max_seq_length: int,
    rng: np.random.Generator,
    short_seq_prob: float = 0.1,
) -> np.recarray:
    """Packs every document once into segment pairs, in random order.

    Lines are gathered into a chunk until it fills a sequence, and the chunk is
    cut in two at a random line. Half of the time, and whenever the chunk is a
    single line, B is replaced by lines of another document, and the lines that
    it displaced begin the next chunk. A pair that is too long loses pieces of
    its longer segment, each from a random end. Lines should be sentences: where
    one fills a sequence, no pair can be labelled next.

    Most chunks fill a sequence, since nothing is learned from padding. A
    document in ten (`short_seq_prob`) gets a random shorter target, so that the
    model also sees short input, as it will when it is fine-tuned.

    Returns:
        `INSTANCE` [N]; N varies a little between epochs.

    Raises:
        InputError: the corpus has fewer than two documents.
        ValueError: `max_seq_length` has no room for two segments.
    """
    max_num_pieces = max_seq_length - NUM_SPECIAL_PIECES
    if max_num_pieces < 2:
        raise ValueError(
            "max_seq_length must be at least 5 to hold [CLS] A [SEP] B [SEP]. "
            f"Received: {max_seq_length}"
        )
    num_documents = corpus.num_documents
    if num_documents < 2:
        raise InputError(
            "training text",
            "at least 2 documents, separated by a blank line, because a random "
            "next segment comes from another document",
            num_documents,
        )
    targets = np.where(
        rng.random(num_documents) < short_seq_prob,
        rng.integers(2, max_num_pieces + 1, num_documents),
        max_num_pieces,
    )
    chunks = _pack_documents(corpus, targets, rng)
    instances = _segments(chunks, corpus, targets, rng)
    _truncate(instances, max_num_pieces, rng)
    return instances[rng.permutation(len(instances))]


def _pack_documents(
    corpus: TokenizedCorpus,
    targets: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Returns int64 [N, 5]: document, A's first line, B's, end line, label."""
    lines, documents = corpus.line_starts, corpus.document_starts
    packed = array.array("q")  # 40 bytes a chunk, unlike tuples.
    for document, target in enumerate(targets.tolist()):
        first_line, last_line = documents[document : document + 2].tolist()
        offsets = lines[first_line : last_line + 1].tolist()
        # A chunk uses up one line or more: this many draws always suffice.
        draws = rng.random((last_line - first_line, 2)).tolist()
        for start, split, end, label in _chunks(offsets, target, draws):
            packed.append(document)
            packed.extend(first_line + line for line in (start, split, end))
            packed.append(label)
    return np.frombuffer(packed, np.int64).reshape(-1, 5)


def _chunks(
    offsets: list[int], target: int, draws: list[list[float]]
) -> Iterator[tuple[int, int, int, int]]:
    """Yields start, split and end line and the label of a document's chunks.

    Args:
        offsets: bounds of its lines, one more than there are lines.
        target: a chunk ends with the line that brings it to this many pieces.
        draws: for each chunk two numbers in [0, 1): where to split, and whether
            B is random.
    """
    num_lines = len(offsets) - 1
    start = 0
    for split_draw, next_draw in draws:
        if start == num_lines:
            return
        end = bisect.bisect_left(
            offsets, offsets[start] + target, start + 1, num_lines
        )
        split = start + 1
        if end > split:
            split += int(split_draw * (end - split))
        if end == start + 1 or next_draw < 0.5:
            yield start, split, end, IS_RANDOM
            start = split  # What B displaced is not lost.
        else:
            yield start, split, end, IS_NEXT
            start = end


def _segments(
    chunks: np.ndarray,
    corpus: TokenizedCorpus,
    targets: np.ndarray,
    rng: np.random.Generator,
) -> np.recarray:
    """Converts chunks of lines to runs of pieces and draws the random Bs."""
    lines, documents = corpus.line_starts, corpus.document_starts
    document, start, split, end, label = chunks.T
    a_length = lines[split] - lines[start]
    b_first, b_end = split.copy(), end.copy()

    random = np.flatnonzero(label == IS_RANDOM)
    # Uniform over the other documents: skip over one's own.
    other = rng.integers(0, len(documents) - 2, len(random))
    other += other >= document[random]
    first = rng.integers(documents[other], documents[other + 1])
    # As many lines as fill what A left over: at least one, and none beyond the
    # end of the other document.
    wanted = lines[first] + targets[document[random]] - a_length[random]
    b_first[random] = first
    b_end[random] = np.clip(
        np.searchsorted(lines, wanted), first + 1, documents[other + 1]
    )
    b_length = lines[b_end] - lines[b_first]
    return np.rec.fromarrays(
        [lines[start], a_length, lines[b_first], b_length, label], INSTANCE
    )


def _truncate(
    instances: np.recarray, max_num_pieces: int, rng: np.random.Generator
) -> None:
    """Shortens pairs to `max_num_pieces`, in place, at random ends.

    Taking pieces one by one from the longer segment, and from B if both are
    equally long, first makes the two equal and then takes from B and A in turn.
    Each piece comes from the front with probability one half, so that neither
    the start nor the end of lines is preferred.
    """
    a_length, b_length = instances.a_length, instances.b_length
    excess = np.maximum(a_length + b_length - max_num_pieces, 0)
    a_levelling = np.minimum(excess, np.maximum(a_length - b_length, 0))
    b_levelling = np.minimum(excess, np.maximum(b_length - a_length, 0))
    rest = excess - a_levelling - b_levelling
    a_cut = a_levelling + rest // 2
    b_cut = b_levelling + rest - rest // 2
    instances.a_start += rng.binomial(a_cut, 0.5)
    instances.a_length -= a_cut
    instances.b_start += rng.binomial(b_cut, 0.5)
    instances.b_length -= b_cut


def pair_inputs(
    tokens: np.ndarray,
    instances: np.recarray,
    tokenizer: WordpieceTokenizer,
    max_seq_length: int,
) -> Arrays:
    """Lays `INSTANCE`s [B] of `tokens` out as `[CLS] A [SEP] B [SEP]`.

    Returns:
        `input_ids`, `input_mask` (1 is real) and `segment_ids` (1 from B's
        first piece to its [SEP]), each int32 [B, S].
    """
    positions = np.arange(max_seq_length)[None]  # [1, S]
    a_end = 1 + instances.a_length[:, None]  # [B, 1], the first [SEP]
    b_end = a_end + 1 + instances.b_length[:, None]  # [B, 1], the second
    is_a = (positions >= 1) & (positions < a_end)  # [B, S]
    is_b = (positions > a_end) & (positions < b_end)  # [B, S]
    source = np.where(
        is_a,
        instances.a_start[:, None] + positions - 1,
        instances.b_start[:, None] + positions - a_end - 1,
    )
    input_ids = np.where(
        is_a | is_b, tokens[np.where(is_a | is_b, source, 0)], tokenizer.pad_id
    )
    input_ids[:, 0] = tokenizer.cls_id
    np.put_along_axis(input_ids, a_end, tokenizer.sep_id, axis=1)
    np.put_along_axis(input_ids, b_end, tokenizer.sep_id, axis=1)
    in_b = (positions > a_end) & (positions <= b_end)
    return {
        "input_ids": input_ids.astype(np.int32),
        "input_mask": (positions <= b_end).astype(np.int32),
        "segment_ids": in_b.astype(np.int32),
    }


def masked_examples(
    tokens: np.ndarray,
    instances: np.recarray,
    tokenizer: WordpieceTokenizer,
    options: ExampleOptions,
    rng: np.random.Generator,
) -> Arrays:
    """Returns the arrays of `pair_inputs` and `mask_tokens`, and the labels.

    These are `next_sentence_labels` int32 [B, 1].
    """
    inputs = pair_inputs(tokens, instances, tokenizer, options.max_seq_length)
    masked = mask_tokens(inputs["input_ids"], tokenizer, options, rng)
    labels = instances.next_sentence_labels[:, None]  # [B, 1]
    return inputs | masked | {"next_sentence_labels": labels}


def mask_tokens(
    input_ids: np.ndarray,
    tokenizer: WordpieceTokenizer,
    options: ExampleOptions,
    rng: np.random.Generator,
) -> Arrays:
    """Masks a share of each sequence's pieces and records the originals.

    A sequence with n pieces that are not special gets max(1, round(0.15 n))
    predictions, at most P. Special pieces, including [UNK], are neither masked
    nor used as random replacements.

    With `whole_word_mask`, words are drawn instead of pieces, and a word that
    does not fit into the number of predictions is skipped. A sequence in which
    every word is too long gets no prediction.

    Returns:
        `input_ids` int32 [B, S], masked; `masked_lm_positions` and
        `masked_lm_ids` (the original pieces) int32 [B, P], ascending by
        position; `masked_lm_weights` float32 [B, P], 1 for a prediction. Unused
        slots hold position 0, id 0 and weight 0.
    """
    is_special = np.zeros(tokenizer.vocab_size, bool)
    is_special[list(tokenizer.special_ids)] = True
    candidates = ~is_special[input_ids]  # [B, S]
    word_starts = candidates
    if options.whole_word_mask:
        # A "##" piece after a special piece begins a word too: the start of its
        # word was cut off when the segment was shortened.
        follows_text = np.zeros_like(candidates)
        follows_text[:, 1:] = candidates[:, :-1]
        continuations = tokenizer.continuation_mask[input_ids]
        word_starts = candidates & ~(continuations & follows_text)
    share = candidates.sum(axis=1) * options.masked_lm_prob
    num_predictions = np.minimum(
        np.maximum(1, np.rint(share)), options.num_predictions
    )  # [B]
    selected = _select_words(candidates, word_starts, num_predictions, rng)
    return _hide(
        input_ids,
        selected,
        options.num_predictions,
        tokenizer.mask_id,
        np.flatnonzero(~is_special),
        rng,
    )


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
        bool [B, S], the pieces of the words drawn.
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
    num_predictions: int,
    mask_id: int,
    text_ids: np.ndarray,
    rng: np.random.Generator,
) -> Arrays:
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

    shape = (len(input_ids), num_predictions)
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
