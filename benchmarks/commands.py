"""Runs the project's commands, once each, for benchmarks that need many."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

from absl import flags

ROOT = Path(__file__).parents[1]
FLAGS = flags.FLAGS


def define_flags() -> None:
    """Defines where data are, what is fine-tuned, and where the runs go."""
    flags.DEFINE_string(
        "data_dir",
        os.environ.get("MOBILEBERT_TF_DATA", "data"),
        "Folder of glue/ and squad/.",
    )
    flags.DEFINE_string("model", None, "The pre-trained folder.", required=True)
    flags.DEFINE_string(
        "output_dir", None, "Folder of the runs.", required=True
    )


@dataclasses.dataclass(frozen=True)
class Task:
    """A command, and the number that it is judged by.

    Attributes:
        script: that fine-tunes.
        arguments: of the script.
        metric: what its results call the number.
        to_percent: by which it is multiplied.
    """

    script: str
    arguments: tuple[str, ...]
    metric: str
    to_percent: float = 100.0


def squad_task(num_questions: int, *arguments: str) -> Task:
    """SQuAD v1.1: two epochs of its first questions, judged by F1."""
    folder = Path(FLAGS.data_dir, "squad")
    return Task(
        "run_squad.py",
        (
            f"--train_file={folder / 'train-v1.1.json'}",
            f"--dev_file={folder / 'dev-v1.1.json'}",
            f"--max_train_examples={num_questions}",
            "--num_train_epochs=2",
            "--train_batch_size=32",
            "--doc_stride=64",
            *arguments,
        ),
        "dev_f1",
        to_percent=1.0,
    )


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
    command = [sys.executable, str(ROOT / script), *arguments]
    with open(folder / f"{step}log.txt", "a", encoding="utf-8") as log:
        subprocess.run(
            [*command, f"--output_dir={folder}"],
            check=True,
            stdout=log,
            stderr=log,
        )
    done.write_text(json.dumps(arguments), encoding="utf-8")
