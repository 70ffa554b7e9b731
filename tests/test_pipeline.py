"""Text in, answer out, against the models themselves."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import scipy.special

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.tflite_file import TextMetadata
from mobilebert_tf.pipeline import (
    QuestionAnswerer,
    TextClassifier,
    TokenClassifier,
)
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.labelled_texts import MULTI_LABEL
from mobilebert_tf.tasks.question_answering import (
    QuestionAnsweringTask,
    write_settings,
)
from mobilebert_tf.tasks.squad_windows import SquadSettings
from tests import tiny

CONTEXT = "The  cat sat\u0301 not good"
SETTINGS = SquadSettings(
    max_seq_length=12, doc_stride=4, max_query_length=2, n_best_size=4
)
TAGS = ("O", "B-X", "I-X")


def saved(folder, model, seed=0):
    tiny.randomise(model, np.random.default_rng(seed))
    tiny.write_folder(folder, model)
    return model


def inputs(pieces, first=0):
    """Inputs of one example, the first so many pieces of the first segment.

    As in any batch there is padding: without, the last trigram would differ.
    """
    ids = [tiny.PIECES.index(piece) for piece in pieces.split()]
    second = [0] * first + [1] * (len(ids) - first) if first else [0] * len(ids)
    rows = {
        "input_ids": [*ids, 0],
        "input_mask": [1] * len(ids) + [0],
        "segment_ids": [*second, 0],
    }
    return {name: np.array([row], np.int32) for name, row in rows.items()}


CONFIG = tiny.student_config(num_hidden_layers=1)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    model = saved(folder, tiny.classifier(config=CONFIG))
    return TextClassifier(folder), model


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tagger")
    model = saved(folder, mb.MobileBertForTokenClassification(CONFIG, TAGS))
    return TokenClassifier(folder), model


@pytest.fixture(scope="module")
def answerer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answerer")
    model = saved(folder, mb.MobileBertForQuestionAnswering(CONFIG))
    write_settings(folder, SETTINGS)
    return QuestionAnswerer(folder), model, folder


def test_texts_and_pairs(classifier):
    classify, model = classifier
    assert classify.label_names == tiny.LABELS
    (logits,) = tiny.numpy(model(inputs("[CLS] the cat [SEP]")))
    answer = classify("the cat")
    assert answer.label == tiny.LABELS[logits.argmax()]
    np.testing.assert_allclose(
        list(answer.probabilities.values()),
        scipy.special.softmax(logits),
        rtol=1e-5,
    )
    (logits,) = tiny.numpy(model(inputs("[CLS] the [SEP] cat [SEP]", 3)))
    (answer,) = classify([("the", "cat")])
    np.testing.assert_allclose(
        answer.probabilities["yes"],
        scipy.special.softmax(logits)[2],
        rtol=1e-5,
    )
    # More than one batch.
    many = [each.probabilities["no"] for each in classify(["the cat"] * 20)]
    alone = classify("the cat").probabilities["no"]
    np.testing.assert_allclose(many, alone, rtol=1e-5)
    assert classify([]) == []


def test_numbers_and_several_labels(tmp_path):
    example = inputs("[CLS] cat [SEP]")
    model = tiny.classifier(("value",), CONFIG)
    saved(tmp_path / "number", model)
    (logits,) = tiny.numpy(model(example))
    answer = TextClassifier(tmp_path / "number")("cat")
    assert answer.label == pytest.approx(logits[0], rel=1e-5)
    assert answer.probabilities == {}
    model = tiny.classifier(("x", "y", "z"), CONFIG)
    model.head.dense.bias.assign([1.0, -1.0, 1.0])
    tiny.write_folder(tmp_path / "several", model)
    task = ClassificationTask(("x", "y", "z"), problem_type=MULTI_LABEL)
    task.save(tmp_path / "several")
    answer = TextClassifier(tmp_path / "several")("cat")
    assert answer.label == ("x", "z")
    (logits,) = tiny.numpy(model(example))
    np.testing.assert_allclose(
        list(answer.probabilities.values()),
        scipy.special.expit(logits),
        rtol=1e-5,
    )


def test_tokens_get_the_tags_of_their_first_pieces(tagger):
    find, model = tagger
    tags, probs = find.tag([["the", "xy", "cat"], [], ["sat"]])
    example = inputs("[CLS] the x ##y cat [SEP]")
    (logits,) = tiny.numpy(model(example)).astype(np.float64)
    wanted = scipy.special.softmax(logits, axis=-1)[[1, 2, 4]]
    assert tags[0] == [TAGS[index] for index in wanted.argmax(axis=-1)]
    np.testing.assert_allclose(probs[0], wanted.max(axis=-1), rtol=1e-4)
    assert [len(some) for some in tags] == [3, 0, 1]
    # More than one batch; and windows.
    many, _ = find.tag([["the", "xy", "cat"]] * 20)
    assert many == [tags[0]] * 20
    (long,), _ = find.tag([["cat", "sat"] * 250])
    assert len(long) == 500
    assert find.tag([[]]) == ([[]], [[]])


def test_entities_of_texts(tagger):
    find, _ = tagger
    texts = ["The cat  sat.", "", "mat"]
    found = find(texts)
    assert find(texts[0]) == found[0] and found[1] == [] and find([]) == []
    (tags,), _ = find.tag([["The", "cat", "sat", "."]])
    begins = [tag for tag in tags if tag != "O"]
    assert 0 < len(found[0]) <= len(begins)
    for entity in found[0]:
        assert texts[0][entity.start : entity.end] == entity.text


def span_logits(model):
    """The sums of start and end logits of every span by place; [CLS]'s."""
    pieces = "[CLS] a ##b [SEP] the cat sat not good [SEP]"
    outputs = model(inputs(pieces, 4))
    start, end = (
        tiny.numpy(outputs[name])[0].astype(np.float64)
        for name in ("start_logits", "end_logits")
    )
    places = [(0, 3), (5, 8), (9, 13), (14, 17), (18, 22)]
    spans = {
        (places[first][0], places[last][1]): start[4 + first] + end[4 + last]
        # Of the best four starts and ends.
        for first in np.argsort(-start[4:9])[:4]
        for last in np.argsort(-end[4:9])[:4]
        if first <= last
    }
    return spans, start[0] + end[0]


