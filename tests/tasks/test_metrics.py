"""Metrics against scikit-learn, numbers worked by hand, and conlleval."""

import itertools
import math
import random
import warnings

import numpy as np
import pytest
import sklearn.dummy
import sklearn.metrics

from mobilebert_tf.tasks.metrics import (
    Entity,
    accuracy,
    classification_metrics,
    entities,
    entity_metrics,
    largest_class_floor,
    metrics_by_type,
    most_frequent_labels_floor,
    most_frequent_tags,
    multi_label_metrics,
    regression_metrics,
)


def test_binary_metrics_by_hand():
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
    labels = [1] * 5 + [0] * 5
    predictions = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    metrics = classification_metrics(labels, predictions, 2)
    matthews = (3 * 4 - 1 * 2) / math.sqrt(
        (3 + 1) * (3 + 2) * (4 + 1) * (4 + 2)
    )
    assert metrics == {
        "accuracy": pytest.approx(0.7),
        "f1": pytest.approx(2 * 3 / (2 * 3 + 1 + 2)),
        "matthews": pytest.approx(matthews),
    }
    assert list(metrics) == ["accuracy", "f1", "matthews"]
    assert all(type(value) is float for value in metrics.values())


def test_the_number_of_classes_decides_which_f1():
    labels, predictions = [0, 0, 1, 1], [0, 1, 1, 1]
    # Class 0: 1 hit of 2 and 1; class 1: 2 hits of 2 and 3.
    f1 = [2 * 1 / 3, 2 * 2 / 5]
    two = classification_metrics(labels, predictions, 2)
    assert two["f1"] == pytest.approx(f1[1])
    three = classification_metrics(labels, predictions, 3)
    assert three["f1"] == pytest.approx(sum(f1) / 2)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_floor_is_that_of_a_dummy_classifier(num_classes):
    labels = np.random.default_rng(0).integers(0, num_classes, 50)
    dummy = sklearn.dummy.DummyClassifier(strategy="most_frequent")
    predictions = dummy.fit(labels, labels).predict(labels)
    floor = largest_class_floor(labels, num_classes)
    assert floor == classification_metrics(labels, predictions, num_classes)
    assert floor["accuracy"] == pytest.approx(dummy.score(labels, labels))


def test_the_floor_of_several_labels_is_the_best_of_all_constants(rng):
    for _ in range(20):
        labels = (rng.random((15, 4)) < rng.random(4)).astype(int)
        labels[0, 0] = 1
        f1 = [
            sklearn.metrics.f1_score(
                labels,
                np.tile(constant, (15, 1)),
                average="micro",
                zero_division=0.0,
            )
            for constant in itertools.product([0, 1], repeat=4)
        ]
        floor = most_frequent_labels_floor(labels)
        assert floor["micro_f1"] == pytest.approx(max(f1))


@pytest.mark.parametrize("constant", [0, 1])
def test_constant_predictions_are_defined(constant):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = classification_metrics([0, 1, 1, 0, 1], [constant] * 5, 2)
    assert metrics["accuracy"] == pytest.approx(0.6 if constant else 0.4)
    # All positive: 3 true positives, 2 false ones.
    assert metrics["f1"] == pytest.approx(6 / 8 if constant else 0.0)
    assert metrics["matthews"] == 0.0


def test_regression_by_hand():
    metrics = regression_metrics([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 8.0])
    # Deviations (-1.5, -0.5, 0.5, 1.5) and (-4.5, -1.5, 3.5, 2.5).
    covariance = 1.5 * 4.5 + 0.5 * 1.5 + 0.5 * 3.5 + 1.5 * 2.5
    norms = math.sqrt(5.0 * (4.5**2 + 1.5**2 + 3.5**2 + 2.5**2))
    assert metrics["mean_absolute_error"] == (0 + 2 + 6 + 4) / 4
    assert metrics["pearson"] == pytest.approx(covariance / norms)
    # Ranks 1 2 3 4 and 1 2 4 3: 1 - 6 * (1 + 1) / (4 * 15).
    assert metrics["spearman"] == pytest.approx(0.8)
    # Ties get their mean rank: covariance 1.5, norms sqrt(2 * 1.5).
    metrics = regression_metrics([1, 2, 3], [5, 5, 6])
    assert metrics["spearman"] == pytest.approx(1.5 / math.sqrt(3.0))


