r"""What each kind of .tflite file costs in quality, and what it gains.

    MOBILEBERT_TF_DATA=FOLDER python benchmarks/quantization_quality.py \
        --model=runs/student --output_dir=quality

with FOLDER/glue/SST-2 and FOLDER/squad/{train,dev}-v1.1.json. Fine-tunes the
model of a folder on SST-2 and on questions of SQuAD v1.1 with several seeds,
with the commands that users have, and lets them export every kind; int8 twice,
the first time with channels as they are (`--noequalize`). A file's metric is
LiteRT's on all of dev. Printed for each kind: the metric's mean, and what it
loses against float32, by seed; then size, latency, peak memory and operations
left to slow kernels of the first seed's files, timed in turn. A command that
is over is not run again.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import json  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.append(str(Path(__file__).resolve().parents[1]))

import commands  # noqa: E402
from absl import app, flags  # noqa: E402

from benchmarks.tflite.benchmark import benchmark, table  # noqa: E402
from mobilebert_tf.training.log import read_metrics  # noqa: E402

FLAGS = flags.FLAGS

commands.define_flags()
flags.adopt_module_key_flags(commands)
flags.DEFINE_list("tasks", ["sst2", "squad"], "Some of the tasks only.")
flags.DEFINE_integer("num_seeds", 3, "Runs of each task.", 1)
flags.DEFINE_integer("rounds", 50, "Timed inferences of each file.", 1)

PLAIN = "int8_plain"
KINDS = ("float32", "float16", "dynamic", PLAIN, "int8", "int8_qat")


def tasks() -> dict[str, commands.Task]:
    """The tasks, at rates that suit small models."""
    glue = Path(FLAGS.data_dir, "glue")
    return {
        "sst2": commands.Task(
            "run_classifier.py",
            (
                "--task=sst2",
                f"--data_dir={glue / 'SST-2'}",
                "--num_train_epochs=1",
                "--learning_rate=1e-3",
                "--max_seq_length=64",
                "--nodo_predict",
            ),
            "dev_accuracy",
            100.0,
        ),
        "squad": commands.squad_task(
            40000, "--learning_rate=2e-3", "--max_seq_length=128"
        ),
    }


def metrics(task: commands.Task, folder: Path, seed: int) -> dict[str, float]:
    """Fine-tunes and exports with a seed; returns the metric by kind."""
    common = (*task.arguments, f"--model={FLAGS.model}", f"--seed={seed}")
    plain = folder / f"{PLAIN}.json"
    if not plain.exists():
        arguments = (*common, "--export=int8", "--noequalize")
        commands.call(folder, task.script, *arguments, step="plain_")
        value = read_metrics(folder / "metrics.jsonl")[-1][
            f"int8_{task.metric}"
        ]
        shutil.copy(folder / "int8.tflite", folder / f"{PLAIN}.tflite")
        plain.write_text(json.dumps(value))
    kinds = [kind for kind in KINDS if kind != PLAIN]
    commands.call(folder, task.script, *common, f"--export={','.join(kinds)}")
    last = read_metrics(folder / "metrics.jsonl")[-1]
    values = {kind: last[f"{kind}_{task.metric}"] for kind in kinds}
    values[PLAIN] = json.loads(plain.read_text())
    return {kind: task.to_percent * values[kind] for kind in KINDS}


def report(
    name: str, task: commands.Task, by_seed: list[dict[str, float]]
) -> None:
    """Prints the metric of each kind, and its losses."""
    print(f"\n{name}, {task.metric} in %, {len(by_seed)} seed(s)")
    print(f"{'file':<12}    mean  loss against float32: mean, by seed")
    for kind in KINDS:
        losses = [values["float32"] - values[kind] for values in by_seed]
        mean = statistics.mean(values[kind] for values in by_seed)
        each = " ".join(f"{loss:+.2f}" for loss in losses)
        print(
            f"{kind:<12}  {mean:6.2f}  {statistics.mean(losses):+6.2f}  {each}",
            flush=True,
        )


def main(_) -> None:
    """Runs what is missing, and prints the tables."""
    known, output = tasks(), Path(FLAGS.output_dir)
    for name in FLAGS.tasks:
        task = known[name]
        folders = {
            seed: output / name / str(seed)
            for seed in range(1, FLAGS.num_seeds + 1)
        }
        by_seed = [
            metrics(task, folder, seed) for seed, folder in folders.items()
        ]
        report(name, task, by_seed)
        files = [str(folders[1] / f"{kind}.tflite") for kind in KINDS]
        for threads in (1, 2):
            rows = benchmark(files, threads, repeats=FLAGS.rounds)
            print(f"\n{table(rows)}", flush=True)


if __name__ == "__main__":
    app.run(main)
