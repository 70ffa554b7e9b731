r"""What each kind of .tflite file costs in quality, and what it gains.

    MOBILEBERT_TF_DATA=FOLDER python -m benchmarks.quantization_quality \
        --model=runs/student --output_dir=quality

with FOLDER/glue/SST-2 and FOLDER/squad/{train,dev}-v1.1.json. Fine-tunes the
model of a folder on SST-2 and on questions of SQuAD v1.1 with several seeds,
with the commands that users have, and lets them export every kind; int8 twice,
the first time with channels as they are (`--noequalize`). A file's metric is
LiteRT's on all of dev. Printed for each kind: the metric's mean, and what it
loses against float32, by seed; then size, latency, peak memory and operations
left to slow kernels of the first seed's files, timed in turn. A command that
is over is not run again. The smallest run:
`--tasks=sst2 --max_train_examples=200 --num_seeds=1 --rounds=2`.
"""

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

from benchmarks import commands
from benchmarks.instruments import start
from mobilebert_tf.options import option
from mobilebert_tf.training.run_folder import METRICS_FILE, read_metrics

TASKS = ("sst2", "squad")
PLAIN = "int8_plain"
KINDS = ("float32", "float16", "dynamic", PLAIN, "int8", "int8_qat")


@dataclasses.dataclass(frozen=True)
class QualityOptions(commands.RunsOptions):
    """Which tasks, and how often files are timed."""

    tasks: tuple[str, ...] = option(TASKS, "Tasks.", choices=TASKS)
    rounds: int = option(50, "Timed inferences of each file.", min=1)


def tasks(options: QualityOptions) -> dict[str, commands.Task]:
    """Returns the tasks, at rates that suit small models."""
    sst2 = commands.glue_task(options, "sst2", "SST-2", "accuracy", 1)
    tuned = {
        "sst2": (sst2, ("--learning_rate=1e-3", "--max_seq_length=64")),
        "squad": (
            commands.squad_task(options),
            ("--learning_rate=2e-3", "--max_seq_length=128"),
        ),
    }
    return {
        name: dataclasses.replace(task, arguments=task.arguments + more)
        for name, (task, more) in tuned.items()
    }


def metrics(
    task: commands.Task, model: str, folder: Path, seed: int
) -> dict[str, float]:
    """Fine-tunes and exports with a seed; returns the metric by kind."""
    common = (*task.arguments, f"--model={model}", f"--seed={seed}")

    def export(kinds: list[str], *arguments: str, step: str = "") -> dict:
        arguments = (*common, f"--export={','.join(kinds)}", *arguments)
        commands.call(folder, task.script, *arguments, step=step)
        last = read_metrics(folder / METRICS_FILE)[-1]
        return {kind: last[f"{kind}_{task.metric}"] for kind in kinds}

    plain = folder / f"{PLAIN}.json"
    if not plain.exists():
        value = export(["int8"], "--noequalize", step="plain_")["int8"]
        shutil.copy(folder / "int8.tflite", folder / f"{PLAIN}.tflite")
        plain.write_text(json.dumps(value))
    values = export([kind for kind in KINDS if kind != PLAIN])
    values[PLAIN] = json.loads(plain.read_text())
    return {kind: task.to_percent * values[kind] for kind in KINDS}


def report(name: str, metric: str, by_seed: list[dict[str, float]]) -> None:
    """Prints the metric of each kind, and its losses."""
    print(f"\n{name}, {metric} in %, {len(by_seed)} seed(s)")
    print(f"{'file':<12}    mean  loss against float32: mean, by seed")
    for kind in KINDS:
        losses = [values["float32"] - values[kind] for values in by_seed]
        mean = statistics.mean(values[kind] for values in by_seed)
        each = " ".join(f"{loss:+.2f}" for loss in losses)
        print(
            f"{kind:<12}  {mean:6.2f}  {statistics.mean(losses):+6.2f}  {each}",
            flush=True,
        )


def main(options: QualityOptions) -> None:
    """Runs what is missing, and prints the tables."""
    from benchmarks.tflite.benchmark import measure_files, table

    for name in options.tasks:
        task = tasks(options)[name]
        folder = Path(options.output_dir, name)
        by_seed = [
            metrics(task, options.model, folder / str(seed), seed)
            for seed in range(1, options.num_seeds + 1)
        ]
        report(name, task.metric, by_seed)
        files = [str(folder / "1" / f"{kind}.tflite") for kind in KINDS]
        for threads in (1, 2):
            rows = measure_files(files, threads, repeats=options.rounds)
            print(f"\n{table(rows)}", flush=True)


if __name__ == "__main__":
    start(main, QualityOptions, __doc__)
