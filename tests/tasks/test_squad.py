"""SQuAD's JSON: what is read, and how each kind of damage is named."""

import copy
import json
import re
import sys
import types

import numpy as np
import pytest

from mobilebert_tf.data.builtin import argument_questions
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.squad import (
    Answer,
    read_squad,
    squad_questions,
    tfds_questions,
)

SEA = "The fish sees the boat. The boat is old."
LAND = "A tree, a stone."


def qa(name, question, *answers, **more):
    """A question with (text, start) answers, as JSON holds it."""
    answers = [{"text": text, "answer_start": at} for text, at in answers]
    return {"id": name, "question": question, "answers": answers} | more


Q1 = qa(
    "q1", "What is seen?", ("the boat", 14), ("boat", 18), is_impossible=False
)
Q2 = qa("q2", "Who sees the fish?", is_impossible=True, plausible_answers=[])
Q3 = qa("q3", "What else?", ("stone", 10))
GOOD = {
    "version": "v2.0",
    "data": [
        {"title": "Sea", "paragraphs": [{"context": SEA, "qas": [Q1, Q2]}]},
        {"paragraphs": []},
        {
            "paragraphs": [
                {"context": "Nobody asks about this one.", "qas": []},
                {"context": LAND, "qas": [Q3]},
            ]
        },
    ],
}


def write(folder, values):
    path = folder / "questions.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_everything_is_read_in_order(tmp_path):
    questions = read_squad(write(tmp_path, GOOD))
    assert questions.ids == ["q1", "q2", "q3"]
    assert questions.texts[2] == "What else?"
    assert [questions.context(index) for index in range(3)] == [SEA, SEA, LAND]
    assert questions.answers == [
        [Answer("the boat", 14), Answer("boat", 18)],
        [],
        [Answer("stone", 10)],
    ]
    assert questions.num_unanswerable == 1


def test_questions_to_predict_need_no_answers(tmp_path):
    values = copy.deepcopy(GOOD)
    del values["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    values["data"][2]["paragraphs"][1]["qas"][0]["answers"] = "unknown"
    questions = read_squad(write(tmp_path, values), has_answers=False)
    assert len(questions) == 3
    assert questions.answers is None and questions.num_unanswerable == 0


def test_whole_numbers_are_ids(tmp_path):
    values = copy.deepcopy(GOOD)
    values["data"][0]["paragraphs"][0]["qas"][0]["id"] = 17
    for has_answers in (True, False):
        path = write(tmp_path, values)
        assert read_squad(path, has_answers).ids == ["17", "q2", "q3"]
    values["data"][0]["paragraphs"][0]["qas"][1]["id"] = "17"
    with pytest.raises(InputError, match="an id of its own, found '17', also"):
        read_squad(write(tmp_path, values))


def test_all_wrong_answers_are_counted(tmp_path):
    values = copy.deepcopy(GOOD)
    for number in range(6):
        question = qa(f"w{number}", "What?", ("boat", 17), ("fish", 4))
        values["data"][0]["paragraphs"][0]["qas"].append(question)
    values["data"][2]["paragraphs"][1]["qas"][0]["question"] = ""
    with pytest.raises(InputError) as caught:
        read_squad(write(tmp_path, values))
    message = str(caught.value)
    assert ": expected no mistakes, found 7: data[0].paragraphs[0]" in message
    assert message.count("it stands at character 18") == 5
    assert "'w4'" in message and "'w5'" not in message
    assert message.endswith("; and 2 more")


def test_the_first_questions_keep_their_contexts(tmp_path):
    questions = read_squad(write(tmp_path, GOOD))
    two = questions.first(2)
    assert two.ids == ["q1", "q2"] and two.contexts == [SEA]
    assert two.answers == questions.answers[:2]
    assert questions.first(10).ids == questions.ids


# Where a value is replaced (or REMOVED), by what, and what the error says. P,
# Q and A stand for the first paragraph, its first question and that one's
# second answer.
REMOVED = object()
KEYS = {
    "P": ["data", 0, "paragraphs", 0],
    "Q": ["data", 0, "paragraphs", 0, "qas", 0],
    "A": ["data", 0, "paragraphs", 0, "qas", 0, "answers", 1],
}
PLACES = {
    "P": "data[0].paragraphs[0]",
    "Q": "data[0].paragraphs[0].qas[0]",
    "Q1": "data[0].paragraphs[0].qas[0] (id 'q1')",
    "A": "data[0].paragraphs[0].qas[0] (id 'q1').answers[1]",
}
NO_NUMBER = "{A}.answer_start: expected a whole number, found "
NOT_THERE = "{A}: expected the answer 'boat' at character "
MUTATIONS = [
    ("data", REMOVED, ": expected the key 'data'"),
    ("data", {}, "data: expected a list, found {{}}"),
    ("data", [], ": expected at least one question"),
    ("data 1", "x", "data[1]: expected an object"),
    (
        "data 0 paragraphs",
        REMOVED,
        "data[0]: expected the key 'paragraphs', fo",
    ),
    ("data 0 paragraphs", None, "data[0].paragraphs: expected a list, found N"),
    ("P context", REMOVED, "{P}: expected the key 'context'"),
    ("P context", ["x"], "{P}.context: expected a text, found ['x']"),
    ("P context", " \n", "{P}.context: expected a text, found an empty one"),
    ("P context", SEA + "\0", "{P}.context: expected Unicode text, found '\\x"),
    ("P context", SEA + "\ud83d", "{P}.context: expected Unicode text, found "),
    ("P qas", REMOVED, "{P}: expected the key 'qas'"),
    ("Q", 7, "{Q}: expected an object, found 7"),
    ("Q id", 1.5, "{Q}.id: expected a text, found 1.5"),
    ("Q id", True, "{Q}.id: expected a text, found True"),
    (
        "data 2 paragraphs 1 qas 0 id",
        "q2",
        "data[2].paragraphs[1].qas[0]: expected an id of its own, found 'q2', "
        "also the id of data[0].paragraphs[0].qas[1]",
    ),
    ("Q question", "", "{Q1}.question: expected a text, found an empty"),
    ("Q answers", REMOVED, "{Q1}: expected the key 'answers'"),
    ("Q answers", {"text": "boat"}, "{Q1}.answers: expected a list"),
    ("Q answers", [], "{Q1}.answers: expected an answer, or is_impossible tr"),
    (
        "Q is_impossible",
        True,
        "{Q1}.answers: expected no answers, found 2, and",
    ),
    ("Q is_impossible", "no", "{Q1}.is_impossible: expected true or false"),
    ("A text", REMOVED, "{A}: expected the key 'text', found 'answer_start'"),
    ("A answer_start", 18.0, NO_NUMBER + "18.0"),
    ("A answer_start", True, NO_NUMBER + "True"),
    (
        "A answer_start",
        -22,
        NOT_THERE + "-22 of its context, found nothing there; it stands at "
        "character 18",
    ),
    ("A answer_start", 400, NOT_THERE + "400 of its context, found nothing "),
    ("A answer_start", 17, NOT_THERE + "17 of its context, found ' boa'; it "),
    (
        "A text",
        "coat",
        "character 18 of its context, found 'boat'; it is nowhe",
    ),
    ("A text", SEA[18:] + "!", "nowhere in its context"),
]


@pytest.mark.parametrize("where, value, message", MUTATIONS)
def test_a_mutation_is_named_by_its_place(where, value, message, tmp_path):
    first, *rest = where.split()
    keys = KEYS.get(first, [first])
    keys = [*keys, *(int(key) if key.isdigit() else key for key in rest)]
    values = copy.deepcopy(GOOD)
    parent = values
    for key in keys[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = value
    path = write(tmp_path, values)
    message = re.escape(message.format(**PLACES))
    with pytest.raises(InputError, match=message) as caught:
        read_squad(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "line 1: expected JSON"),
        (json.dumps(GOOD, indent=1)[:500].encode(), "line 2"),
        (b'{"data": [\n{}\n{}]}', "line 3: expected JSON"),
        (b'{"data":\n ["\xff"]}', "line 2: expected UTF-8 text"),
        (b"[]", r": expected an object, found \[\]"),
        (b'{"data": []}\n{"data": []}', "line 2: expected JSON"),
        (b"[" * 100_000, "expected JSON as SQuAD has it"),
        (b'{"data": ' + b"1" * 5000 + b"}", "expected JSON as SQuAD has it"),
    ],
)
def test_damaged_json_is_named_by_its_line(content, message, tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_squad(path)


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_squad(path)) == 3


