"""A task's teacher: losses against NumPy, and what teachers are refused."""

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import (
    MobileBertForPretraining,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.tasks.classification import task_loss
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.fine_tuning import (
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


def opinionated(model):
    """Gives a new model logits that are not all near zero."""
    model.head.dense.kernel.assign(300.0 * model.head.dense.kernel)
    return model


def kl(ours, theirs, temperature):
    """KL(teacher || student) of rows of logits."""
    p, q = (
        scipy.special.softmax(logits.astype(np.float64) / temperature, axis=-1)
        for logits in (theirs, ours)
    )
    return temperature**2 * scipy.stats.entropy(p, q, axis=-1)


def test_a_tagger_learns_what_its_teacher_says_of_tokens(rng):
    config = toy_config(**STILL)
    student, teacher = (
        opinionated(MobileBertForTokenClassification(config, "OBI"))
        for _ in range(2)
    )
    batch = toy_arrays(5, 1)
    places = rng.random((5, 24)) < 0.3 * batch["input_mask"]
    batch |= {
        "labels": rng.integers(0, 3, (5, 24)).astype(np.int32),
        "label_weights": places.astype(np.float32),
    }
    logits, theirs = (
        model(batch, training=False).numpy() for model in (student, teacher)
    )
    log_probs = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    rows, columns = np.nonzero(places)
    labelled = -log_probs[rows, columns, batch["labels"][places]].mean()
    taught = kl(logits[places], theirs[places], 2.0).mean()
    loss = taught_loss(student, teacher, TeacherWeights(0.3, 2.0))
    # As the input pipeline has it: inputs are cut, labels are not.
    cut = {
        name: array if name.startswith("label") else array[:, :21]
        for name, array in batch.items()
    }
    for one in (batch, cut):
        terms = loss(one)
        assert float(terms["task_loss"]) == pytest.approx(labelled, rel=1e-4)
        assert float(terms["distillation_loss"]) == pytest.approx(
            taught, rel=1e-3
        )
        assert float(terms["loss"]) == pytest.approx(
            0.7 * labelled + 0.3 * taught, rel=1e-4
        )


def test_an_answerer_learns_where_its_teacher_looks(rng):
    config = toy_config(**STILL)
    student, teacher = (
        opinionated(MobileBertForQuestionAnswering(config)) for _ in range(2)
    )
    batch = toy_arrays(5, 1)
    positions = {
        name: rng.integers(1, 3, 5).astype(np.int32)
        for name in ("start_positions", "end_positions")
    }
    terms = taught_loss(student, teacher, TeacherWeights(1.0, 3.0, 2.0))(
        batch | positions
    )
    ours, theirs = (
        model(batch, training=False) for model in (student, teacher)
    )
    taught = np.mean(
        [kl(ours[name].numpy(), theirs[name].numpy(), 3.0) for name in ours]
    )
    assert float(terms["distillation_loss"]) == pytest.approx(taught, rel=1e-3)
    assert float(terms["loss"]) == pytest.approx(
        taught + 2.0 * float(terms["feature_map_transfer_loss"]), rel=1e-3
    )
    log_probs = [
        scipy.special.log_softmax(ours[f"{end}_logits"].numpy(), axis=-1)[
            np.arange(5), positions[f"{end}_positions"]
        ]
        for end in ("start", "end")
    ]
    assert float(terms["task_loss"]) == pytest.approx(
        -np.mean(log_probs), rel=1e-4
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
    kind = MobileBertForSequenceClassification
    teacher = load_task_teacher(folder, tokenizer, kind, LABELS, 24)
    assert teacher.label_names == LABELS
    with pytest.raises(InputError, match="classes yes, no, found no, yes"):
        load_task_teacher(folder, tokenizer, kind, LABELS[::-1])
    other = WordpieceTokenizer([*VOCAB[:-1], "b"])
    with pytest.raises(InputError, match="the student's vocabulary"):
        load_task_teacher(folder, other, kind, LABELS)
    with pytest.raises(InputError, match="of 25 pieces, found 24 at most"):
        load_task_teacher(folder, tokenizer, kind, LABELS, 25)
    pretrained = tmp_path / "pretrained"
    MobileBertForPretraining(toy_config(**config)).save_pretrained(pretrained)
    for model in (kind, MobileBertForQuestionAnswering):
        expected = f"expected a {model.architecture}, found MobileBertForPre"
        with pytest.raises(InputError, match=expected):
            load_task_teacher(pretrained, tokenizer, model, LABELS)
    weights = TeacherWeights(feature_maps=1.0)
    with pytest.raises(InputError, match="1 blocks of width 16, or 0, found 2"):
        taught_loss(
            toy_classifier(), toy_classifier(num_hidden_layers=2), weights
        )
