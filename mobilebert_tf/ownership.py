"""Whose a folder is: of one run, which one process at a time carries on.

A run is what it read, not what that was called. Its folder holds a record
(`run.json`, or `settings.json` of shards) of its settings and of the
fingerprints of its inputs, and the same command continues it only while both
are the same. A folder without a record must be new or empty. Anything else is
refused before a byte is written.
"""

import dataclasses
import errno
import fcntl
import itertools
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any, Self

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import (
    Fingerprint,
    atomic_file,
    fingerprint,
    is_temporary,
    read_json_object,
    remove_leftovers,
)

LOCK_FILE = "run.lock"
# Key of a record under which the fingerprints are.
INPUTS = "inputs"

_NO_RUN = {INPUTS: {}}
_MAX_SHOWN = 8
# Open lock files by folder. What this process has locked it may enter again.
_LOCKS = {}

# What names inputs: a path, several, or fingerprints of what is not a file.
Sources = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a run is.

    Attributes:
        settings: JSON values by the name of their flag.
        defaults: what a record of an older version that lacks a setting is
            taken to have; None unless it is here.
        inputs: fingerprints by the name of the flag that named the files.
            Where they are equal, the setting of that name need not be.
        remedy: what to do instead of continuing another run.
    """

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Mapping[str, Sequence[Fingerprint]] = dataclasses.field(
        default_factory=dict
    )
    remedy: str = "use another folder"

    def having(self, settings: Mapping = {}, inputs: Mapping = {}) -> Self:
        """Returns the identity with more settings or inputs."""
        return dataclasses.replace(
            self,
            settings=dict(self.settings) | dict(settings),
            inputs=dict(self.inputs) | dict(inputs),
        )


def fingerprints(
    record: Path, sources: Sources
) -> dict[str, list[Fingerprint]]:
    """Takes the fingerprints of inputs.

    Args:
        record: where earlier ones are; files of the same size and time are not
            read again.
        sources: by flag, paths or fingerprints. Empty values are left out.

    Raises:
        InputError: a file cannot be read, or the record is malformed.
    """
    then = _recorded_inputs(record, _read(record) or {})

    def take(name: str, source) -> Fingerprint:
        if isinstance(source, Fingerprint):
            return source
        return fingerprint(source, then.get(name, ()))

    with futures.ThreadPoolExecutor() as pool:
        taken = {
            name: [pool.submit(take, name, source) for source in _listed(value)]
            for name, value in sources.items()
            if value
        }
    return {name: [future.result() for future in taken[name]] for name in taken}


def check_folder(
    record: Path,
    identity: Identity,
    *,
    complete: bool = False,
    restart: bool = False,
    apart_from: Mapping[str, os.PathLike | str] = {},
) -> None:
    """Refuses a folder that a run may not write into. Writes nothing.

    Args:
        record: the run's record, which may not exist.
        identity: the run's.
        complete: whether the identity has all settings that a record may have.
        restart: whether the run that is there is about to be deleted.
        apart_from: folders that are read, by their flags.

    Raises:
        InputError: it is not new, not empty and not this run's folder, another
            process works in it, or it is one of `apart_from`.
    """
    folder = record.parent
    for flag, other in apart_from.items():
        if folder.resolve() == Path(other).resolve():
            raise InputError(folder, f"another folder than {flag}", "the same")
    if not folder.exists():
        return
    previous = _read(record)
    if previous is None:
        _refuse_foreign(folder, record.name)
    else:
        _refuse_unknown(record, previous, identity)
        if not restart and previous != _NO_RUN:
            _refuse_different(record, previous, identity, complete)
    _refuse_if_locked(folder)


def claim_folder(record: Path, identity: Identity) -> None:
    """Makes a folder the run's, until `release_folders`.

    Writes the record of a new run, locks the folder, and removes the temporary
    files of killed processes.

    Raises:
        InputError: see `check_folder`; or the folder cannot be written to.
    """
    folder = record.parent
    check_folder(record, identity, complete=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_folder(folder)
        remove_leftovers(folder)
        previous = _read(record)
        recorded = _recorded_inputs(record, previous or {})
        new = {
            name: [_json_of(one) for one in identity.inputs[name]]
            for name in identity.inputs
            if name not in recorded
        }
        if previous in (None, _NO_RUN):
            _write(record, dict(identity.settings) | {INPUTS: new})
        elif new:
            names = ", ".join(new)
            print(
                f"{record}: of a version without the fingerprints of {names}, "
                "which are taken now",
                flush=True,
            )
            kept = previous.get(INPUTS, {})
            _write(record, previous | {INPUTS: kept | new})
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _not_writable(folder, error.strerror) from error


def lock_folder(folder: Path) -> None:
    """Keeps other processes out of a folder, until `release_folders`.

    Raises:
        InputError: another process has locked it.
    """
    place = folder.resolve()
    # Whoever has a folder has those below it.
    if any(above in _LOCKS for above in (place, *place.parents)):
        return
    file = os.open(place / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        _flock(file, folder)
    except InputError:
        os.close(file)
        raise
    os.truncate(file, 0)
    os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
    _LOCKS[place] = file


def release_folders() -> None:
    """Lets other processes into the folders that this process has claimed."""
    while _LOCKS:
        os.close(_LOCKS.popitem()[1])


def clear_record(record: Path) -> None:
    """Leaves a folder to the project, but to no run yet."""
    _write(record, _NO_RUN)


def changed_inputs(record: Path, identity: Identity) -> list[str]:
    """Words which inputs differ from those of a record; [] if none do."""
    then = _recorded_inputs(record, _read(record) or {})
    return [
        difference
        for name, now in identity.inputs.items()
        if name in then
        for difference in _differences(name, then[name], now)
    ]


def _refuse_foreign(folder: Path, record: str) -> None:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise _not_writable(folder, error.strerror) from error
    names = [
        path.name
        for path in paths
        if path.name != LOCK_FILE and not is_temporary(path)
    ]
    if names:
        raise InputError(
            folder,
            f"a new or empty folder, or one with a {record} of an earlier run",
            _shown(names, ", "),
        )


def _not_writable(folder: Path, found: str) -> InputError:
    return InputError(folder, "a folder to write into", found)


def _refuse_unknown(record: Path, previous: dict, identity: Identity) -> None:
    known = {INPUTS, *identity.settings}
    if identity.settings and not known & previous.keys():
        found = _shown(list(previous), ", ") or "no keys"
        raise InputError(record, "the record of such a run", found)


def _refuse_different(
    record: Path, previous: dict, identity: Identity, complete: bool
) -> None:
    inputs = _recorded_inputs(record, previous).keys() & identity.inputs.keys()
    settings = json.loads(json.dumps(dict(identity.settings)))
    names = previous | settings if complete else settings
    different = changed_inputs(record, identity)
    for name in sorted(names.keys() - inputs - {INPUTS}):
        then = previous.get(name, identity.defaults.get(name))
        now = settings.get(name)
        # Chosen later, for example a length that suits the texts.
        if now is None and not complete:
            continue
        # An option that came or went between versions counts if it is on.
        both = name in previous and name in settings
        if then != now and (both or then or now):
            different.append(f"{name}={then!r} then, {now!r} now")
    if different:
        raise InputError(
            record,
            "the inputs and settings that this run began with "
            f"({identity.remedy})",
            _shown(different, "; "),
        )


def _differences(
    name: str, then: Sequence[Fingerprint], now: Sequence[Fingerprint]
) -> Iterator[str]:
    if len(then) != len(now):
        yield f"{name}: {len(then)} files then, {len(now)} now"
    for old, new in zip(then, now, strict=False):
        if old.sha256 == new.sha256:
            continue
        if old.name != new.name:
            yield f"{old.name} then, {new.name} now"
            continue
        counts = (
            (old.num_lines, new.num_lines, "lines"),
            (old.size, new.size, "bytes"),
        )
        for before, after, unit in counts:
            if None not in (before, after) and before != after:
                yield f"{new.name}: {before:,} {unit} then, {after:,} now"
                break
        else:
            yield f"{new.name}: other content than then"


def _refuse_if_locked(folder: Path) -> None:
    place = folder.resolve()
    if place in _LOCKS or not (place / LOCK_FILE).exists():
        return
    try:
        # For writing, without which some disks do not lock.
        file = os.open(place / LOCK_FILE, os.O_RDWR)
    except OSError as error:
        raise _not_writable(folder, error.strerror) from error
    try:
        _flock(file, folder)
    finally:
        os.close(file)


def _flock(file: int, folder: Path) -> None:
    """Locks a file as long as it is open; the kernel unlocks it after a kill.

    Raises:
        InputError: another process has locked it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 200, 0).decode(errors="replace")
        raise InputError(
            folder,
            "a folder in which no other process works",
            holder or "another process",
        ) from None
    except OSError as error:
        # Some network disks have no locks.
        print(f"{folder} is not locked: {error.strerror}", flush=True)


