"""WordPiece tokenizers: pieces worked out by hand, and model folders.

The expected pieces follow from the original BERT's rules: clean, lower-case and
strip accents if uncased, split at space, punctuation and CJK, then longest
piece first. Equality with Hugging Face's tokenizer, and that the folders are
its own, is tested in `tests/peers/test_tokens.py`.
"""

import json
import sys
import unicodedata

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.text import tokenizer as tokenizer_module
from mobilebert_tf.text.normalization import normalize, split_words
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.text.vocabulary import SPECIAL_TOKENS

PIECES = "want ##want ##ed wa un runn ##ing , ! ? hello how are you".split()
JSON_PIECES = [*SPECIAL_TOKENS, "é", "e", "##e", "E"]


def make(pieces, do_lower_case=True):
    return WordpieceTokenizer([*SPECIAL_TOKENS, *pieces], do_lower_case)


def pieces_of(tokenizer, text):
    ids = tokenizer.tokenize([text]).to_list()[0]
    pieces = [tokenizer.vocab[index] for index in ids]
    assert tokenizer.tokenize(text) == pieces
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        assert tokenizer.tokenize(text) == pieces
    return pieces


def test_kernel_splits_where_we_count_words():
    """Over characters whose kind has not changed since Unicode 3.2.

    Of the large alphabets from U+3000 on, every seventh.
    """
    tokenizer = make(["a", "b", "##b"], do_lower_case=False)
    old = unicodedata.ucd_3_2_0
    characters = [
        character
        for character in map(chr, [*range(0x3000), *range(0x3000, 0x110000, 7)])
        if unicodedata.category(character) == old.category(character)
        and old.category(character) not in ("Cn", "Co", "Cs")
        and character not in "ab"
    ]
    assert len(characters) > 15_000
    texts = [f"a{character}b" for character in characters]
    rows = tokenizer.tokenize(texts).to_list()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensorflow", None)
        flat, lengths = tokenizer.pieces(texts)
    assert (flat.dtype, lengths.dtype) == ("int32", "int64")
    assert flat.tolist() == [index for row in rows for index in row]
    assert lengths.tolist() == [len(row) for row in rows]
    name = {5: "a", 6: "b", 7: "##b"}
    for text, row in zip(texts, rows, strict=True):
        words = split_words(normalize(text, do_lower_case=False))
        expected = []
        for word in words:
            expected += {"ab": ["a", "##b"]}.get(
                word, [word if word in "ab" else "[UNK]"]
            )
        assert [name.get(i, "[UNK]") for i in row] == expected, ascii(text)


