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


# Two questions with an answer, two without.
ANSWERS = [["boat"], ["old boat"], [], []]


def test_averages_by_hand():
    predictions = ["boat", "boat", "", "fish"]
    third = 100 * 2 / 3
    assert squad_metrics(ANSWERS, predictions, True) == {
        "exact": 50.0,
        "f1": pytest.approx((100 + third + 100 + 0) / 4),
        "HasAns_exact": 50.0,
        "HasAns_f1": pytest.approx((100 + third) / 2),
        "NoAns_exact": 50.0,
        "NoAns_f1": 50.0,
    }
    metrics = squad_metrics(ANSWERS[:2], predictions[:2])
    assert metrics == {"exact": 50.0, "f1": pytest.approx((100 + third) / 2)}


def test_a_breakdown_of_no_questions_is_left_out():
    metrics = squad_metrics(ANSWERS[:2], ["", ""], True)
    assert "HasAns_f1" in metrics and "NoAns_f1" not in metrics


# Predictions, odds, then the best scores with their thresholds.
THRESHOLDS = [
    # None answered: c and d right. a: 3 right. c: one lost. b: F1 2/3 more, no
    # exact match more. d: one lost.
    (
        ["boat", "boat", "wave", "fish"],
        [-3.0, 0.5, -1.0, 2.0],
        (75.0, -3.0, 75.0, -3.0),
    ),
    (
        ["boat", "boat", "wave", "fish"],
        [-3.0, -2.0, -1.0, 2.0],
        (75.0, -3.0, 100 * (3 + 2 / 3) / 4, -2.0),
    ),
    # It may be best to answer nothing.
    (["wrong"] * 4, [-3.0, -2.0, -1.0, 0.0], (50.0, 0.0, 50.0, 0.0)),
    # An empty text loses nothing where there is no answer.
    (["boat", "", "", ""], [3.0, 2.0, 1.0, 0.0], (75.0, 3.0, 75.0, 3.0)),
]


@pytest.mark.parametrize(("predictions", "odds", "best"), THRESHOLDS)
def test_thresholds_by_hand(predictions, odds, best):
    names = ("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh")
    assert best_thresholds(ANSWERS, predictions, odds) == pytest.approx(
        dict(zip(names, best, strict=True))
    )


def test_no_other_threshold_is_better():
    rng = random.Random(5)
    words = ["fish", "wave", "boat", "old", "crab"]

    def text():
        return " ".join(rng.choices(words, k=rng.randint(1, 3)))

    for _ in range(20):
        answers = [
            [text() for _ in range(rng.randint(0, 3))] for _ in range(30)
        ]
        predictions = [text() for _ in range(30)]
        # No ties: a threshold cannot tell questions of equal odds apart.
        odds = rng.sample(range(-50, 50), 30)
        found = best_thresholds(answers, predictions, odds)
        by_threshold = {
            threshold: squad_metrics(
                answers,
                [
                    "" if odd > threshold else text
                    for odd, text in zip(odds, predictions, strict=True)
                ],
                True,
            )
            for threshold in [-51, *odds]
        }
        for name in ("exact", "f1"):
            best = found[f"best_{name}"]
            wanted = max(scores[name] for scores in by_threshold.values())
            assert best == pytest.approx(wanted)
            threshold = found[f"best_{name}_thresh"]
            if threshold:
                reached = by_threshold[threshold][name]
                assert reached == pytest.approx(best)


def second_author(text):
    """The words that count, one character at a time."""
    kept = "".join(c for c in text.lower() if c not in string.punctuation)
    words = re.findall(r"\w+|[^\w\s]+|\s+", kept)
    return "".join(
        " " if word in ("a", "an", "the") else word for word in words
    ).split()


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
    answers, predictions, exacts, f1s = [], [], [], []
    for article in json.loads(text)["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                texts = [answer["text"] for answer in qa["answers"]]
                answers.append(texts)
                guess = mutated(rng, rng.choice(texts) if texts else "boat")
                predictions.append(guess)
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
