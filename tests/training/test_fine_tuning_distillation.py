"""A task's teacher: losses against NumPy, and what teachers are refused."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.training.fine_tuning import task_loss
from mobilebert_tf.training.fine_tuning_distillation import (
    TeacherWeights,
    distillation_loss,
    load_task_teacher,
    taught_loss,
)
from tests.training.classifiers import (
    LABELS,
    toy_arrays,
    toy_classifier,
    toy_config,
)

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
STILL = {
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout_prob": 0.0,
}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_answers_against_scipy(rng, temperature):
    ours, theirs = rng.normal(0, 2, (2, 7, 4))
    p, q = (
        scipy.special.softmax(logits / temperature, axis=1)
        for logits in (theirs, ours)
    )
    expected = temperature**2 * scipy.stats.entropy(p, q, axis=1).mean()
    loss = distillation_loss(ours, theirs, temperature, several=False)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    p, q = (
        scipy.special.expit(logits / temperature) for logits in (theirs, ours)
    )
    by_class = scipy.stats.entropy([p, 1 - p], [q, 1 - q])
    loss = distillation_loss(ours, theirs, temperature, several=True)
    expected = temperature**2 * by_class.mean()
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_regressions_answer_is_a_number():
    ours, theirs = np.array([[1.0], [2.0]]), np.array([[3.0], [2.5]])
    loss = distillation_loss(ours, theirs, 2.0, several=False)
    assert float(loss) == pytest.approx((4 + 0.25) / 2)


def test_terms_by_hand():
    student, teacher = toy_classifier(**STILL), toy_classifier(**STILL)
    batch = toy_arrays(5, 1)
    weights = TeacherWeights(logits=0.3, temperature=2.0, feature_maps=4.0)
    terms = taught_loss(student, teacher, weights)(batch)
    logits, theirs = (
        model(batch, training=False).numpy() for model in (student, teacher)
    )
    maps = [
        model.encoder(batch, training=False).feature_maps[1].numpy()
        for model in (student, teacher)
    ]
    real = batch["input_mask"].astype(bool)
    difference = np.square(maps[0] - maps[1])[real].mean()
    assert float(terms["feature_map_transfer_loss"]) == pytest.approx(
        difference, rel=1e-4
    )
    labelled = float(task_loss(logits, batch["labels"]))
    taught = float(distillation_loss(logits, theirs, 2.0, several=False))
    assert float(terms["task_loss"]) == pytest.approx(labelled, rel=1e-5)
    assert float(terms["distillation_loss"]) == pytest.approx(taught, rel=1e-4)
    assert float(terms["loss"]) == pytest.approx(
        0.7 * labelled + 0.3 * taught + 4.0 * difference, rel=1e-4
    )


def test_nothing_is_learned_from_an_equal():
    keras.utils.set_random_seed(1)
    student = toy_classifier(**STILL)
    keras.utils.set_random_seed(1)
    teacher = toy_classifier(**STILL)
    weights = TeacherWeights(logits=1.0, feature_maps=1.0)
    terms = taught_loss(student, teacher, weights)(toy_arrays(5, 1))
    assert abs(float(terms["distillation_loss"])) < 1e-7
    assert float(terms["feature_map_transfer_loss"]) < 1e-10


def test_teachers_that_cannot_teach(tmp_path):
    tokenizer = WordpieceTokenizer(VOCAB)
    config = {"vocab_size": len(VOCAB)}
    folder = tmp_path / "teacher"
    toy_classifier(**config).save_pretrained(folder)
    tokenizer.write(folder)
    assert load_task_teacher(folder, tokenizer, LABELS).label_names == LABELS
    with pytest.raises(InputError, match="classes yes, no, found no, yes"):
        load_task_teacher(folder, tokenizer, LABELS[::-1])
    other = WordpieceTokenizer([*VOCAB[:-1], "b"])
    with pytest.raises(InputError, match="the student's vocabulary"):
        load_task_teacher(folder, other, LABELS)
    pretrained = tmp_path / "pretrained"
    MobileBertForPretraining(toy_config(**config)).save_pretrained(pretrained)
    with pytest.raises(InputError, match="expected a classifier"):
        load_task_teacher(pretrained, tokenizer, LABELS)
    weights = TeacherWeights(feature_maps=1.0)
    with pytest.raises(InputError, match="1 blocks of width 16, or 0, found 2"):
        taught_loss(
            toy_classifier(), toy_classifier(num_hidden_layers=2), weights
        )
