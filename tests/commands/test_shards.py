"""The command: processes that agree, a kill in the middle, bad input."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mobilebert_tf.commands.shards import COMMAND, ProgressLine
from mobilebert_tf.data.shards import (
    ShardProgress,
    missing_shards,
    tokenizer_of,
    write_shard,
    write_shards,
)
from mobilebert_tf.errors import InputError
from tests.data.test_shards import WORDS, make_settings
from tests.tiny import SPECIAL

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_SHARDS = 6
TIMEOUT = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Text of which a shard takes half a second, and a vocabulary."""
    folder = tmp_path_factory.mktemp("text")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]) + "\n")
    lines = np.random.default_rng(0).choice(WORDS, (2, 30, 40, 12))
    for name, documents in zip("ab", lines, strict=True):
        (folder / f"{name}.txt").write_text(
            "\n\n".join("\n".join(map(" ".join, lines)) for lines in documents)
        )
    return folder


@pytest.fixture(scope="module")
def settings(folder):
    return make_settings(folder, num_shards=NUM_SHARDS, dupe_factor=5)


@pytest.fixture(scope="module")
def expected(settings, tmp_path_factory):
    """The contents of all shards, made here without other processes."""
    output = tmp_path_factory.mktemp("expected")
    tokenizer = tokenizer_of(settings)
    for shard in range(NUM_SHARDS):
        list(write_shard(output, settings, tokenizer, shard))
    return contents(output)


def contents(folder):
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.suffix == ".tfrecord"
    }


def command(folder, output, *options):
    """The command line that gives `make_settings` of the fixtures."""
    return [
        sys.executable,
        "-m",
        "mobilebert_tf.commands.shards",
        f"--input_files={folder}/a.txt,{folder}/b.txt",
        f"--vocab_file={folder}/vocab.txt",
        f"--output_dir={output}",
        "--max_seq_length=48",
        "--max_predictions_per_seq=7",
        "--dupe_factor=5",
        f"--num_shards={NUM_SHARDS}",
        *options,
    ]


def start(arguments):
    return subprocess.Popen(
        arguments,
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def kill_at(process, is_time):
    """Waits until `is_time` says so, then kills without mercy."""
    deadline = time.monotonic() + TIMEOUT
    try:
        while process.poll() is None and not is_time():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def test_killed_it_goes_on_and_writes_the_same(
    folder, settings, expected, tmp_path
):
    output = tmp_path / "out"
    kill_at(
        start(command(folder, output, "--num_processes=1")),
        lambda: any(output.glob("*.tfrecord")),
    )
    finished = contents(output)
    assert 1 <= len(finished) < NUM_SHARDS
    assert finished.items() <= expected.items()

    # The rest in another process.
    missing = missing_shards(output, settings)
    assert len(missing) == NUM_SHARDS - len(finished)
    for shard in missing:
        list(write_shard(output, settings, tokenizer_of(settings), shard))
    assert contents(output) == expected
    assert {path.name for path in output.iterdir()} == {
        "settings.json",
        "run.lock",
        *expected,
    }


@pytest.mark.slow
def test_killed_at_any_moment_the_command_completes(folder, expected, tmp_path):
    arguments = command(folder, tmp_path / "out", "--num_processes=2")
    for seconds in (1, 5, 7, 8, 9):
        end = time.monotonic() + seconds
        kill_at(start(arguments), lambda end=end: time.monotonic() > end)
    process = start(arguments)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert output.endswith(f"{tmp_path / 'out'} is complete.\n")
    assert contents(tmp_path / "out") == expected
    assert len(list((tmp_path / "out").iterdir())) == NUM_SHARDS + 2
    assert os.path.getsize(tmp_path / "out" / "settings.json")


def test_shards_are_made_until_bad_text_is_the_callers_error(folder, tmp_path):
    good, bad = folder / "a.txt", tmp_path / "latin.txt"
    bad.write_bytes(b"good\n\ncaf\xe9\n".ljust(good.stat().st_size, b"\n"))
    files = (str(good), str(bad))
    settings = make_settings(folder, input_files=files, num_shards=2)
    with pytest.raises(InputError) as error:
        list(write_shards(tmp_path, settings, [0, 1], 1))
    assert str(error.value) == (
        f"{bad}, line 3: expected UTF-8 text, found byte 0xe9"
    )
    assert not multiprocessing.active_children()
    (made,) = contents(tmp_path)
    assert made == "examples-00000-of-00002.tfrecord"


def test_a_process_that_is_killed_is_reported(folder, tmp_path):
    settings = make_settings(folder, num_shards=2, dupe_factor=2000)
    reports = write_shards(tmp_path, settings, [0, 1], num_processes=1)
    assert next(reports) == ShardProgress()
    (child,) = [
        child
        for child in multiprocessing.active_children()
        if child.name.startswith("SpawnProcess")
    ]
    os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(InputError, match="one of 1 that was killed"):
        list(reports)
    assert not list(tmp_path.glob("*.tfrecord"))


def test_progress_is_summed_and_foretold(monkeypatch, capsys):
    times = iter([100.0, 105.0, 112.0, 120.0, 120.0, 120.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(times))
    line = ProgressLine(num_bytes=4_000_000, num_shards=2)
    line.add(ShardProgress())
    line.add(ShardProgress(500_000, 1000, 10))
    assert capsys.readouterr().out == ""
    line.add(ShardProgress(500_000, 2000, 20))
    assert capsys.readouterr().out == (
        "0 of 2 files, 30 examples, 1.0 MB of text, 0.05 MB/s, 150 tokens/s, "
        "1:00 left\n"
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ("--tfds_name=wiki40b/en", "either this or --tfds_name, found both"),
        ("--input_files=", "--input_files: expected this or --tfds_name"),
        ("--input_files=no_such.txt", "no_such.txt: expected a text file"),
        ("--vocab_file=no_such.txt", "no_such.txt: expected a file"),
        ("--num_shards=0", "--num_shards: expected at least 1, found 0"),
    ],
)
def test_bad_flags_are_refused_before_a_folder_is_made(
    folder, tmp_path, changes, message
):
    flags = command(folder, tmp_path / "out", changes)[3:]
    with pytest.raises(InputError, match=message):
        COMMAND.run(flags)
    assert not (tmp_path / "out").exists()
