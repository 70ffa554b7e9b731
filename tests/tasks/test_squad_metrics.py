"""Exact match and F1 by hand, from the official definitions."""

import json
import random
import re
import string
from collections import Counter

import numpy as np
import pytest

from mobilebert_tf.tasks.squad_answers import (
    answer_scores,
    best_thresholds,
    normalize_answer,
    squad_metrics,
)


@pytest.mark.parametrize(
    "text, normalized",
    [
        ("The Denver Broncos", "denver broncos"),
        ("  an  apple,\ta day ", "apple day"),
        ("A-Team", "ateam"),  # Punctuation goes first: no article is left.
        ("the-end", "theend"),
        ("Theatre of the absurd", "theatre of absurd"),
        ("U.S.A.", "usa"),
        ("$5.00", "500"),
        ("the", ""),
        ("", ""),
        ("«The»", "« »"),  # Only ASCII signs are punctuation.
        ("50–60", "50–60"),
        ("ÉCOLE", "école"),
        ("e\u0301cole", "e\u0301cole"),  # Accents are neither cut nor joined.
        ("naïve\u00a0a\u2003b", "naïve b"),  # Unicode spaces are spaces.
        ("an\u0301", "\u0301"),  # A combining mark ends a word.
    ],
)
def test_normalisation(text, normalized):
    assert normalize_answer(text) == normalized


@pytest.mark.parametrize(
    "prediction, answers, exact, f1",
    [
        ("Denver Broncos", ["the Denver Broncos!"], 1.0, 1.0),
        # 2 of 3 found words are among 2 wanted: P 2/3, R 1, F1 4/5.
        ("old Denver Broncos", ["Denver Broncos"], 0.0, 0.8),
        # The best of several: "1950 to 1953" against "in 1950": P 1/3, R 1/2.
        ("1950 to 1953", ["never", "in 1950"], 0.0, 0.4),
        ("1950 to 1953", ["1950 to 1953", "in 1950"], 1.0, 1.0),
        # Words count as often as they occur: 2 common, P 2/3, R 2/2.
        ("no no no", ["no no"], 0.0, 0.8),
        ("yes", ["no"], 0.0, 0.0),
        ("", ["no"], 0.0, 0.0),
        # The order of the words is no matter for F1.
        ("Broncos Denver", ["Denver Broncos"], 0.0, 1.0),
    ],
)
@pytest.mark.parametrize("version_2", [False, True])
def test_scores_by_hand(prediction, answers, exact, f1, version_2):
    scores = answer_scores(prediction, answers, version_2)
    assert scores == (exact, pytest.approx(f1))


def test_the_versions_part_over_texts_of_no_words():
    # v1.1 compares bags of words, and two empty ones have nothing in common.
    assert answer_scores("a", ["the"]) == (1.0, 0.0)
    assert answer_scores("a", ["the"], True) == (1.0, 1.0)
    # In v2.0 such an answer does not count beside a real one.
    assert answer_scores("", ["the", "boat"]) == (1.0, 0.0)
    assert answer_scores("", ["the", "boat"], True) == (0.0, 0.0)


def test_no_answer_is_right_where_there_is_none():
    assert answer_scores("", [], True) == (1.0, 1.0)
    assert answer_scores("boat", [], True) == (0.0, 0.0)


ANSWERS = {"a": ["boat"], "b": ["old boat"], "c": [], "d": []}


def test_averages_by_hand():
    predictions = {"a": "boat", "b": "boat", "c": "", "d": "fish"}
    third = 100 * 2 / 3
    assert squad_metrics(ANSWERS, predictions, True) == {
        "exact": 50.0,
        "f1": pytest.approx((100 + third + 100 + 0) / 4),
        "HasAns_exact": 50.0,
        "HasAns_f1": pytest.approx((100 + third) / 2),
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
    }
    answered = {name: ANSWERS[name] for name in "ab"}
    metrics = squad_metrics(answered, predictions)
    assert metrics == {"exact": 50.0, "f1": pytest.approx((100 + third) / 2)}


def test_a_breakdown_of_no_questions_is_left_out():
    answered = {name: ANSWERS[name] for name in "ab"}
    metrics = squad_metrics(answered, {"a": "", "b": ""}, True)
    assert "HasAns_f1" in metrics and "NoAns_f1" not in metrics


def best(score, threshold):
    """What `best_thresholds` returns if exact match and F1 agree."""
    return {
        f"best_{name}": value
        for metric in ("exact", "f1")
        for name, value in ((metric, score), (f"{metric}_thresh", threshold))
    }


def test_thresholds_by_hand():
    predictions = {"a": "boat", "b": "boat", "c": "wave", "d": "fish"}
    odds = {"a": -3.0, "c": -1.0, "b": 0.5, "d": 2.0}
    # None answered: c and d right. a: 3 right. c: one lost. b: F1 2/3 more,
    # no exact match more. d: one lost.
    found = best_thresholds(ANSWERS, predictions, odds)
    assert found == best(75.0, -3.0)
    odds["b"] = -2.0
    metrics = best_thresholds(ANSWERS, predictions, odds)
    assert metrics["best_exact_thresh"] == -3.0
    assert metrics["best_f1_thresh"] == -2.0
    assert metrics["best_f1"] == pytest.approx(100 * (2 + 1 + 2 / 3) / 4)


