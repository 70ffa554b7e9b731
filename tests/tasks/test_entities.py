"""Entity scores against a second author of conlleval, and by hand."""

import random

import pytest
import sklearn.metrics

from mobilebert_tf.tasks.metrics import (
    Entity,
    accuracy,
    entities,
    entity_metrics,
    metrics_by_type,
    most_frequent_tags,
)


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


def test_one_entity_is_not_two():
    """The tokens are nearly all right, the entities are not."""
    scores = entity_metrics([["I-A", "I-A"]], [["I-A", "B-A"]])
    assert scores["f1"] == 0.0 and scores["accuracy"] == 0.5


def test_an_entity_of_a_sentence_does_not_go_on_in_the_next():
    scores = entity_metrics([["B-A"], ["I-A"]], [["B-A"], ["B-A"]])
    assert scores["f1"] == 1.0


def test_a_long_entity_found_in_part_is_one_error():
    tags = ["B-A", *["I-A"] * 300]
    predictions = [*["O"] * 300, "B-A"]
    scores = entity_metrics([tags, ["B-A"]], [predictions, ["B-A"]])
    assert (scores["precision"], scores["recall"]) == (0.5, 0.5)


def test_schemes_score_alike():
    tags = ["I-A I-A B-A O".split()]
    again = ["B-A E-A S-A O".split()]
    assert entity_metrics(tags, again)["f1"] == 1.0


def test_nothing_to_find_scores_zero():
    scores = entity_metrics([["O", "O"]], [["O", "O"]])
    assert scores == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "accuracy": 1.0,
    }


def test_accuracy_is_scikit_learns():
    rng = random.Random(3)
    tags = [rng.choices("ABC", k=7) for _ in range(20)]
    predictions = [rng.choices("ABC", k=7) for _ in range(20)]
    assert accuracy(tags, predictions) == pytest.approx(
        sklearn.metrics.accuracy_score(sum(tags, []), sum(predictions, []))
    )


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
