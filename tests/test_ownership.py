"""A folder belongs to one run: what it read decides, not what that was called.

Expected digests come from `hashlib` and the shell's `sha256sum`.
"""

import dataclasses
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from mobilebert_tf import files, ownership
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import Fingerprint, atomic_file, fingerprint
from mobilebert_tf.ownership import (
    Identity,
    check_folder,
    claim_folder,
    fingerprints,
    release_folders,
)


@pytest.fixture(autouse=True)
def released():
    yield
    release_folders()


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "data" / "train.tsv"
    path.parent.mkdir()
    path.write_text("text\tlabel\n" + "good\tpos\n" * 480)
    return path


def identity_of(record, settings, **sources):
    return Identity(settings, inputs=fingerprints(record, sources))


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_fingerprint_is_the_content_size_time_and_lines(table, tmp_path):
    found = fingerprint(table)
    printed = subprocess.run(["sha256sum", table], capture_output=True)
    assert found.sha256 == printed.stdout.decode().split()[0]
    assert found[2:] == (table.stat().st_size, table.stat().st_mtime_ns, 481)
    table.write_text("a\nb")
    assert fingerprint(table).num_lines == 2
    for content in (b"\0\n\n", b""):
        table.write_bytes(content)
        assert fingerprint(table).num_lines == (None if content else 0)


def test_a_file_that_nobody_touched_is_not_read_again(table, monkeypatch):
    then = fingerprint(table)
    monkeypatch.setattr(files, "_digest_and_lines", pytest.fail)
    assert fingerprint(table, [then]) is then
    monkeypatch.undo()
    os.utime(table, (1, 1))
    touched = fingerprint(table, [then])
    assert touched.sha256 == then.sha256 and touched.mtime_ns == 10**9


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_is_not_a_file_has_no_fingerprint(tmp_path, kind):
    path = tmp_path / "input"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(InputError, match="input: expected a file, found no"):
        fingerprint(path)


EDITS = {
    "481 lines then, 484 now": lambda text: text + "bad\tneg\n" * 3,
    "4,331 bytes then, 4,334 now": lambda text: text.replace(
        "pos", "posneg", 1
    ),
    "other content than then": lambda text: text.replace("pos", "neg"),
}


@pytest.mark.parametrize("message", EDITS)
def test_a_changed_input_is_refused_before_a_byte_is_written(
    table, tmp_path, message
):
    record = tmp_path / "out" / "run.json"
    claim_folder(record, identity_of(record, {"seed": 1}, train_file=table))
    release_folders()
    before = contents(record.parent)
    table.write_text(EDITS[message](table.read_text()))
    identity = identity_of(record, {"seed": 1}, train_file=table)
    for refuse in (check_folder, claim_folder):
        with pytest.raises(InputError) as error:
            refuse(record, identity)
        assert f"train.tsv: {message}" in str(error.value)
        assert "use another folder" in str(error.value)
    assert contents(record.parent) == before
    check_folder(record, identity, restart=True)


def test_moved_and_touched_inputs_are_the_same(table, tmp_path):
    record = tmp_path / "out" / "run.json"
    settings = {"seed": 1, "train_file": str(table)}
    claim_folder(record, identity_of(record, settings, train_file=table))
    moved = table.rename(tmp_path / "moved.tsv")
    os.utime(moved, (1, 1))
    settings["train_file"] = str(moved)
    claim_folder(record, identity_of(record, settings, train_file=moved))
    # A file of other content under another name.
    table.write_text("text\tlabel\n")
    settings["train_file"] = str(table)
    with pytest.raises(InputError, match="train.tsv: 481 lines then, 1 now"):
        claim_folder(record, identity_of(record, settings, train_file=table))


def test_files_are_compared_in_their_order(table, tmp_path):
    record, other = tmp_path / "out" / "run.json", tmp_path / "b.txt"
    other.write_text("b\n")
    both = identity_of(record, {"seed": 1}, input_files=[table, other])
    claim_folder(record, both)
    turned = identity_of(record, {"seed": 1}, input_files=[other, table])
    with pytest.raises(InputError, match="train.tsv then, b.txt now; b.txt"):
        check_folder(record, turned)
    one = identity_of(record, {"seed": 1}, input_files=[table])
    with pytest.raises(InputError, match="input_files: 2 files then, 1 now"):
        check_folder(record, one)


