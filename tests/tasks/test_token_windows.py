"""Tokens as pieces and windows: by hand, and what must hold of any."""

import numpy as np
import pytest

from mobilebert_tf.tasks.conll import read_sentences
from mobilebert_tf.tasks.token_windows import by_sentence, encode_sentences
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

# [PAD] 0 [UNK] 1 [CLS] 2 [SEP] 3 [MASK] 4 a 5 b 6 c 7 ##b 8 ##c 9 . 10
VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] a b c ##b ##c .".split()
NAMES = ("O", "B-X", "I-X")


@pytest.fixture(scope="module")
def tokenizer():
    return WordpieceTokenizer(VOCAB)


def test_the_first_piece_of_a_token_has_its_label(tokenizer):
    encoded = encode_sentences(
        [["abc", "a.b", "C"], ["z"]],
        [["B-X", "I-X", "O"], ["I-X"]],
        tokenizer,
        10,
        NAMES,
    )
    arrays = encoded.arrays
    np.testing.assert_array_equal(
        arrays["input_ids"],
        [[2, 5, 8, 9, 5, 10, 6, 7, 3, 0], [2, 1, 3, 0, 0, 0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(
        arrays["label_weights"],
        [[0, 1, 0, 0, 1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(
        arrays["labels"],
        [[0, 1, 0, 0, 2, 0, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0, 0, 0, 0, 0]],
    )
    np.testing.assert_array_equal(arrays["input_mask"].sum(axis=1), [9, 3])
    assert not arrays["segment_ids"].any()
    assert {array.dtype for array in arrays.values()} == {np.dtype("int32")}
    assert (encoded.num_divided, encoded.num_cut) == (0, 0)


def test_a_token_of_nothing_is_unknown(tokenizer):
    """It wants a tag as any other: invisible characters are no white space."""
    encoded = encode_sentences([["a", "\u200b", "b"]], None, tokenizer, 8)
    assert encoded.arrays.keys() == {
        "input_ids",
        "input_mask",
        "segment_ids",
        "label_weights",
    }
    assert encoded.arrays["input_ids"][0].tolist() == [2, 5, 1, 6, 3, 0, 0, 0]
    assert encoded.arrays["label_weights"].sum() == 3


def test_a_long_sentence_becomes_windows(tokenizer):
    """Ten pieces fit, with two of context on each side."""
    tokens = list("abcabcabcabcabcabc")  # 18 of one piece each.
    tags = [NAMES[index % 3] for index in range(18)]
    encoded = encode_sentences(
        [["a"], tokens], [["O"], tags], tokenizer, 12, NAMES
    )
    arrays = encoded.arrays
    assert (encoded.num_divided, encoded.num_cut) == (1, 0)
    own = [np.flatnonzero(row).tolist() for row in arrays["label_weights"]]
    # The third one reaches back so far that it is full.
    assert own == [[1], [*range(1, 9)], [*range(3, 7 + 2)], [*range(7, 11)]]
    ids = [5, 6, 7] * 6
    for row, first in zip(arrays["input_ids"][1:], (0, 6, 8), strict=True):
        assert row.tolist() == [2, *ids[first : first + 10], 3]
    weights = arrays["label_weights"] > 0
    labels = [NAMES[index] for index in arrays["labels"][weights]]
    assert labels == ["O", *tags]


def test_a_token_longer_than_a_window_is_cut(tokenizer):
    tokens = ["a", "abcbcbcbc", "b"]
    encoded = encode_sentences([tokens], None, tokenizer, 8)
    arrays = encoded.arrays
    assert (encoded.num_divided, encoded.num_cut) == (1, 1)
    assert arrays["input_ids"].tolist() == [
        [2, 5, 3, 0, 0, 0, 0, 0],
        [2, 5, 8, 9, 8, 9, 8, 3],
        [2, 6, 3, 0, 0, 0, 0, 0],
    ]
    assert arrays["label_weights"][:, 1].tolist() == [1, 1, 1]
    assert arrays["label_weights"].sum() == 3


def test_every_token_is_predicted_once(tokenizer, rng):
    """Whatever lengths: in order, in context, in a window that is not over."""
    for _ in range(300):
        length = int(rng.integers(8, 24))
        room = length - 2
        sentences, number = [], 0
        for _ in range(rng.integers(1, 4)):
            sizes = rng.integers(
                1, rng.integers(2, length), rng.integers(1, 40)
            )
            sentences.append(["a" + "b" * (size - 1) for size in sizes])
            number += len(sizes)
        tags = [
            [str(int(n)) for n in rng.integers(0, 5, len(some))]
            for some in sentences
        ]
        arrays = encode_sentences(
            sentences, tags, tokenizer, length, "01234"
        ).arrays
        weights, ids = arrays["label_weights"] > 0, arrays["input_ids"]
        used = arrays["input_mask"].sum(axis=1)
        assert weights.sum() == number and used.max() <= length
        assert (ids[weights] == 5).all()
        rows = np.arange(len(ids))
        assert (ids[:, 0] == 2).all() and (ids[rows, used - 1] == 3).all()
        labels = by_sentence(arrays["labels"][weights].tolist(), sentences)
        assert [[str(n) for n in row] for row in labels] == tags
        # Where a window's sentence goes on, tokens near its edge are another
        # window's, unless they are so long that there is no room.
        if max(len(t) for some in sentences for t in some) == 1:
            for row, mask in enumerate(weights[:-1]):
                last = np.flatnonzero(mask)[-1]
                if used[row] == length and not weights[row, length - 2]:
                    assert length - 2 - last >= room // 4


def test_real_text_takes_the_pieces_of_its_words(shared_data, tmp_path):
    """As many windows as a count of pieces says, each token's own pieces."""
    tokenizer = WordpieceTokenizer.from_vocab_file(
        shared_data / "vocab/bert-base-uncased-vocab.txt"
    )
    text = (shared_data / "corpus/wikipedia.docs.txt").read_text()
    path = tmp_path / "words.txt"
    lines = [line.split() for line in text[:200_000].splitlines()]
    path.write_text("\n\n".join("\n".join(line) for line in lines if line))
    sentences = read_sentences(path, has_tags=False)
    encoded = encode_sentences(sentences.tokens, None, tokenizer, 64)
    weights = encoded.arrays["label_weights"]
    assert weights.sum() == sentences.num_tokens > 10_000
    first_ids = encoded.arrays["input_ids"][weights > 0]
    flat = [token for some in sentences.tokens for token in some]
    pieces = tokenizer.tokenize(flat[::97]).to_list()
    wanted = [row[0] if row else tokenizer.unk_id for row in pieces]
    assert first_ids[::97].tolist() == wanted
    texts = [" ".join(some) for some in sentences.tokens]
    counts = tokenizer.tokenize(texts).row_lengths().numpy()
    assert encoded.num_divided == np.sum(counts > 62) > 0
