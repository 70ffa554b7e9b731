"""Tokenizers of folders: both forms, their casing, and what is refused.

That the forms are Hugging Face's own is proved in `tests/peers/test_tokens.py`.
"""

import json

import pytest

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "é", "e", "##e", "E"]


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
            "vocab": {piece: index for index, piece in enumerate(PIECES)},
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
    write(tmp_path, tokenizer_json(normalizer__lowercase=lowercase))
    tokenizer = mb.load_tokenizer(tmp_path)
    assert isinstance(tokenizer, mb.WordpieceTokenizer)
    assert tokenizer.vocab == tuple(PIECES)
    assert tokenizer.do_lower_case is lowercase
    # Uncased, "É" loses its accent and "E" its size; cased, both stay.
    expected = [[6, 6]] if lowercase else [[8, 1]]
    assert tokenizer.tokenize(["E É"]).to_list() == expected


def test_ids_decide_the_order(tmp_path):
    vocab = {piece: index for index, piece in enumerate(PIECES)}
    shuffled = dict(sorted(vocab.items()))
    write(tmp_path, tokenizer_json(model__vocab=shuffled))
    assert mb.load_tokenizer(tmp_path).vocab == tuple(PIECES)


def test_old_files_leave_the_type_unsaid(tmp_path):
    values = tokenizer_json()
    del values["model"]["type"]
    write(tmp_path, values)
    assert mb.load_tokenizer(tmp_path).vocab == tuple(PIECES)


def test_vocab_txt_wins_and_the_json_knows_the_casing(tmp_path):
    write(tmp_path, tokenizer_json())
    (tmp_path / "vocab.txt").write_text("\n".join([*PIECES, "more"]))
    tokenizer = mb.load_tokenizer(tmp_path)
    assert tokenizer.vocab == (*PIECES, "more")
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
        ({"added_tokens": [{"content": "<x>"}]}, "added_tokens: expected"),
    ],
)
def test_what_a_json_may_not_say(changes, expected, tmp_path):
    write(tmp_path, tokenizer_json(**changes))
    with pytest.raises(InputError) as caught:
        mb.load_tokenizer(tmp_path)
    assert expected in str(caught.value)
    assert str(tmp_path / "tokenizer.json") in str(caught.value)


def test_contradicting_casings(tmp_path):
    write(tmp_path, tokenizer_json())
    write(tmp_path, {"do_lower_case": True}, "tokenizer_config.json")
    with pytest.raises(InputError, match="expected false, as tokenizer.json"):
        mb.load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["vocab.txt", "tokenizer.json"])
@pytest.mark.parametrize("vocab_size", [8, 10])
def test_another_size_than_the_models(name, vocab_size, tmp_path):
    write(tmp_path, {"vocab_size": vocab_size}, "config.json")
    if name == "vocab.txt":
        (tmp_path / name).write_text("\n".join(PIECES))
    else:
        write(tmp_path, tokenizer_json())
    with pytest.raises(InputError) as caught:
        mb.load_tokenizer(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / name}: expected {vocab_size} pieces, the vocab_size of "
        "config.json, found 9"
    )


def test_no_tokenizer(tmp_path):
    with pytest.raises(InputError, match="vocab.txt: expected a vocabulary"):
        mb.load_tokenizer(tmp_path)
