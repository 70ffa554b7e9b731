"""Our word pieces against Hugging Face's BertTokenizerFast.

On the corpora nothing may differ, ids and offsets, uncased and cased. Over
single characters nothing may differ whose Unicode properties are as they were
in version 3.2. What does differ is listed here class by class; Model Garden's
copy of the original BERT tokenizer then tells who is right.
"""

import sys
import types
import unicodedata

import numpy as np
import pytest

from mobilebert_tf.text.tokenizer import WordpieceTokenizer

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.peers

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = ["a", "b", "##a", "##b"]


def hugging_face(vocab, do_lower_case):
    """The peer's tokenizer proper, without the wrapper's padding."""
    ids = {piece: index for index, piece in enumerate(vocab)}
    return transformers.BertTokenizerFast(
        vocab=ids, do_lower_case=do_lower_case
    ).backend_tokenizer


def peer_rows(peer, texts):
    """(ids, offsets) of each text, int [(pieces)] and [(pieces), 2]."""
    for start in range(0, len(texts), 2000):
        for encoding in peer.encode_batch(
            texts[start : start + 2000], add_special_tokens=False
        ):
            offsets = np.array(encoding.offsets).reshape(-1, 2)
            yield np.array(encoding.ids), offsets


def our_rows(ours, texts):
    ragged = ours.tokenize_with_offsets(texts)
    splits = ragged[0].row_splits.numpy()
    ids, starts, ends = (part.flat_values.numpy() for part in ragged)
    offsets = np.stack([starts, ends], axis=1)
    for first, last in zip(splits[:-1], splits[1:], strict=True):
        yield ids[first:last], offsets[first:last]


@pytest.fixture
def original(monkeypatch, tmp_path):
    """Makes the original BERT tokenizer, in Python, from pieces."""
    pytest.importorskip("official")
    # Its module imports SentencePiece for ALBERT, which is not needed here.
    monkeypatch.setitem(
        sys.modules, "sentencepiece", types.ModuleType("sentencepiece")
    )
    from official.nlp.tools import tokenization

    def make(vocab, do_lower_case=True):
        path = tmp_path / "vocab.txt"
        path.write_text("\n".join(vocab) + "\n", encoding="utf-8")
        return tokenization.FullTokenizer(
            str(path), do_lower_case, split_on_punc=True
        )

    return make


def differing(ours, peer, texts):
    return [
        text
        for text, our_row, peer_row in zip(
            texts, our_rows(ours, texts), peer_rows(peer, texts), strict=True
        )
        if not all(map(np.array_equal, our_row, peer_row))
    ]


@pytest.mark.parametrize("do_lower_case", [True, False])
@pytest.mark.parametrize("name", ["wikipedia", "books"])
def test_no_line_of_the_corpora_differs(shared_data, name, do_lower_case):
    path = shared_data / "vocab/bert-base-uncased-vocab.txt"
    ours = WordpieceTokenizer.from_vocab_file(path, do_lower_case)
    peer = hugging_face(ours.vocab, do_lower_case)
    content = (shared_data / f"corpus/{name}.docs.txt").read_bytes()
    texts = content.decode("utf-8").split("\n")
    assert len(texts) > 20_000
    assert differing(ours, peer, texts) == []


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_no_lasting_character_differs(do_lower_case):
    """Between two letters, it tells letters, marks, signs and spaces apart."""
    old = unicodedata.ucd_3_2_0
    texts = [
        f"a{character}b {character}"
        for character in map(chr, range(0x110000))
        if unicodedata.category(character) == old.category(character)
        and old.category(character) not in ("Cn", "Co", "Cs")
    ]
    assert len(texts) > 90_000
    ours = WordpieceTokenizer([*SPECIAL, *LETTERS], do_lower_case)
    peer = hugging_face(ours.vocab, do_lower_case)
    assert differing(ours, peer, texts) == []


def test_lower_case_and_accents_of_every_lasting_letter():
    """Each as its own word, in a vocabulary of all letters and marks."""
    old = unicodedata.ucd_3_2_0
    letters = [
        character
        for character in map(chr, range(0x30000))
        if old.category(character)[0] == "L"
        and unicodedata.category(character)[0] == "L"
        # Han and Hangul have no case, and fill ten times the rest.
        and not unicodedata.name(character).startswith(("CJK", "HANGUL"))
    ]
    assert len(letters) > 5_000
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    ours = WordpieceTokenizer([*SPECIAL, *pieces])
    peer = hugging_face(ours.vocab, do_lower_case=True)
    assert differing(ours, peer, letters) == []


