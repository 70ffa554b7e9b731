"""Normalisation against the original algorithm, a character at a time."""

import random
import unicodedata

import pytest

from mobilebert_tf.text.normalization import (
    is_word_by_itself,
    normalize,
    normalize_with_offsets,
    split_words,
    word_spans,
)

ODD_CHARACTERS = (
    "aB \t\n\r\x00\x05\x7f\u00a0\u00ad\u200b\u2028\u3000\ufeff\ufffd"
    "éÉßİıſǅΣς\u0301\u0327\u0345\u1100각한博Åﬁ²½…’\U0001f600\U0001d15e"
    "\u302e\U0001d165\U0001d16d\ud800"
)


def original_bert_normalize(text, do_lower_case):
    """The original algorithm, a character at a time.

    But for U+2028 and U+2029, at which the original splits words later.
    """
    cleaned = ""
    for character in text:
        category = unicodedata.category(character)
        if ord(character) in (0, 0xFFFD) or category == "Cs":
            continue
        if character in " \t\n\r" or category[0] == "Z":
            cleaned += " "
        elif category not in ("Cc", "Cf"):
            cleaned += character
    if not do_lower_case:
        return cleaned
    decomposed = unicodedata.normalize("NFD", cleaned.lower())
    return "".join(c for c in decomposed if unicodedata.category(c) != "Mn")


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_normalization_equals_the_original_algorithm(do_lower_case):
    rng = random.Random(3)
    texts = [
        "".join(rng.choices(ODD_CHARACTERS, k=rng.randrange(12)))
        for _ in range(5000)
    ]
    # Of the large alphabets from U+3000 on, every seventh.
    texts += map(chr, [*range(0x3000), *range(0x3000, 0x20000, 7)])
    for text in texts:
        expected = original_bert_normalize(text, do_lower_case)
        assert normalize(text, do_lower_case) == expected
        normalized, origin = normalize_with_offsets(text, do_lower_case)
        assert normalized == expected
        assert len(origin) == len(expected)


def test_origins_point_at_what_a_character_was_made_from():
    text = "x\x00İ\tcafe\u0301É"
    normalized, origin = normalize_with_offsets(text)
    assert normalized == "xi cafee"
    assert origin.tolist() == [0, 2, 3, 4, 5, 6, 7, 9]
    normalized, origin = normalize_with_offsets(text, do_lower_case=False)
    assert normalized == "xİ cafe\u0301É"
    assert origin.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9]


def test_only_one_character_lowers_to_two():
    """The counting of origins relies on it."""
    longer = [c for c in map(chr, range(0x110000)) if len(c.lower()) != 1]
    assert longer == ["\u0130"]
    assert len("\u0130".lower()) == 2


def test_words_by_themselves():
    assert all(map(is_word_by_itself, "-$`.^~…’«博豈"))
    assert not any(map(is_word_by_itself, "A9 é\u00a0あ한€²"))
    assert split_words("ah博推zz, $5.0!") == (
        ["ah", "博", "推", "zz", ",", "$", "5", ".", "0", "!"]
    )
    assert word_spans("ab, abc\u2028abcd博", 3) == [(4, 7), (8, 12)]
