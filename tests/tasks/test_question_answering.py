"""Question answering: settings, losses, thresholds and what is written."""

import dataclasses
import json

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks import question_answering
from mobilebert_tf.tasks.question_answering import (
    QuestionAnsweringOptions,
    QuestionAnsweringTask,
    read_settings,
    write_settings,
)
from mobilebert_tf.tasks.squad import Answer, Questions, read_squad
from mobilebert_tf.tasks.squad_windows import SquadSettings
from mobilebert_tf.tasks.task import Actions
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests import tiny

LETTERS = "a b c d e f g h"
V1 = SquadSettings(max_seq_length=24, doc_stride=4, max_query_length=2)
V2 = dataclasses.replace(V1, version_2_with_negative=True)


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


def about(*contexts, answers=None):
    ids = [f"q{index}" for index in range(len(contexts))]
    index = np.arange(len(contexts))
    return Questions(list(contexts), index, ids, ["a?"] * len(ids), answers)


# A question that is answered by `c d`, and one without an answer.
DEV = about(LETTERS, "h g", answers=[[Answer("c d", 4)], []])


def task_of(tokenizer, settings=V2, threshold=None, **questions):
    return QuestionAnsweringTask(questions, tokenizer, settings, threshold)


def test_dev_decides_when_further_questions_have_no_answer(tokenizer, tmp_path):
    predict = about("a", "b")
    (tmp_path / "config.json").write_text("{}")

    def outputs(task, split):
        # On dev the odds are 3 where there is an answer, else 6: best is a
        # threshold of 3, between the 2 and the 4 of the questions to predict.
        arrays = np.zeros((2, 2, 24), np.float32)
        arrays[0, :, 0] = (3.5, 6.0) if split == "dev" else (2.0, 4.0)
        if split == "dev":
            arrays[0, 0, 6] = arrays[1, 0, 7] = 0.25
        return dict(zip(("start_logits", "end_logits"), arrays, strict=True))

    def written(threshold, settings=V2, **questions):
        task = task_of(tokenizer, settings, threshold, **questions)
        texts = []
        for split in questions:
            task.write(outputs(task, split), split, tmp_path)
            prefix = "dev_" if split == "dev" else ""
            path = tmp_path / f"{prefix}predictions.json"
            texts.append(list(json.loads(path.read_text()).values()))
        task.save(tmp_path)
        values = json.loads((tmp_path / "question_answering.json").read_text())
        return texts, values["null_score_diff_threshold"]

    assert written(None, dev=DEV, predict=predict) == (
        [["", ""], ["a", ""]],
        3.0,
    )
    assert written(4.0, dev=DEV, predict=predict) == (
        [["c d", ""], ["a", "b"]],
        4.0,
    )
    # Without dev, what is known from before.
    for known, texts in ((3.0, ["a", ""]), (1.0, ["", ""])):
        before = dataclasses.replace(V2, null_score_diff_threshold=known)
        assert written(None, before, predict=predict) == ([texts], known)
    task = task_of(tokenizer, dev=DEV)
    # Scores of other outputs, of a .tflite file say, decide nothing.
    scores = task.metrics(outputs(task, "dev"), "dev")
    assert (scores["exact"], scores["HasAns_exact"]) == (50.0, 0.0)
    assert (scores["best_f1"], scores["best_f1_thresh"]) == (100.0, 3.0)
    assert task.settings == V2
    assert task.score({f"dev_{name}": scores[name] for name in scores}) == 50.0


def test_answers_are_found_beyond_the_first_window(tokenizer):
    task = task_of(tokenizer, dataclasses.replace(V1, max_seq_length=12))
    texts = [("a?", LETTERS * 3), ("a?", "h")]
    arrays = task.encode(texts, 12)
    assert len(arrays["input_ids"]) > 5
    logits = np.zeros(arrays["input_ids"].shape, np.float32)
    # The last piece of the last window of either context.
    lengths = arrays["input_mask"].sum(axis=1)
    logits[[-2, -1], lengths[-2:] - 2] = 1.0
    outputs = {"start_logits": logits, "end_logits": logits}
    answers = task.answers(outputs, texts)
    assert answers[1].text == "h" and answers[1].score == 1.0
    for (_, context), answer in zip(texts, answers, strict=True):
        assert context[answer.start : answer.end] == answer.text
    assert answers[0].start > 18
    with pytest.raises(InputError, match="context: expected a text, found an"):
        task.encode([("a?", " ")], 12)


