"""The files of a run's folder: their names, who may write them, their deletion.

No TensorFlow.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, read_content
from mobilebert_tf.options import Options, settings
from mobilebert_tf.ownership import (
    Identity,
    check_folder,
    clear_record,
    fingerprints,
    lock_folder,
)
from mobilebert_tf.training.options import OutputOptions

SETTINGS_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
RESULT_FILE = "result.json"
TABLE_FILE = "runs.tsv"
RUNS_FOLDER = "runs"
TENSORBOARD = "tensorboard"
CHECKPOINTS = "checkpoints"
# Weights of the best evaluation.
BEST_FOLDER = f"{CHECKPOINTS}/best"

# Phases in the record that are not phases of training.
EVALUATION = "evaluation"
RESULTS = "results"

# TensorFlow's names of a checkpoint's files and of one that is being written.
CHECKPOINT_FILE = re.compile(
    r"(?:damaged-)?ckpt-(?P<step>\d+)"
    r"(?P<part>\.index|\.data-\d{5}-of-\d{5}|_temp)(?:\.tempstate\d+)?"
)

_REMEDY = "use another --output_dir, or --restart to train again in this one"
_MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tokenizer_config.json",
    "question_answering.json",
)
_POINTS = f"{RUNS_FOLDER}/rate*_batch*_epochs*_seed*"
_RUN_FILES = (RESULT_FILE, TABLE_FILE, METRICS_FILE, *_MODEL_FILES)


def identify(
    output: OutputOptions,
    options: Sequence[Options],
    sources: Mapping[str, Any],
    is_chief: bool = True,
    apart_from: Mapping[str, os.PathLike] = {},
) -> Identity:
    """Returns what a command's run is, if it may write into its folder.

    Nothing is written.

    Args:
        output: the folder, and whether the run that is there is to be deleted.
        options: all of the command's.
        sources: what is read (see `ownership.fingerprints`).
        is_chief: whether this process writes; others know no fingerprints.
        apart_from: folders that are read, by their flags.

    Raises:
        InputError: see `ownership.check_folder`; or an input cannot be read.
    """
    identity = Identity(
        settings(*options), settings(*map(type, options)), remedy=_REMEDY
    )
    if not is_chief:
        return identity
    record = Path(output.output_dir) / SETTINGS_FILE
    identity = identity.having(inputs=fingerprints(record, sources))
    check_folder(
        record, identity, restart=output.restart, apart_from=apart_from
    )
    return identity


def delete_run(folder: Path, more: Sequence[str] = ()) -> None:
    """Deletes a run, and the runs below it, from a folder.

    Only files of names that this project gives. The files of others stay, and
    so does an empty record, without which the folder would be a stranger's.

    Args:
        folder: a run's folder; of any other nothing is deleted.
        more: names of further files, and folders of runs, to delete.

    Raises:
        InputError: another process works in it.
    """
    if not (folder / SETTINGS_FILE).exists():
        return
    lock_folder(folder)
    paths = [folder / name for name in (*_RUN_FILES, *more)]
    for path in (*folder.glob(_POINTS), *paths):
        if path.is_dir():
            delete_run(path)
            if [file.name for file in path.iterdir()] == [SETTINGS_FILE]:
                shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    delete_weights(folder)
    for path in folder.glob(f"{TENSORBOARD}/events.out.tfevents.*"):
        path.unlink()
    _delete_if_empty(folder / TENSORBOARD)
    _delete_if_empty(folder / RUNS_FOLDER)
    clear_record(folder / SETTINGS_FILE)


def delete_weights(folder: Path) -> None:
    """Deletes a run's checkpoints and best weights; its record stays."""
    for path in list((folder / CHECKPOINTS).glob("*")):
        if CHECKPOINT_FILE.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in _MODEL_FILES:
        (folder / BEST_FOLDER / name).unlink(missing_ok=True)
    _delete_if_empty(folder / BEST_FOLDER)
    _delete_if_empty(folder / CHECKPOINTS)


def _delete_if_empty(folder: Path) -> None:
    # Neither missing, nor a link, nor with files of others.
    with contextlib.suppress(OSError):
        folder.rmdir()


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Reads a `METRICS_FILE`, without a last line that a crash cut short.

    Raises:
        InputError: it is missing, or a line is not of a run's record.
    """
    path = Path(path)
    *lines, _ = decode_content(path, read_content(path)).split("\n")
    return [
        _metrics(path, number, line) for number, line in enumerate(lines, 1)
    ]


def _metrics(path: Path, number: int, text: str) -> dict:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, "JSON", error, number) from error
    expected = "an object with phase, global_step and numbers"
    if not isinstance(line, dict):
        raise InputError(path, expected, text[:80], number)
    values = dict(line)
    fits = isinstance(values.pop("phase", None), str)
    fits &= isinstance(values.get("global_step"), int)
    fits &= all(isinstance(value, int | float) for value in values.values())
    if not fits or (line["phase"] == EVALUATION and "score" not in line):
        raise InputError(path, expected, text[:80], number)
    return line
