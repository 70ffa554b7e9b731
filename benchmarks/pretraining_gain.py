"""What a pre-trained model knows that a random one has to learn.

    MOBILEBERT_TF_DATA=FOLDER python -m benchmarks.pretraining_gain \
        --model=runs/student --output_dir=gain

with FOLDER/glue/{SST-2,RTE,CoLA,STS-B} and FOLDER/squad/{train,dev}-v1.1.json.
Fine-tunes the model of a folder, and the same architecture with the same
vocabulary from random weights, with the commands that users have, at the same
learning rates and seeds. Each side is shown at the rate whose median over the
seeds is highest on dev: its best foot forward. A run that is over is not run
again, so the script may be stopped, and given more seeds or rates. The smallest
run: `--tasks=rte --max_train_examples=200 --num_seeds=1`.
"""

import csv
import dataclasses
import shutil
import statistics
from collections import defaultdict
from pathlib import Path

from benchmarks import commands
from benchmarks.instruments import start
from mobilebert_tf.options import option
from mobilebert_tf.training.run_folder import METRICS_FILE, read_metrics

TASKS = ("sst2", "rte", "cola", "stsb", "squad")


@dataclasses.dataclass(frozen=True)
class GainOptions(commands.RunsOptions):
    """Which tasks, and at which rates."""

    tasks: tuple[str, ...] = option(TASKS, "Tasks.", choices=TASKS)
    learning_rate: tuple[float, ...] = option((1e-3,), "Rates to compare.")


def tasks(options: GainOptions) -> dict[str, commands.Task]:
    """Returns the tasks, with epochs that suit small models."""
    glue = {
        "sst2": ("SST-2", "accuracy", 1),
        "rte": ("RTE", "accuracy", 5),
        "cola": ("CoLA", "matthews", 5),
        "stsb": ("STS-B", "pearson", 5),
    }
    return {
        name: commands.glue_task(options, name, *settings)
        for name, settings in glue.items()
    } | {"squad": commands.squad_task(options)}


def random_model(model: Path, folder: Path) -> Path:
    """Writes the architecture and vocabulary of `model` with random weights."""
    import keras

    import mobilebert_tf as mb

    if not folder.exists():
        keras.utils.set_random_seed(0)
        config = mb.MobileBertConfig.from_json(model / "config.json")
        mb.MobileBertEncoder(config).save_pretrained(folder)
        for name in ("vocab.txt", "tokenizer_config.json"):
            shutil.copy(model / name, folder)
    return folder


def scores(
    task: commands.Task, model: Path, folder: Path, options: GainOptions
) -> dict[float, list[float]]:
    """Fine-tunes what is missing; returns dev metrics in % by rate."""
    commands.call(
        folder,
        task.script,
        *task.arguments,
        f"--model={model}",
        f"--learning_rate={','.join(map(str, options.learning_rate))}",
        f"--num_seeds={options.num_seeds}",
        "--max_seq_length=128",
    )
    # A single run has its own record only.
    rows = read_metrics(folder / METRICS_FILE)[-1:]
    if len(options.learning_rate) * options.num_seeds > 1:
        with open(folder / "runs.tsv", encoding="utf-8") as table:
            rows = list(csv.DictReader(table, delimiter="\t"))
    by_rate = defaultdict(list)
    for row in rows:
        rate = float(row.get("learning_rate", options.learning_rate[0]))
        by_rate[rate].append(task.to_percent * float(row[task.metric]))
    return by_rate


def main(options: GainOptions) -> None:
    """Runs what is missing and prints the table as it grows."""
    output, model = Path(options.output_dir), Path(options.model)
    models = {
        "random": random_model(model, output / "random"),
        "pre-trained": model,
    }
    print(f"median (lowest to highest) of {options.num_seeds} seeds, in %")
    for name in options.tasks:
        task, medians = tasks(options)[name], {}
        for side, folder in models.items():
            by_rate = scores(task, folder, output / name / side, options)
            rate = max(by_rate, key=lambda r: statistics.median(by_rate[r]))
            values = by_rate[rate]
            medians[side] = statistics.median(values)
            print(
                f"{name:6} {task.metric:13} {side:12} {medians[side]:6.1f} "
                f"({min(values):.1f} to {max(values):.1f}) at {rate}",
                flush=True,
            )
        gain = medians["pre-trained"] - medians["random"]
        print(f"{name:6} {'gain':26} {gain:+6.1f}", flush=True)


if __name__ == "__main__":
    start(main, GainOptions, __doc__)
