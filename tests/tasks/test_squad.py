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
GOOD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Sea",
            "paragraphs": [
                {
                    "context": SEA,
                    "qas": [
                        {
                            "id": "q1",
                            "question": "What does the fish see?",
                            "answers": [
                                {"text": "the boat", "answer_start": 14},
                                {"text": "boat", "answer_start": 18},
                            ],
                            "is_impossible": False,
                        },
                        {
                            "id": "q2",
                            "question": "Who sees the fish?",
                            "answers": [],
                            "is_impossible": True,
                            "plausible_answers": [
                                {"text": "the boat", "answer_start": 14}
                            ],
                        },
                    ],
                }
            ],
        },
        {"paragraphs": []},
        {
            "paragraphs": [
                {"context": "Nobody asks about this one.", "qas": []},
                {
                    "context": LAND,
                    "qas": [
                        {
                            "id": "q3",
                            "question": "What else?",
                            "answers": [{"text": "stone", "answer_start": 10}],
                        }
                    ],
                },
            ]
        },
    ],
}


def write(folder, values, name="questions.json"):
    path = folder / name
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_everything_is_read_in_its_order(tmp_path):
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


def test_the_first_questions_keep_their_contexts(tmp_path):
    questions = read_squad(write(tmp_path, GOOD))
    two = questions.first(2)
    assert two.ids == ["q1", "q2"] and two.contexts == [SEA]
    assert two.answers == questions.answers[:2]
    assert questions.first(10).ids == questions.ids


