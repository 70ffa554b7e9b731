"""Whatever ends a process, the next one goes on to the same end."""

import multiprocessing
import random
import resource
import time

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.training.checkpoints import CannotSave, CheckpointFolder
from mobilebert_tf.training.evaluation import BEST_FOLDER
from tests.training import toy_run

# Forked from a process that has imported TensorFlow but not used it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.training.toy_run"])


def train(folder, seconds=None):
    """Trains in a process of its own, killed after `seconds`."""
    process = processes.Process(target=toy_run.main, args=(folder,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0
    return True


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder)  # The first process also waits for the imports.
    started = time.monotonic()
    again = tmp_path_factory.mktemp("again")
    train(again)
    assert_equal(again, folder)
    return folder, time.monotonic() - started


def assert_equal(folder, expected):
    for path in ("weights.npy", f"{BEST_FOLDER}/weights.npy"):
        np.testing.assert_array_equal(
            np.load(folder / path), np.load(expected / path)
        )
    metrics = (folder / "metrics.jsonl").read_text()
    assert metrics == (expected / "metrics.jsonl").read_text()


def kill_and_go_on(tmp_path, unbroken, num_kills, seed):
    expected, seconds = unbroken
    rng, kills, attempt, places = random.Random(seed), 0, 0, set()
    while kills < num_kills:
        folder = tmp_path / str(attempt)
        attempt += 1
        # Later and later, so that the run gets somewhere.
        while not train(folder, rng.uniform(0.3, 1.0) * seconds):
            kills += 1
            places.add(tuple(CheckpointFolder(folder / "checkpoints").steps()))
        assert_equal(folder, expected)
        left = [path.name for path in (folder / "checkpoints").iterdir()]
        assert len(left) == 5 and "best" in left, left
    return places


def test_a_killed_run_ends_like_an_unbroken_one(tmp_path, unbroken):
    kill_and_go_on(tmp_path, unbroken, 2, seed=0)


@pytest.mark.slow
def test_twenty_kills(tmp_path, unbroken):
    places = kill_and_go_on(tmp_path, unbroken, 20, seed=1)
    # Otherwise the moments were not random.
    assert len(places) > 5, places


def damage(path, kind):
    if kind == "missing":
        path.unlink()
    elif kind == "cut":
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@pytest.mark.parametrize("kind", ["missing", "cut", "altered"])
def test_a_damaged_checkpoint_is_left_out(tmp_path, capsys, part, kind):
    variable = tf.Variable(np.zeros(1000, "float32"))
    folder = CheckpointFolder(tmp_path)
    for step in (10, 20):
        variable.assign(np.full(1000, step, "float32"))
        folder.save(step, {"step": step}, {"model": [variable]})
    damage(tmp_path / f"ckpt-20.{part}", kind)
    newest = folder.newest()
    assert (newest.step, newest.state) == (10, {"step": 10})
    folder.restore(newest, {"model": [variable]})
    assert variable.numpy().tolist() == [10.0] * 1000
    named = "ckpt-20 is damaged" in capsys.readouterr().out
    assert named == ((part, kind) != ("index", "missing"))


def test_a_full_disk_leaves_the_old_checkpoints(tmp_path):
    variable = tf.Variable(np.zeros(100_000, "float32"))
    folder = CheckpointFolder(tmp_path)
    for step in (10, 20):
        folder.save(step, {}, {"model": [variable]})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal: writing beyond it fails like a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CannotSave, match="ckpt-30 could not be saved.*-20"):
            folder.save(30, {}, {"model": [variable]})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_the_newest_are_kept(tmp_path):
    variable = tf.Variable(1.0)
    folder = CheckpointFolder(tmp_path, max_to_keep=2)
    for step in (9, 10, 100):
        folder.save(step, {}, {"model": [variable]})
    assert folder.steps() == [10, 100]
    assert folder.newest().step == 100
