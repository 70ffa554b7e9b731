"""Archives from a plain web server: resumed, checked and safely unpacked.

They are kept beside Hugging Face's own downloads and found again without a
connection.
"""

import base64
import contextlib
import hashlib
import http.client
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path, PurePosixPath

from huggingface_hub import constants
from huggingface_hub.utils import WeakFileLock, tqdm

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_folder

_ANSWER_SECONDS = 10
_TRIES = 3
_CHUNK = 2**18
_KEPT = "what has come is kept: try again"
# Published archives have some hundred megabytes.
_MAX_UNPACKED = 8 * 2**30


def archive_place(name: str) -> Path:
    """Returns the folder in the cache for all that is made of an archive."""
    return Path(constants.HF_HUB_CACHE) / f"archives--{name}"


def archive_folder(name: str, address: str, digest: str | None = None) -> Path:
    """Returns the folder of an unpacked archive, downloading it if needed.

    Args:
        name: names the folder in the cache.
        address: where the `.tar.gz` is.
        digest: its SHA-256, if it is known. A checksum that the server sends
            (`x-goog-hash`, as Google's storage does) is compared as well.

    Raises:
        InputError: it is not there, cannot be reached, is not what it should
            be, or holds anything but plain files below its folder.
        OSError: there is no room on the disk.
    """
    place = archive_place(name)
    files = place / "files"
    if not files.is_dir():
        if constants.HF_HUB_OFFLINE:
            raise InputError(
                name, "a cached archive", "none, and HF_HUB_OFFLINE is set"
            )
        place.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(place / "lock"):
            if not files.is_dir():
                archive = download(address, place, digest)
                _unpack(address, archive, files)
                archive.unlink()
    # Archives hold one folder.
    while len(entries := list(files.iterdir())) == 1 and entries[0].is_dir():
        files = entries[0]
    return files


def download(address: str, place: Path, digest: str | None = None) -> Path:
    """Downloads a file, going on where an earlier attempt was cut.

    Args:
        address: where it is.
        place: an existing folder, for this file alone.
        digest: its SHA-256, if it is known.

    Returns:
        Its path, for the caller to move.

    Raises:
        InputError, OSError: see `archive_folder`.
    """
    part, tag = place / "incomplete", place / "etag"
    for attempt in range(_TRIES):
        try:
            total, md5 = _download(address, part, tag)
        except urllib.error.HTTPError as error:
            error.close()
            raise InputError(
                address, "a file", f"the answer {error.code}"
            ) from error
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as error:
            if attempt == _TRIES - 1:
                found = f"a broken connection ({error or type(error).__name__})"
                raise InputError(
                    address,
                    f"a file ({_KEPT})",
                    found,
                ) from error
            continue
        if total is None or part.stat().st_size >= total:
            break
    size = part.stat().st_size
    if total is not None and size < total:
        raise InputError(
            address, f"{total:,} bytes ({_KEPT})", f"a cut after {size:,}"
        )
    wrong = _wrong(part, total, md5, digest)
    if wrong is not None:
        # Another attempt must begin anew.
        part.unlink()
        raise InputError(address, *wrong)
    return part


def _download(address: str, part: Path, tag: Path):
    """Appends what is missing; returns the whole size and MD5, if known."""
    headers = {"User-Agent": "mobilebert_tf", "Accept-Encoding": "identity"}
    done = part.stat().st_size if part.exists() else 0
    if done and tag.exists():
        headers |= {"Range": f"bytes={done}-", "If-Range": tag.read_text()}
    request = urllib.request.Request(address, headers=headers)
    with contextlib.ExitStack() as stack:
        answer = stack.enter_context(
            urllib.request.urlopen(request, timeout=_ANSWER_SECONDS)
        )
        if answer.status != http.client.PARTIAL_CONTENT:
            done = 0
        length = answer.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        tag.unlink(missing_ok=True)
        if answer.headers.get("ETag"):
            tag.write_text(answer.headers["ETag"])
        file = stack.enter_context(part.open("ab" if done else "wb"))
        bar = {"initial": done, "total": total, "unit": "B", "unit_scale": True}
        progress = stack.enter_context(
            tqdm(desc=address.rpartition("/")[2], **bar)
        )
        # `read1` keeps what has come before a connection breaks.
        while chunk := answer.read1(_CHUNK):
            file.write(chunk)
            progress.update(len(chunk))
        return total, _md5_of(answer.headers.get_all("x-goog-hash") or [])


def _md5_of(hashes: list[str]) -> str | None:
    for entry in ",".join(hashes).split(","):
        kind, _, value = entry.strip().partition("=")
        if kind == "md5":
            return base64.b64decode(value).hex()
    return None


def _wrong(part: Path, total, md5, digest) -> tuple[str, str] | None:
    """Returns what was expected of a file and found, or None."""
    size = part.stat().st_size
    if total is not None and size != total:
        return f"{total:,} bytes", f"{size:,}"
    for kind, wanted in (("md5", md5), ("sha256", digest)):
        if wanted is not None:
            with part.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != wanted:
                return f"the {kind.upper()} {wanted}", found
    return None


def _unpack(address: str, archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive, "r:*") as tar, atomic_folder(folder) as new:
            left = _MAX_UNPACKED
            for member in tar:
                if member.isdir():
                    continue
                _check_member(address, member, left)
                left -= member.size
                path = new.joinpath(*PurePosixPath(member.name).parts)
                path.parent.mkdir(parents=True, exist_ok=True)
                # Content only: no owner, mode or time from elsewhere.
                with tar.extractfile(member) as source, path.open("xb") as file:
                    shutil.copyfileobj(source, file)
    except (tarfile.TarError, EOFError, zlib.error, FileExistsError) as error:
        archive.unlink()
        raise InputError(address, "a .tar.gz archive", error) from error


def _check_member(address: str, member: tarfile.TarInfo, left: int) -> None:
    path = PurePosixPath(member.name)
    outside = path.is_absolute() or ".." in path.parts or "\0" in member.name
    if outside or not path.parts:
        raise InputError(address, "paths inside its folder", member.name)
    if not member.isfile():
        raise InputError(address, "plain files only", member.name)
    if member.size > left:
        raise InputError(
            address, f"at most {_MAX_UNPACKED:,} bytes of files", "more"
        )
