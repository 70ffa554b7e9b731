"""WordPiece vocabularies: reading, checking and learning them.

A vocabulary is an ordered list of pieces. The place of a piece is its id, and
pieces that continue a word start with "##". A file has one piece a line.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import tokenizers

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, read_content
from mobilebert_tf.text.normalization import (
    is_word_by_itself,
    normalize,
    split_words,
)

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUATION_PREFIX = "##"

# A longer word is unknown as a whole: Hugging Face's limit (BERT's own code has
# 200).
MAX_WORD_CHARACTERS = 100
# The limit of TensorFlow Text's kernel.
_MAX_PIECE_BYTES = 256
# Pieces learned beyond the requested ones. Many are only steps towards longer
# ones: without the least used, English takes 1 to 2 % fewer pieces a word. More
# surplus helps at 4,000 pieces and harms at 1,000.
_SURPLUS = 0.1
_REPEATED_AT_ONCE = 10_000
_UNPAIRED = re.compile("[\ud800-\udfff]")


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
        InputError: a piece is empty, too long for the kernel, has a NUL, line
            end or half of a surrogate pair in it or occurs twice, or one of
            `SPECIAL_TOKENS` is missing.
    """
    first_line = {}
    for number, piece in enumerate(pieces, start=1):
        problem = _problem_of(piece)
        if problem:
            raise InputError(source, "one piece a line", problem, number)
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


def _problem_of(piece: str) -> str | None:
    if not piece:
        return "an empty line"
    if "\n" in piece:
        return "a line end in it"
    if "\0" in piece or _UNPAIRED.search(piece):
        return "a NUL or half of a surrogate pair in it"
    if not _is_short_enough(piece):
        return f"one of more than {_MAX_PIECE_BYTES} bytes"
    return None


def learn_vocabulary(
    lines: Iterable[str], vocab_size: int, do_lower_case: bool = True
) -> list[str]:
    """Learns a WordPiece vocabulary from text, in whatever order of lines.

    Words are counted after normalization and BERT's splitting. The trainer of
    `tokenizers` merges frequent neighbours into somewhat more pieces than
    wanted; those that the words are cut into least often are dropped.

    A character of the alphabet is a piece, also as a continuation unless it is
    a word by itself, so that no ordinary word is unknown. The alphabet has the
    most frequent characters, up to a twentieth of the vocabulary (a quarter, up
    to 128, of a small one), and beyond that all that are one in a million, as
    the thousands of Chinese, Japanese or Korean text are.

    Returns:
        `SPECIAL_TOKENS`, the characters, then pieces from frequent to rare;
        fewer than `vocab_size` if the text has no more words.

    Raises:
        InputError: `vocab_size` has no room for a character, or the text
            contains no words.
    """
    counts = Counter()
    for line in lines:
        counts.update(split_words(normalize(line, do_lower_case)))
    if not counts:
        raise InputError("training text", "words", "none")
    alphabet = _alphabet(counts, vocab_size)
    fixed = [
        *SPECIAL_TOKENS,
        *sorted(alphabet),
        *(
            CONTINUATION_PREFIX + character
            for character in sorted(alphabet)
            if not is_word_by_itself(character)
        ),
    ]
    words = {
        word: count
        for word, count in sorted(counts.items())
        if 1 < len(word) <= MAX_WORD_CHARACTERS and alphabet.issuperset(word)
    }
    learned = _learn_pieces(words, vocab_size - len(fixed), fixed)
    return [*fixed, *learned]


def _alphabet(words: Mapping[str, int], vocab_size: int) -> set[str]:
    """Returns the most frequent characters that the vocabulary has room for."""
    counts = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    usual = max(vocab_size // 20, min(128, vocab_size // 4))
    rare = counts.total() / 1_000_000
    room, alphabet = vocab_size - len(SPECIAL_TOKENS), set()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    for character, count in ranked:
        room -= 1 if is_word_by_itself(character) else 2
        if room < 0 or (len(alphabet) >= usual and count < rare):
            break
        alphabet.add(character)
    if not alphabet:
        raise InputError("vocab_size", "room for characters", vocab_size)
    return alphabet


def _learn_pieces(
    words: Mapping[str, int], room: int, fixed: Sequence[str]
) -> list[str]:
    """Returns up to `room` pieces besides the fixed ones, most used first."""
    if not room or not words:
        return []
    model = tokenizers.models.WordPiece(
        unk_token="[UNK]", max_input_chars_per_word=MAX_WORD_CHARACTERS
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=len(fixed) + room + math.ceil(_SURPLUS * room),
        min_frequency=1,
        # In an order of ours: equally frequent merges are made in the order of
        # their parts' ids, which would otherwise be that of a random hash.
        special_tokens=list(fixed),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_repeated(words), trainer)
    used = Counter()
    for word, count in words.items():
        for piece in tokenizer.model.tokenize(word):
            used[piece.value] += count
    for piece in fixed:
        del used[piece]
    # Where there is room for all of these, for whole words too.
    ranked = sorted(used.items(), key=lambda item: (-item[1], item[0]))
    ranked += sorted(words.items(), key=lambda item: (-item[1], item[0]))
    pieces = dict.fromkeys(piece for piece, _ in ranked)
    return list(filter(_is_short_enough, pieces))[:room]


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Yields text in which each word occurs as often as it was counted."""
    for word, count in words.items():
        for start in range(0, count, _REPEATED_AT_ONCE):
            yield f"{word} " * min(_REPEATED_AT_ONCE, count - start)


def _is_short_enough(piece: str) -> bool:
    size = len(piece.removeprefix(CONTINUATION_PREFIX).encode())
    return size <= _MAX_PIECE_BYTES
