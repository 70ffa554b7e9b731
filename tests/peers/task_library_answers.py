"""Asks a file as an app would, in an interpreter that has the Task Library.

    python task_library_answers.py FILE QUESTIONS.json ANSWERS.json

QUESTIONS.json holds pairs of context and question, or texts to classify. Run by
`test_task_library` in a process of its own: the wheel wants a NumPy older than
this project's.
"""

import ctypes
import json
import sys
from pathlib import Path

import libusb_package

# The library wants it on the system, and never calls it on a machine without
# an Edge TPU.
ctypes.CDLL(str(libusb_package.get_library_path()))
from tflite_support.task import text  # noqa: E402


def answers(path: str, context: str, question: str) -> list[dict]:
    """Returns what the file answers, the best first."""
    found = text.BertQuestionAnswerer.create_from_file(path).answer(
        context, question
    )
    return [
        {
            "text": answer.text,
            "start": answer.pos.start,
            "end": answer.pos.end,
            "logit": answer.pos.logit,
        }
        for answer in found.answers
    ]


def probabilities(path: str, words: str) -> dict[str, float]:
    """Returns the probability of each label."""
    found = text.BertNLClassifier.create_from_file(path).classify(words)
    (classes,) = found.classifications
    return {
        category.category_name: category.score
        for category in classes.categories
    }


if __name__ == "__main__":
    file, questions, out = sys.argv[1:]
    asked = json.loads(Path(questions).read_text())
    found = [
        probabilities(file, one)
        if isinstance(one, str)
        else answers(file, *one)
        for one in asked
    ]
    Path(out).write_text(json.dumps(found))
