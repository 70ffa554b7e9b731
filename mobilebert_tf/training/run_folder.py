"""The settings that an output folder's run was started with."""

import json
from collections.abc import Mapping
from pathlib import Path

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file

SETTINGS_FILE = "run.json"


def make_folder(folder: Path) -> None:
    """Makes a run's folder if need be.

    Raises:
        InputError: if it cannot be one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            folder, "a folder to write into", error.strerror
        ) from error


def check_settings(path: Path, settings: Mapping) -> None:
    """Writes what a run was asked to do, or compares it with what it was.

    Args:
        path: the run's record of it.
        settings: JSON values.

    Raises:
        InputError: if the run was started with other settings.
    """
    settings = json.loads(json.dumps(dict(settings)))
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return
    previous = read_json_object(path)
    different = [
        f"{key}={previous.get(key)!r} then, {settings.get(key)!r} now"
        for key in sorted(previous | settings)
        if previous.get(key) != settings.get(key)
    ]
    if different:
        raise InputError(
            path,
            "the settings this folder's run was started with (use another "
            "output folder, or delete this one)",
            "; ".join(different),
        )
