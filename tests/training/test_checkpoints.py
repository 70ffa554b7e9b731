"""Checkpoints that are damaged, or cannot be written, cost no earlier one."""

import resource

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.errors import InputError
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


def test_files_of_others_are_left_alone(tmp_path, capsys):
    variable = tf.Variable(np.zeros(3, "float32"))
    folder = CheckpointFolder(tmp_path)
    folder.save(10, {}, {"model": [variable]})
    for name in ("ckpt-7.pt", "ckpt-final.index", "ckpt-10.index.bak"):
        (tmp_path / name).write_text("anything")
    for name in ("ckpt-30.index", "ckpt-20.data-00000-of-00001"):
        (tmp_path / name).write_text("what a killed save or a disk left")
    (tmp_path / "ckpt-40_temp").mkdir()
    folder.remove_leftovers()
    assert folder.newest().step == 10
    assert "ckpt-30 is damaged" in capsys.readouterr().out
    for step in (11, 12):
        folder.save(step, {}, {"model": [variable]})
    left = {path.name for path in tmp_path.iterdir()}
    assert {"ckpt-7.pt", "ckpt-final.index", "ckpt-10.index.bak"} < left
    assert not left & {"ckpt-40_temp", "ckpt-20.data-00000-of-00001"}
    assert folder.steps() == [11, 12]


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(10, {}, {"model": [tf.Variable(np.zeros(3, "float32"))]})
    for other in (tf.Variable(np.zeros(4, "float32")), tf.Variable("text")):
        with pytest.raises(InputError, match="ckpt-10: expected a checkpoint"):
            folder.restore(folder.newest(), {"model": [other]})
    # One that TensorFlow can read, of another program.
    tf.train.Checkpoint(a=tf.Variable(1.0)).write(str(tmp_path / "ckpt-20"))
    assert folder.newest().step == 10


def test_only_the_newest_are_kept(tmp_path):
    variable = tf.Variable(1.0)
    folder = CheckpointFolder(tmp_path)
    for step in (9, 10, 100):
        folder.save(step, {}, {"model": [variable]})
    assert folder.steps() == [10, 100]
    assert folder.newest().step == 100
