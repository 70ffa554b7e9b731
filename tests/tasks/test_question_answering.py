"""From logits to scored answers: the loss, the windows' widths, the ceiling."""

import dataclasses
import json

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.models import MobileBertForQuestionAnswering
from mobilebert_tf.tasks import question_answering
from mobilebert_tf.tasks.question_answering import (
    SpanPredictor,
    SquadSettings,
    answer_questions,
    answer_splits,
    build_question_answerer,
    encode_split,
    is_question_answerer,
    may_have_no_answer,
    question_answering_loss,
    read_settings,
    read_splits,
    score_answers,
    windows_of_length,
    write_settings,
)
from mobilebert_tf.tasks.squad import Answer, Questions, read_squad
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h".split()
SMALL = SquadSettings(max_seq_length=24, doc_stride=4, max_query_length=2)
V2 = dataclasses.replace(SMALL, version_2_with_negative=True)


@pytest.fixture(scope="module")
def tokenizer():
    return WordpieceTokenizer(VOCAB)


@pytest.fixture(scope="module")
def config():
    return MobileBertConfig(
        vocab_size=len(VOCAB),
        embedding_size=12,
        hidden_size=32,
        intra_bottleneck_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_feedforward_networks=2,
        max_position_embeddings=24,
        attention_probs_dropout_prob=0.0,
    )


def questions_about(*contexts, answers=None):
    number = len(contexts)
    return Questions(
        list(contexts),
        np.arange(number),
        [f"q{index}" for index in range(number)],
        ["who?"] * number,
        answers,
    )


@pytest.fixture
def split(tokenizer):
    """A question answered by `c d`, one without an answer."""
    questions = questions_about(
        "a b c d e f g h", "h g", answers=[[Answer("c d", 4)], []]
    )
    return encode_split(questions, tokenizer, V2, "dev")


def test_the_loss_is_the_mean_over_both_ends(config, split):
    model = MobileBertForQuestionAnswering(config)
    batch = split.windows.inputs(np.arange(2), 16) | split.labels
    loss = question_answering_loss(model)(batch)["loss"]
    logits = model(batch)
    terms = []
    for end, position in (("start", [6, 0]), ("end", [7, 0])):
        log_probs = scipy.special.log_softmax(
            logits[f"{end}_logits"].numpy().astype(np.float64), axis=-1
        )
        terms += [
            -log_probs[row, column] for row, column in enumerate(position)
        ]
    np.testing.assert_allclose(loss.numpy(), np.mean(terms), rtol=1e-5)


def test_a_window_gets_the_same_logits_at_its_own_width(config, tokenizer):
    contexts = [" ".join("abcdefgh"[:n] * 2) for n in range(1, 9)]
    split = encode_split(
        questions_about(*contexts), tokenizer, SMALL, "predict"
    )
    assert split.labels is None
    model = MobileBertForQuestionAnswering(config)
    number = len(split.windows)
    found = SpanPredictor(model, 3)(split.windows, 24)
    wanted = model(split.windows.inputs(np.arange(number), 24))
    used = np.arange(24) < split.windows.lengths[:, None]
    for ours, name in zip(found, ("start_logits", "end_logits"), strict=True):
        assert ours.shape == (number, 24)
        np.testing.assert_allclose(
            ours[used], wanted[name].numpy()[used], rtol=1e-4, atol=1e-5
        )


def logits_for(split, spans, length=24):
    """Logits of 0, and 5 at both ends of a span in each window."""
    logits = np.zeros((2, len(split.windows), length), np.float32)
    for row, span in enumerate(spans):
        for end, column in enumerate(span):
            logits[end, row, column] = 5.0
    return logits


def test_answers_are_cut_from_their_context(tokenizer):
    split = encode_split(
        questions_about("A  b,c\u0301 D"),
        WordpieceTokenizer([*VOCAB, ","]),
        SMALL,
        "predict",
    )
    # [CLS] who ? [SEP] a b , c d [SEP]
    answers = answer_questions(*logits_for(split, [(4, 7)]), split, SMALL)
    assert answers.texts == ["A  b,c\u0301"]
    assert answers.characters == [(0, 7)]
    assert answers.odds is None
    assert len(answers.n_best[0]) == 15  # Of 5 pieces, 5 + 4 + 3 + 2 + 1.