def test_the_likeliest_span_and_its_place(answerer):
    answer_to, model, _ = answerer
    spans, _ = span_logits(model)
    answer = answer_to(question="ab", context=CONTEXT)
    best = max(spans, key=spans.get)
    assert (answer.start, answer.end) == best
    assert answer.text == CONTEXT[slice(*best)]
    logits = sorted(spans.values(), reverse=True)[:4]
    score = scipy.special.softmax(logits)[0]
    assert answer.score == pytest.approx(score, rel=1e-4)
    # More than one batch.
    answers = answer_to(["ab"] * 20, [CONTEXT] * 20)
    assert [each.text for each in answers] == [answer.text] * 20
    assert answers[19].score == pytest.approx(answer.score, rel=1e-4)
    assert answer_to([], []) == []


def test_no_answer_above_the_folders_threshold(answerer, monkeypatch):
    answer_to, model, folder = answerer
    spans, null = span_logits(model)
    odds = null - max(spans.values())
    for threshold, answered in ((odds + 0.01, True), (odds - 0.01, False)):
        settings = dataclasses.replace(
            SETTINGS,
            version_2_with_negative=True,
            null_score_diff_threshold=float(threshold),
        )
        write_settings(folder, settings)
        # Opened alone: compiling the model again would take seconds.
        task = QuestionAnsweringTask.open(folder, tiny.tokenizer())
        monkeypatch.setattr(answer_to, "task", task)
        answer = answer_to("ab", CONTEXT)
        assert bool(answer.text) == answered
        assert CONTEXT[answer.start : answer.end] == answer.text
        assert 0.0 < answer.score < 1.0


def test_answers_of_long_contexts(answerer):
    answer_to, _, folder = answerer
    context = " ".join("abcdefgh" * 3)
    found = answer_to(["ab"] * 12, [context[2 * n :] for n in range(12)])
    # Windows of seven pieces: the first one ends at character 13.
    assert max(answer.start + 2 * n for n, answer in enumerate(found)) > 13
    for n, answer in enumerate(found):
        part = context[2 * n :]
        assert part[answer.start : answer.end] == answer.text
    (folder / "question_answering.json").unlink()
    settings = QuestionAnswerer(folder).settings
    # The model has 24 positions; questions are then too long for them.
    assert (settings.max_seq_length, settings.doc_stride) == (24, 8)


