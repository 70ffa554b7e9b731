"""BERT's text normalization and word splitting, with offsets into the text.

WordPiece kernels normalise differently: TensorFlow's fold case with NFKC, those
on phones lower-case ASCII only. This one follows the original BERT and serves
training, evaluation and pipelines, so that token ids equal those the published
models were trained on. The kernel splits at punctuation and CJK characters; the
splitting here is for counting words.
"""

import unicodedata

import numpy as np

# What BERT calls Chinese characters: Han only, without Kana and Hangul.
_CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


class _CharacterTable(dict):
    """A `str.translate` table, computed for characters as they occur."""

    def __init__(self, rule):
        super().__init__()
        self._rule = rule

    def __missing__(self, code):
        value = self[code] = self._rule(chr(code))
        return value


def _cleaned(character: str) -> str:
    if character in "\t\n\r":
        return " "
    category = unicodedata.category(character)
    # Like the replacement character, lone surrogates (from JSON escapes) are
    # remains of undecodable text, and cannot be encoded.
    if category in ("Cc", "Cf", "Cs") or character == "\ufffd":
        return ""
    return " " if category in ("Zs", "Zl", "Zp") else character


def _unmarked(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else character


def _isolated(character: str) -> str:
    return f" {character} " if is_word_by_itself(character) else character


_CLEAN = _CharacterTable(_cleaned)
_CLEAN_ASCII = {code: _cleaned(chr(code)) or None for code in range(128)}
_STRIP_MARKS = _CharacterTable(_unmarked)
_ISOLATE = _CharacterTable(_isolated)


def is_word_by_itself(character: str) -> bool:
    """Tells whether BERT makes a character a word: punctuation or CJK.

    All ASCII signs are punctuation, including "$" and "^", which are symbols
    in Unicode.
    """
    code = ord(character)
    if code < 128:
        return 33 <= code < 127 and not character.isalnum()
    return unicodedata.category(character).startswith("P") or any(
        first <= code <= last for first, last in _CJK_RANGES
    )


def normalize(text: str, do_lower_case: bool = True) -> str:
    """Cleans `text` like the original BERT's `BasicTokenizer`.

    NUL, U+FFFD, control and format characters are dropped; tabs, line ends and
    Unicode spaces and separators become a space. With `do_lower_case`, for
    uncased vocabularies, the text is then lower-cased, decomposed (NFD) and
    stripped of combining marks, in that order.
    """
    if text.isascii():
        # ASCII text is nearly always clean already, and `isprintable` is
        # several times faster than `translate`.
        if not text.isprintable():
            text = text.translate(_CLEAN_ASCII)
        return text.lower() if do_lower_case else text
    text = text.translate(_CLEAN)
    if not do_lower_case:
        return text
    text = unicodedata.normalize("NFD", text.lower())
    return text if text.isascii() else text.translate(_STRIP_MARKS)


def normalize_with_offsets(
    text: str, do_lower_case: bool = True
) -> tuple[str, np.ndarray]:
    """Normalises like `normalize` and locates each character in `text`.

    Returns:
        The normalised text and int64 [len(normalised)] `origin`: normalised
        character i comes from `text[origin[i]]`.
    """
    if text.isascii() and text.isprintable():
        normalized = text.lower() if do_lower_case else text
        return normalized, np.arange(len(normalized))
    kept = [
        (index, cleaned)
        for index, character in enumerate(text)
        if (cleaned := _CLEAN[ord(character)])
    ]
    if do_lower_case:
        kept = _lower_and_strip(kept)
    normalized = "".join(character for _, character in kept)
    origin = np.fromiter((index for index, _ in kept), np.int64, len(kept))
    return normalized, origin


def _lower_and_strip(kept: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Lower-cases, decomposes and strips (origin, character) pairs."""
    lowered = "".join(character for _, character in kept).lower()
    # Lower-casing the whole string handles a final sigma. Only the dotted
    # capital I becomes two characters, so origins follow by counting.
    origins = [
        index
        for index, character in kept
        for _ in range(2 if character == "\u0130" else 1)
    ]
    decomposed = [
        (index, part)
        for index, character in zip(origins, lowered, strict=True)
        for part in unicodedata.normalize("NFD", character)
    ]
    return [
        (index, character)
        for index, character in _canonical_order(decomposed)
        if _STRIP_MARKS[ord(character)]
    ]


def _canonical_order(pairs: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Sorts each run of combining characters by class, as NFD does."""
    ordered, run = [], []
    for pair in [*pairs, (0, "")]:
        if pair[1] and unicodedata.combining(pair[1]):
            run.append(pair)
        else:
            run.sort(key=lambda item: unicodedata.combining(item[1]))
            ordered += [*run, pair]
            run = []
    return ordered[:-1]


def split_words(normalized: str) -> list[str]:
    """Splits normalised text at spaces and around punctuation and CJK."""
    return normalized.translate(_ISOLATE).split()


def word_spans(normalized: str, min_size: int) -> list[tuple[int, int]]:
    """Returns (start, end) of the words of at least `min_size` characters."""
    spans, start = [], 0
    for index, character in enumerate(normalized + " "):
        if character.isspace() or is_word_by_itself(character):
            if index - start >= min_size:
                spans.append((start, index))
            start = index + 1
    return spans
