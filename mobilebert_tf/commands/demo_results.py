"""What a demo's folders hold: scores, sizes and times, as tables and verdicts.

A demo folder holds one model folder for each of `MODELS`, the classifier
fine-tuned from each, and `timings.json`. A row of the table is a dict with
`name`, accuracies in [0, 1], `megabytes` (1e6 bytes) of weights, `parameters`,
`latency_ms` of one paragraph on one thread and the minutes of its two commands;
a value that does not apply is None.
"""

import math
import re
import shlex
import statistics
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from mobilebert_tf.commands.plot import read_run
from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError

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
)


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
    timings = read_timings(folder)

    def minutes(step: str) -> float | None:
        entry = timings.get(step, {"finished": False})
        return entry["seconds"] / 60 if entry["finished"] else None

    rows = []
    for name, model in MODELS.items():
        classifier = folder / f"{model}_classifier"
        dev, test = _results(classifier, "dev_accuracy", "test_accuracy")
        (masked_lm,) = _results(folder / model, "masked_lm_accuracy")
        megabytes, parameters = _size(classifier / "model.safetensors")
        rows.append(
            {
                "name": name,
                "dev_accuracy": dev,
                "test_accuracy": test,
                "megabytes": megabytes,
                "parameters": parameters,
                "masked_lm_accuracy": masked_lm,
                "latency_ms": None,
                "pretraining_minutes": minutes(model),
                "fine_tuning_minutes": minutes(classifier.name),
            }
        )
    exported = folder / f"{MODELS[DISTILLED]}_classifier"
    keys = ("dev_accuracy", "test_accuracy", "megabytes", "latency_ms")
    for kind in ("float32", "dynamic", "int8_qat"):
        values = _results(exported, *(f"{kind}_{key}" for key in keys))
        row = dict(zip(keys, values, strict=True))
        row["name"] = f"distilled, {kind} .tflite"
        rows.append(dict.fromkeys(rows[0]) | row)
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


def read_commands(folder: Path) -> dict[str, list[str]]:
    """Returns the words of the commands in the model cards, by model folder.

    Raises:
        InputError: if a card is missing or names no command.
    """
    classifiers = [f"{model}_classifier" for model in MODELS.values()]
    commands = {}
    for model in [*MODELS.values(), *classifiers]:
        path = folder / model / "README.md"
        try:
            card = path.read_text(encoding="utf-8")
        except OSError as error:
            raise InputError(path, "a model card", error.strerror) from error
        found = re.search(r"^    (.* --output_dir=.*)$", card, re.MULTILINE)
        if not found:
            raise InputError(path, "the command that made the folder", "none")
        commands[model] = shlex.split(found[1])
    return commands


def format_command(command: Sequence[str]) -> str:
    """Sets a command for a shell, in lines of at most 78 characters."""
    # Wrapped at spaces between words, not at those inside quotes.
    words = [shlex.quote(word).replace(" ", "\0") for word in command]
    lines = textwrap.wrap(
        " ".join(words),
        width=76,
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return " \\\n".join(lines).replace("\0", " ")


def compare(seeds: Sequence[Sequence[Mapping]]) -> dict:
    """Answers the demo's two questions, in points of accuracy by seed.

    The gains of the distilled student over the student without a teacher show
    what the teacher is worth; the losses of the int8 file, what int8 costs.
    """
    by_name = [{row["name"]: row for row in rows} for rows in seeds]

    def points(split: str, better: str, worse: str) -> list[float]:
        key = f"{split}_accuracy"
        return [100 * (row[better][key] - row[worse][key]) for row in by_name]

    test_gains = points("test", DISTILLED, ALONE)
    dev_gains = points("dev", DISTILLED, ALONE)
    dev_losses = points("dev", DISTILLED, INT8)
    test_losses = points("test", DISTILLED, INT8)
    return {
        "masked_lm_gains": points("masked_lm", DISTILLED, ALONE),
        "dev_gains": dev_gains,
        "test_gains": test_gains,
        "int8_dev_losses": dev_losses,
        "int8_test_losses": test_losses,
        "distilled_wins": min(dev_gains + test_gains) > 0,
        "largest_int8_loss": max(dev_losses + test_losses),
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


def held_out_examples(splits: Mapping) -> dict:
    """Counts the paragraphs that the classifiers are compared on.

    `largest_class` is the accuracy on test of always naming that class.
    """
    (dev_texts, _), (_, test_labels) = splits["dev"], splits["test"]
    counts = Counter(test_labels)
    return {
        "num_dev": len(dev_texts),
        "num_test": len(test_labels),
        "num_classes": len(counts),
        "largest_class": max(counts.values()) / len(test_labels),
    }


def notes(held_out: Mapping, max_seq_length: int) -> list[str]:
    """Explains the columns of the table."""
    return [
        "masked LM: share of masked pieces that the pre-trained model "
        "predicts, on held-out text.",
        f"dev and test: accuracy of the classifier on {held_out['num_dev']:,} "
        f"and {held_out['num_test']:,} held-out paragraphs of "
        f"{held_out['num_classes']} libraries; always naming the largest gives "
        f"{100 * held_out['largest_class']:.1f} % on test.",
        "size: model.safetensors or .tflite. latency: a paragraph of "
        f"{max_seq_length} pieces, LiteRT on one thread of this machine.",
        "training: pre-training + fine-tuning, evaluation included; the "
        "distilled student's without its teacher's, and with "
        "quantisation-aware training and the three exports.",
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
    results = [[head for head, _, _ in _COLUMNS] + ["training\nminutes"]]
    for row in means:
        minutes = (row["pretraining_minutes"], row["fine_tuning_minutes"])
        training = [f"{each:.1f}" for each in minutes if each is not None]
        cells = [cell(row, key, form) for _, key, form in _COLUMNS]
        results.append([*cells, " + ".join(training)])
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
    titles = [title.split("\n") for title in cells[0]]
    height = max(map(len, titles))
    titles = [[""] * (height - len(title)) + title for title in titles]
    lines = [*zip(*titles, strict=True), *cells[1:]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = []
    for first, *others in lines:
        numbers = map(str.rjust, others, widths[1:])
        texts.append("  ".join([first.ljust(widths[0]), *numbers]).rstrip())
    texts.insert(height, "-" * (sum(widths) + 2 * (len(widths) - 1)))
    return "\n".join(texts)
