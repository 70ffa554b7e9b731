"""What a pre-trained model knows that a random one has to learn.

    MOBILEBERT_TF_DATA=FOLDER python benchmarks/pretraining_gain.py \
        --model=runs/student --output_dir=gain

with FOLDER/glue/{SST-2,RTE,CoLA,STS-B} and FOLDER/squad/{train,dev}-v1.1.json.
Fine-tunes the model of a folder, and the same architecture with the same
vocabulary from random weights, with the commands that users have, at the same
learning rates and seeds. Each side is shown at the rate whose median over the
seeds is highest on dev: its best foot forward. A run that is over is not run
again, so the script may be stopped, and given more seeds or rates.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import csv  # noqa: E402
import shutil  # noqa: E402
import statistics  # noqa: E402
from pathlib import Path  # noqa: E402

import commands  # noqa: E402
import keras  # noqa: E402
from absl import app, flags  # noqa: E402

import mobilebert_tf as mb  # noqa: E402
from mobilebert_tf.training.log import read_metrics  # noqa: E402

FLAGS = flags.FLAGS

commands.define_flags()
flags.adopt_module_key_flags(commands)
flags.DEFINE_list("learning_rate", ["1e-3"], "Rates to compare.")
flags.DEFINE_integer("num_seeds", 3, "Runs of each rate.", 1)
flags.DEFINE_list("tasks", None, "Some of the tasks only.")
flags.DEFINE_integer(
    "squad_questions", 40000, "Train on the first so many questions.", 1
)


def tasks() -> dict[str, commands.Task]:
    """The tasks, with epochs that suit small models."""
    glue = Path(FLAGS.data_dir, "glue")

    def glue_task(name, folder, metric, epochs):
        arguments = (
            f"--task={name}",
            f"--data_dir={glue / folder}",
            f"--num_train_epochs={epochs}",
            "--nodo_predict",
        )
        return commands.Task("run_classifier.py", arguments, metric)

    return {
        "sst2": glue_task("sst2", "SST-2", "dev_accuracy", 1),
        "rte": glue_task("rte", "RTE", "dev_accuracy", 5),
        "cola": glue_task("cola", "CoLA", "dev_matthews", 5),
        "stsb": glue_task("stsb", "STS-B", "dev_pearson", 5),
        "squad": commands.squad_task(FLAGS.squad_questions),
    }


def random_model(folder: Path) -> Path:
    """Writes the architecture and vocabulary with random weights."""
    if not folder.exists():
        keras.utils.set_random_seed(0)
        config = mb.MobileBertConfig.from_json(Path(FLAGS.model, "config.json"))
        encoder = mb.MobileBertEncoder(config)
        encoder.save_pretrained(folder)
        for name in ("vocab.txt", "tokenizer_config.json"):
            shutil.copy(Path(FLAGS.model, name), folder)
    return folder


def scores(
    task: commands.Task, model: str, rate: str, folder: Path
) -> list[float]:
    """Fine-tunes with each seed, unless that is done; returns dev metrics."""
    seeds = range(1, FLAGS.num_seeds + 1)
    common = (
        *task.arguments,
        f"--model={model}",
        f"--learning_rate={rate}",
        "--max_seq_length=128",
    )
    if task.script == "run_classifier.py":
        commands.call(
            folder, task.script, *common, f"--num_seeds={FLAGS.num_seeds}"
        )
        # A grid's folder has a table of its runs; a single run has its log.
        if FLAGS.num_seeds > 1:
            with open(folder / "runs.tsv", encoding="utf-8") as table:
                rows = csv.DictReader(table, delimiter="\t")
                return [float(row[task.metric]) for row in rows]
        return [read_metrics(folder / "metrics.jsonl")[-1][task.metric]]
    folders = {seed: folder / str(seed) for seed in seeds}
    for seed, run in folders.items():
        commands.call(run, task.script, *common, f"--seed={seed}")
    return [
        read_metrics(run / "metrics.jsonl")[-1][task.metric]
        for run in folders.values()
    ]


def main(_) -> None:
    """Runs what is missing and prints the table as it grows."""
    output = Path(FLAGS.output_dir)
    models = {
        "random": str(random_model(output / "random")),
        "pre-trained": FLAGS.model,
    }
    print(f"median (lowest to highest) of {FLAGS.num_seeds} seeds, in %")
    known = tasks()
    for name in FLAGS.tasks or known:
        task, medians = known[name], {}
        for side, model in models.items():
            by_rate = {}
            for rate in FLAGS.learning_rate:
                folder = output / name / f"{side}_{rate}"
                by_rate[rate] = [
                    task.to_percent * value
                    for value in scores(task, model, rate, folder)
                ]
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
    app.run(main)
