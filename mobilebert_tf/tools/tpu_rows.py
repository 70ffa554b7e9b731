"""Rows of `tpu_compile` on disk: each took minutes, and none is made twice."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.tools.tpu_table import CRASHED, Row
from mobilebert_tf.training.tpu_aot import CHIPS, CompiledStep


class RowFile:
    """The rows of one set of settings, each saved as soon as it is made.

    Args:
        path: a JSON file; need not exist. None: nothing is saved.
        settings: what all rows share, as JSON has it.

    Raises:
        InputError: if the file is none of ours, or of other settings.
    """

    def __init__(self, path: str | os.PathLike | None, settings: dict):
        self._path = None if path is None else Path(path)
        self._settings = json.loads(json.dumps(settings))
        self.rows = []
        if self._path is not None and self._path.exists():
            self.rows = self._read()

    def get(self, make: Callable[[], Row], **key) -> Row:
        """Returns a row, made or read.

        Args:
            make: called if it is not there yet.
            **key: values of the fields by which to know it.
        """
        for row in self.rows:
            if all(getattr(row, name) == key[name] for name in key):
                return row
        row = make()
        self.rows.append(row)
        self._write()
        return row

    def _read(self) -> list[Row]:
        try:
            content = json.loads(self._path.read_text())
            settings = dict(content["settings"])
            rows = [_row(dict(values)) for values in content["rows"]]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise InputError(
                self._path, "rows of tpu_compile", str(error)
            ) from error
        for name, ours in self._settings.items():
            if settings.get(name) != ours:
                raise InputError(
                    self._path,
                    f"rows with these flags, {name}: {ours}",
                    settings.get(name),
                )
        return rows

    def _write(self) -> None:
        if self._path is None:
            return
        rows = [
            dataclasses.asdict(row)
            for row in self.rows
            if row.reason != CRASHED
        ]
        for row in rows:
            # Known by the slice.
            del row["chip"]
        content = {"settings": self._settings, "rows": rows}
        with atomic_file(self._path) as path:
            path.write_text(json.dumps(content, indent=1))


def _row(values: dict) -> Row:
    compiled = values.pop("compiled")
    generation = str(values["slice_name"]).partition(":")[0]
    return Row(
        chip=CHIPS[generation],
        compiled=compiled and CompiledStep(**compiled),
        **values,
    )