def tfds_row(name, context, answers, **more):
    texts, starts = zip(*answers, strict=True) if answers else ((), ())
    row = {
        "id": name.encode(),
        "context": context.encode(),
        "question": b"Which?",
        "answers": {
            "text": np.array([text.encode() for text in texts], object),
            "answer_start": np.array(starts, np.int32),
        },
    }
    return row | {key: np.bool_(value) for key, value in more.items()}


@pytest.fixture
def fake_tfds(monkeypatch):
    """Stands in for the library; the splits that it holds are prepared."""
    prepared = {}

    def builder(name):
        return types.SimpleNamespace(
            data_dir="/data",
            is_prepared=lambda: any(name == key[0] for key in prepared),
            as_dataset=lambda split: prepared[name, split],
        )

    module = types.SimpleNamespace(builder=builder, as_numpy=iter)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)
    return prepared


def test_rows_of_tensorflow_datasets(fake_tfds):
    accented = "Café: the boat."
    fake_tfds["squad/v2.0", "validation"] = [
        tfds_row("a", SEA, [("boat", 18)], is_impossible=False),
        tfds_row("b", accented, [("boat", 10)], is_impossible=False),
        tfds_row("c", SEA, [], is_impossible=True),
    ]
    questions = tfds_questions("squad_v2", "dev")
    assert questions.contexts == [SEA, accented]
    # Questions about one context follow each other.
    assert questions.ids == ["a", "c", "b"]
    assert questions.context_index.tolist() == [0, 0, 1]
    assert questions.answers == [[Answer("boat", 18)], [], [Answer("boat", 10)]]


def test_bad_rows_of_tensorflow_datasets_are_named(fake_tfds):
    with pytest.raises(InputError, match="tfds build squad/v2.0"):
        tfds_questions("squad_v2", "dev")
    fake_tfds["squad/v1.1", "train"] = [tfds_row("a", SEA, [("boat", 17)])]
    with pytest.raises(
        InputError, match=r"squad/v1.1, train, data.*\(id 'a'\)"
    ):
        tfds_questions("squad_v1", "train")


@pytest.mark.parametrize(
    "name, total, unanswerable, contexts",
    [("dev-v1.1", 10570, 0, 2067), ("dev-v2.0", 11873, 5945, 1204)],
)
def test_the_official_files(shared_data, name, total, unanswerable, contexts):
    questions = read_squad(shared_data / f"squad/{name}.json")
    assert len(questions) == total
    assert questions.num_unanswerable == unanswerable
    assert len(questions.contexts) == contexts


def test_the_built_in_questions_are_in_the_format():
    built_in = argument_questions()
    for split in ("train", "dev"):
        questions = squad_questions(built_in[split], split)
        assert len(questions) > 100
        assert questions.num_unanswerable == 0