def test_windows_of_another_length(tokenizer):
    task = task_of(tokenizer, dev=DEV)
    shorter = task.of_length(9)
    # [CLS] a ? [SEP] and four pieces at once, of eight.
    arrays = shorter.splits["dev"]
    assert arrays["input_ids"].shape == (4, 9) and shorter.max_seq_length == 9
    assert shorter.settings == dataclasses.replace(
        V2, max_seq_length=9, doc_stride=3
    )
    with pytest.raises(InputError, match="--export_seq_length: expected at le"):
        task.of_length(5)


def test_phones_open_files_of_one_length(tokenizer):
    task = task_of(tokenizer)
    assert task.file_options(None) == {"mlperf_order": False}
    with pytest.raises(InputError, match="expected --export_seq_length=384"):
        task.file_options(tokenizer)
    options = task.of_length(384).file_options(tokenizer)
    assert options["metadata"] == {"vocabulary": tokenizer.vocab}


def test_a_model_that_knows_the_answers_reaches_the_ceiling(shared_data):
    """Only answers that are cut inside a piece, or too long, are missed."""
    tokenizer = WordpieceTokenizer.from_vocab_file(
        shared_data / "vocab/bert-base-uncased-vocab.txt"
    )
    questions = read_squad(shared_data / "squad/dev-v1.1.json").first(2000)
    task = task_of(tokenizer, SquadSettings(), dev=questions)
    arrays = task.splits["dev"]
    rows = np.arange(len(arrays["input_ids"]))
    outputs = {}
    for end in ("start", "end"):
        logits = np.random.default_rng(0).normal(size=(len(rows), 384))
        logits[rows, arrays[f"{end}_positions"]] += 50.0
        outputs[f"{end}_logits"] = logits.astype(np.float32)
    # 18 of the first 2,000 are missed, such as "1950" in "1950s".
    assert 98.5 < task.metrics(outputs, "dev")["exact"] < 100.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A pre-trained model's folder and a question answerer's."""
    folder = tmp_path_factory.mktemp("folders")
    config = tiny.student_config()
    tiny.write_folder(folder / "encoder", mb.MobileBertEncoder(config))
    model = mb.MobileBertForQuestionAnswering(config)
    model.head.dense.kernel.assign(np.full((32, 2), 0.25))
    tiny.write_folder(folder / "answers", model)
    write_settings(folder / "answers", V2)
    return folder


def test_a_folder_remembers_how_it_answers(folders):
    folder = folders / "answers"
    path = folder / "question_answering.json"
    wanted = dataclasses.replace(V2, null_score_diff_threshold=-1.5)
    write_settings(folder, wanted)
    assert read_settings(folder) == wanted
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
            read_settings(folder)
    # JSON writers may spell 2.0 as 2.
    path.write_text(json.dumps(values | {"null_score_diff_threshold": 2}))
    assert read_settings(folder).null_score_diff_threshold == 2.0
    write_settings(folder, V2)
    # Without settings windows fit the model, which has 24 positions.
    assert read_settings(folders / "encoder") == SquadSettings(24, 8)


def test_windows_beyond_the_positions_are_refused(folders):
    options = QuestionAnsweringOptions(max_seq_length=25)
    with pytest.raises(
        InputError, match="--max_seq_length: expected at most 24"
    ):
        options.settings(folders / "answers")


def test_given_settings_win_over_the_folders(folders):
    options = QuestionAnsweringOptions(max_seq_length=12, n_best_size=3)
    settings = options.settings(folders / "answers")
    wanted = {"max_seq_length": 12, "doc_stride": 4, "n_best_size": 3}
    assert settings == dataclasses.replace(V2, **wanted)


def write_questions(path, answered=True):
    answer = {"text": "b", "answer_start": 2}
    qa = {"id": "q", "question": "a?", "answers": [answer] * answered}
    qa["is_impossible"] = not answered
    paragraph = {"context": "a b c", "qas": [qa, qa | {"id": "r"}]}
    path.write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    return str(path)


@pytest.fixture
def files(tmp_path):
    return {
        "answered": write_questions(tmp_path / "answered.json"),
        "unanswered": write_questions(tmp_path / "unanswered.json", False),
    }


def read(folder, tokenizer, actions=Actions(), **options):
    options = QuestionAnsweringOptions(**{"max_query_length": 2} | options)
    return QuestionAnsweringTask.read(options, tokenizer, folder, actions)


def test_a_task_is_read(folders, files, tokenizer, capsys):
    task = read(
        folders / "encoder",
        tokenizer,
        train_file=files["answered"],
        dev_file=files["unanswered"],
        predict_file=files["answered"],
        max_train_examples=1,
    )
    assert list(task.splits) == ["train", "dev", "predict"]
    assert task.labelled("dev") == ["dev"] and not task.labelled("predict")
    assert task.num_train_examples == 1
    assert task.settings.version_2_with_negative
    line = "dev: 2 windows of 2 questions, 2 without an answer"
    assert line in capsys.readouterr().out
    assert task.notes()["dev"] in line
    # Files that are not needed are not opened.
    task = read(
        folders / "answers",
        tokenizer,
        Actions(train=False, predict=False),
        train_file="missing.json",
        dev_file=files["answered"],
    )
    assert list(task.splits) == ["dev"]


# The folder, a split's file and its kind, the flag; then whether questions may
# have no answer.
VERSIONS = [
    ("encoder", "train", "answered", None, False),
    ("encoder", "train", "unanswered", None, True),
    ("encoder", "train", "answered", True, True),
    ("encoder", "train", "answered", False, False),
    # As the folder says, unless it is trained further.
    ("answers", "predict", "answered", None, True),
    ("answers", "predict", "answered", False, False),
    ("answers", "train", "answered", None, False),
]


@pytest.mark.parametrize("kind, split, name, given, wanted", VERSIONS)
def test_whether_questions_may_have_no_answer(
    kind, split, name, given, wanted, folders, files, tokenizer
):
    task = read(
        folders / kind,
        tokenizer,
        Actions(train=split == "train"),
        version_2_with_negative=given,
        **{f"{split}_file": files[name]},
    )
    assert task.settings.version_2_with_negative == wanted


ALL, NO_TRAINING = Actions(), Actions(train=False)
NO_V2 = {"train_file": "unanswered", "version_2_with_negative": False}
REFUSALS = [
    (ALL, NO_V2, "--noversion_2_with_negative: .*, found 2 that have none"),
    (NO_TRAINING, {"dev_file": "answered"}, "expected a question answerer, fo"),
    (ALL, {"dev_file": "x", "task": "squad_v1"}, "either a task or files"),
    (ALL, {"dev_file": "answered"}, "--train_file: expected a file, or --nodo"),
]


@pytest.mark.parametrize("actions, options, message", REFUSALS)
def test_refusals(actions, options, message, folders, files, tokenizer):
    options = {name: files.get(value, value) for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        read(folders / "encoder", tokenizer, actions, **options)


def test_built_in_questions_come_without_files(
    folders, files, tokenizer, monkeypatch
):
    with open(files["answered"]) as file:
        values = json.load(file)
    built_in = {"train": values, "dev": values}
    monkeypatch.setattr(
        question_answering, "argument_questions", lambda: built_in
    )
    task = read(folders / "answers", tokenizer, Actions(train=False))
    assert list(task.splits) == ["dev"]
    assert list(read(folders / "answers", tokenizer).splits) == ["train", "dev"]


def test_the_head_is_kept_or_new(folders, tokenizer):
    task = QuestionAnsweringTask.open(folders / "answers", tokenizer)
    assert task.settings == V2
    kernel = task.build(folders / "answers").head.dense.kernel.numpy()
    np.testing.assert_array_equal(kernel, 0.25)
    kernel = task.build(folders / "encoder").head.dense.kernel.numpy()
    assert kernel.std() > 0
    with pytest.raises(InputError, match="expected a question answerer"):
        QuestionAnsweringTask.open(folders / "encoder", tokenizer)
