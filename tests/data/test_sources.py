"""Text to train on and text to evaluate on."""

import pytest

from mobilebert_tf.data.sources import (
    held_out_documents,
    load_text,
    tokenize_split,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture
def text_file(tmp_path):
    """A hundred documents; number n has the word w<n> twice."""
    path = tmp_path / "text.txt"
    path.write_text(
        "".join(f"w{number}. W{number}\n\n" for number in range(100))
    )
    return str(path)


def test_lines_become_sentences(text_file):
    documents = load_text([text_file])
    assert len(documents) == 100
    assert documents[7] == ["w7.", "W7"]


def test_every_document_is_on_one_side(text_file):
    tokenizer = WordpieceTokenizer(
        [*SPECIAL, *(f"w{number}" for number in range(100)), "."]
    )
    train, held_out = tokenize_split([text_file], tokenizer, 16, 0.1)
    assert (train.num_documents, held_out.num_documents) == (90, 10)
    sides = [set(side.tokens.tolist()) for side in (train, held_out)]
    assert sides[0] & sides[1] == {105}
    assert sides[0] | sides[1] == set(range(5, 106))


def test_a_document_stays_on_its_side_when_others_leave():
    documents = [[f"document {number}"] for number in range(400)]
    held_out = held_out_documents(documents, 0.1)
    fewer = [documents[n] for n in range(400) if n in held_out or n % 2]
    still = held_out_documents(fewer, 40 / len(fewer))
    assert {fewer[n][0] for n in still} == {documents[n][0] for n in held_out}


def test_both_sides_get_two_documents():
    documents = [["a"], ["b"], ["c"], ["d"]]
    assert len(held_out_documents(documents, 0.0)) == 2
    assert len(held_out_documents(documents, 0.5)) == 2
    with pytest.raises(InputError, match="at least 4 documents.*found 3"):
        held_out_documents(documents[:3], 0.1)