def test_it_may_be_best_to_answer_nothing():
    predictions = dict.fromkeys("abcd", "wrong")
    odds = {"a": -3.0, "b": -2.0, "c": -1.0, "d": 0.0}
    found = best_thresholds(ANSWERS, predictions, odds)
    assert found == best(50.0, 0.0)


def test_an_empty_text_loses_nothing_where_there_is_no_answer():
    predictions = {"a": "boat", "b": "", "c": "", "d": ""}
    odds = {"a": 3.0, "b": 2.0, "c": 1.0, "d": 0.0}
    metrics = best_thresholds(ANSWERS, predictions, odds)
    assert (metrics["best_exact"], metrics["best_exact_thresh"]) == (75.0, 3.0)


def by_trying_every_threshold(answers, predictions, odds):
    """Scores of the best of all thresholds, by applying each."""
    best = {"exact": 0.0, "f1": 0.0}
    for threshold in [min(odds.values()) - 1, *odds.values()]:
        kept = {
            name: "" if odds[name] > threshold else text
            for name, text in predictions.items()
        }
        scores = squad_metrics(answers, kept, True)
        best = {name: max(best[name], scores[name]) for name in best}
    return best


def test_no_other_threshold_is_better():
    rng = random.Random(5)
    words = ["fish", "wave", "boat", "old", "crab"]

    def text():
        return " ".join(rng.choices(words, k=rng.randint(1, 3)))

    for _ in range(20):
        names = [str(number) for number in range(30)]
        answers = {
            name: [text() for _ in range(rng.randint(0, 3))] for name in names
        }
        predictions = {name: text() for name in names}
        # No ties: a threshold cannot tell questions of equal odds apart.
        odds = dict(zip(names, rng.sample(range(-50, 50), 30), strict=True))
        found = best_thresholds(answers, predictions, odds)
        wanted = by_trying_every_threshold(answers, predictions, odds)
        assert found["best_exact"] == pytest.approx(wanted["exact"])
        assert found["best_f1"] == pytest.approx(wanted["f1"])
        at_best = {
            name: "" if odds[name] > found["best_f1_thresh"] else text
            for name, text in predictions.items()
        }
        if found["best_f1_thresh"]:
            assert squad_metrics(answers, at_best, True)["f1"] == pytest.approx(
                found["best_f1"]
            )


def second_author(text):
    """The words that count, one character at a time."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    words = re.findall(r"\w+|[^\w\s]+|\s+", kept)
    return "".join(
        " " if word in ("a", "an", "the") else word for word in words
    ).split()


def test_random_texts_against_a_second_author():
    rng = random.Random(7)
    signs = "aAbtheThe an–é., -«$1\u0301\u00a0\n'"
    for _ in range(3000):
        first, second = (
            "".join(rng.choices(signs, k=rng.randint(0, 9))) for _ in range(2)
        )
        found, wanted = second_author(first), second_author(second)
        exact, f1 = answer_scores(first, [second])
        assert exact == (found == wanted)
        assert f1 == pytest.approx(dice(found, wanted, version_2=False))


def mutated(rng, text):
    """A prediction that is near the right answer, or right."""
    words = text.split() or [""]
    return rng.choice(
        [
            text,
            f"The {text.upper()}!",
            " ".join(words[1:]),
            " ".join(rng.sample(words, len(words))),
            f"{words[0]} of {text}",
            "",
        ]
    )


@pytest.mark.parametrize("name", ["dev-v1.1", "dev-v2.0"])
def test_official_answers_against_a_second_author(shared_data, name):
    """Random predictions near the answers of a whole official file."""
    rng = random.Random(11)
    version_2 = name == "dev-v2.0"
    text = (shared_data / f"squad/{name}.json").read_text(encoding="utf-8")
    answers, predictions, exacts, f1s = {}, {}, [], []
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                texts = [answer["text"] for answer in qa["answers"]]
                answers[qa["id"]] = texts
                guess = mutated(rng, rng.choice(texts) if texts else "boat")
                predictions[qa["id"]] = guess
                found = second_author(guess)
                bags = [second_author(answer) for answer in texts]
                if version_2:
                    bags = [bag for bag in bags if bag] or [[]]
                exacts.append(max(bag == found for bag in bags))
                f1s.append(max(dice(found, bag, version_2) for bag in bags))
    metrics = squad_metrics(answers, predictions, version_2)
    assert len(exacts) > 10_000
    assert metrics["exact"] == pytest.approx(100 * np.mean(exacts))
    assert metrics["f1"] == pytest.approx(100 * np.mean(f1s))
    assert 20 < metrics["exact"] < metrics["f1"] < 90


def dice(found, wanted, version_2):
    """F1 as twice the common words over all words."""
    if version_2 and not (found and wanted):
        return float(found == wanted)
    common = sum((Counter(found) & Counter(wanted)).values())
    return 2 * common / (len(found) + len(wanted)) if common else 0.0