def test_both_kernels_agree_on_real_text(shared_data, monkeypatch):
    path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
    tokenizer = WordpieceTokenizer.from_vocab_file(path)
    texts = [
        line
        for file in sorted((shared_data / "corpus").glob("*.txt"))
        for line in file.read_text(encoding="utf-8").splitlines()[:2000]
    ]
    ids, lengths = tokenizer.pieces(texts)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    for found, wanted in zip(
        tokenizer.pieces(texts), (ids, lengths), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    assert len(ids) > 20_000


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


def test_cased_pieces_and_final_sigma():
    cased = make(["Hello", "hello", "caf", "##é", "##e"], do_lower_case=False)
    assert pieces_of(cased, "Hello hello HELLO café cafe\u0301") == (
        ["Hello", "hello", "[UNK]", "caf", "##é", "[UNK]"]
    )
    greek = make(["οδος", "οδοσ", "σ"])
    assert pieces_of(greek, "ΟΔΟΣ Σ") == ["οδος", "σ"]


@pytest.mark.parametrize("character", ["a", "ж", "\U00010428"])
def test_word_limit_counts_characters_not_bytes(character):
    tokenizer = make([character, f"##{character}"])
    assert len(pieces_of(tokenizer, character * 100)) == 100
    text = f"{character} {character * 101},{character * 450} {character}"
    ids, starts, ends = tokenizer.tokenize_with_offsets([text])
    assert ids.to_list() == [[5, 1, 1, 1, 5]]
    assert pieces_of(tokenizer, text) == [tokenizer.vocab[i] for i in [*ids[0]]]
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
    monkeypatch.setattr(tokenizer_module, "_BATCH_SIZE", 4)
    parts = [tokenizer.tokenize(texts), *tokenizer.tokenize_with_offsets(texts)]
    for one, other in zip(whole, parts, strict=True):
        assert one.to_list() == other.to_list()
    assert whole[0].dtype == "int32"
    assert tokenizer.tokenize([]).to_list() == []
    assert tokenizer.tokenize_with_offsets([])[2].to_list() == []


def test_a_single_string_is_refused_where_several_are_meant():
    with pytest.raises(TypeError, match="sequence of str"):
        make(PIECES).pieces("hello")


def test_calling_gives_a_models_inputs():
    tokenizer = make(PIECES)
    single = tokenizer("Hello, you")
    assert {name: rows.tolist() for name, rows in single.items()} == {
        "input_ids": [
            [2, *map(tokenizer.vocab.index, "hello , you".split()), 3]
        ],
        "input_mask": [[1] * 5],
        "segment_ids": [[0] * 5],
    }
    assert tokenizer.encode("Hello, you") == single["input_ids"][0].tolist()
    pairs = tokenizer(["hello", "how are you"], ["you", ""])
    assert pairs["input_mask"].tolist() == [[1] * 5 + [0], [1] * 6]
    assert pairs["segment_ids"].tolist() == [
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    ids = pairs["input_ids"][0].tolist()
    assert [*tokenizer.encode("hello", "you"), 0] == ids
    # The longer text of a pair loses its end; shorter rows are padded.
    cut = tokenizer(["how are you !", "!"], ["hello you", "!"], max_length=7)
    text = "[CLS] how are [SEP] hello you [SEP]"
    assert tokenizer.decode(cut["input_ids"][0]) == text
    assert tokenizer.decode(cut["input_ids"][1], True) == "! !"
    wide = tokenizer("you", max_length=6, padding="max_length")
    assert wide["input_ids"].shape == (1, 6) and wide["input_mask"].sum() == 3
    assert tokenizer([])["input_ids"].shape == (0, 2)
    for words, message in (
        ({"text_pairs": ["a", "b"]}, "text_pairs must be 1"),
        ({"max_length": 2}, "at least 3"),
        ({"padding": "max_length"}, "with a max_length"),
        ({"padding": "widest"}, "'widest'"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenizer("hello", **words)


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
    assert tokenizer.decode([4, 0, 3, 3, 2, 0]) == "[CLS] abb [SEP] a"


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
    (tmp_path / "vocab.txt").write_text("\n".join([*SPECIAL_TOKENS, "a"]))
    assert WordpieceTokenizer.from_folder(tmp_path).do_lower_case is True


@pytest.mark.parametrize(
    "content, message",
    [
        *(
            (json.dumps({"tokenizer_class": name}), f"found '{name}'$")
            for name in ("BertJapaneseTokenizer", "RobertaTokenizerFast")
        ),
        ('{"word_tokenizer_type": "mecab"}', "null or .basic., found .mecab"),
        ('{"do_basic_tokenize": false}', "do_basic_tokenize: expected"),
        *(
            (json.dumps(values), r"no tokens besides .* found '\[E1\]'")
            for values in (
                {"additional_special_tokens": ["[SEP]", "[E1]"]},
                {"extra_special_tokens": {"start_token": "[E1]"}},
                {"added_tokens_decoder": {"7": {"content": "[E1]"}}},
                {"cls_token": {"content": "[E1]"}},
            )
        ),
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


@pytest.mark.parametrize(
    "name, values, expected",
    [
        ("added_tokens.json", {"<x>": 18}, "found '<x>'"),
        ("special_tokens_map.json", {"unk_token": "<unk>"}, "found '<unk>'"),
        ("config.json", {"tokenizer_class": "XLMTokenizer"}, "XLMTokenizer"),
    ],
)
def test_other_files_that_name_another_tokenizer(
    tmp_path, name, values, expected
):
    make(["a"]).write(tmp_path)
    write(tmp_path, values, name)
    with pytest.raises(InputError, match=expected) as error:
        WordpieceTokenizer.from_folder(tmp_path)
    assert name in str(error.value)


@pytest.mark.parametrize(
    "name", ["BertTokenizerFast", "ElectraTokenizer", "PreTrainedTokenizerFast"]
)
def test_classes_of_the_same_algorithm(tmp_path, name):
    """As transformers 4 and 5 write them, the five tokens named in each way."""
    make(["a"]).write(tmp_path)
    values = {
        "tokenizer_class": name,
        "add_bos_token": False,
        "bos_token": None,
        "mask_token": {"content": "[MASK]", "lstrip": True},
        "additional_special_tokens": [],
        "added_tokens_decoder": {"4": {"content": "[MASK]"}},
    }
    write(tmp_path, values, "tokenizer_config.json")
    assert WordpieceTokenizer.from_folder(tmp_path).vocab_size == 6


def tokenizer_json(**changes) -> dict:
    """What a `tokenizer.json` of BERT's holds, as far as we read it."""
    values = {
        "added_tokens": [{"id": 0, "content": "[PAD]"}],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: index for index, piece in enumerate(JSON_PIECES)},
        },
    }
    for key, value in changes.items():
        part, _, name = key.partition("__")
        if name:
            values[part][name] = value
        else:
            values[part] = value
    return values


def write(folder, values, name="tokenizer.json"):
    (folder / name).write_text(json.dumps(values))


@pytest.mark.parametrize("lowercase", [True, False])
def test_pieces_and_casing_of_a_json(lowercase, tmp_path):
    """Ids decide the order, and old files have no type of the model."""
    vocab = {piece: index for index, piece in enumerate(JSON_PIECES)}
    values = tokenizer_json(
        normalizer__lowercase=lowercase,
        model__vocab=dict(sorted(vocab.items())),
    )
    if lowercase:
        del values["model"]["type"]
    write(tmp_path, values)
    tokenizer = mb.load_tokenizer(tmp_path)
    assert isinstance(tokenizer, mb.WordpieceTokenizer)
    assert tokenizer.vocab == tuple(JSON_PIECES)
    assert tokenizer.do_lower_case is lowercase
    # Uncased, "É" loses its accent and "E" its size; cased, both stay.
    expected = [[6, 6]] if lowercase else [[8, 1]]
    assert tokenizer.tokenize(["E É"]).to_list() == expected


def test_vocab_txt_wins_and_the_json_knows_the_casing(tmp_path):
    write(tmp_path, tokenizer_json())
    (tmp_path / "vocab.txt").write_text("\n".join([*JSON_PIECES, "more"]))
    tokenizer = mb.load_tokenizer(tmp_path)
    assert tokenizer.vocab == (*JSON_PIECES, "more")
    assert tokenizer.do_lower_case is False


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"normalizer__type": "Sequence"}, "normalizer.type: expected"),
        ({"normalizer": None}, "normalizer: expected BERT's WordPiece"),
        ({"normalizer__lowercase": 1}, "lowercase: expected true or false"),
        ({"normalizer__lowercase": None}, "lowercase: expected true or false"),
        ({"normalizer__strip_accents": True}, "strip_accents: expected null"),
        ({"normalizer__handle_chinese_chars": False}, "chars: expected true"),
        ({"normalizer__clean_text": False}, "clean_text: expected true"),
        ({"pre_tokenizer__type": "Whitespace"}, "pre_tokenizer.type: expected"),
        ({"model__type": "BPE"}, 'model.type: expected null or "WordPiece"'),
        ({"model__unk_token": "<unk>"}, 'unk_token: expected "[UNK]"'),
        ({"model__continuing_subword_prefix": ""}, 'prefix: expected "##"'),
        ({"model__max_input_chars_per_word": 200}, "expected 100, found 200"),
        ({"model__vocab": ["[PAD]"]}, "vocab: expected pieces and ids"),
        ({"model__vocab": {"[PAD]": "0"}}, "vocab: expected pieces and ids"),
        ({"model__vocab": {"[PAD]": 1}}, "vocab: expected ids 0, 1, ..."),
        ({"model__vocab": {"[PAD]": 0}}, "without [UNK] [CLS] [SEP] [MASK]"),
        ({"added_tokens": [{"content": "<x>"}]}, "no tokens besides"),
        ({"added_tokens": [{"content": "a"}]}, "found 'a'"),
    ],
)
def test_what_a_json_may_not_say(changes, expected, tmp_path):
    write(tmp_path, tokenizer_json(**changes))
    with pytest.raises(InputError) as caught:
        mb.load_tokenizer(tmp_path)
    assert expected in str(caught.value)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
def test_more_pieces_than_the_model_has_rows(name, tmp_path):
    write(tmp_path, {"vocab_size": 8}, "config.json")
    if name == "vocab.txt":
        (tmp_path / name).write_text("\n".join(JSON_PIECES))
    else:
        write(tmp_path, tokenizer_json())
    with pytest.raises(InputError) as caught:
        mb.load_tokenizer(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / name}: expected at most 8 pieces, the vocab_size of "
        "config.json, found 9"
    )
    write(tmp_path, {"vocab_size": 10}, "config.json")
    assert mb.load_tokenizer(tmp_path).vocab_size == 9


def test_missing_and_contradicting_files(tmp_path):
    with pytest.raises(InputError, match="vocab.txt: expected a file"):
        mb.load_tokenizer(tmp_path)
    write(tmp_path, tokenizer_json())
    write(tmp_path, {"do_lower_case": True}, "tokenizer_config.json")
    with pytest.raises(InputError, match="expected false, as tokenizer.json"):
        mb.load_tokenizer(tmp_path)
