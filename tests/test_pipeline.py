"""A text in, an answer out, against the model itself."""

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.pipeline import TextClassifier
from mobilebert_tf.tasks.classification import MULTI_LABEL, ClassificationTask
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.training.classifiers import toy_classifier, toy_config

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


@pytest.fixture
def folder(tmp_path):
    WordpieceTokenizer(VOCAB).write(tmp_path)
    return tmp_path


def save(folder, labels=("no", "yes")):
    model = toy_classifier(labels, vocab_size=len(VOCAB))
    model.save_pretrained(folder)
    return model


def test_texts_and_pairs(folder):
    model = save(folder)
    classify = TextClassifier(folder)
    ids = np.array([[2, 5, 6, 3]])
    (logits,) = model({"input_ids": ids}, training=False).numpy()
    answer = classify("a b")
    assert answer.label == ("no", "yes")[logits.argmax()]
    np.testing.assert_allclose(
        list(answer.probabilities.values()),
        scipy.special.softmax(logits),
        rtol=1e-5,
    )
    ids = np.array([[2, 5, 3, 6, 3]])
    segments = np.array([[0, 0, 0, 1, 1]])
    (logits,) = model(
        {"input_ids": ids, "segment_ids": segments}, training=False
    ).numpy()
    (answer,) = classify([("a", "b")])
    np.testing.assert_allclose(
        answer.probabilities["yes"],
        scipy.special.softmax(logits)[1],
        rtol=1e-5,
    )
    many = classify(["a b"] * 20)  # A batch, and a bit.
    np.testing.assert_allclose(
        [answer.probabilities["no"] for answer in many],
        classify("a b").probabilities["no"],
        rtol=1e-5,
    )
    assert classify([]) == []


def test_numbers_and_several_labels(folder):
    model = save(folder, ("value",))
    (logits,) = model(
        {"input_ids": np.array([[2, 5, 3]])}, training=False
    ).numpy()
    answer = TextClassifier(folder)("a")
    assert answer.label == pytest.approx(logits[0], rel=1e-5)
    assert answer.probabilities == {}
    model = save(folder, ("x", "y", "z"))
    model.head.dense.bias.assign([1.0, -1.0, 1.0])
    model.save_pretrained(folder)
    ClassificationTask(("x", "y", "z"), {}, MULTI_LABEL).save(folder)
    answer = TextClassifier(folder)("a")
    assert answer.label == ("x", "z")
    (logits,) = model(
        {"input_ids": np.array([[2, 5, 3]])}, training=False
    ).numpy()
    np.testing.assert_allclose(
        list(answer.probabilities.values()),
        scipy.special.expit(logits),
        rtol=1e-5,
    )


def test_other_models_are_refused(folder):
    config = toy_config(vocab_size=len(VOCAB))
    MobileBertForPretraining(config).save_pretrained(folder)
    with pytest.raises(InputError, match="expected a classifier"):
        TextClassifier(folder)
