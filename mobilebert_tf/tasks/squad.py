"""Reads questions about paragraphs: SQuAD v1.1 and v2.0, from files or TFDS.

What the format does not allow is an `InputError` that names the file and the
place in it, as a path and by the question's id. Nothing is skipped or repaired.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilebert_tf.errors import InputError, listed, refuse, shortened
from mobilebert_tf.files import read_text

# Names of tasks, and of the same data in TensorFlow Datasets.
TFDS_NAMES = {"squad_v1": "squad/v1.1", "squad_v2": "squad/v2.0"}
_TFDS_SPLITS = {"train": "train", "dev": "validation"}

# JSON can spell characters that UTF-8 files and tokenizers cannot hold.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_TYPES = {
    bool: "true or false",
    dict: "an object",
    int: "a whole number",
    list: "a list",
    str: "a text",
}


class Answer(NamedTuple):
    """A stretch of a context: `context[start:start + len(text)] == text`."""

    text: str
    start: int


@dataclass(frozen=True)
class Questions:
    """Questions, each about one of the contexts.

    Attributes:
        contexts: the paragraphs.
        context_index: the context of each question, int64 [num_questions].
        ids: unique names of the questions.
        texts: the questions themselves.
        answers: the right answers to each question; an empty list if its
            context has no answer. None if answers are unknown.
    """

    contexts: list[str]
    context_index: np.ndarray
    ids: list[str]
    texts: list[str]
    answers: list[list[Answer]] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def num_unanswerable(self) -> int:
        """Number of questions that are known to have no answer."""
        return sum(not answers for answers in self.answers or ())

    def context(self, index: int) -> str:
        """Returns the paragraph that question number `index` is about."""
        return self.contexts[self.context_index[index]]

    def first(self, number: int | None) -> "Questions":
        """Returns the first questions, or all if there are fewer."""
        index = self.context_index[:number]
        return Questions(
            self.contexts[: index.max() + 1],
            index,
            self.ids[:number],
            self.texts[:number],
            self.answers and self.answers[:number],
        )


def read_squad(
    path: str | os.PathLike,
    has_answers: bool = True,
    encoding: str | None = None,
) -> Questions:
    """Reads a JSON file in the format of SQuAD v1.1 or v2.0.

    Args:
        path: `data` is a list of articles with `paragraphs`, each with a
            `context` and `qas`; each of these has a `question`, an `id` and
            `answers` with `text` and `answer_start`. In v2.0 a question may
            have `is_impossible`; if it is true there are no answers, otherwise
            at least one. Other keys are ignored.
        has_answers: False for questions to predict, whose `answers` and
            `is_impossible` may be absent and are ignored.
        encoding: see `read_text`.

    Raises:
        InputError: the file has another format, an id is used twice, or answers
            are not at `answer_start` of their contexts; of these it shows the
            first and says how many there are.
    """
    path = Path(path)
    text, _ = read_text(path, encoding)
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        found = f"{error.msg} (column {error.colno})"
        raise InputError(path, "JSON", found, error.lineno) from None
    except (RecursionError, ValueError) as error:
        # Unbounded nesting, or a number of thousands of digits.
        raise InputError(path, "JSON as SQuAD has it", error) from None
    return squad_questions(values, path, has_answers)


def squad_questions(
    values: object, path: str | os.PathLike, has_answers: bool = True
) -> Questions:
    """Returns the questions in decoded JSON of SQuAD (see `read_squad`).

    `path` names its source in errors.
    """
    reader = _Reader(path, has_answers)
    for place, article in reader.members("", values, "data"):
        for place, paragraph in reader.members(place, article, "paragraphs"):
            context = reader.text(place, paragraph, "context")
            reader.contexts.append(context)
            for place, question in reader.members(place, paragraph, "qas"):
                try:
                    reader.add(place, question)
                except InputError as problem:
                    reader.problems.append(problem)
    refuse(reader.problems)
    if not reader.texts:
        raise InputError(path, "at least one question", "none")
    return Questions(
        reader.contexts,
        np.asarray(reader.context_index, np.int64),
        list(reader.place_of_id),
        reader.texts,
        reader.answers if has_answers else None,
    )


def tfds_questions(task: str, split: str) -> Questions:
    """Reads a split of SQuAD that TensorFlow Datasets has prepared.

    Args:
        task: one of `TFDS_NAMES`.
        split: `train` or `dev` (the validation split; test is not public).

    Raises:
        InputError: the split is not prepared or not in SQuAD's format.
    """
    import tensorflow_datasets as tfds

    name, split = TFDS_NAMES[task], _TFDS_SPLITS[split]
    dataset = tfds.builder(name)
    if not dataset.is_prepared():
        raise InputError(
            f"--task={task}",
            f"{name} in {dataset.data_dir} (tfds build {name}), or files",
            "neither",
        )
    # Each row repeats its context; about five rows share one.
    by_context = {}
    for row in tfds.as_numpy(dataset.as_dataset(split=split)):
        answers = row["answers"]
        question = {
            "id": row["id"].decode(),
            "question": row["question"].decode(),
            "answers": [
                {"text": text.decode(), "answer_start": int(start)}
                for text, start in zip(
                    answers["text"], answers["answer_start"], strict=True
                )
            ],
        }
        if "is_impossible" in row:
            question["is_impossible"] = bool(row["is_impossible"])
        by_context.setdefault(row["context"].decode(), []).append(question)
    paragraphs = [
        {"context": context, "qas": questions}
        for context, questions in by_context.items()
    ]
    values = {"data": [{"paragraphs": paragraphs}]}
    return squad_questions(values, f"{name}, {split}")


class _Reader:
    """Checks values of decoded JSON and collects the questions among them."""

    def __init__(self, path: str | os.PathLike, has_answers: bool):
        self.contexts: list[str] = []
        self.context_index: list[int] = []
        self.place_of_id: dict[str, str] = {}
        self.texts: list[str] = []
        self.answers: list[list[Answer]] = []
        self.problems: list[InputError] = []
        self._path = path
        self._has_answers = has_answers

    def add(self, place: str, values: object) -> None:
        """Adds a question about the last context."""
        name = self._id(place, values)
        if name in self.place_of_id:
            found = f"{name!r}, also the id of {self.place_of_id[name]}"
            raise InputError(self._path, "an id of its own", found, place)
        self.place_of_id[name] = place
        place = f"{place} (id {name!r})"
        self.texts.append(self.text(place, values, "question"))
        self.context_index.append(len(self.contexts) - 1)
        if self._has_answers:
            self.answers.append(self._checked_answers(place, values))

    def members(
        self, place: str, parent: object, key: str
    ) -> Iterator[tuple[str, object]]:
        """Yields place and value of each element of a required list."""
        for index, value in enumerate(self._member(place, parent, key, list)):
            yield f"{place}.{key}[{index}]".lstrip("."), value

    def text(self, place: str, parent: object, key: str) -> str:
        """Returns a required text that is not blank."""
        value = self._member(place, parent, key, str)
        place = f"{place}.{key}".lstrip(".")
        if not value.strip():
            raise InputError(self._path, "a text", "an empty one", place)
        unreadable = _UNREADABLE.search(value)
        if unreadable:
            found = ascii(unreadable[0])
            raise InputError(self._path, "Unicode text", found, place)
        return value

    def _id(self, place: str, question: object) -> str:
        """Returns a question's id; a whole number is read as a text."""
        if isinstance(question, dict) and type(question.get("id")) is int:
            return str(question["id"])
        return self.text(place, question, "id")

    def _member(self, place: str, parent: object, key: str, wanted: type):
        if not isinstance(parent, dict):
            raise InputError(self._path, "an object", shortened(parent), place)
        if key not in parent:
            found = listed(parent) or "no keys"
            raise InputError(self._path, f"the key {key!r}", found, place)
        value = parent[key]
        # bool is a subclass of int.
        is_flag = isinstance(value, bool)
        if not isinstance(value, wanted) or (is_flag and wanted is not bool):
            place = f"{place}.{key}".lstrip(".")
            raise InputError(
                self._path, _TYPES[wanted], shortened(value), place
            )
        return value

    def _checked_answers(self, place: str, question: dict) -> list[Answer]:
        is_impossible = False
        if "is_impossible" in question:
            is_impossible = self._member(place, question, "is_impossible", bool)
        answers = [
            self._answer(answer_place, values)
            for answer_place, values in self.members(place, question, "answers")
        ]
        place = f"{place}.answers"
        if is_impossible and answers:
            found = f"{len(answers)}, and is_impossible true"
            raise InputError(self._path, "no answers", found, place)
        if not is_impossible and not answers:
            expected = "an answer, or is_impossible true"
            raise InputError(self._path, expected, "neither", place)
        return answers

    def _answer(self, place: str, values: object) -> Answer:
        text = self.text(place, values, "text")
        start = self._member(place, values, "answer_start", int)
        context = self.contexts[-1]
        there = context[start : start + len(text)] if start >= 0 else ""
        if there == text:
            return Answer(text, start)
        found = shortened(there) if there else "nothing there"
        elsewhere = context.find(text)
        if elsewhere < 0:
            found += "; it is nowhere in its context"
        else:
            found += f"; it stands at character {elsewhere}"
        expected = f"the answer {shortened(text)} at character {start} of its "
        # Wrong answers seldom come alone.
        problem = InputError(self._path, expected + "context", found, place)
        self.problems.append(problem)
        return Answer(text, start)