SETTINGS = {"rate": 0.1, "seed": 1, "files": ("a", "b")}


@pytest.mark.parametrize(
    "then, now, refused",
    [
        (SETTINGS, SETTINGS, None),
        (SETTINGS, SETTINGS | {"rate": 0.2}, "found rate=0.1 then, 0.2 now$"),
        # An option that is gone matters only where it was on.
        ({"rate": 1, "old_losses": False}, {"rate": 1}, None),
        ({"rate": 1, "old_losses": True}, {"rate": 1}, "old_losses=True then"),
        # A new one has its default in an older record.
        ({"rate": 1}, {"rate": 1, "new_norm": None}, None),
        ({"rate": 1}, {"rate": 1, "new_norm": "rms"}, "new_norm=None then"),
        ({"rate": 1}, {"rate": 1, "gamma": 2.0}, None),
        ({"rate": 1}, {"rate": 1, "gamma": 0.0}, "gamma=2.0 then, 0.0 now"),
        ({"rate": 1}, {"rate": 0}, "rate=1 then, 0 now"),
        ({"rate": None}, {"rate": 0}, "rate=None then, 0 now"),
        ({"epoch": 3}, {"rate": 1}, "the record of such a run, found epoch"),
        ({}, {"rate": 1}, "found no keys"),
        ([], {"rate": 1}, "expected a JSON object"),
        ({"rate": 1, "inputs": 5}, {"rate": 1}, "expected fingerprints"),
        ({"rate": 1, "inputs": {"a": [1]}}, {"rate": 1}, "fingerprints"),
        (
            {"rate": 1, "inputs": {"a": [{"name": "a", "sha256": 1}]}},
            {"rate": 1},
            "fingerprints",
        ),
        (
            {f"option{n}": 1 for n in range(20)},
            {f"option{n}": 2 for n in range(20)},
            "; 12 more$",
        ),
    ],
)
def test_settings_continue_or_are_refused_by_name(tmp_path, then, now, refused):
    record = tmp_path / "run.json"
    record.write_text(json.dumps(then))
    identity = Identity(now, {"gamma": 2.0})
    if refused is None:
        claim_folder(record, identity)
        return
    with pytest.raises(InputError, match=refused) as error:
        claim_folder(record, identity)
    assert "\n" not in str(error.value)
    assert contents(tmp_path) == {"run.json": json.dumps(then).encode()}


def test_a_partial_identity_is_compared_in_part(tmp_path):
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"rate": 1, "labels": ["no", "yes"]}))
    check_folder(record, Identity({"rate": 1}))
    with pytest.raises(InputError, match="rate=1 then, 2 now"):
        check_folder(record, Identity({"rate": 2}))


def test_an_older_record_gets_its_fingerprints_and_says_so(
    table, tmp_path, capsys
):
    record = tmp_path / "out" / "run.json"
    record.parent.mkdir()
    settings = {"seed": 1, "train_file": str(table)}
    record.write_text(json.dumps(settings))
    # Without fingerprints the name decides.
    with pytest.raises(InputError, match="train_file='.*' then, 'b' now"):
        changed = identity_of(
            record, settings | {"train_file": "b"}, model=table
        )
        check_folder(record, changed)
    for message in ("without the fingerprints of train_file", ""):
        claim_folder(record, identity_of(record, settings, train_file=table))
        assert message in capsys.readouterr().out
    recorded = json.loads(record.read_text())["inputs"]["train_file"]
    digest = hashlib.sha256(table.read_bytes()).hexdigest()
    assert [one["sha256"] for one in recorded] == [digest]