def test_long_words_and_undrawn_characters():
    vocab = [*SPECIAL, *LETTERS, "ж", "##ж", "한", "##한"]
    texts = ["ж" * n + "\u0301 a" for n in (33, 34, 99, 100, 101, 399, 500)]
    texts += ["a" * 101 + ",b", "\ufeffa\u200db\u00ad", "\u0301a", "a\x00\x1fb"]
    texts += ["", " ", "\x00", "한글 a\u0301\u0327b\u0301", "İa Åb ﬁ ½ ß"]
    for do_lower_case in (True, False):
        ours = WordpieceTokenizer(vocab, do_lower_case)
        peer = hugging_face(vocab, do_lower_case)
        assert differing(ours, peer, texts) == []


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_sample_of_the_corpora_against_the_original(
    original, shared_data, do_lower_case
):
    """Every twentieth line: the original is some forty times slower."""
    path = shared_data / "vocab/bert-base-uncased-vocab.txt"
    ours = WordpieceTokenizer.from_vocab_file(path, do_lower_case)
    theirs = original(ours.vocab, do_lower_case)
    for name in ("wikipedia", "books"):
        content = (shared_data / f"corpus/{name}.docs.txt").read_bytes()
        texts = content.decode("utf-8").split("\n")[::20]
        for text, row in zip(
            texts, ours.tokenize(texts).to_list(), strict=True
        ):
            assert [ours.vocab[i] for i in row] == theirs.tokenize(text)


# Case, text, our pieces and the original's, the peer's pieces.
KNOWN_DIFFERENCES = [
    # The wrapper takes them out of the text before it is tokenized; the
    # original, like us, lets no text forge a separator.
    ("special token in text", "a[SEP]", "a [UNK] [UNK] [UNK]", "a [SEP]"),
    # Python's lower() knows the Greek rule, Rust's per-character one does not.
    ("final sigma", "ΟΔΟΣ", "οδος", "οδοσ"),
    # The original drops control and format characters only.
    ("private use", "a\ue000b", "[UNK]", "a ##b"),
    # Characters that Unicode added after the peer's tables were made.
    ("newer punctuation", "a\u2e43b", "a [UNK] b", "[UNK]"),
    ("newer combining mark", "a\u1df6b", "a ##b", "[UNK]"),
    ("newer format character", "a\u08e2b", "a ##b", "[UNK]"),
    # Characters that Unicode has classified anew since.
    ("sign that was punctuation", "a\u166db", "[UNK]", "a [UNK] b"),
    ("mark that was a letter", "a\u1885b", "a ##b", "[UNK]"),
    ("spacing that was a mark", "a\u1734b", "[UNK]", "a ##b"),
    ("mark that was punctuation", "a\U000111c9b", "a ##b", "a [UNK] b"),
    # The peer's range starts at U+2B920, by a slip of the pen.
    ("Han extension E", "a\U0002b820b", "a [UNK] b", "[UNK]"),
]


@pytest.mark.parametrize(
    "text, expected, other",
    [case[1:] for case in KNOWN_DIFFERENCES],
    ids=[case[0] for case in KNOWN_DIFFERENCES],
)
def test_known_differences(original, text, expected, other):
    vocab = [*SPECIAL, *LETTERS, "οδος", "οδοσ"]
    assert original(vocab).tokenize(text) == expected.split()
    ours = WordpieceTokenizer(vocab)
    pieces = [vocab[index] for index in ours.tokenize([text]).to_list()[0]]
    assert pieces == expected.split()
    encoding = hugging_face(vocab, True).encode(text, add_special_tokens=False)
    assert encoding.tokens == other.split()


def test_characters_newer_than_this_python():
    """The one class where we leave the original: the kernel's Unicode is newer.

    U+1B4E is Balinese punctuation since Unicode 16; older Pythons, and with
    them the original, take it for part of a word, as the peer does.
    """
    vocab = [*SPECIAL, *LETTERS]
    text = "a\u1b4eb"
    ours = WordpieceTokenizer(vocab).tokenize([text]).to_list()
    assert ours == [[5, 1, 6]]
    peer = hugging_face(vocab, True).encode(text, add_special_tokens=False)
    assert peer.tokens == ["[UNK]"]


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_auto_tokenizer_opens_our_folder(tmp_path, do_lower_case):
    vocab = [*SPECIAL, *LETTERS, "é", "A"]
    ours = WordpieceTokenizer(vocab, do_lower_case)
    ours.write(tmp_path, model_max_length=64)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert len(peer) == len(vocab)
    assert peer.model_max_length == 64
    assert peer.pad_token_id == ours.pad_id
    texts = ["a B É Ab, 博", "A[b]"]
    expected = [
        [ours.cls_id, *row, ours.sep_id]
        for row in ours.tokenize(texts).to_list()
    ]
    assert peer(texts)["input_ids"] == expected


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_we_open_the_peers_folder(tmp_path, do_lower_case):
    vocab = [*SPECIAL, *LETTERS, "A"]
    ids = {piece: index for index, piece in enumerate(vocab)}
    peer = transformers.BertTokenizerFast(
        vocab=ids, do_lower_case=do_lower_case
    )
    peer.save_pretrained(tmp_path)
    # Version 5 writes tokenizer.json only; published folders have vocab.txt.
    assert not (tmp_path / "vocab.txt").exists()
    ours = WordpieceTokenizer.from_folder(tmp_path)
    assert ours.do_lower_case is do_lower_case
    expected = peer("A ab", add_special_tokens=False)["input_ids"]
    assert ours.tokenize(["A ab"]).to_list() == [expected]
