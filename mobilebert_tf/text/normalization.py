"""Text cleaning exactly as the original BERT tokenizer does it.

WordPiece kernels differ in how they normalise: the TensorFlow ones fold case
with NFKC, the phone libraries lower-case ASCII only. One normaliser of our own,
used in training, evaluation and export alike, is what keeps token ids equal to
those the published models were trained on. Splitting at punctuation and CJK
characters is left to the kernel, except where we count words ourselves.
"""

import unicodedata

import numpy as np

# Blocks that BERT calls Chinese characters: Han only; Kana and Hangul are
# spelled with spaces or treated as ordinary words.
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
    """A `str.translate` table that is worked out as characters turn up."""

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
    # Lone surrogates (from JSON escapes) cannot be encoded at all: like the
    # replacement character, they are what is left of undecodable text.
    if category in ("Cc", "Cf", "Cs") or character == "\ufffd":
        return ""
    return " " if category == "Zs" else character


def _unmarked(character: str) -> str:
    return "" if unicodedata.category(character) == "Mn" else character


def _isolated(character: str) -> str:
    return f" {character} " if is_word_by_itself(character) else character


_CLEAN = _CharacterTable(_cleaned)
_CLEAN_ASCII = {code: _cleaned(chr(code)) or None for code in range(128)}
_STRIP_MARKS = _CharacterTable(_unmarked)
_ISOLATE = _CharacterTable(_isolated)


def is_word_by_itself(character: str) -> bool:
    """Whether BERT makes this character a word: punctuation or CJK.

    All ASCII signs count as punctuation, "$" and "^" included, although
    Unicode files them under symbols.
    """
    code = ord(character)
    if code < 128:
        return 33 <= code < 127 and not character.isalnum()
    return unicodedata.category(character).startswith("P") or any(
        first <= code <= last for first, last in _CJK_RANGES
    )


def normalize(text: str, do_lower_case: bool = True) -> str:
    """Cleans `text`; for uncased vocabularies also lower-cases it.

    NUL, U+FFFD, control and format characters are dropped; tabs, line ends and
    Unicode spaces become a space. With `do_lower_case`, text is lower-cased,
    decomposed (NFD) and freed of combining marks, as `BasicTokenizer` of the
    original BERT does, in that order.
    """
    if text.isascii():
        # Tabs aside, ASCII text nearly always is clean already, and
        # `isprintable` is several times faster than translating.
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
    """As `normalize`, and says where each character came from.

    Returns:
        The normalised text and `origin`, int64 [len(normalised)]: normalised
        character i was made from `text[origin[i]]`.
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
    """Lower case, NFD and mark removal on (origin, character) pairs."""
    lowered = "".join(character for _, character in kept).lower()
    # Whole-string lower-casing knows a final sigma. Only the dotted capital I
    # becomes two characters, so origins follow by counting.
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
    ordered = []
    run = []
    for pair in pairs:
        if unicodedata.combining(pair[1]):
            run.append(pair)
            continue
        run.sort(key=lambda item: unicodedata.combining(item[1]))
        ordered += run
        ordered.append(pair)
        run = []
    run.sort(key=lambda item: unicodedata.combining(item[1]))
    return ordered + run


def split_words(normalized: str) -> list[str]:
    """Splits normalised text into BERT's words, before WordPiece.

    At white space, and around every punctuation or CJK character.
    """
    return normalized.translate(_ISOLATE).split()


def word_spans(normalized: str, min_size: int) -> list[tuple[int, int]]:
    """The (start, end) of the words of at least `min_size` characters."""
    spans = []
    start = None
    for index, character in enumerate(normalized + " "):
        inside = not (character.isspace() or is_word_by_itself(character))
        if inside and start is None:
            start = index
        elif not inside and start is not None:
            if index - start >= min_size:
                spans.append((start, index))
            start = None
    return spans
