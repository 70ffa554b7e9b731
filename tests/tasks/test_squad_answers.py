"""The choice among spans, against the original procedure and by hand."""

import json
from dataclasses import astuple

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.tasks.squad_answers import (
    Candidate,
    Spans,
    apply_threshold,
    best_answers,
    best_spans,
    n_best_lists,
    null_candidates,
    null_odds,
    write_answers,
)


def original_candidates(
    start_logits, end_logits, starts, ends, n_best, longest
):
    """A window's (start, end, logits), by the original's nested loops."""

    def ranked(logits):
        order = sorted(range(len(logits)), key=lambda c: -logits[c])
        return order[:n_best]

    return [
        (start, end, float(start_logits[start]), float(end_logits[end]))
        for start in ranked(start_logits)
        for end in ranked(end_logits)
        if starts[start] and ends[end] and 0 <= end - start < longest
    ]


@pytest.mark.parametrize("ties", [False, True])
def test_spans_are_the_original_procedures(rng, ties):
    """With more ranks than columns both look at every allowed pair."""
    num_windows, length, longest = 12, 20, 5
    logits = rng.normal(size=(2, num_windows, length)).astype(np.float32)
    if ties:
        logits = np.round(logits)
    end_mask = rng.random((num_windows, length)) < 0.7
    start_mask = end_mask & (rng.random((num_windows, length)) < 0.7)
    question_index = np.sort(rng.integers(0, 5, num_windows))
    spans = best_spans(
        *logits,
        start_mask=start_mask,
        end_mask=end_mask,
        question_index=question_index,
        n_best_size=length,
        max_answer_length=longest,
    )
    expected = []
    for question in range(5):
        found = [
            (question, int(window), *candidate)
            for window in np.flatnonzero(question_index == question)
            for candidate in original_candidates(
                *logits[:, window],
                start_mask[window],
                end_mask[window],
                length,
                longest,
            )
        ]
        expected += sorted(found, key=lambda row: -(row[4] + row[5]))
    assert len(expected) > 200
    assert list(zip(*astuple(spans), strict=True)) == expected


def test_only_the_best_starts_and_ends_are_paired():
    starts = np.array([[0.0, 3.0, 2.0, 1.0]])
    ends = np.array([[0.0, 1.0, 2.0, 3.0]])
    everywhere = np.ones((1, 4), bool)
    everywhere[0, 0] = False
    spans = best_spans(
        starts,
        ends,
        start_mask=everywhere,
        end_mask=everywhere,
        question_index=np.array([0]),
        n_best_size=2,
        max_answer_length=3,
    )
    # Starts 1 and 2, ends 3 and 2; 1 to 3 is three pieces.
    assert list(zip(spans.starts, spans.ends, strict=True)) == [
        (1, 3),
        (1, 2),
        (2, 3),
        (2, 2),
    ]


def test_columns_outside_take_no_rank():
    """A question or padding with large logits pushes no answer out."""
    logits = np.array([[9.0, 8.0, 1.0, 7.0]])
    mask = np.array([[False, False, True, False]])
    spans = best_spans(
        logits,
        logits,
        start_mask=mask,
        end_mask=mask,
        question_index=np.array([0]),
        n_best_size=1,
        max_answer_length=30,
    )
    assert (spans.starts.tolist(), spans.ends.tolist()) == ([2], [2])


def spans_with(questions, logits):
    """Spans of one piece each, with half of the logit at either end."""
    order = np.lexsort((-np.array(logits), questions))
    questions = np.array(questions)[order]
    halves = np.array(logits, np.float64)[order] / 2
    places = np.arange(len(order))
    # As `best_spans` gives them: questions in order, best first.
    return Spans(questions, places, places, places, halves, halves), order


def n_best(questions, logits, texts, num_questions, size=20, nulls=None):
    spans, order = spans_with(questions, logits)
    texts = [texts[index] for index in order]
    lists = n_best_lists(spans, texts, num_questions, size, nulls)
    return [
        [(entry.text, entry.logit) for entry in row] for row in lists
    ], lists


def test_equal_texts_count_once():
    rows, _ = n_best([0, 0, 0, 1], [1.0, 5.0, 3.0, 2.0], list("xyyz"), 2)
    assert rows == [[("y", 5.0), ("x", 1.0)], [("z", 2.0)]]


