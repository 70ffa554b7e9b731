"""Opening a teacher, and the number format it computes in.

Four fifths of a distillation step are the teacher's forward pass, and nobody
trains it: it can do with bfloat16 where its student cannot.
"""

import os

import keras

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.modeling.pretrained import load

TEACHER_DTYPES = ("float32", "bfloat16")


def load_teacher(folder: str | os.PathLike) -> MobileBertForPretraining:
    """Opens the teacher, which must have its weights and pre-training heads.

    Raises:
        InputError: if the folder is none, or lacks any of that.
    """
    teacher = load(folder)
    if not isinstance(teacher, MobileBertForPretraining):
        raise InputError(
            folder,
            "a pre-trained teacher (MobileBertForPreTraining)",
            teacher.architecture,
        )
    return teacher


def cast_teacher(
    teacher: MobileBertForPretraining, dtype: str
) -> MobileBertForPretraining:
    """Returns a teacher whose weights and arithmetic have `dtype`.

    Copy what the student takes over first: bfloat16 rounds it.

    Args:
        teacher: a float32 teacher; returned as it is if nothing changes.
        dtype: `float32` or `bfloat16`.
    """
    if dtype == teacher.encoder.dtype_policy.name:
        return teacher
    # Sublayers take the policy that rules while they are constructed.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        twin = MobileBertForPretraining(teacher.config)
    finally:
        keras.config.set_dtype_policy(policy)
    for ours, theirs in zip(twin.weights, teacher.weights, strict=True):
        ours.assign(keras.ops.cast(theirs.value, ours.dtype))
    return twin
