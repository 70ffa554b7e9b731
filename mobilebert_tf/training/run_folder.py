"""A run's folder on disk: its settings and its record; no TensorFlow."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file

SETTINGS_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
# Weights of the best evaluation.
BEST_FOLDER = f"{CHECKPOINTS}/best"

# Phases in the record that are not phases of training.
EVALUATION = "evaluation"
RESULTS = "results"


def make_folder(folder: Path) -> None:
    """Makes a run's folder if it is missing.

    Raises:
        InputError: it cannot be made or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            folder, "a folder to write into", error.strerror
        ) from error


def check_settings(path: Path, settings: Mapping) -> None:
    """Writes a run's settings, or compares them with those it started with.

    A setting that only one side has is off on the other: options come and go
    between versions, and a run that did not use them continues.

    Raises:
        InputError: the run was started with other settings.
    """
    settings = json.loads(json.dumps(dict(settings)))
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return
    previous = read_json_object(path)
    different = [
        f"{name}={previous.get(name)!r} then, {settings.get(name)!r} now"
        for name in sorted(previous | settings)
        if _differ(previous, settings, name)
    ]
    if different:
        raise InputError(
            path,
            "the settings this folder's run was started with (use another "
            "output folder, or delete this one)",
            "; ".join(different),
        )


def _differ(previous: Mapping, settings: Mapping, name: str) -> bool:
    if name in previous and name in settings:
        return previous[name] != settings[name]
    return bool(previous.get(name) or settings.get(name))


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Reads a `METRICS_FILE`, without a last line that a crash cut short."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
