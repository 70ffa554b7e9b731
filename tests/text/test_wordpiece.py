"""Normalisation and WordPiece, against lists worked out by hand.

The expected lists follow from the original BERT's rules: clean, lower-case and
strip accents if uncased, split at space, punctuation and CJK, then longest
piece first.
"""

import json
import random
import unicodedata

import numpy as np
import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.text import tokenizer as wordpiece
from mobilebert_tf.text.normalization import (
    is_word_by_itself,
    normalize,
    normalize_with_offsets,
    split_words,
    word_spans,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = "want ##want ##ed wa un runn ##ing , ! ? hello how are you".split()
ODD_CHARACTERS = (
    "aB \t\n\r\x00\x05\x7f\u00a0\u00ad\u200b\u2028\u3000\ufeff\ufffd"
    "éÉßİıſǅΣς\u0301\u0327\u0345\u1100각한博Åﬁ²½…’\U0001f600\U0001d15e"
    "\u302e\U0001d165\U0001d16d\ud800"
)


def make(pieces, do_lower_case=True):
    return WordpieceTokenizer([*SPECIAL, *pieces], do_lower_case)


def pieces_of(tokenizer, text):
    ids = tokenizer.tokenize([text]).to_list()[0]
    return [tokenizer.vocab[index] for index in ids]


def original_bert_normalize(text, do_lower_case):
    """The original algorithm, a character at a time."""
    cleaned = ""
    for character in text:
        category = unicodedata.category(character)
        if ord(character) in (0, 0xFFFD) or category == "Cs":
            continue
        if character in " \t\n\r" or category == "Zs":
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
    texts += [chr(code) for code in range(0x20000)]
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
    """What the counting of origins relies on, in this Python's Unicode."""
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


def test_kernel_splits_where_we_count_words():
    """Over all characters whose kind has not changed since Unicode 3.2."""
    tokenizer = make(["a", "b", "##b"], do_lower_case=False)
    old = unicodedata.ucd_3_2_0
    characters = [
        character
        for character in map(chr, range(0x110000))
        if unicodedata.category(character) == old.category(character)
        and old.category(character) not in ("Cn", "Co", "Cs")
        and character not in "ab"
    ]
    assert len(characters) > 90_000
    texts = [f"a{character}b" for character in characters]
    rows = tokenizer.tokenize(texts).to_list()
    name = {5: "a", 6: "b", 7: "##b"}
    for text, row in zip(texts, rows, strict=True):
        words = split_words(normalize(text, do_lower_case=False))
        expected = []
        for word in words:
            expected += {"ab": ["a", "##b"]}.get(
                word, [word if word in "ab" else "[UNK]"]
            )
        assert [name.get(i, "[UNK]") for i in row] == expected, ascii(text)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", []),
        (" \t \n", []),
        ("unwanted running", ["un", "##want", "##ed", "runn", "##ing"]),
        ("unwantedX running", ["[UNK]", "runn", "##ing"]),
        ("UNwant\u00e9d,running", "un ##want ##ed , runn ##ing".split()),
        (" \tHeLLo!how  \n Are yoU?  ", "hello ! how are you ?".split()),
        ("H\u00e9llo He\u0301llo", ["hello", "hello"]),
        ("hel\u00adlo\x07 he\u200bllo\ufffd", ["hello", "hello"]),
        ("hello\u00a0you\u3000how\u2028are", "hello you how are".split()),
        ("博hello博", ["[UNK]", "hello", "[UNK]"]),
        ("[MASK]", ["[UNK]", "[UNK]", "[UNK]"]),
        ("hello##ed", "hello [UNK] [UNK] [UNK]".split()),
    ],
)
def test_uncased_pieces(text, expected):
    assert pieces_of(make(PIECES), text) == expected


def test_cased_keeps_case_and_accents():
    tokenizer = make(["Hello", "hello", "caf", "##é", "##e"], False)
    text = "Hello hello HELLO café cafe\u0301"
    assert pieces_of(tokenizer, text) == (
        ["Hello", "hello", "[UNK]", "caf", "##é", "[UNK]"]
    )


def test_final_sigma_is_lowered_as_python_does():
    tokenizer = make(["οδος", "οδοσ", "σ"])
    assert pieces_of(tokenizer, "ΟΔΟΣ Σ") == ["οδος", "σ"]