def test_files_answer_as_their_models(classifier, tagger, answerer, tmp_path):
    """Each lies in its model folder; the classifier's has two lengths."""
    texts = ["the cat", "not good . " * 5, ("mat", "the cat sat")]
    for pipeline, (opened, model, *_), words in (
        (TextClassifier, classifier, [texts[:2]]),
        (TextClassifier, classifier, [texts[2:]]),
        (TokenClassifier, tagger, [["the cat", "", "sat " * 30]]),
        (TokenClassifier, tagger, [[""]]),
        (QuestionAnswerer, answerer, [["ab", "ab"], [CONTEXT, "abcdefgh" * 2]]),
    ):
        folder = tmp_path / pipeline.__name__
        path = folder / "float32.tflite"
        if not path.exists():
            tiny.write_folder(folder, model)
            opened.task.save(folder)
            lengths = (12, 24) if pipeline is TextClassifier else 24
            export(fold(model), path, lengths)
        found, expected = pipeline(path)(*words), opened(*words)
        for one, other in zip(found, expected, strict=True):
            for value, wanted in zip(flat(one), flat(other), strict=True):
                if isinstance(wanted, float):
                    wanted = pytest.approx(wanted, rel=1e-4)
                assert value == wanted, pipeline


def flat(answer) -> list:
    """The fields of one answer, or of a list of entities."""
    if isinstance(answer, list):
        return [field for entity in answer for field in entity]
    return [part for part in answer if not isinstance(part, dict)] + [
        value
        for part in answer
        if isinstance(part, dict)
        for value in part.values()
    ]


ANSWER_WITHOUT = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
import mobilebert_tf as mb
print(*mb.TextClassifier(sys.argv[1])("the cat").probabilities.values())
"""


@pytest.mark.parametrize(
    ("output", "convert"),
    [
        ("probabilities", scipy.special.softmax),
        ("independent_probabilities", scipy.special.expit),
    ],
)
def test_a_file_with_metadata_answers_alone(
    output, convert, classifier, tmp_path
):
    _, model = classifier
    metadata = TextMetadata(tiny.PIECES, tiny.LABELS)
    path = tmp_path / "phone.tflite"
    export(fold(model), path, 24, output=output, metadata=metadata)
    done = subprocess.run(
        [sys.executable, "-c", ANSWER_WITHOUT, path],
        capture_output=True,
        text=True,
    )
    (logits,) = tiny.numpy(model(inputs("[CLS] the cat [SEP]")))
    found = [float(word) for word in done.stdout.split()]
    assert found == pytest.approx(convert(logits), rel=1e-4), done.stderr
    is_single = output == "probabilities"
    answer = TextClassifier(path)("the cat")
    assert isinstance(answer.label, str if is_single else tuple)
    with pytest.raises(InputError, match=r"no config\.json beside it"):
        TokenClassifier(path)


def test_masks_are_filled_with_the_likeliest_pieces(tmp_path, encoder):
    model = saved(tmp_path, mb.MobileBertForMaskedLM(CONFIG))
    fill = mb.FillMask(tmp_path)
    ids = [2, 5, 4, 7, 4, 3]  # [CLS] the [MASK] sat [MASK] [SEP]
    logits = tiny.numpy(model({"input_ids": [ids]}))[0, [2, 4]]
    probs = scipy.special.softmax(logits.astype(np.float64), axis=-1)
    found = fill("The [MASK] sat [MASK]", top_k=3)
    for row, wanted in zip(found, probs, strict=True):
        best = np.argsort(-wanted)[:3]
        assert [each.token for each in row] == [tiny.PIECES[i] for i in best]
        scores = [each.score for each in row]
        np.testing.assert_allclose(scores, wanted[best], rtol=1e-4)
    assert len(fill("the [MASK]")) == 5
    with pytest.raises(InputError, match=r"a text with \[MASK\]"):
        fill("the cat")
    with pytest.raises(InputError, match="a masked LM head, found Mobile"):
        mb.FillMask(encoder)


def test_empty_texts_are_refused(answerer):
    answer_to, *_ = answerer
    with pytest.raises(InputError, match=r"context: expected a text, found an"):
        answer_to("ab", " ")
    with pytest.raises(InputError, match=r"question: expected a text"):
        answer_to(["ab", ""], ["a", "b"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    return tiny.write_folder(folder, mb.MobileBertEncoder(CONFIG))


@pytest.mark.parametrize(
    "pipeline, expected",
    [
        (TextClassifier, "a text classifier"),
        (TokenClassifier, "a tagger"),
        (QuestionAnswerer, "a question answerer"),
    ],
)
def test_other_models_are_refused(pipeline, expected, encoder):
    with pytest.raises(InputError, match=f"expected {expected}, found another"):
        pipeline(encoder)
