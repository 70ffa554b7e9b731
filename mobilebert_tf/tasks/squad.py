"""Questions about paragraphs: the SQuAD format, v1.1 and v2.0, from anywhere.

Owns what a question, its paragraph and its answers are, and the reading of
them: from JSON files in SQuAD's format, or from TensorFlow Datasets by name.
Whatever is not as the format wants it is an `InputError` that names the file
and the place in it, as a path and by the question's id; nothing is skipped or
repaired.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, read_content

# Names for users, and the same in TensorFlow Datasets.
TFDS_NAMES = {"squad_v1": "squad/v1.1", "squad_v2": "squad/v2.0"}
_TFDS_SPLITS = {"train": "train", "dev": "validation"}

# JSON can spell what no UTF-8 file can hold and no tokenizer can read.
_UNREADABLE = re.compile("[\0\ud800-\udfff]")
_KINDS = {
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
        context_index: which of them each question is about, int64
            [num_questions].
        ids: of the questions, all different.
        texts: the questions themselves.
        answers: the right answers to each; none if the context has no answer.
            None as a whole where answers are not known.
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
        """How many questions are known to have no answer."""
        return sum(not answers for answers in self.answers or ())

    def context(self, index: int) -> str:
        """The paragraph that question number `index` is about."""
        return self.contexts[self.context_index[index]]

    def first(self, number: int) -> "Questions":
        """The first so many questions, or all if there are fewer."""
        index = self.context_index[:number]
        return Questions(
            self.contexts[: index.max() + 1],
            index,
            self.ids[:number],
            self.texts[:number],
            self.answers and self.answers[:number],
        )


def read_squad(path: str | os.PathLike, has_answers: bool = True) -> Questions:
    """Reads a JSON file in the format of SQuAD v1.1 or v2.0.

    Args:
        path: `data`, its articles' `paragraphs`, their `context` and `qas`;
            each of these a `question`, an `id` and `answers` with `text` and
            `answer_start`. In v2.0 a question may have `is_impossible`; if it
            is true there are no answers, otherwise at least one. Other keys
            are free.
        has_answers: False for questions to predict, whose `answers` and
            `is_impossible` may be absent and are ignored.

    Raises:
        InputError: the file is not like that, an id is used twice, or an answer
            does not stand in its context where `answer_start` says.
    """
    return squad_questions(_read_json(Path(path)), path, has_answers)


def squad_questions(
    values: object, path: str | os.PathLike, has_answers: bool = True
) -> Questions:
    """Returns the questions in what SQuAD's JSON holds (see `read_squad`).

    Args:
        values: the decoded JSON.
        path: the name of its source, for errors.
        has_answers: whether answers are wanted.

    Raises:
        InputError: as `read_squad` does.
    """
    builder = _Builder(path, has_answers)
    for place, article in _members(path, "", values, "data"):
        for place, paragraph in _members(path, place, article, "paragraphs"):
            context = _text(path, place, paragraph, "context")
            builder.begin_context(context)
            for place, question in _members(path, place, paragraph, "qas"):
                builder.add(place, question)
    return builder.finish()


def tfds_questions(task: str, split: str) -> Questions:
    """Reads a split of SQuAD that TensorFlow Datasets has prepared.

    Args:
        task: one of `TFDS_NAMES`.
        split: `train` or `dev` (the validation split; test is not public).

    Raises:
        InputError: it is not there, or is not in SQuAD's format.
    """
    # Takes seconds to import: only for those who ask for it.
    import tensorflow_datasets as tfds

    name, split = TFDS_NAMES[task], _TFDS_SPLITS[split]
    dataset = tfds.builder(name)
    if not dataset.is_prepared():
        raise InputError(
            f"--task={task}",
            f"{name} in {dataset.data_dir} (tfds build {name}), or files",
            "neither",
        )
    rows = tfds.as_numpy(dataset.as_dataset(split=split))
    builder = _Builder(f"{name}, {split}", has_answers=True)
    # Each row brings its context along; the same one for some five rows.
    by_context = {}
    for row in rows:
        by_context.setdefault(row["context"].decode(), []).append(row)
    for context, rows in by_context.items():
        builder.begin_context(context)
        for row in rows:
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
            builder.add("", question)
    return builder.finish()


class _Builder:
    """Collects checked questions."""

    def __init__(self, path: str | os.PathLike, has_answers: bool):
        self._path = path
        self._has_answers = has_answers
        self._contexts: list[str] = []
        self._context_index: list[int] = []
        self._texts: list[str] = []
        self._answers: list[list[Answer]] = []
        self._place_of_id: dict[str, str] = {}

    def begin_context(self, context: str) -> None:
        self._contexts.append(context)

    def add(self, place: str, values: object) -> None:
        """Adds a question about the context begun last."""
        name = _text(self._path, place, values, "id")
        if name in self._place_of_id:
            found = f"{name!r}, also the id of {self._place_of_id[name]}"
            raise InputError(self._path, "an id of its own", found, place)
        self._place_of_id[name] = place or "another question"
        place = f"{place} (id {name!r})".lstrip()
        self._texts.append(_text(self._path, place, values, "question"))
        self._context_index.append(len(self._contexts) - 1)
        if self._has_answers:
            context = self._contexts[-1]
            self._answers.append(_answers(self._path, place, values, context))

    def finish(self) -> Questions:
        if not self._texts:
            raise InputError(self._path, "at least one question", "none")
        return Questions(
            self._contexts,
            np.asarray(self._context_index, np.int64),
            list(self._place_of_id),
            self._texts,
            self._answers if self._has_answers else None,
        )


def _answers(
    path: str | os.PathLike, place: str, question: dict, context: str
) -> list[Answer]:
    """The checked answers to a question, as SQuAD has them."""
    is_impossible = False
    if "is_impossible" in question:
        is_impossible = _member(path, place, question, "is_impossible", bool)
    answers = [
        _answer(path, answer_place, values, context)
        for answer_place, values in _members(path, place, question, "answers")
    ]
    if is_impossible and answers:
        found = f"{len(answers)}, and is_impossible true"
        raise InputError(path, "no answers", found, f"{place}.answers")
    if not is_impossible and not answers:
        raise InputError(
            path,
            "an answer, or is_impossible true",
            "neither",
            f"{place}.answers",
        )
    return answers


def _answer(
    path: str | os.PathLike, place: str, values: object, context: str
) -> Answer:
    text = _text(path, place, values, "text")
    start = _member(path, place, values, "answer_start", int)
    there = context[start : start + len(text)] if start >= 0 else ""
    if there != text:
        elsewhere = context.find(text)
        found = _shown(there) if there else "nothing there"
        if elsewhere < 0:
            found += "; it is nowhere in its context"
        else:
            found += f"; it stands at character {elsewhere}"
        expected = f"the answer {_shown(text)} at character {start} of its "
        raise InputError(path, expected + "context", found, place)
    return Answer(text, start)


def _member(
    path: str | os.PathLike, place: str, parent: object, key: str, kind: type
):
    """The value of a key that must be there and of a type."""
    if not isinstance(parent, dict):
        raise InputError(path, "an object", _shown(parent), place)
    if key not in parent:
        found = ", ".join(map(repr, parent)) or "no keys"
        raise InputError(path, f"the key {key!r}", found, place)
    value = parent[key]
    # To Python true is a number.
    is_flag = isinstance(value, bool)
    if not isinstance(value, kind) or (is_flag and kind is not bool):
        place = f"{place}.{key}".lstrip(".")
        raise InputError(path, _KINDS[kind], _shown(value), place)
    return value


def _members(
    path: str | os.PathLike, place: str, parent: object, key: str
) -> Iterator[tuple[str, object]]:
    """Place and value of each element of a list that must be there."""
    values: Sequence = _member(path, place, parent, key, list)
    for index, value in enumerate(values):
        yield f"{place}.{key}[{index}]".lstrip("."), value


def _text(path: str | os.PathLike, place: str, parent: object, key: str) -> str:
    """A text that must be there, with something to read in it."""
    value = _member(path, place, parent, key, str)
    place = f"{place}.{key}".lstrip(".")
    if not value.strip():
        raise InputError(path, "a text", "an empty one", place)
    unreadable = _UNREADABLE.search(value)
    if unreadable:
        raise InputError(path, "Unicode text", ascii(unreadable[0]), place)
    return value


def _read_json(path: Path) -> object:
    text = decode_content(path, read_content(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = f"{error.msg} (column {error.colno})"
        raise InputError(path, "JSON", found, error.lineno) from None
    except (RecursionError, ValueError) as error:
        # Brackets nested without end; a number of thousands of digits.
        raise InputError(path, "JSON as SQuAD has it", error) from None


def _shown(value: object) -> str:
    """A value in an error's one line, cut where it gets long."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
