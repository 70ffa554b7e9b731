"""Opening a teacher, and casting it."""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation.initialization import copy_from_teacher
from mobilebert_tf.distillation.teachers import build_teacher, load_teacher
from mobilebert_tf.errors import InputError
from tests.distillation.pairs import tiny_batch, tiny_pretraining


def test_a_teacher_is_opened_with_its_weights(tmp_path):
    saved = tiny_pretraining("ib_bert_small")
    saved.save_pretrained(tmp_path)
    opened = load_teacher(tmp_path)
    for ours, theirs in zip(opened.weights, saved.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_teacher_without_weights_is_refused(tmp_path):
    tiny_pretraining("ib_bert_small").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="weights file"):
        load_teacher(tmp_path)


def test_a_teacher_without_heads_is_refused(tmp_path):
    tiny_pretraining("ib_bert_small").encoder.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="a pre-trained teacher"):
        load_teacher(tmp_path)


def rounded(array):
    """To 8 bits, half to even, as IEEE 754 rounds."""
    bits = array.astype("float32").view("uint32")
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("float32")


def held(weight):
    """What is in memory, whatever a layer would make of it."""
    return keras.ops.convert_to_numpy(keras.ops.cast(weight.value, "float32"))


def test_a_bfloat16_teacher_is_rounded_where_nothing_is_copied(tmp_path):
    saved = tiny_pretraining("ib_bert_small")
    saved.save_pretrained(tmp_path)
    opened = load_teacher(tmp_path, "bfloat16")
    in_blocks = {
        id(weight)
        for block in opened.encoder.blocks
        for weight in block.weights
    }
    for ours, theirs in zip(opened.weights, saved.weights, strict=True):
        is_rounded = id(ours) in in_blocks
        assert ours.dtype == ("bfloat16" if is_rounded else "float32")
        exact = theirs.numpy()
        expected = rounded(exact) if is_rounded else exact
        np.testing.assert_array_equal(held(ours), expected, ours.path)
    # Nobody else computes in bfloat16 from now on.
    assert keras.config.dtype_policy().name == "float32"


def test_a_bfloat16_teacher_computes_in_bfloat16(tmp_path):
    saved = tiny_pretraining("ib_bert_small")
    saved.save_pretrained(tmp_path)
    batch = tiny_batch()
    outputs = load_teacher(tmp_path, "bfloat16").encoder(batch)
    dtypes = {
        keras.backend.standardize_dtype(m.dtype) for m in outputs.feature_maps
    }
    assert dtypes == {"bfloat16"}
    exact = saved.encoder(batch)
    for ours, theirs in zip(
        outputs.feature_maps, exact.feature_maps, strict=True
    ):
        np.testing.assert_allclose(
            keras.ops.cast(ours, "float32"), theirs, atol=0.1
        )


def test_what_is_copied_from_a_bfloat16_teacher_is_exact(tmp_path):
    saved = tiny_pretraining("ib_bert_small")
    saved.save_pretrained(tmp_path)
    student = tiny_pretraining("mobilebert_small")
    report = copy_from_teacher(student, load_teacher(tmp_path, "bfloat16"))
    exact = {weight.path: weight.numpy() for weight in saved.weights}
    ours = {weight.path: weight.numpy() for weight in student.weights}
    assert "pretraining/masked_lm/transform/kernel" in report.copied
    for path in report.copied:
        np.testing.assert_array_equal(ours[path], exact[path], path)


def test_a_random_teacher_is_held_like_one_from_a_file(tmp_path):
    teachers = []
    for dtype in ("float32", "bfloat16"):
        keras.utils.set_random_seed(2)
        config = tiny_pretraining("ib_bert_small").config
        teachers.append(build_teacher(config, dtype))
    teachers[0].save_pretrained(tmp_path)
    opened = load_teacher(tmp_path, "bfloat16")
    for ours, theirs in zip(teachers[1].weights, opened.weights, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
    assert {weight.dtype for weight in teachers[0].weights} == {"float32"}