def test_no_answer_where_cls_wins(split):
    answers = answer_questions(*logits_for(split, [(6, 7), (0, 0)]), split, V2)
    assert answers.texts[0] == "c d"
    assert answers.characters[0] == (4, 7)
    assert answers.odds == [-10.0, 10.0]
    assert answers.predictions(0.0) == ["c d", ""]
    assert answers.predictions(-10.0) == ["c d", ""]
    assert answers.predictions(-10.5) == ["", ""]
    assert answers.predictions(10.0)[1] != ""
    scores = score_answers(answers, split, 0.0)
    assert scores == {
        "exact": 100.0,
        "f1": 100.0,
        "HasAns_exact": 100.0,
        "HasAns_f1": 100.0,
        "NoAns_exact": 100.0,
        "NoAns_f1": 100.0,
        "best_exact": 100.0,
        "best_exact_thresh": -10.0,
        "best_f1": 100.0,
        "best_f1_thresh": -10.0,
    }


@pytest.mark.parametrize("settings", [SMALL, V2])
def test_a_context_of_no_piece_is_left_unanswered(settings, tokenizer):
    """Only "no answer" survives: the release stops with an error there."""
    split = encode_split(
        questions_about("\u200b", "a"), tokenizer, settings, "predict"
    )
    answers = answer_questions(*logits_for(split, []), split, settings)
    assert answers.predictions(0.0) == ["", "a"]
    assert answers.characters == [None, (0, 1)]


def test_dev_chooses_the_threshold_of_predict(
    split, tokenizer, tmp_path, monkeypatch
):
    # On dev the answerable question is the one with odds of 3, the other's
    # are 6: best is a threshold of 3, under which 2 and 4 part as well.
    predict = encode_split(questions_about("a", "b"), tokenizer, V2, "predict")
    odds = {id(split.windows): (3.0, 6.0), id(predict.windows): (2.0, 4.0)}

    def logits(windows, max_seq_length):
        array = np.zeros((2, len(windows), max_seq_length), np.float32)
        array[0, :, 0] = odds[id(windows)]
        array[0, 0, 6] = array[1, 0, 7] = 0.25 * (windows is split.windows)
        array[0, 0, 0] += 0.5 * (windows is split.windows)
        return tuple(array)

    monkeypatch.setattr(
        question_answering, "SpanPredictor", lambda model, batch_size: logits
    )

    def predictions(threshold, name, splits, settings=V2):
        _, settings = answer_splits(
            None,
            splits,
            settings,
            batch_size=2,
            folder=tmp_path,
            threshold=threshold,
        )
        found = json.loads((tmp_path / name).read_text())
        return found, settings

    both = {"dev": split, "predict": predict}
    found, settings = predictions(None, "predictions.json", both)
    assert found == {"q0": "a", "q1": ""}
    assert settings.null_score_diff_threshold == 3.0
    found, _ = predictions(None, "dev_predictions.json", both)
    assert found == {"q0": "", "q1": ""}
    found, settings = predictions(4.0, "predictions.json", both)
    assert found == {"q0": "a", "q1": "b"}
    assert settings.null_score_diff_threshold == 4.0
    found, _ = predictions(4.0, "dev_predictions.json", both)
    assert found == {"q0": "c d", "q1": ""}
    # Without dev, what is known from before.
    alone = {"predict": predict}
    for known, texts in ((3.0, ["a", ""]), (1.0, ["", ""])):
        before = dataclasses.replace(V2, null_score_diff_threshold=known)
        found, after = predictions(None, "predictions.json", alone, before)
        assert list(found.values()) == texts
        assert after == before


def test_a_folder_remembers_how_it_answers(tmp_path):
    assert read_settings(tmp_path) is None
    wanted = dataclasses.replace(V2, null_score_diff_threshold=-1.5)
    write_settings(tmp_path, wanted)
    assert read_settings(tmp_path) == wanted
    path = tmp_path / "question_answering.json"
    values = json.loads(path.read_text())
    assert values["max_seq_length"] == 24
    for name, value, message in (
        ("doc_stride", 0, "doc_stride: expected a number above 0, found 0"),
        ("doc_stride", 4.0, "doc_stride: expected a value of type int"),
        ("version_2_with_negative", 1, "of type bool, found 1"),
        ("surplus", 1, "expected the keys max_seq_length"),
    ):
        path.write_text(json.dumps(values | {name: value}))
        with pytest.raises(InputError, match=message):
            read_settings(tmp_path)
    # What JSON makes of 2.0 elsewhere.
    path.write_text(json.dumps(values | {"null_score_diff_threshold": 2}))
    assert read_settings(tmp_path).null_score_diff_threshold == 2.0


