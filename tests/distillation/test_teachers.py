"""Opening a teacher, in float32 and in bfloat16."""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation.initialization import copy_from_teacher
from mobilebert_tf.distillation.teachers import build_teacher, load_teacher
from mobilebert_tf.errors import InputError
from tests.distillation import pairs


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A teacher and its folder."""
    teacher = pairs.teacher()
    folder = tmp_path_factory.mktemp("teacher")
    teacher.save_pretrained(folder)
    return teacher, folder


def rounded(array):
    """To 8 bits, half to even, as IEEE 754 rounds."""
    bits = array.astype("float32").view("uint32")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("float32")


def held(weight):
    """The value in memory, whatever a layer would convert it to."""
    return keras.ops.convert_to_numpy(keras.ops.cast(weight.value, "float32"))


def is_in_block(weight):
    return "/block_" in weight.path


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_teacher_is_opened_with_its_weights(saved, dtype):
    """In bfloat16, only what is not copied to a student is rounded."""
    teacher, folder = saved
    opened = load_teacher(folder, dtype)
    for ours, theirs in zip(opened.weights, teacher.weights, strict=True):
        is_rounded = dtype == "bfloat16" and is_in_block(ours)
        assert ours.dtype == ("bfloat16" if is_rounded else "float32")
        exact = theirs.numpy()
        expected = rounded(exact) if is_rounded else exact
        np.testing.assert_array_equal(held(ours), expected, ours.path)
    # Other models still compute in float32.
    assert keras.config.dtype_policy().name == "float32"


def test_what_is_copied_from_a_bfloat16_teacher_is_exact(saved):
    teacher, folder = saved
    student = pairs.student()
    report = copy_from_teacher(student, load_teacher(folder, "bfloat16"))
    exact = {weight.path: weight.numpy() for weight in teacher.weights}
    ours = {weight.path: weight.numpy() for weight in student.weights}
    assert "pretraining/masked_lm/transform/kernel" in report.copied
    for path in report.copied:
        np.testing.assert_array_equal(ours[path], exact[path], path)


def test_a_random_teacher_is_held_like_one_from_a_file(saved):
    config = saved[0].config
    made = build_teacher(config, "bfloat16")
    opened = load_teacher(saved[1], "bfloat16")
    for ours, theirs in zip(made.weights, opened.weights, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    exact = build_teacher(config)
    assert {weight.dtype for weight in exact.weights} == {"float32"}


def test_unfit_folders_are_refused(tmp_path):
    teacher = pairs.teacher(num_hidden_layers=1)
    teacher.encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="a pre-trained teacher"):
        load_teacher(tmp_path / "encoder")
    teacher.save_pretrained(tmp_path / "empty")
    (tmp_path / "empty" / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights file"):
        load_teacher(tmp_path / "empty")
