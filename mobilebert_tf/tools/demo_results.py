"""What a demo's folders hold: the models, their scores, and what they took.

A demo folder holds one model folder for each of `MODELS`, a classifier that
was fine-tuned from it, and `timings.json`. Every number of the table is read
from there, and this file owns where each is found.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.folder import WEIGHTS_FILE
from mobilebert_tf.tasks.labelled_texts import Examples
from mobilebert_tf.training.log import METRICS_FILE, RESULTS, read_metrics

# Row -> folder of the pre-trained model; its classifier's has a suffix.
MODELS = {
    "teacher": "teacher",
    "student, distilled": "student",
    "student, without a teacher": "student_alone",
}
CLASSIFIER_SUFFIX = "_classifier"
# The model that becomes .tflite files, and their kinds.
SHIPPED = "student, distilled"
TFLITE_KINDS = ("float32", "dynamic", "int8_qat")
TIMINGS_FILE = "timings.json"
CARD_FILE = "README.md"

_PARAMETERS_LINE = re.compile(r"^\| Parameters \| ([\d,]+) \|$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Row:
    """One model or file of the table; None where a column does not apply.

    Attributes:
        name: what the table calls it.
        dev_accuracy, test_accuracy: of the classifier, in [0, 1].
        megabytes: of its `model.safetensors` or `.tflite` file, 1e6 bytes.
        parameters: of the classifier.
        masked_lm_accuracy: of the pre-trained model, on held-out text.
        latency_ms: milliseconds of one paragraph on one thread.
        pretraining_minutes, fine_tuning_minutes: of the two commands.
    """

    name: str
    dev_accuracy: float
    test_accuracy: float
    megabytes: float
    parameters: int | None = None
    masked_lm_accuracy: float | None = None
    latency_ms: float | None = None
    pretraining_minutes: float | None = None
    fine_tuning_minutes: float | None = None


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """The examples that the classifiers are compared on.

    Attributes:
        num_dev, num_test: examples.
        num_classes: classes among the test examples.
        largest_class: share of the most frequent one, the accuracy of a model
            that has learnt nothing else.
    """

    num_dev: int
    num_test: int
    num_classes: int
    largest_class: float

    @classmethod
    def of(cls, splits: Mapping[str, Examples]) -> "HeldOut":
        """Counts a task's dev and test examples."""
        labels = splits["test"].labels
        counts = [labels.count(name) for name in set(labels)]
        share = max(counts) / len(labels)
        return cls(len(splits["dev"]), len(labels), len(counts), share)


def seed_folder(demo_dir: str | os.PathLike, seed: int) -> Path:
    """The folder of one seed's models: seed 1 has the demo's own."""
    folder = Path(demo_dir)
    return folder if seed == 1 else folder / f"seed_{seed}"


def classifier_folder(folder: Path) -> Path:
    """The classifier that was fine-tuned from a pre-trained model's folder."""
    return folder.with_name(folder.name + CLASSIFIER_SUFFIX)


def read_results(folder: Path) -> dict[str, float]:
    """Returns a finished run's results.

    Raises:
        InputError: if the folder holds no finished run.
    """
    path = folder / METRICS_FILE
    try:
        lines = read_metrics(path)
    except OSError as error:
        raise InputError(path, "a run's record", error.strerror) from error
    except json.JSONDecodeError as error:
        raise InputError(path, "JSON lines", error) from error
    if not lines or lines[-1].get("phase") != RESULTS:
        found = lines[-1].get("phase") if lines else "nothing"
        raise InputError(path, "a finished run's results last", found)
    return lines[-1]


def read_timings(demo_dir: str | os.PathLike) -> dict[str, dict]:
    """Returns seconds and whether it ever finished, by step; {} if unknown.

    Raises:
        InputError: if the file is there and is not a demo's.
    """
    path = Path(demo_dir) / TIMINGS_FILE
    if not path.exists():
        return {}
    timings = read_json_object(path)
    for name, entry in timings.items():
        if not isinstance(entry, dict) or entry.keys() != {
            "seconds",
            "finished",
        }:
            raise InputError(path, "seconds and finished", entry, place=name)
    return timings


def add_duration(
    demo_dir: str | os.PathLike,
    name: str,
    seconds: float,
    *,
    finished: bool,
    from_scratch: bool,
) -> None:
    """Adds to the time that a step took until it first finished.

    The pieces of an interrupted step add up; what a finished one takes to find
    that there is nothing left to train does not count.

    Args:
        demo_dir: of one seed.
        name: the step's folder.
        seconds: this piece.
        finished: whether the step is now over.
        from_scratch: whether this piece began with nothing to go on from.
    """
    timings = read_timings(demo_dir)
    entry = timings.get(name)
    if entry is None or from_scratch:
        entry = {"seconds": 0.0, "finished": False}
    if not entry["finished"]:
        seconds = entry["seconds"] + seconds
        entry = {"seconds": round(seconds, 1), "finished": finished}
    with atomic_file(Path(demo_dir) / TIMINGS_FILE) as temporary:
        content = json.dumps(timings | {name: entry}, indent=2)
        temporary.write_text(content + "\n")


def read_rows(demo_dir: str | os.PathLike) -> list[Row]:
    """Returns the rows of one seed: the models, then the `.tflite` files.

    Raises:
        InputError: if a step has not finished or its record lacks a value.
    """
    timings = read_timings(demo_dir)

    def minutes(folder: Path) -> float | None:
        entry = timings.get(folder.name, {"finished": False})
        return entry["seconds"] / 60 if entry["finished"] else None

    rows = []
    for name, folder_name in MODELS.items():
        folder = Path(demo_dir) / folder_name
        classifier = classifier_folder(folder)
        scores = _Values(classifier)
        rows.append(
            Row(
                name,
                scores["dev_accuracy"],
                scores["test_accuracy"],
                _file_megabytes(classifier / WEIGHTS_FILE),
                parameters=_num_parameters(classifier),
                masked_lm_accuracy=_Values(folder)["masked_lm_accuracy"],
                pretraining_minutes=minutes(folder),
                fine_tuning_minutes=minutes(classifier),
            )
        )
    shipped = _Values(classifier_folder(Path(demo_dir) / MODELS[SHIPPED]))
    for kind in TFLITE_KINDS:
        rows.append(
            Row(
                f"distilled, {kind} .tflite",
                shipped[f"{kind}_dev_accuracy"],
                shipped[f"{kind}_test_accuracy"],
                shipped[f"{kind}_megabytes"],
                latency_ms=shipped[f"{kind}_latency_ms"],
            )
        )
    return rows


class _Values:
    """A finished run's results by name, whose absence says which file."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._values = read_results(folder)

    def __getitem__(self, name: str) -> float:
        if name not in self._values:
            raise InputError(
                self._folder / METRICS_FILE, f"the result {name}", "none"
            )
        return self._values[name]


def _num_parameters(folder: Path) -> int:
    path = folder / CARD_FILE
    try:
        found = _PARAMETERS_LINE.search(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(path, "a model card", error.strerror) from error
    if not found:
        raise InputError(path, "a row Parameters", "none")
    return int(found[1].replace(",", ""))


def _file_megabytes(path: Path) -> float:
    try:
        return path.stat().st_size / 1e6
    except OSError as error:
        raise InputError(path, "a weights file", error.strerror) from error
