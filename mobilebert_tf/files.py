"""Files and folders that appear whole or not at all.

Everything is written beside its destination and renamed into place, so that a
killed process leaves the old content or none, never half of the new.

A user's file as text: what cannot be read is named by file and line.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mobilebert_tf.errors import InputError


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` when the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; give the one we publish usual rights.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder whose files move into `folder` on success.

    Files that `folder` already holds under other names stay (a model folder
    keeps its `checkpoints/`). Each file is replaced atomically.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
    )
    try:
        yield temporary
        folder.mkdir(exist_ok=True)
        for file in sorted(temporary.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder that becomes `folder` on success.

    Raises:
        FileExistsError: if `folder` is there already and not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent)
    )
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_content(path: Path) -> bytes:
    """Returns what a file holds.

    Raises:
        InputError: there is no such file, or it cannot be read.
    """
    if path.is_dir():
        raise InputError(path, "a file", "a directory")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(path, "a file", "nothing") from None
    except OSError as error:
        raise InputError(path, "a readable file", error.strerror) from error


def decode_content(path: Path, content: bytes) -> str:
    """Returns UTF-8 content as text, without a byte order mark.

    Raises:
        InputError: it is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            path,
            "UTF-8 text",
            f"the byte 0x{error.object[error.start]:02x}",
            line_of(error.object, error.start),
        ) from None


def line_of(content: bytes, position: int) -> int:
    """Returns the number of the line that a byte stands in, from 1."""
    return content.count(b"\n", 0, position) + 1