@pytest.mark.parametrize(
    "name", ["README.md", "checkpoints/ckpt-7.pt", "metrics.jsonl", ".hidden"]
)
def test_a_folder_of_someone_else_is_refused(tmp_path, name):
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    record = tmp_path / "out" / "run.json"
    for restart in (False, True):
        with pytest.raises(InputError, match="a new or empty folder, or one"):
            check_folder(record, Identity({"seed": 1}), restart=restart)
    with pytest.raises(InputError, match="a new or empty folder, or one"):
        claim_folder(record, Identity({"seed": 1}))
    assert contents(tmp_path / "out") == {name: b"mine"}


def test_another_program_s_record_is_not_restarted(tmp_path):
    record = tmp_path / "run.json"
    record.write_text('{"experiment": 7}')
    with pytest.raises(InputError, match="of such a run, found experiment"):
        check_folder(record, Identity({"seed": 1}), restart=True)


def test_inputs_are_not_written_over(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path)
    for name in ("model", "link", "model/../model"):
        record = tmp_path / name / "run.json"
        with pytest.raises(InputError, match="another folder than --model"):
            check_folder(record, Identity(), apart_from={"--model": "model"})


def test_places_that_cannot_be_folders_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        with pytest.raises(InputError, match="expected a folder to write into"):
            claim_folder(tmp_path / folder / "run.json", Identity())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become another user")
@pytest.mark.parametrize("has_record", [False, True])
def test_a_read_only_folder_is_refused(tmp_path, has_record):
    record = tmp_path / "out" / "run.json"
    record.parent.mkdir()
    if has_record:
        record.write_text('{"seed": 1}')
    for path in (tmp_path, *tmp_path.parents):
        path.chmod(path.stat().st_mode | 0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="to write into, found Permission"):
            claim_folder(record, Identity({"seed": 1}))
    finally:
        os.seteuid(0)


HOLDER = """
import pathlib, sys
from mobilebert_tf.ownership import Identity, claim_folder
record = pathlib.Path(sys.argv[1])
claim_folder(record, Identity({"seed": 1}))
with open(record.parent / ".half.12345678.partial", "w"):
    print("ready", flush=True)
sys.stdin.read()
"""


def test_a_folder_has_one_process_until_that_is_killed(tmp_path):
    record = tmp_path / "out" / "run.json"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(record)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=os.path.dirname(os.path.dirname(ownership.__file__)),
    )
    try:
        assert holder.stdout.readline() == b"ready\n"
        before = contents(record.parent)
        found = f"process {holder.pid} on {socket.gethostname()}"
        for refuse in (check_folder, claim_folder):
            with pytest.raises(InputError, match=f"found {found}$"):
                refuse(record, Identity({"seed": 1}))
        assert contents(record.parent) == before
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    claim_folder(record, Identity({"seed": 1}))
    # What the killed process had not finished is gone.
    assert set(contents(record.parent)) == {"run.json", "run.lock"}
    # Whoever has a folder may enter it, and those below, again.
    claim_folder(record, Identity({"seed": 1}))
    claim_folder(record.parent / "runs" / "a" / "run.json", Identity())
    assert not (record.parent / "runs" / "a" / "run.lock").exists()


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    beside = tmp_path / ".out.abcd_123.partial"
    beside.mkdir()
    (beside / "vocab.txt").write_text("")
    ours = folder / ".model.safetensors.abcdefgh.partial"
    kept = [
        folder / ".notes.txt.abcdefgh",
        folder / "a.abcdefgh.partial",
        folder / ".swap.partial",
        tmp_path / ".other.abcdefgh.partial",
    ]
    for path in (ours, *kept):
        path.write_text("")
    files.remove_leftovers(folder)
    assert not beside.exists() and not ours.exists()
    assert all(path.exists() for path in kept)
    # The names are those that are really given.
    with atomic_file(folder / "model.safetensors") as temporary:
        assert files.is_temporary(temporary, of="model.safetensors")


def test_settings_and_inputs_can_be_added():
    one = Fingerprint("a", "00")
    identity = Identity({"a": 1}, {"a": 0}, {"x": [one]})
    more = identity.having({"b": 2}, {"y": [one]})
    assert more == dataclasses.replace(
        identity, settings={"a": 1, "b": 2}, inputs={"x": [one], "y": [one]}
    )
