"""Training state on disk: complete, checked when read, safe from a bad save.

A checkpoint is a pair of files, `ckpt-STEP.index` and its data. TensorFlow
writes the data first and the index last, by renaming it, so an index that
exists belongs to complete data unless the files were damaged later.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from mobilebert_tf.errors import InputError, RunError
from mobilebert_tf.training.run_folder import CHECKPOINT_FILE

_STATE = "state"
_NUM_KEPT = 2
# Variables by part, for example `model` and `optimizer`.
Parts = dict[str, Sequence[keras.Variable | tf.Variable]]

# Raised by TensorFlow's reader for files that are cut short (IndexError),
# altered, missing or (RuntimeError, ValueError) another program's.
_UNREADABLE = (tf.errors.OpError, IndexError, RuntimeError, ValueError)


class CannotSave(RunError):
    """A checkpoint could not be written; those before it are intact."""


class Checkpoint(NamedTuple):
    """A readable checkpoint: its path without `.index`, and saved values."""

    step: int
    prefix: Path
    state: dict[str, Any]


class CheckpointFolder:
    """Saves and restores, keeping the two newest checkpoints."""

    def __init__(self, folder: Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """Returns the steps of all checkpoints, ascending."""
        return sorted(
            step for step, part in self._files().values() if part == ".index"
        )

    def prefix(self, step: int) -> Path:
        """Returns a checkpoint's path without `.index`."""
        return self.folder / f"ckpt-{step}"

    def newest(self) -> Checkpoint | None:
        """Returns the newest intact checkpoint.

        Every byte is read against its checksum. Damaged checkpoints are
        reported and renamed, since the run will save in their place again.
        """
        for step in reversed(self.steps()):
            try:
                return self.read(step)
            except _UNREADABLE as error:
                print(
                    f"{self.prefix(step)} is damaged, going back to the one "
                    f"before it: {str(error).splitlines()[0]}",
                    flush=True,
                )
                for path, (number, _) in self._files().items():
                    if number == step:
                        path.rename(path.with_name(f"damaged-{path.name}"))
        return None

    def read(self, step: int) -> Checkpoint:
        """Reads all of a checkpoint, against its checksums."""
        reader = tf.train.load_checkpoint(str(self.prefix(step)))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        state = reader.get_tensor(f"{_STATE}/.ATTRIBUTES/VARIABLE_VALUE")
        return Checkpoint(step, self.prefix(step), json.loads(state))

    def save(self, step: int, state: dict[str, Any], variables: Parts) -> None:
        """Writes a checkpoint and removes the oldest; `state` is JSON.

        Raises:
            CannotSave: it could not be written, for example because the disk
                is full. Nothing of it is left behind.
        """
        state_variable = tf.Variable(json.dumps(state), dtype=tf.string)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _trackable(variables, **{_STATE: state_variable}).write(
                str(self.prefix(step))
            )
        except (tf.errors.OpError, OSError) as error:
            self._remove(step)
            kept = [str(self.prefix(other)) for other in self.steps()]
            reason = getattr(error, "message", None) or str(error)
            raise CannotSave(
                f"{self.prefix(step)} could not be saved: "
                f"{reason.splitlines()[0]}. "
                f"Intact: {', '.join(kept) or 'none before it'}"
            ) from error
        for old in self.steps()[:-_NUM_KEPT]:
            self._remove(old)

    def restore(self, checkpoint: Checkpoint, variables: Parts) -> None:
        """Assigns saved values to variables, part by part.

        Raises:
            InputError: it is the checkpoint of other variables.
        """
        try:
            status = _trackable(variables).read(str(checkpoint.prefix))
            status.assert_existing_objects_matched().expect_partial()
        except (*_UNREADABLE, AssertionError) as error:
            expected = "a checkpoint of this model and optimizer"
            raise InputError(
                checkpoint.prefix, expected, str(error).splitlines()[0]
            ) from error

    def remove_leftovers(self) -> None:
        """Removes the files of a save that was killed."""
        whole = self.steps()
        for path, (step, part) in self._files().items():
            if part == "_temp":
                shutil.rmtree(path)
            elif step not in whole:
                path.unlink()

    def _files(self) -> dict[Path, tuple[int, str]]:
        """Returns step and part of each file that a save named."""
        found = {
            path: CHECKPOINT_FILE.fullmatch(path.name)
            for path in self.folder.glob("ckpt-*")
        }
        return {
            path: (int(match["step"]), match["part"])
            for path, match in found.items()
            if match
        }

    def _remove(self, step: int) -> None:
        # The index first: without it the rest is no checkpoint.
        self.prefix(step).with_suffix(".index").unlink(missing_ok=True)
        self.remove_leftovers()


def _trackable(variables: Parts, **others) -> tf.train.Checkpoint:
    parts = {
        part: {
            f"{index:05d}": variable.value
            if isinstance(variable, keras.Variable)
            else variable
            for index, variable in enumerate(group)
        }
        for part, group in variables.items()
    }
    return tf.train.Checkpoint(**parts, **others)
