"""A question and its context in, an answer out, against the model itself."""

import dataclasses

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import (
    MobileBertForPretraining,
    MobileBertForQuestionAnswering,
)
from mobilebert_tf.pipeline import QuestionAnswerer
from mobilebert_tf.tasks.question_answering import SquadSettings, write_settings
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.tiny import randomise, student_config

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h".split()
SETTINGS = SquadSettings(
    max_seq_length=16, doc_stride=4, max_query_length=4, n_best_size=4
)
CONTEXT = "A  b C d\u0301 e"  # Six pieces of which none is unknown.


@pytest.fixture
def folder(tmp_path):
    WordpieceTokenizer(VOCAB).write(tmp_path)
    return tmp_path


@pytest.fixture
def model(folder, rng):
    model = MobileBertForQuestionAnswering(
        student_config(
            num_hidden_layers=1,
            vocab_size=len(VOCAB),
            max_position_embeddings=40,
        )
    )
    randomise(model, rng)
    model.save_pretrained(folder)
    write_settings(folder, SETTINGS)
    return model


def span_logits(model):
    """The sums of start and end logits of every span, by its text; [CLS]'s."""
    ids = [VOCAB.index(piece) for piece in "[CLS] who ? [SEP]".split()]
    ids += [VOCAB.index(piece) for piece in "a b c d e [SEP]".split()]
    segments = [0] * 4 + [1] * 6
    outputs = model(
        {"input_ids": np.array([ids]), "segment_ids": np.array([segments])}
    )
    start, end = (
        outputs[f"{name}_logits"].numpy()[0].astype(np.float64)
        for name in ("start", "end")
    )
    places = [(0, 1), (3, 4), (5, 6), (7, 9), (10, 11)]
    spans = {
        (places[first][0], places[last][1]): start[4 + first] + end[4 + last]
        # Of the best four starts and ends.
        for first in np.argsort(-start[4:9])[:4]
        for last in np.argsort(-end[4:9])[:4]
        if first <= last
    }
    return spans, start[0] + end[0]


def test_the_likeliest_span_and_its_place(folder, model):
    spans, _ = span_logits(model)
    answerer = QuestionAnswerer(folder)
    answer = answerer(question="Who?", context=CONTEXT)
    best = max(spans, key=spans.get)
    assert (answer.start, answer.end) == best
    assert answer.text == CONTEXT[slice(*best)]
    logits = sorted(spans.values(), reverse=True)[:4]
    assert answer.score == pytest.approx(
        scipy.special.softmax(logits)[0], rel=1e-4
    )
    # Many at once, in a batch and a bit.
    answers = answerer(["Who?"] * 20, [CONTEXT] * 20)
    assert [each.text for each in answers] == [answer.text] * 20
    assert answers[19].score == pytest.approx(answer.score, rel=1e-4)
    assert answerer([], []) == []


def test_no_answer_from_the_folders_threshold_on(folder, model):
    spans, null = span_logits(model)
    odds = null - max(spans.values())
    for threshold, answered in ((odds + 0.01, True), (odds - 0.01, False)):
        settings = dataclasses.replace(
            SETTINGS,
            version_2_with_negative=True,
            null_score_diff_threshold=float(threshold),
        )
        write_settings(folder, settings)
        answer = QuestionAnswerer(folder)("who?", CONTEXT)
        assert bool(answer.text) == answered
        assert CONTEXT[answer.start : answer.end] == answer.text
        assert 0.0 < answer.score < 1.0


def test_answers_are_found_beyond_the_first_window(folder, model):
    context = " ".join("abcdefgh" * 3)
    answerer = QuestionAnswerer(folder)
    found = {
        answerer("who?", context[2 * first :]).start + 2 * first
        for first in range(12)
    }
    # Windows of nine pieces: the first one ends at character 17.
    assert max(found) > 17
    for question in ("who?", "a b c d e f g h"):
        answer = answerer(question, context)
        assert context[answer.start : answer.end] == answer.text


def test_without_settings_windows_fit_the_model(folder, model):
    (folder / "question_answering.json").unlink()
    settings = QuestionAnswerer(folder).settings
    # The model has 40 positions.
    assert (settings.max_seq_length, settings.doc_stride) == (40, 13)


def test_bad_input(folder, model):
    with pytest.raises(InputError, match=r"context: expected a text, found an"):
        QuestionAnswerer(folder)("who?", " ")
    with pytest.raises(InputError, match=r"question: expected a text"):
        QuestionAnswerer(folder)(["who?", ""], ["a", "b"])
    config = student_config(
        num_hidden_layers=1,
        vocab_size=len(VOCAB),
        max_position_embeddings=40,
    )
    MobileBertForPretraining(config).save_pretrained(folder)
    with pytest.raises(InputError, match="a model that answers questions"):
        QuestionAnswerer(folder)
