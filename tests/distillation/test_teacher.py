"""Opening a teacher, and casting it."""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation.teacher import cast_teacher, load_teacher
from mobilebert_tf.errors import InputError
from tests.distillation.pairs import tiny_pretraining


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


def test_a_cast_teacher_is_the_rounded_one():
    teacher = tiny_pretraining("ib_bert_small")
    assert cast_teacher(teacher, "float32") is teacher
    cast = cast_teacher(teacher, "bfloat16")
    for ours, theirs in zip(cast.weights, teacher.weights, strict=True):
        assert ours.dtype == "bfloat16" and theirs.dtype == "float32"
        rounded = keras.ops.cast(ours.value, "float32")
        # Half of the last of 8 bits.
        np.testing.assert_allclose(rounded, theirs.numpy(), rtol=2.0**-8)