# What is changed: keys and indices to a place, and the value there (or
# `REMOVED`), then what the error must say, its place first.
REMOVED = object()
PARAGRAPH = ["data", 0, "paragraphs", 0]
QUESTION = [*PARAGRAPH, "qas", 0]
ANSWER = [*QUESTION, "answers", 1]
AT_PARAGRAPH = "data[0].paragraphs[0]"
AT_QUESTION = f"{AT_PARAGRAPH}.qas[0]"
AT_ANSWER = f"{AT_QUESTION} (id 'q1').answers[1]"
MUTATIONS = {
    "no data": (["data"], REMOVED, ": expected the key 'data'"),
    "data no list": (["data"], {}, "data: expected a list, found {}"),
    "no articles": (["data"], [], ": expected at least one question"),
    "article no object": (["data", 1], "x", "data[1]: expected an object"),
    "no paragraphs": (
        ["data", 0, "paragraphs"],
        REMOVED,
        "data[0]: expected the key 'paragraphs', found 'title'",
    ),
    "paragraphs no list": (
        ["data", 0, "paragraphs"],
        None,
        "data[0].paragraphs: expected a list, found None",
    ),
    "no context": (
        [*PARAGRAPH, "context"],
        REMOVED,
        f"{AT_PARAGRAPH}: expected the key 'context'",
    ),
    "context no text": (
        [*PARAGRAPH, "context"],
        ["x"],
        f"{AT_PARAGRAPH}.context: expected a text, found ['x']",
    ),
    "empty context": (
        [*PARAGRAPH, "context"],
        " \n",
        f"{AT_PARAGRAPH}.context: expected a text, found an empty one",
    ),
    "NUL in the context": (
        [*PARAGRAPH, "context"],
        SEA + "\0",
        f"{AT_PARAGRAPH}.context: expected Unicode text, found '\\x00'",
    ),
    "surrogate in the context": (
        [*PARAGRAPH, "context"],
        SEA + "\ud83d",
        f"{AT_PARAGRAPH}.context: expected Unicode text, found '\\ud83d'",
    ),
    "no qas": (
        [*PARAGRAPH, "qas"],
        REMOVED,
        f"{AT_PARAGRAPH}: expected the key 'qas'",
    ),
    "question no object": (
        QUESTION,
        7,
        f"{AT_QUESTION}: expected an object, found 7",
    ),
    "no id": ([*QUESTION, "id"], REMOVED, f"{AT_QUESTION}: expected the key"),
    "id no text": (
        [*QUESTION, "id"],
        17,
        f"{AT_QUESTION}.id: expected a text, found 17",
    ),
    "id twice": (
        ["data", 2, "paragraphs", 1, "qas", 0, "id"],
        "q2",
        "data[2].paragraphs[1].qas[0]: expected an id of its own, found "
        "'q2', also the id of data[0].paragraphs[0].qas[1]",
    ),
    "no question": (
        [*QUESTION, "question"],
        REMOVED,
        f"{AT_QUESTION} (id 'q1'): expected the key 'question'",
    ),
    "empty question": (
        [*QUESTION, "question"],
        "",
        f"{AT_QUESTION} (id 'q1').question: expected a text, found an empty",
    ),
    "no answers": (
        [*QUESTION, "answers"],
        REMOVED,
        f"{AT_QUESTION} (id 'q1'): expected the key 'answers'",
    ),
    "answers no list": (
        [*QUESTION, "answers"],
        {"text": "the boat", "answer_start": 14},
        f"{AT_QUESTION} (id 'q1').answers: expected a list",
    ),
    "unanswered but not impossible": (
        [*QUESTION, "answers"],
        [],
        f"{AT_QUESTION} (id 'q1').answers: expected an answer, or "
        "is_impossible true",
    ),
    "impossible but answered": (
        [*QUESTION, "is_impossible"],
        True,
        f"{AT_QUESTION} (id 'q1').answers: expected no answers, found 2",
    ),
    "is_impossible no flag": (
        [*QUESTION, "is_impossible"],
        "no",
        f"{AT_QUESTION} (id 'q1').is_impossible: expected true or false",
    ),
    "answer no object": (
        ANSWER,
        "boat",
        f"{AT_ANSWER}: expected an object, found 'boat'",
    ),
    "no text": (
        [*ANSWER, "text"],
        REMOVED,
        f"{AT_ANSWER}: expected the key 'text', found 'answer_start'",
    ),
    "empty answer": (
        [*ANSWER, "text"],
        "",
        f"{AT_ANSWER}.text: expected a text, found an empty one",
    ),
    "no answer_start": (
        [*ANSWER, "answer_start"],
        REMOVED,
        f"{AT_ANSWER}: expected the key 'answer_start'",
    ),
    "answer_start a text": (
        [*ANSWER, "answer_start"],
        "18",
        f"{AT_ANSWER}.answer_start: expected a whole number, found '18'",
    ),
    "answer_start a fraction": (
        [*ANSWER, "answer_start"],
        18.0,
        f"{AT_ANSWER}.answer_start: expected a whole number, found 18.0",
    ),
    "answer_start a flag": (
        [*ANSWER, "answer_start"],
        True,
        f"{AT_ANSWER}.answer_start: expected a whole number, found True",
    ),
    "answer_start negative": (
        [*ANSWER, "answer_start"],
        -22,
        f"{AT_ANSWER}: expected the answer 'boat' at character -22 of its "
        "context, found nothing there; it stands at character 18",
    ),
    "answer_start beyond the end": (
        [*ANSWER, "answer_start"],
        400,
        f"{AT_ANSWER}: expected the answer 'boat' at character 400 of its "
        "context, found nothing there; it stands at character 18",
    ),
    "answer elsewhere": (
        [*ANSWER, "answer_start"],
        17,
        f"{AT_ANSWER}: expected the answer 'boat' at character 17 of its "
        "context, found ' boa'; it stands at character 18",
    ),
    "answer nowhere": (
        [*ANSWER, "text"],
        "coat",
        f"{AT_ANSWER}: expected the answer 'coat' at character 18 of its "
        "context, found 'boat'; it is nowhere in its context",
    ),
    "answer across the end": (
        [*ANSWER, "text"],
        SEA[18:] + "!",
        "nowhere in its context",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_mutation_is_named_by_its_place(name, tmp_path):
    keys, value, message = MUTATIONS[name]
    values = copy.deepcopy(GOOD)
    parent = values
    for key in keys[:-1]:
        parent = parent[key]
    if value is REMOVED:
        del parent[keys[-1]]
    else:
        parent[keys[-1]] = value
    path = write(tmp_path, values)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_squad(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


FILES = {
    "empty": (b"", "line 1: expected JSON"),
    "cut short": (json.dumps(GOOD, indent=1)[:500].encode(), "line 2"),
    "missing comma": (b'{"data": [\n{}\n{}]}', "line 3: expected JSON"),
    "not UTF-8": (b'{"data":\n ["\xff"]}', "line 2: expected UTF-8 text"),
    "a list": (b"[]", ": expected an object, found []"),
    "JSON lines": (b'{"data": []}\n{"data": []}', "line 2: expected JSON"),
    "nested without end": (b"[" * 100_000, "expected JSON as SQuAD has it"),
    "endless number": (b'{"data": ' + b"1" * 5000 + b"}", "expected JSON as"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_json_is_named_by_its_line(name, tmp_path):
    content, message = FILES[name]
    path = tmp_path / "questions.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        read_squad(path)


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(InputError, match="expected a file, found nothing"):
        read_squad(tmp_path / "none.json")
    with pytest.raises(InputError, match="expected a file, found a directory"):
        read_squad(tmp_path)


def test_a_byte_order_mark_is_no_content(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert len(read_squad(path)) == 3


def tfds_row(name, context, answers, **more):
    texts, starts = zip(*answers, strict=True) if answers else ((), ())
    row = {
        "id": name.encode(),
        "title": b"Sea",
        "context": context.encode(),
        "question": b"Which?",
        "answers": {
            "text": np.array([text.encode() for text in texts], object),
            "answer_start": np.array(starts, np.int32),
        },
    }
    return row | more


@pytest.fixture
def fake_tfds(monkeypatch):
    """Stands in for the library; splits that it holds are prepared."""
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
        tfds_row("a", SEA, [("boat", 18)], is_impossible=np.bool_(False)),
        tfds_row("b", accented, [("boat", 10)], is_impossible=np.bool_(False)),
        tfds_row("c", SEA, [], is_impossible=np.bool_(True)),
    ]
    questions = tfds_questions("squad_v2", "dev")
    assert questions.contexts == [SEA, accented]
    # Those of one context follow each other.
    assert questions.ids == ["a", "c", "b"]
    assert questions.context_index.tolist() == [0, 0, 1]
    assert questions.answers == [
        [Answer("boat", 18)],
        [],
        [Answer("boat", 10)],
    ]


def test_a_misplaced_answer_of_tensorflow_datasets_is_named(fake_tfds):
    fake_tfds["squad/v1.1", "train"] = [tfds_row("a", SEA, [("boat", 17)])]
    with pytest.raises(InputError, match=r"squad/v1.1, train, \(id 'a'\)"):
        tfds_questions("squad_v1", "train")


@pytest.mark.usefixtures("fake_tfds")
def test_what_is_not_prepared_names_the_command():
    with pytest.raises(InputError, match="tfds build squad/v2.0"):
        tfds_questions("squad_v2", "dev")


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