def test_lists_end_at_their_size():
    rows, _ = n_best([0] * 4, [4.0, 3.0, 3.0, 1.0], list("wxxy"), 1, size=2)
    assert rows == [[("w", 4.0), ("x", 3.0)]]


def test_a_question_without_a_span_has_an_empty_answer():
    rows, lists = n_best([1], [4.0], ["x"], 3)
    assert rows == [[("", 0.0)], [("x", 4.0)], [("", 0.0)]]
    assert best_answers(lists) == ["", "x", ""]


@pytest.mark.parametrize(
    "null, size, expected",
    [
        (6.0, 3, ["", "x", "y"]),
        (4.0, 3, ["x", "", "y"]),
        (5.0, 3, ["x", "", "y"]),  # Of equals, a text comes first.
        (1.0, 3, ["x", "y", "z", ""]),  # Not good enough: one more.
        (1.0, 4, ["x", "y", "z", ""]),
    ],
)
def test_no_answer_takes_its_place_in_the_list(null, size, expected):
    nulls = [Candidate("", null / 2, null / 2)]
    rows, lists = n_best([0] * 3, [5.0, 3.0, 2.0], list("xyz"), 1, size, nulls)
    assert [text for text, _ in rows[0]] == expected
    assert best_answers(lists) == ["x"]
    assert null_odds(lists, nulls) == [null - 5.0]


def test_no_answer_alone_is_no_failure():
    """Where the released script stops with an error."""
    nulls = [Candidate("", 1.0, 2.0), Candidate("", -1.0, -2.0)]
    rows, lists = n_best([], [], [], 2, nulls=nulls)
    assert rows == [[("", 3.0)], [("", -3.0)]]
    answers, odds = best_answers(lists), null_odds(lists, nulls)
    assert answers == ["", ""] and odds == [3.0, -3.0]
    assert apply_threshold(answers, odds, 0.0) == ["", ""]


def test_no_answer_is_the_least_sure_windows():
    starts = np.array([[3.0, 9.0], [1.0, 9.0], [2.0, 9.0]], np.float32)
    ends = np.array([[0.0, 9.0], [1.0, 9.0], [5.0, 9.0]], np.float32)
    nulls = null_candidates(starts, ends, np.array([0, 0, 1]), 2)
    assert nulls == [Candidate("", 1.0, 1.0), Candidate("", 2.0, 5.0)]


def test_the_threshold_itself_still_answers():
    odds = [0.5, 0.6, -1.0]
    assert apply_threshold(["x", "y", "z"], odds, 0.5) == ["x", "", "z"]


def test_files_have_the_official_form(tmp_path):
    lists = [
        [Candidate("Café", 2.0, 1.0), Candidate("", 1.5, 0.5)],
        [Candidate("", 0.0, 0.0)],
    ]
    (tmp_path / "kept.txt").write_text("")
    write_answers(
        tmp_path, "dev_", ["q1", "q2"], ["Café", ""], lists, [-1, 0.0]
    )
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {
        "kept.txt",
        "dev_predictions.json",
        "dev_nbest_predictions.json",
        "dev_null_odds.json",
    }

    def read(name):
        text = (tmp_path / f"dev_{name}.json").read_text(encoding="utf-8")
        return json.loads(text)

    assert read("predictions") == {"q1": "Café", "q2": ""}
    assert read("null_odds") == {"q1": -1, "q2": 0.0}
    entries = read("nbest_predictions")["q1"]
    assert [entry["text"] for entry in entries] == ["Café", ""]
    wanted = scipy.special.softmax([3.0, 2.0])
    found = [entry["probability"] for entry in entries]
    np.testing.assert_allclose(found, wanted)
    assert (entries[0]["start_logit"], entries[0]["end_logit"]) == (2.0, 1.0)


def test_without_odds_there_is_no_such_file(tmp_path):
    write_answers(tmp_path, "", ["q"], ["x"], [[Candidate("x", 1.0, 1.0)]])
    assert not (tmp_path / "null_odds.json").exists()
    assert (tmp_path / "predictions.json").exists()
