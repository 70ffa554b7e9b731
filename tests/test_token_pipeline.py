"""A text in, entities out, against the model itself."""

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForTokenClassification
from mobilebert_tf.pipeline import FoundEntity, TokenClassifier
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.training.classifiers import toy_classifier, toy_config

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", ",", "##b"]
NAMES = ("O", "B-X", "I-X")


@pytest.fixture
def folder(tmp_path):
    WordpieceTokenizer(VOCAB).write(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder):
    config = toy_config(vocab_size=len(VOCAB))
    model = MobileBertForTokenClassification(config, NAMES)
    # So that tags differ from token to token.
    kernel = model.head.dense.kernel
    kernel.assign(np.random.default_rng(1).normal(size=kernel.shape))
    model.save_pretrained(folder)
    return model


def test_tokens_get_the_tags_of_their_first_pieces(folder, model):
    tagger = TokenClassifier(folder)
    tags, probs = tagger.tag([["a", "ab", "c"], [], ["d"]])
    ids = np.array([[2, 5, 5, 14, 7, 3]])
    (logits,) = model({"input_ids": ids}, training=False).numpy()
    wanted = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    wanted = wanted[[1, 2, 4]]
    assert tags[0] == [NAMES[index] for index in wanted.argmax(axis=-1)]
    np.testing.assert_allclose(probs[0], wanted.max(axis=-1), rtol=1e-4)
    assert [len(some) for some in tags] == [3, 0, 1]
    # A batch, and a bit; and windows.
    many, _ = tagger.tag([["a", "ab", "c"]] * 20)
    assert many == [tags[0]] * 20
    (long,), _ = TokenClassifier(folder, 8).tag([["a", "b"] * 50])
    assert len(long) == 100
    assert tagger.tag([[]]) == ([[]], [[]])


def test_entities_stand_where_they_say(folder, model, monkeypatch):
    tagger = TokenClassifier(folder)
    text = "A  b,c\u200b d. "
    tags = ["B-X", "I-X", "O", "B-X", "B-X", "O"]
    probs = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    asked = []

    def tag(sentences):
        asked.extend(sentences)
        return [tags] * len(sentences), [probs] * len(sentences)

    monkeypatch.setattr(tagger, "tag", tag)
    found = tagger(text)
    assert asked == [["A", "b", ",", "c\u200b", "d", "."]]
    assert found == [
        FoundEntity("X", "A  b", 0, 4, 0.8),
        FoundEntity("X", "c\u200b", 5, 7, 0.6),
        FoundEntity("X", "d", 8, 9, 0.5),
    ]
    assert tagger([text, text]) == [found, found]


def test_texts_without_a_token(folder, model):
    tagger = TokenClassifier(folder)
    assert tagger("") == [] and tagger([]) == []
    assert tagger([" ", "a"])[0] == []


def test_other_models_are_refused(folder):
    toy_classifier(vocab_size=len(VOCAB)).save_pretrained(folder)
    with pytest.raises(InputError, match="expected a tagger"):
        TokenClassifier(folder)
