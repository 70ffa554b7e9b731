"""How tags mark stretches of tokens: IOB1, IOB2, BIOES and BILOU.

Owns recognising the scheme of a file and checking its tags. A stretch, an
entity say, has a type, and each of its tokens a tag: B-TYPE for the first,
I-TYPE for the others, O outside. IOB1 says I-TYPE for the first one too, unless
a stretch of the same type ends right before it. BIOES has E-TYPE for the last
token and S-TYPE for a single one; BILOU calls these L and U.
"""

import re
from collections.abc import Iterator

from mobilebert_tf.data.conll import Sentences
from mobilebert_tf.errors import InputError

# A scheme's letters, besides O.
_LETTERS = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU"}
# Tags that mark no stretches, part-of-speech tags say.
NO_SCHEME = "none"
SCHEMES = (*_LETTERS, NO_SCHEME)

_TAG = re.compile("([A-Z])-(.+)")
_OUTSIDE = ("O", "")
_Tag = tuple[str, str]


def recognise_scheme(sentences: Sentences) -> str:
    """Returns the scheme that all tags of sentences follow.

    Raises:
        InputError: naming the line of the first tag that fits none, or not
            the others.
    """
    letters = {
        letter
        for _, pairs in _parsed(sentences, "BIESLU", "--scheme=none")
        for letter, _ in pairs
    }
    for scheme in ("bioes", "bilou"):
        if letters & set(_LETTERS[scheme]) - set("BI"):
            return scheme
    problem = _first_problem(sentences, "iob2")
    if problem is None:
        return "iob2"
    needless = _needless_beginning(sentences)
    if needless is None:
        return "iob1"
    expected, found, line = problem
    expected += f", as B- in line {needless} is IOB2's (or --scheme=iob1)"
    raise InputError(sentences.path, expected, found, line)


def check_scheme(sentences: Sentences, scheme: str) -> None:
    """Checks all tags of sentences.

    IOB1 may have a B-TYPE where it needs none: what is meant is clear.

    Raises:
        InputError: naming the line of the first tag that is not the scheme's,
            or not where it stands.
    """
    if scheme == NO_SCHEME:
        return
    problem = _first_problem(sentences, scheme)
    if problem is not None:
        expected, found, line = problem
        raise InputError(sentences.path, expected, found, line)


def _parsed(
    sentences: Sentences, letters: str, otherwise: str
) -> Iterator[tuple[int, list[_Tag]]]:
    """First line, and (letter, type) of each tag, by sentence."""
    known = {"O": _OUTSIDE}
    for first, tags in zip(sentences.first_lines, sentences.tags, strict=True):
        for line, tag in enumerate(tags, start=first):
            if tag in known:
                continue
            match = _TAG.fullmatch(tag)
            if match is None or match[1] not in letters:
                expected = f"O or {', '.join(f'{x}-TYPE' for x in letters)}"
                expected += f" (or {otherwise})"
                raise InputError(sentences.path, expected, repr(tag), line)
            known[tag] = (match[1], match[2])
        yield first, [known[tag] for tag in tags]


def _first_problem(
    sentences: Sentences, scheme: str
) -> tuple[str, str, int] | None:
    """What was expected and found where, of the first misplaced tag."""
    letters = _LETTERS[scheme]
    for first, pairs in _parsed(sentences, letters, "another --scheme"):
        if scheme == "iob1":
            continue
        before = _OUTSIDE
        for line, pair in enumerate([*pairs, None], start=first):
            expected = _expected(before, pair or _OUTSIDE, scheme)
            if expected:
                found = "the end" if pair is None else _shown(pair)
                # Of a sentence that ends too early, its last line.
                line -= pair is None
                return f"{expected} after {_shown(before)}", found, line
            before = pair
    return None


def _expected(before: _Tag, pair: _Tag, scheme: str) -> str | None:
    """What `scheme` wants after a tag, if it is not what comes."""
    (letter_before, kind_before), (letter, kind) = before, pair
    follows = "IEL"
    if scheme == "iob2":
        goes_on = letter_before in ("B", "I") and kind == kind_before
        return f"B-{kind}" if letter == "I" and not goes_on else None
    last = _LETTERS[scheme][2]
    if letter_before in ("B", "I"):
        if letter not in follows or kind != kind_before:
            return f"I-{kind_before} or {last}-{kind_before}"
    elif letter in follows:
        return f"B-{kind} or {_LETTERS[scheme][3]}-{kind}"
    return None


def _needless_beginning(sentences: Sentences) -> int | None:
    """Line of the first B- that IOB1 would not have."""
    for first, pairs in _parsed(sentences, "BI", "another --scheme"):
        before = _OUTSIDE
        for line, (letter, kind) in enumerate(pairs, start=first):
            if letter == "B" and kind != before[1]:
                return line
            before = (letter, kind)
    return None


def _shown(pair: _Tag) -> str:
    letter, kind = pair
    return f"{letter}-{kind}" if kind else letter
