"""What a demo's folders hold: scores, sizes and times, as tables and verdicts.

A demo folder holds one model folder for each of `MODELS`, the classifier
fine-tuned from each, and `timings.json`. A row of the table is a dict with
`name`, accuracies in [0, 1], `megabytes` (1e6 bytes) of weights, `parameters`,
`latency_ms` of one paragraph on one thread and the minutes of its two commands;
a value that does not apply is None.
"""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilebert_tf.commands.plot import read_run
from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, read_content

TEACHER = "teacher"
DISTILLED = "student, distilled"
ALONE = "student, without a teacher"
INT8 = "distilled, int8_qat .tflite"
MODELS = {TEACHER: "teacher", DISTILLED: "student", ALONE: "student_alone"}
TIMINGS_FILE = "timings.json"

# Heading, key in a row, format.
_COLUMNS = (
    ("model", "name", "{}"),
    ("parameters", "parameters", "{:,.0f}"),
    ("masked LM\n%", "masked_lm_accuracy", "{:.1f}"),
    ("dev\n%", "dev_accuracy", "{:.1f}"),
    ("test\n%", "test_accuracy", "{:.1f}"),
    ("size\nMB", "megabytes", "{:.2f}"),
    ("latency\nms", "latency_ms", "{:.2f}"),
    ("train\nmin.", "pretraining_minutes", "{:.1f}"),
    ("tune\nmin.", "fine_tuning_minutes", "{:.1f}"),
)
_KEYS = [key for _, key, _ in _COLUMNS]


def seed_folder(demo_dir: Path, seed: int) -> Path:
    """Returns the folder of a seed's models; seed 1 has the demo's own."""
    return demo_dir if seed == 1 else demo_dir / f"seed_{seed}"


def read_timings(folder: Path) -> dict[str, dict]:
    """Returns `seconds` and `finished` by step of one seed; {} if unknown.

    Raises:
        InputError: if the file holds anything else.
    """
    path = folder / TIMINGS_FILE
    timings = read_json_object(path) if path.exists() else {}
    for step, entry in timings.items():
        if not isinstance(entry, dict) or {*entry} != {"seconds", "finished"}:
            raise InputError(path, "seconds and finished", entry, place=step)
    return timings


def read_rows(folder: Path) -> list[dict]:
    """Returns the rows of one seed: three models, then the three files.

    Raises:
        InputError: if a step has not finished or its record lacks a value.
    """
    minutes = {
        step: entry["seconds"] / 60
        for step, entry in read_timings(folder).items()
        if entry["finished"]
    }
    rows = []
    for name, model in MODELS.items():
        classifier = folder / f"{model}_classifier"
        (masked_lm,) = _results(folder / model, "masked_lm_accuracy")
        dev, test = _results(classifier, "dev_accuracy", "test_accuracy")
        megabytes, parameters = _size(classifier / "model.safetensors")
        values = (name, parameters, masked_lm, dev, test, megabytes, None)
        times = minutes.get(model), minutes.get(classifier.name)
        rows.append(dict(zip(_KEYS, (*values, *times), strict=True)))
    exported = folder / f"{MODELS[DISTILLED]}_classifier"
    keys = ("dev_accuracy", "test_accuracy", "megabytes", "latency_ms")
    for kind in ("float32", "dynamic", "int8_qat"):
        values = _results(exported, *(f"{kind}_{key}" for key in keys))
        row = {"name": f"distilled, {kind} .tflite"}
        row |= dict(zip(keys, values, strict=True))
        rows.append(dict.fromkeys(_KEYS) | row)
    return rows


def _results(folder: Path, *names: str) -> list[float]:
    """Returns results of a finished run."""
    lines = read_run(folder)
    path = folder / "metrics.jsonl"
    last = lines[-1] if lines else {"phase": "nothing"}
    if last["phase"] != "results":
        raise InputError(path, "a finished run's results last", last["phase"])
    for name in names:
        if name not in last:
            raise InputError(path, f"the result {name}", "none")
    return [last[name] for name in names]