def test_windows_of_another_length(split, tokenizer):
    splits, settings = windows_of_length({"dev": split}, V2, tokenizer, 9)
    assert settings.max_seq_length == 9 and settings.doc_stride == 3
    assert settings.version_2_with_negative
    windows = splits["dev"].windows
    # [CLS] who ? [SEP] and four pieces at once, of eight.
    assert windows.lengths.max() == 9 and len(windows) == 4
    assert splits["dev"].questions is split.questions
    same, settings = windows_of_length({"dev": split}, V2, tokenizer, 24)
    assert same == {"dev": split} and settings == V2
    with pytest.raises(InputError, match="--export_seq_length: expected at le"):
        windows_of_length({"dev": split}, V2, tokenizer, 5)


def test_a_model_that_knows_the_answers_reaches_the_ceiling(shared_data):
    """Only answers that are cut inside a piece, or too long, are missed."""
    tokenizer = WordpieceTokenizer.from_vocab_file(
        shared_data / "vocab/bert-base-uncased-vocab.txt"
    )
    settings = SquadSettings()
    questions = read_squad(shared_data / "squad/dev-v1.1.json").first(2000)
    split = encode_split(questions, tokenizer, settings, "dev")
    rng = np.random.default_rng(0)
    shape = (2, len(split.windows), settings.max_seq_length)
    logits = rng.normal(size=shape).astype(np.float32)
    rows = np.arange(len(split.windows))
    for end, name in enumerate(("start_positions", "end_positions")):
        logits[end, rows, split.labels[name]] += 50.0
    answers = answer_questions(*logits, split, settings)
    missed = [
        text
        for text, known in zip(answers.texts, questions.answers, strict=True)
        if text != known[0].text
    ]
    # 18 of the first 2,000, such as "1950" in "1950s".
    assert 0 < len(missed) < 30
    assert score_answers(answers, split, 0.0)["exact"] > 98.5


def test_the_head_is_kept_or_new(config, tmp_path):
    MobileBertEncoder(config).save_pretrained(tmp_path / "encoder")
    assert not is_question_answerer(tmp_path / "encoder")
    model = build_question_answerer(tmp_path / "encoder")
    kernel = model.head.dense.kernel
    kernel.assign(np.full(kernel.shape, 0.25))
    model.save_pretrained(tmp_path / "answers")
    assert is_question_answerer(tmp_path / "answers")
    again = build_question_answerer(tmp_path / "answers")
    np.testing.assert_array_equal(again.head.dense.kernel.numpy(), 0.25)


@pytest.mark.parametrize(
    "settings, message",
    [
        (SMALL, None),
        ({"max_seq_length": 25}, "--max_seq_length: expected at most 24"),
        ({"max_query_length": 21}, "--max_query_length: expected at most 20"),
        ({"max_query_length": 20}, None),
    ],
)
def test_lengths_that_do_not_fit_are_named(settings, message, config):
    if isinstance(settings, dict):
        settings = dataclasses.replace(SMALL, **settings)
    if message is None:
        return settings.check(config)
    with pytest.raises(InputError, match=message):
        settings.check(config)


def test_what_a_task_is_like_follows_from_its_questions():
    answered = questions_about("a", answers=[[Answer("a", 0)]])
    unanswered = questions_about("a", answers=[[]])
    unknown = questions_about("a")
    assert not may_have_no_answer({"a": answered, "b": unknown}, None)
    assert may_have_no_answer({"a": answered, "b": unanswered}, None)
    assert may_have_no_answer({"a": answered}, True)
    assert not may_have_no_answer({"a": answered}, False)
    assert may_have_no_answer({"b": unknown}, None, known=True)
    assert not may_have_no_answer({"b": unknown}, False, known=True)
    with pytest.raises(InputError, match="found 1 that have none"):
        may_have_no_answer({"a": unanswered}, False)


def test_built_in_questions_come_without_files():
    files = {"train": None, "dev": None, "predict": None}
    splits = read_splits(files, None, ["dev", "predict"])
    assert splits.keys() == {"dev"}
    assert len(splits["dev"]) > 100


def test_unwanted_files_are_not_read():
    files = {"train": "missing.json", "dev": None, "predict": None}
    assert read_splits(files, None, ["dev"]) == {}
    with pytest.raises(InputError, match="missing.json"):
        read_splits(files, None, ["train", "dev"])
