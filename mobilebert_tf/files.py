"""Writing files atomically, and reading those of users.

Everything is written beside its destination and renamed into place, so that a
killed process leaves the old content or none, never half of the new. A file
that cannot be read is refused with its name and line.
"""

import codecs
import contextlib
import gzip
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from mobilebert_tf.errors import InputError

# Ends the name of what is not written yet: `.NAME.8_CHARACTERS.partial`.
_PARTIAL = ".partial"
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.partial")
_CHUNK_BYTES = 1 << 20
# Counting lines takes as long as hashing does.
_MAX_COUNTED_BYTES = 100_000_000


class Fingerprint(NamedTuple):
    """What is recorded of something that was read, to recognise it.

    Attributes:
        name: of the file, without its folder.
        sha256: of the content, in hexadecimal.
        size: in bytes.
        mtime_ns: time of the last change, in nanoseconds.
        num_lines: None for large files and anything but plain text.
    """

    name: str
    sha256: str
    size: int | None = None
    mtime_ns: int | None = None
    num_lines: int | None = None


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path that replaces `path` on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        _PARTIAL, prefix=f".{path.name}.", dir=path.parent
    )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files.
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_files(folder: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary folder whose files move into `folder` on success.

    Other files in `folder` stay, as do the `checkpoints/` of a model folder.
    Each file is replaced atomically.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(
        tempfile.mkdtemp(_PARTIAL, f".{folder.name}.", folder.parent)
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
        FileExistsError: `folder` exists and is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(
        tempfile.mkdtemp(_PARTIAL, f".{folder.name}.", folder.parent)
    )
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def is_temporary(path: Path, of: str | None = None) -> bool:
    """Whether a name is that of an unfinished file (of the name `of`)."""
    found = _TEMPORARY.fullmatch(path.name)
    return bool(found) and of in (None, found[1])


def remove_leftovers(folder: Path) -> None:
    """Removes what a killed process had not finished writing.

    In the folder, and beside it what was to move into it.
    """
    for place, of in ((folder, None), (folder.parent, folder.name)):
        # A folder may be usable though its parent cannot be listed.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            for path in list(place.iterdir()):
                if is_temporary(path, of) and path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                elif is_temporary(path, of):
                    path.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_content(path: Path) -> bytes:
    """Returns the content of a file.

    Raises:
        InputError: the file is missing or cannot be read.
    """
    if path.exists() and not path.is_file():
        # A FIFO would block, a device never end.
        found = "a directory" if path.is_dir() else "no ordinary file"
        raise InputError(path, "a file", found)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(path, "a file", "nothing") from None
    except OSError as error:
        raise InputError(path, "a readable file", error.strerror) from error


def decode_content(path: Path, content: bytes) -> str:
    """Decodes UTF-8 content, without its byte order mark.

    Raises:
        InputError: the content is not UTF-8.
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


def read_text(
    path: str | os.PathLike, encoding: str | None = None
) -> tuple[str, str]:
    """Returns the text of a file, and its encoding in capitals.

    Args:
        path: a text file; one whose name ends in .gz is decompressed.
        encoding: by default UTF-8, or UTF-16 if a byte order mark or the zeros
            of Latin letters show it. A byte order mark is left out.

    Raises:
        InputError: the file cannot be read or has another encoding.
    """
    path = Path(path)
    content = read_content(path)
    if path.suffix.lower() == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, OSError, zlib.error) as error:
            raise InputError(path, "a whole gzip file", error) from None
    known = encoding or _recognised(content)
    try:
        text = content.decode(known)
    except UnicodeDecodeError as error:
        expected = f"{known.upper()} text"
        if encoding is None and known == "utf-8":
            expected += ", or --encoding (perhaps cp1252 or latin-1)"
        found = f"the byte 0x{content[error.start]:02x}"
        line = line_of(content, error.start)
        raise InputError(path, expected, found, line) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        expected = f"{known.upper()} text"
        raise InputError(path, expected, "a NUL character", line)
    return text.removeprefix("\ufeff"), known.upper()


def _recognised(content: bytes) -> str:
    """Returns the encoding that the first bytes of a text show."""
    for mark, name in (
        (codecs.BOM_UTF32_LE, "utf-32"),
        (codecs.BOM_UTF32_BE, "utf-32"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return name
    # In UTF-16 one byte of every Latin letter, space and line end is zero.
    head = content[:1024]
    for name, zeros, others in (
        ("utf-16-le", head[1::2], head[::2]),
        ("utf-16-be", head[::2], head[1::2]),
    ):
        if zeros.count(0) * 8 >= len(zeros) > 0 and not others.count(0):
            return name
    return "utf-8"


def line_of(content: bytes, position: int) -> int:
    """Returns the number of the line with the byte at `position`, from 1."""
    return content.count(b"\n", 0, position) + 1


def read_json_object(path: str | os.PathLike) -> dict:
    """Returns the JSON object in a file.

    Raises:
        InputError: the file is missing or holds anything else.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(path, "a config file", "no ordinary file")
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(path, "a config file", error.strerror) from error
    except UnicodeDecodeError as error:
        raise InputError(path, "UTF-8 text", error) from error
    except json.JSONDecodeError as error:
        raise InputError(path, "JSON", error.msg, place=error.lineno) from error
    except (RecursionError, ValueError) as error:
        # Nested too deeply, or a number of thousands of digits.
        raise InputError(path, "JSON of usual size", error) from error
    if not isinstance(values, dict):
        raise InputError(path, "a JSON object", type(values).__name__)
    return values


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(
    path: str | os.PathLike, known: Iterable[Fingerprint] = ()
) -> Fingerprint:
    """Returns the fingerprint of a file.

    Args:
        path: the file.
        known: earlier fingerprints. One of the same name, size and time is
            returned without reading the file.

    Raises:
        InputError: it is missing, cannot be read or is not an ordinary file.
    """
    path = Path(path)
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(path, "a file", "no ordinary file")
        now = (path.name, found.st_size, found.st_mtime_ns)
        for then in known:
            if now == (then.name, then.size, then.mtime_ns):
                return then
        digest, num_lines = _digest_and_lines(path)
    except FileNotFoundError:
        raise InputError(path, "a file", "nothing") from None
    except OSError as error:
        raise InputError(path, "a readable file", error.strerror) from error
    return Fingerprint(path.name, digest, *now[1:], num_lines)


def _digest_and_lines(path: Path) -> tuple[str, int | None]:
    digest, num_lines, last = hashlib.sha256(), 0, b"\n"
    is_text = path.suffix != ".gz" and (
        path.stat().st_size <= _MAX_COUNTED_BYTES
    )
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            is_text = is_text and b"\0" not in chunk
            if is_text:
                num_lines, last = num_lines + chunk.count(b"\n"), chunk[-1:]
    num_lines += last != b"\n"
    return digest.hexdigest(), num_lines if is_text else None