@pytest.mark.parametrize("character", ["a", "ж", "\U00010428"])
def test_word_limit_counts_characters_not_bytes(character):
    tokenizer = make([character, f"##{character}"])
    assert len(pieces_of(tokenizer, character * 100)) == 100
    text = f"{character} {character * 101},{character * 450} {character}"
    ids, starts, ends = tokenizer.tokenize_with_offsets([text])
    assert ids.to_list() == [[5, 1, 1, 1, 5]]
    assert tokenizer.tokenize([text]).to_list() == ids.to_list()
    assert starts.to_list() == [[0, 2, 103, 104, 555]]
    assert ends.to_list() == [[1, 103, 104, 554, 556]]


def test_offsets_are_into_the_text_as_given():
    tokenizer = make(PIECES)
    texts = ["", "\x00He\u0301llo,\u00a0UNwant\u00e9d 😀 \u0130", "how are"]
    ids, starts, ends = tokenizer.tokenize_with_offsets(texts)
    assert ids.to_list() == tokenizer.tokenize(texts).to_list()
    spans = [
        [text[start:end] for start, end in zip(*row, strict=True)]
        for text, *row in zip(
            texts, starts.to_list(), ends.to_list(), strict=True
        )
    ]
    assert spans == [
        [],
        ["He\u0301llo", ",", "UN", "want", "\u00e9d", "😀", "\u0130"],
        ["how", "are"],
    ]


def test_results_do_not_depend_on_batching(monkeypatch):
    tokenizer = make(PIECES)
    texts = ["hello you", "", "é running", "un", "how"] * 3
    whole = [tokenizer.tokenize(texts), *tokenizer.tokenize_with_offsets(texts)]
    monkeypatch.setattr(wordpiece, "_BATCH_SIZE", 4)
    parts = [tokenizer.tokenize(texts), *tokenizer.tokenize_with_offsets(texts)]
    for one, other in zip(whole, parts, strict=True):
        assert one.to_list() == other.to_list()
    assert whole[0].dtype == "int32"
    assert tokenizer.tokenize([]).to_list() == []
    assert tokenizer.tokenize_with_offsets([])[2].to_list() == []


def test_a_single_string_is_refused():
    with pytest.raises(TypeError, match="sequence of str"):
        make(PIECES).tokenize("hello")


def test_attributes():
    tokenizer = WordpieceTokenizer(
        ["a", "[MASK]", "[SEP]", "##b", "[CLS]", "[UNK]", "[PAD]"]
    )
    assert tokenizer.vocab_size == 7
    assert tokenizer.special_ids == (6, 5, 4, 2, 1)
    assert tokenizer.mask_id == 1
    np.testing.assert_array_equal(
        tokenizer.continuation_mask, [0, 0, 0, 1, 0, 0, 0]
    )
    assert tokenizer.continuation_mask.dtype == bool
    assert tokenizer.detokenize([4, 0, 3, 3, 2, 0]) == "[CLS] abb [SEP] a"


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_folder_round_trip(tmp_path, do_lower_case):
    tokenizer = make(["É", "##\u2028", "x"], do_lower_case)
    tokenizer.write(tmp_path / "model", model_max_length=128)
    again = WordpieceTokenizer.from_folder(tmp_path / "model")
    assert again.vocab == tokenizer.vocab
    assert again.do_lower_case is do_lower_case
    config = json.loads((tmp_path / "model/tokenizer_config.json").read_bytes())
    assert config["model_max_length"] == 128
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"vocab.txt", "tokenizer_config.json"}


def test_folder_without_configuration_is_uncased(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL, "a"]))
    assert WordpieceTokenizer.from_folder(tmp_path).do_lower_case is True


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "line 1: expected JSON"),
        ("[]", "expected a JSON object, found list"),
        ('{"do_lower_case": "no"}', "do_lower_case: expected true or false"),
        ('{"strip_accents": false}', "strip_accents: expected null or true"),
        (
            '{"tokenize_chinese_chars": false}',
            "tokenize_chinese_chars: expected null or true, found false",
        ),
    ],
)
def test_bad_configuration_names_file_and_field(tmp_path, content, message):
    make(["a"]).write(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        WordpieceTokenizer.from_folder(tmp_path)
    assert "tokenizer_config.json" in str(error.value)