def _read(record: Path) -> dict | None:
    if not os.path.lexists(record):
        return None
    return read_json_object(record)


def _recorded_inputs(
    record: Path, previous: Mapping
) -> dict[str, list[Fingerprint]]:
    try:
        found = {
            name: [Fingerprint(**entry) for entry in entries]
            for name, entries in previous.get(INPUTS, {}).items()
        }
    except (AttributeError, TypeError) as error:
        raise InputError(record, "fingerprints", error, INPUTS) from error
    for one in itertools.chain(*found.values()):
        texts, numbers = one[:2], one[2:]
        if not all(isinstance(value, str) for value in texts) or not all(
            isinstance(value, int | None) for value in numbers
        ):
            raise InputError(record, "fingerprints", one, INPUTS)
    return found


def _json_of(one: Fingerprint) -> dict:
    values = one._asdict()
    return {name: values[name] for name in values if values[name] is not None}


def _write(record: Path, values: Mapping) -> None:
    with atomic_file(record) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _listed(value) -> Sequence:
    if isinstance(value, str | os.PathLike | Fingerprint):
        return [value]
    return value


def _shown(items: Sequence[str], separator: str) -> str:
    shown = list(items[:_MAX_SHOWN])
    if len(items) > _MAX_SHOWN:
        shown.append(f"{len(items) - _MAX_SHOWN} more")
    return separator.join(shown)