@pytest.mark.parametrize("labels", [[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
def test_constant_regression_is_zero(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = regression_metrics(labels, [0.1, 0.1, 0.1])
    error = sklearn.metrics.mean_absolute_error(labels, [0.1] * 3)
    assert metrics.pop("mean_absolute_error") == pytest.approx(error)
    assert metrics == {"pearson": 0.0, "spearman": 0.0}


def test_float32_predictions_far_from_zero():
    labels = np.array([1.0, 2.0, 3.0, 5.0])
    predictions = (1e6 + labels).astype(np.float32)
    metrics = regression_metrics(labels, predictions)
    assert metrics["pearson"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("metrics", "labels", "predictions", "message"),
    [
        (classification_metrics, [], [], "rank 1"),
        (classification_metrics, [0, 1], [0], "rank 1"),
        (classification_metrics, [[0, 1]], [[0, 1]], "rank 1"),
        (regression_metrics, [], [], "rank 1"),
        (regression_metrics, [1.0, 2.0], [float("nan"), 2.0], "finite"),
        (multi_label_metrics, [0, 0], [0, 0], "rank 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    metrics, labels, predictions, message
):
    arguments = [2] if metrics is classification_metrics else []
    with pytest.raises(ValueError, match=message):
        metrics(labels, predictions, *arguments)


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_several_labels_against_scikit_learn(num_classes, rng):
    labels = (rng.random((200, num_classes)) < 0.3).astype(int)
    if num_classes > 1:
        labels[:, 0] = 0  # Never true.
    predictions = np.where(rng.random(labels.shape) < 0.2, 1 - labels, labels)
    metrics = multi_label_metrics(labels, predictions)
    for average in ("micro", "macro"):
        # With a column that never occurs, so that one class is a table too.
        theirs = sklearn.metrics.f1_score(
            np.pad(labels, ((0, 0), (0, 1))),
            np.pad(predictions, ((0, 0), (0, 1))),
            labels=range(num_classes),
            average=average,
            zero_division=0.0,
        )
        assert metrics[f"{average}_f1"] == pytest.approx(theirs, abs=1e-12)
    exact = np.mean([list(a) == list(b) for a, b in zip(labels, predictions)])
    assert metrics["exact_match"] == pytest.approx(exact)


def test_several_labels_by_hand():
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]])
    predictions = np.array([[1, 0, 0], [0, 1, 1], [0, 0, 0]])
    # 2 hits, 3 true and 3 predicted; by class 1 of 1, 1 of 2 and 1, 0 of 1.
    assert multi_label_metrics(labels, predictions) == pytest.approx(
        {
            "micro_f1": 2 * 2 / (3 + 3),
            "macro_f1": (1 + 2 / 3 + 0) / 3,
            "exact_match": 1 / 3,
        }
    )
    zeros = np.zeros((3, 2), int)
    assert multi_label_metrics(zeros, zeros) == {
        "micro_f1": 0.0,
        "macro_f1": 0.0,
        "exact_match": 1.0,
    }


def conlleval(tags, predictions):
    """The counting of conlleval: one pass over lines, chunks kept open.

    From the definition of the program of the CoNLL-2000 to 2003 shared tasks:
    a chunk is right if it begins and ends at the same lines as a right one of
    the same type. Chunks are never listed, only opened and closed. The
    transitions are its own, and those it has no letters for: S, a chunk of one
    token, and B after E.
    """
    closing = {"BB", "BO", "IB", "IO", "EE", "EI", "EO", "EB"}
    opening = {"BB", "IB", "OB", "OI", "EE", "EI", "OE", "EB"}
    for letter in "BIEOS":
        closing |= {f"S{letter}", f"{letter}S"}
        opening |= {f"{letter}S"} | ({f"S{letter}"} if letter != "O" else set())
    opening -= {"SO"}
    closing -= {"OS"}

    def ends(before, tag):
        change = before[0] + tag[0]
        return change in closing or (before[0] != "O" and before[2:] != tag[2:])

    def begins(before, tag):
        change = before[0] + tag[0]
        return change in opening or (tag[0] != "O" and before[2:] != tag[2:])

    correct = num_right = num_predicted = 0
    inside = False
    before = before_predicted = "O"
    # A boundary line after each sentence, as conlleval has it.
    lines = [
        pair
        for one, other in zip(tags, predictions, strict=True)
        for pair in [*zip(one, other, strict=True), ("O", "O")]
    ]
    for tag, predicted in lines:
        end = ends(before, tag)
        end_predicted = ends(before_predicted, predicted)
        if inside:
            same = before[2:] == before_predicted[2:]
            if end and end_predicted and same:
                inside, correct = False, correct + 1
            elif end != end_predicted or tag[2:] != predicted[2:]:
                inside = False
        begin = begins(before, tag)
        begin_predicted = begins(before_predicted, predicted)
        if begin and begin_predicted and tag[2:] == predicted[2:]:
            inside = True
        num_right += begin
        num_predicted += begin_predicted
        before, before_predicted = tag, predicted
    precision = correct / num_predicted if num_predicted else 0.0
    recall = correct / num_right if num_right else 0.0
    total = precision + recall
    f1 = 2 * precision * recall / total if total else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


@pytest.mark.parametrize("letters", ["BI", "BIES"])
@pytest.mark.parametrize("kinds", ["A", "AB", "ABC"])
def test_random_tags_as_conlleval_counts(letters, kinds):
    """Any sequence of tags whatever, lawful or not, on both sides."""
    rng = random.Random(len(letters) + len(kinds))
    names = ["O", *(f"{x}-{kind}" for x in letters for kind in kinds)]
    some_right = 0
    for _ in range(150):
        lengths = [rng.randrange(1, 9) for _ in range(rng.randrange(1, 6))]
        tags = [rng.choices(names, k=number) for number in lengths]
        # Half of the tokens are tagged right.
        predictions = [
            [rng.choice([tag, rng.choice(names)]) for tag in some]
            for some in tags
        ]
        found = entity_metrics(tags, predictions)
        wanted = conlleval(tags, predictions)
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value), (tags, predictions)
        some_right += 0 < wanted["f1"] < 1
    assert some_right > 50


BY_HAND = {
    "O B-A I-A O": [("A", 1, 3)],
    # IOB1: I begins, B only parts neighbours.
    "I-A I-A O I-A": [("A", 0, 2), ("A", 3, 4)],
    "I-A B-A I-A": [("A", 0, 1), ("A", 1, 3)],
    "I-A I-B": [("A", 0, 1), ("B", 1, 2)],
    "B-A I-B I-B": [("A", 0, 1), ("B", 1, 3)],
    "B-A B-A": [("A", 0, 1), ("A", 1, 2)],
    "B-A O I-A": [("A", 0, 1), ("A", 2, 3)],
    # BIOES and BILOU.
    "B-A I-A E-A S-A": [("A", 0, 3), ("A", 3, 4)],
    "B-A I-A L-A U-A": [("A", 0, 3), ("A", 3, 4)],
    "E-A E-A": [("A", 0, 1), ("A", 1, 2)],
    "S-A I-A": [("A", 0, 1), ("A", 1, 2)],
    "B-A E-A I-A": [("A", 0, 2), ("A", 2, 3)],
    "B-A-b I-A-b I-A": [("A-b", 0, 2), ("A", 2, 3)],
    "O": [],
    "": [],
}


@pytest.mark.parametrize("tags", BY_HAND)
def test_entities_by_hand(tags):
    assert entities(tags.split()) == [Entity(*e) for e in BY_HAND[tags]]


# Right and predicted tags; F1 of entities, and accuracy.
ENTITIES = [
    # The tokens are nearly all right, the entities are not.
    (["I-A I-A"], ["I-A B-A"], 0.0, 0.5),
    # An entity does not go on in the next sentence.
    (["B-A", "I-A"], ["B-A", "B-A"], 1.0, 0.5),
    # IOB1 and BIOES.
    (["I-A I-A B-A O"], ["B-A E-A S-A O"], 1.0, 0.25),
    (["O O"], ["O O"], 0.0, 1.0),
]


@pytest.mark.parametrize(("tags", "predictions", "f1", "accurate"), ENTITIES)
def test_entities_are_scored_whole(tags, predictions, f1, accurate):
    both = [[row.split() for row in rows] for rows in (tags, predictions)]
    scores = entity_metrics(*both)
    assert (scores["f1"], scores["accuracy"]) == (f1, accurate)
    assert accuracy(*both) == accurate


def test_scores_by_hand():
    """Three entities, four found; one is whole, one is too long."""
    tags = ["B-PER I-PER O B-LOC".split(), "O B-ORG O".split()]
    predictions = ["B-PER I-PER O B-ORG".split(), "B-LOC B-ORG I-ORG".split()]
    scores = entity_metrics(tags, predictions)
    assert scores == pytest.approx(
        {
            "precision": 1 / 4,
            "recall": 1 / 3,
            "f1": 2 / 7,
            "accuracy": 4 / 7,
        }
    )
    by_type = metrics_by_type(tags, predictions)
    assert list(by_type) == ["LOC", "ORG", "PER"]
    assert by_type["PER"] == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert by_type["ORG"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0}


@pytest.mark.parametrize(
    "predictions", [[["O"]], [["O"], ["O"], ["O"]], [["O", "O"], ["O", "O"]]]
)
def test_sides_of_different_length_are_refused(predictions):
    with pytest.raises(ValueError):
        entity_metrics([["O", "O"], ["O"]], predictions)


def test_no_token_is_refused():
    with pytest.raises(ValueError, match="no token"):
        entity_metrics([], [])


def test_each_tokens_usual_tag():
    tokens = [["a", "b", "a"], ["a", "b"]]
    tags = [["B-X", "O", "O"], ["B-X", "B-X"]]
    # A tie goes to the first in the alphabet.
    assert most_frequent_tags(tokens, tags, [["b", "a", "c"]]) == [
        ["B-X", "B-X", "O"]
    ]
    assert most_frequent_tags([["a", "b"]], [["N", "V"]], [["c"]]) == [["N"]]
