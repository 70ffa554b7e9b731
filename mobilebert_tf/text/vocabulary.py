"""WordPiece vocabularies: reading, checking and learning them.

A vocabulary is an ordered list of pieces. The place of a piece is its id, and
pieces that continue a word start with "##". A file has one piece a line.
"""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, read_content
from mobilebert_tf.text.normalization import (
    is_word_by_itself,
    normalize,
    split_words,
)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION_PREFIX = "##"

# The learner visits every substring of every word several times, in Python; the
# most frequent words suffice to choose pieces.
_MAX_WORDS = 30_000
# The search for a threshold stops at this share of pieces above the requested
# size; the surplus is cut off.
_SURPLUS = 0.08
_MAX_TRIALS = 6
# The size of a vocabulary falls with about this power of the count threshold
# (measured on English prose). It only affects the first guesses.
_SIZE_EXPONENT = -0.65


def read_vocabulary(path: str | os.PathLike) -> list[str]:
    """Reads a file of one piece a line, ended by line feeds.

    Unicode's other line separators may be pieces.

    Raises:
        InputError: the file is missing, not UTF-8, or not a vocabulary (see
            `check_vocabulary`).
    """
    path = Path(path)
    text = decode_content(path, read_content(path))
    pieces = [line.rstrip("\r") for line in text.split("\n")]
    while pieces and not pieces[-1]:
        pieces.pop()
    check_vocabulary(pieces, path)
    return pieces


def check_vocabulary(
    pieces: Sequence[str], source: str | os.PathLike = "vocabulary"
) -> None:
    """Checks that pieces, in the order of their ids, are a vocabulary.

    Raises:
        InputError: a piece is empty, contains a line end or occurs twice, or
            one of `SPECIAL_TOKENS` is missing.
    """
    first_line = {}
    for number, piece in enumerate(pieces, start=1):
        if not piece or "\n" in piece:
            found = "a line end in it" if piece else "an empty line"
            raise InputError(source, "one piece a line", found, number)
        if piece in first_line:
            raise InputError(
                source,
                "every piece once",
                f"{piece!r} again (first on line {first_line[piece]})",
                number,
            )
        first_line[piece] = number
    missing = [token for token in SPECIAL_TOKENS if token not in first_line]
    if missing:
        raise InputError(
            source,
            "the special tokens " + " ".join(SPECIAL_TOKENS),
            f"{len(pieces)} pieces without " + " ".join(missing),
            f"lines 1 to {len(pieces)}" if pieces else "an empty file",
        )


def learn_vocabulary(
    lines: Iterable[str], vocab_size: int, do_lower_case: bool = True
) -> list[str]:
    """Learns a WordPiece vocabulary from text, in whatever order of lines.

    Words are counted after normalization and BERT's splitting. TensorFlow
    Text's top-down learner then chooses the pieces that occur at least a
    threshold number of times; the threshold is searched until it gives slightly
    more than `vocab_size` pieces, and the rarest are dropped.

    Every character of the alphabet is a piece, also as a continuation unless it
    is a word by itself, so that no ordinary word is unknown. The alphabet is
    the most frequent characters, up to a twentieth of the vocabulary (a
    quarter, up to 128, of a small one). A text with too few repeated pieces is
    filled up with its most frequent words; with too few words, the vocabulary
    is smaller than `vocab_size`.

    Returns:
        `SPECIAL_TOKENS`, the characters, then pieces from frequent to rare.

    Raises:
        InputError: `vocab_size` has no room for special tokens and characters,
            or the text contains no words.
    """
    counts = Counter()
    for line in lines:
        counts.update(split_words(normalize(line, do_lower_case)))
    if not counts:
        raise InputError("training text", "words", "none")
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    alphabet = _alphabet(ranked, vocab_size)
    characters = sorted(alphabet) + [
        CONTINUATION_PREFIX + character
        for character in sorted(alphabet)
        if not is_word_by_itself(character)
    ]
    room = vocab_size - len(SPECIAL_TOKENS) - len(characters)
    if room < 0:
        raise InputError(
            "vocab_size",
            f"at least {vocab_size - room}, for the characters of this text",
            vocab_size,
        )
    usable = [item for item in ranked if alphabet.issuperset(item[0])]
    fixed = {*SPECIAL_TOKENS, *characters}
    pieces = _learn_pieces(usable[:_MAX_WORDS], room, fixed) if usable else []
    if len(pieces) < room:
        known = fixed.union(pieces)
        pieces += [word for word, _ in usable if word not in known]
    return [*SPECIAL_TOKENS, *characters, *pieces[:room]]


def _alphabet(ranked: list[tuple[str, int]], vocab_size: int) -> set[str]:
    """Returns the most frequent characters that the vocabulary has room for."""
    counts = Counter()
    for word, count in ranked:
        for character in word:
            counts[character] += count
    limit = max(vocab_size // 20, min(128, vocab_size // 4))
    by_count = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {character for character, _ in by_count[:limit]}


def _learn_pieces(
    word_counts: list[tuple[str, int]], room: int, fixed: set[str]
) -> list[str]:
    """Searches the threshold that gives just over `room` learned pieces.

    Size against threshold is close to a power law, so a few steps along it
    suffice; the learner's own bisection takes about twenty passes.
    """
    trials = {}
    threshold = word_counts[min(len(word_counts) - 1, (2 * room) // 3)][1]
    # Largest threshold with enough pieces, smallest with too few.
    enough, too_few = 0, math.inf
    while threshold not in trials and len(trials) < _MAX_TRIALS:
        trials[threshold] = pieces = _pieces_at(word_counts, threshold, fixed)
        if room <= len(pieces) <= room * (1 + _SURPLUS):
            break
        if len(pieces) > room:
            enough = max(enough, threshold)
        else:
            too_few = min(too_few, threshold)
        ratio = room * (1 + _SURPLUS / 2) / max(1, len(pieces))
        threshold = round(threshold * ratio ** (1 / _SIZE_EXPONENT))
        threshold = max(1, enough + 1, min(threshold, too_few - 1))
    sufficient = [pieces for pieces in trials.values() if len(pieces) >= room]
    return min(sufficient or trials.values(), key=lambda p: abs(len(p) - room))


def _pieces_at(
    word_counts: list[tuple[str, int]], threshold: int, fixed: set[str]
) -> list[str]:
    """Learns the pieces of at least `threshold` occurrences, frequent first."""
    from tensorflow_text.tools.wordpiece_vocab import (
        wordpiece_tokenizer_learner_lib as learner,
    )

    learned = learner.learn(
        word_counts,
        vocab_size=0,
        reserved_tokens=[],
        # With equal bounds the learner tries exactly this threshold.
        upper_thresh=threshold,
        lower_thresh=threshold,
        max_unique_chars=len(fixed),
        joiner=CONTINUATION_PREFIX,
    )
    # Single characters that are words by themselves never continue a word.
    return [
        piece
        for piece in learned
        if piece not in fixed
        and len(piece.removeprefix(CONTINUATION_PREFIX)) > 1
    ]
