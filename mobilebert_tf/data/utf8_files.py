"""A user's file as text: what cannot be read is named by file and line."""

from pathlib import Path

from mobilebert_tf.errors import InputError


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
