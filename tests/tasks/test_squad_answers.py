"""The choice among spans, against the original procedure and by hand."""

import json

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.tasks.squad import Answer, Questions
from mobilebert_tf.tasks.squad_answers import (
    Answers,
    Candidate,
    answer_questions,
    best_spans,
    null_candidates,
    with_null,
)
from mobilebert_tf.tasks.squad_windows import SquadSettings, make_windows
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h ,".split()
TOKENIZER = WordpieceTokenizer(VOCAB)

ENDS = ("start_logits", "end_logits")


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
        dict(zip(ENDS, logits, strict=True)),
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
    assert list(zip(*spans, strict=True)) == expected


def pairs(starts, ends, mask, n_best_size, longest=30):
    """The (start, end) columns of a single window's spans."""
    mask = np.array([mask], bool)
    spans = best_spans(
        {"start_logits": np.array([starts]), "end_logits": np.array([ends])},
        start_mask=mask,
        end_mask=mask,
        question_index=np.array([0]),
        n_best_size=n_best_size,
        max_answer_length=longest,
    )
    return list(zip(spans.starts.tolist(), spans.ends.tolist(), strict=True))


def test_only_the_best_starts_and_ends_are_paired():
    # Starts 1 and 2, ends 3 and 2; 1 to 3 is three pieces.
    found = pairs([0, 3, 2, 1], [0, 1, 2, 3], [0, 1, 1, 1], 2, longest=3)
    assert found == [(1, 3), (1, 2), (2, 3), (2, 2)]


def test_columns_outside_take_no_rank():
    """A question or padding with large logits pushes no answer out."""
    logits = [9, 8, 1, 7]
    assert pairs(logits, logits, [0, 0, 1, 0], 1) == [(2, 2)]


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
    logits = {"x": 5.0, "y": 3.0, "z": 2.0}
    texts = [Candidate(text, 1.0, logits[text] - 1.0) for text in logits]
    entries = with_null(texts, Candidate("", null / 2, null / 2), size)
    assert [entry.text for entry in entries] == expected
    assert Answers(None, [entries]).texts == ["x"]


def test_no_answer_is_the_least_sure_windows():
    starts = np.array([[3.0, 9.0], [1.0, 9.0], [2.0, 9.0]], np.float32)
    ends = np.array([[0.0, 9.0], [1.0, 9.0], [5.0, 9.0]], np.float32)
    outputs = {"start_logits": starts, "end_logits": ends}
    nulls = null_candidates(outputs, np.array([0, 0, 1]))
    assert nulls == [Candidate("", 1.0, 1.0), Candidate("", 2.0, 5.0)]


def test_the_threshold_itself_still_answers():
    n_best = [[Candidate(text, 0.0, 0.0)] for text in "xyz"]
    answers = Answers(None, n_best, [0.5, 0.6, -1.0])
    assert answers.predictions(0.5) == ["x", "", "z"]
    assert Answers(None, n_best).predictions(0.5) == ["x", "y", "z"]


def answered(contexts, spans, version_2=False, n_best_size=20, right=None):
    """Answers to "who?" from logits of 5 at both ends of a span per window.

    Columns: [CLS] who ? [SEP], then the context's pieces from 4 on.
    """
    index = np.arange(len(contexts))
    ids = [f"q{number}" for number in index]
    questions = Questions(contexts, index, ids, ["who?"] * len(ids), right)
    settings = SquadSettings(
        24, 8, 2, n_best_size, version_2_with_negative=version_2
    )
    windows = make_windows(questions, TOKENIZER, settings)
    logits = np.zeros((2, len(windows), 24), np.float32)
    for row, span in enumerate(spans):
        logits[[0, 1], row, span] = 5.0
    outputs = {"start_logits": logits[0], "end_logits": logits[1]}
    return answer_questions(outputs, questions, windows, settings)


def test_answers_are_cut_from_their_context():
    answers = answered(["A  b,c\u0301 D"], [(4, 7)])
    assert answers.texts == ["A  b,c\u0301"] and answers.odds is None
    assert answers.n_best[0][0] == Candidate("A  b,c\u0301", 5.0, 5.0, 0, 7)
    assert len(answers.n_best[0]) == 15  # Of 5 pieces, 5 + 4 + 3 + 2 + 1.


def test_equal_texts_count_once_and_lists_end_at_their_size():
    (entries,) = answered(["a b a b"], [(4, 5)], n_best_size=3).n_best
    # Of three starts and ends each: a b, then what has one end of it.
    assert len({entry.text for entry in entries}) == len(entries) == 3
    assert entries[0] == Candidate("a b", 5.0, 5.0, 0, 3)


@pytest.mark.parametrize("version_2", [False, True])
def test_a_context_without_pieces_is_left_unanswered(version_2):
    """Only "no answer" survives: the released script stops with an error."""
    answers = answered(["\u200b", "a"], [], version_2)
    assert answers.predictions(0.0) == ["", "a"]
    assert answers.n_best[0] == [Candidate("", 0.0, 0.0)]
    assert answers.odds == ([0.0, 0.0] if version_2 else None)


def test_no_answer_where_cls_wins():
    contexts = ["a b c d e f g h", "h g"]
    right = [[Answer("c d", 4)], []]
    answers = answered(contexts, [(6, 7), (0, 0)], True, right=right)
    assert answers.texts[0] == "c d"
    assert answers.odds == [-10.0, 10.0]
    assert answers.predictions(0.0) == ["c d", ""]
    assert answers.predictions(-10.0) == ["c d", ""]
    assert answers.predictions(-10.5) == ["", ""]
    assert answers.predictions(10.0)[1] != ""
    scores = answers.scores(0.0)
    thresholds = {"best_exact_thresh": -10.0, "best_f1_thresh": -10.0}
    names = "exact f1 HasAns_exact HasAns_f1 NoAns_exact NoAns_f1".split()
    names += ["best_exact", "best_f1"]
    assert scores == dict.fromkeys(names, 100.0) | thresholds


def test_files_have_the_official_form(tmp_path):
    lists = [
        [Candidate("Café", 2.0, 1.0, 3, 7), Candidate("", 1.5, 0.5)],
        [Candidate("", 0.0, 0.0)],
    ]
    (tmp_path / "kept.txt").write_text("")
    questions = Questions([""], None, ["q1", "q2"], ["", ""])
    answers = Answers(questions, lists, [-1, 0.0])
    answers.write(tmp_path, "dev_", 0.0)
    names = {path.name for path in tmp_path.iterdir()} - {"kept.txt"}
    kinds = ("predictions", "nbest_predictions", "null_odds")
    assert names == {f"dev_{kind}.json" for kind in kinds}
    predictions, n_best, odds = (
        json.loads((tmp_path / f"dev_{kind}.json").read_text(encoding="utf-8"))
        for kind in kinds
    )
    assert predictions == {"q1": "Café", "q2": ""}
    assert odds == {"q1": -1, "q2": 0.0}
    found = [entry.pop("probability") for entry in n_best["q1"]]
    np.testing.assert_allclose(found, scipy.special.softmax([3.0, 2.0]))
    assert n_best["q1"] == [
        {"text": "Café", "start_logit": 2.0, "end_logit": 1.0},
        {"text": "", "start_logit": 1.5, "end_logit": 0.5},
    ]
    # Without odds there is no such file.
    Answers(questions, lists).write(tmp_path / "v1", "", 0.0)
    assert not (tmp_path / "v1" / "null_odds.json").exists()
    assert (tmp_path / "v1" / "predictions.json").exists()
