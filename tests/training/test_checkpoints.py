"""Checkpoints that are damaged, or cannot be written, cost no earlier one."""

import resource

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.training.checkpoints import CannotSave, CheckpointFolder


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
    folder = CheckpointFolder(tmp_path)
    for step in (9, 10, 100):
        folder.save(step, {}, {"model": [variable]})
    assert folder.steps() == [10, 100]
    assert folder.newest().step == 100
