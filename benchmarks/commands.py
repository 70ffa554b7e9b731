"""Fine-tunes a model folder with the project's commands, on GLUE and SQuAD."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.instruments import DATA, ROOT
from mobilebert_tf.options import Options, option


@dataclasses.dataclass(frozen=True)
class RunsOptions(Options):
    """What is fine-tuned, where the data are, and where the runs go."""

    model: str = option("", "The pre-trained folder.", required=True)
    output_dir: str = option("", "Folder of the runs.", required=True)
    data_dir: str = option(f"{DATA}", "Folder of glue/ and squad/.")
    num_seeds: int = option(3, "Runs of each setting.", min=1)
    squad_questions: int = option(
        40000, "Train on the first so many questions.", min=1
    )
    max_train_examples: int | None = option(
        None, "Train tasks of GLUE on the first so many examples.", min=1
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """A command, and the number that it is judged by.

    Attributes:
        script: fine-tunes.
        arguments: of the script.
        metric: name of the number in its results.
        to_percent: factor by which the number is multiplied.
    """

    script: str
    arguments: tuple[str, ...]
    metric: str
    to_percent: float = 100.0


def glue_task(
    options: RunsOptions, name: str, folder: str, metric: str, num_epochs: int
) -> Task:
    """Returns a task of GLUE; `folder` is below glue/."""
    arguments = [
        f"--task={name}",
        f"--data_dir={Path(options.data_dir, 'glue', folder)}",
        f"--num_train_epochs={num_epochs}",
        "--nodo_predict",
    ]
    if options.max_train_examples:
        arguments.append(f"--max_train_examples={options.max_train_examples}")
    return Task("run_classifier.py", tuple(arguments), f"dev_{metric}")


def squad_task(options: RunsOptions) -> Task:
    """Returns SQuAD v1.1: two epochs of its first questions, judged by F1."""
    folder = Path(options.data_dir, "squad")
    arguments = (
        f"--train_file={folder / 'train-v1.1.json'}",
        f"--dev_file={folder / 'dev-v1.1.json'}",
        f"--max_train_examples={options.squad_questions}",
        "--num_train_epochs=2",
        "--train_batch_size=32",
        "--doc_stride=64",
    )
    return Task("run_squad.py", arguments, "dev_f1", to_percent=1.0)


def call(folder: Path, script: str, *arguments: str, step: str = "") -> None:
    """Runs a command with `folder` as its output, unless it is over.

    Args:
        folder: its --output_dir; gets `STEPlog.txt`, and `STEParguments.json`
            when it is over.
        script: at the root of the project.
        *arguments: of the script.
        step: tells several commands on one folder apart.
    """
    done = folder / f"{step}arguments.json"
    if done.exists() and json.loads(done.read_text()) == list(arguments):
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, ROOT / script, *arguments]
    with open(folder / f"{step}log.txt", "a", encoding="utf-8") as log:
        subprocess.run(
            [*command, f"--output_dir={folder}"],
            check=True,
            stdout=log,
            stderr=log,
        )
    done.write_text(json.dumps(arguments), encoding="utf-8")
