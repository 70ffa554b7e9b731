"""What a classifier answers, and a table of its answers for spreadsheets."""

import csv
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from mobilebert_tf.files import atomic_file
from mobilebert_tf.tasks.labelled_texts import Examples


class Answer(NamedTuple):
    """What a classifier answers to a text.

    Attributes:
        label: the likeliest class; a tuple of the classes with a probability
            of at least a half, of a model for several labels; the number, of a
            regression.
        probabilities: by class; empty for a regression.
    """

    label: str | tuple[str, ...] | float
    probabilities: dict[str, float]


def write_predictions(
    path: str | os.PathLike,
    answers: Sequence[Answer],
    label_separator: str,
    examples: Examples | None = None,
) -> None:
    """Writes a TSV for spreadsheets, a line for each answer.

    Its columns are `index`, `prediction` (several labels are joined by
    `label_separator`), a probability per class, and the texts, if given, with
    spaces for line ends. Names and texts that begin with =, +, - or @, which a
    spreadsheet would compute, get an apostrophe before them.
    """
    texts = {}
    if examples is not None:
        texts = {"text": examples.texts_a, "text_b": examples.texts_b}
    texts = {name: column for name, column in texts.items() if column}
    names = map(_as_text, answers[0].probabilities)
    rows = [["index", "prediction", *names, *texts]]
    for index, (label, probabilities) in enumerate(answers):
        if isinstance(label, tuple):
            label = label_separator.join(label)
        label = f"{label:.6f}" if isinstance(label, float) else _as_text(label)
        cells = [f"{value:.6f}" for value in probabilities.values()]
        cells += [_as_text(column[index]) for column in texts.values()]
        rows.append([index, label, *cells])
    with (
        atomic_file(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        csv.writer(file, "excel-tab", lineterminator="\n").writerows(rows)


def _as_text(cell: str) -> str:
    cell = re.sub(r"[\t\r\n]+", " ", cell)
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@")) else cell