def _size(weights: Path) -> tuple[float, int]:
    """Returns megabytes and parameters of a `.safetensors` file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "numpy") as file:
            shapes = [file.get_slice(key).get_shape() for key in file.keys()]
    except (OSError, SafetensorError) as error:
        raise InputError(weights, "a weights file", error) from error
    return weights.stat().st_size / 1e6, sum(map(math.prod, shapes))


def read_commands(folder: Path) -> dict[str, str]:
    """Returns the commands in the model cards, by model folder.

    Raises:
        InputError: if a card is missing or names no command.
    """
    classifiers = [f"{model}_classifier" for model in MODELS.values()]
    commands = {}
    for model in [*MODELS.values(), *classifiers]:
        path = folder / model / "README.md"
        card = decode_content(path, read_content(path))
        found = re.search(r"^    (.* --output_dir=.*)$", card, re.MULTILINE)
        if not found:
            raise InputError(path, "the command that made the folder", "none")
        commands[model] = found[1]
    return commands


def compare(seeds: Sequence[Sequence[Mapping]]) -> dict:
    """Answers the demo's two questions, in points of accuracy by seed.

    The gains of the distilled student over the student without a teacher show
    what the teacher is worth; the losses of the int8 file, what int8 costs.
    """
    by_name = [{row["name"]: row for row in rows} for rows in seeds]

    def points(split: str, better: str, worse: str) -> list[float]:
        key = f"{split}_accuracy"
        return [100 * (row[better][key] - row[worse][key]) for row in by_name]

    values = {
        f"{split}_gains": points(split, DISTILLED, ALONE)
        for split in ("masked_lm", "dev", "test")
    } | {
        f"int8_{split}_losses": points(split, DISTILLED, INT8)
        for split in ("dev", "test")
    }
    losses = values["int8_dev_losses"] + values["int8_test_losses"]
    return values | {
        "distilled_wins": min(values["dev_gains"] + values["test_gains"]) > 0,
        "largest_int8_loss": max(losses),
    }


def verdicts(comparison: Mapping) -> list[str]:
    """Words the answers of `compare`."""

    def points(split: str) -> str:
        values = comparison[f"{split}_gains"]
        mean = f"{statistics.fmean(values):+.1f}"
        by_seed = ", ".join(f"{value:+.1f}" for value in values)
        return mean if len(values) == 1 else f"{mean} ({by_seed})"

    seeds = len(comparison["test_gains"])
    beats = "beats" if comparison["distilled_wins"] else "does NOT beat"
    return [
        f"The distilled student {beats} the same student without a teacher "
        f"{'in every seed' if seeds > 1 else 'with this seed'}: test "
        f"{points('test')}, dev {points('dev')}, masked LM "
        f"{points('masked_lm')} points.",
        f"int8 loses at most {max(comparison['largest_int8_loss'], 0.0):.2f} "
        "points against float (dev and test"
        f"{f', {seeds} seeds' if seeds > 1 else ''}).",
    ]


def mean_rows(seeds: Sequence[Sequence[Mapping]]) -> list[dict]:
    """Averages the rows of several seeds."""

    def mean(values: list):
        if isinstance(values[0], str):
            return values[0]
        return None if None in values else statistics.fmean(values)

    return [
        {key: mean([row[key] for row in rows]) for key in rows[0]}
        for rows in zip(*seeds, strict=True)
    ]


def tables(seeds: Sequence[Sequence[Mapping]]) -> list[list[list[str]]]:
    """Returns the demo's tables as rows of cells, their headers first.

    The first is the mean of the seeds. If there are several, the second has
    the test accuracy of each.
    """

    def cell(row: Mapping, key: str, form: str) -> str:
        if row[key] is None:
            return ""
        return form.format(row[key] * (100 if key.endswith("accuracy") else 1))

    means = mean_rows(seeds)
    results = [[head for head, _, _ in _COLUMNS]]
    for row in means:
        results.append([cell(row, key, form) for _, key, form in _COLUMNS])
    if len(seeds) == 1:
        return [results]
    numbers = [f"seed {number}" for number in range(1, len(seeds) + 1)]
    by_seed = [["test accuracy, %", *numbers, "mean"]]
    for rows in zip(*seeds, means, strict=True):
        cells = [cell(row, "test_accuracy", "{:.1f}") for row in rows]
        by_seed.append([rows[0]["name"], *cells])
    return [results, by_seed]


def format_table(cells: Sequence[Sequence[str]]) -> str:
    """Sets a table in plain text, numbers to the right."""
    # A heading has one or two lines.
    titles = [title.rpartition("\n")[::2] for title in cells[0]]
    lines = [*zip(*titles, strict=True), *cells[1:]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for first, *others in lines:
        numbers = map(str.rjust, others, widths[1:])
        texts.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    texts.insert(2, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(texts).lstrip("\n")
