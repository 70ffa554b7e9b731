"""Opening a teacher, and the precision it computes in.

The teacher's forward pass takes four fifths of a distillation step, and it is
not trained, so bfloat16 is enough for it where it is not for the student.
"""

import contextlib
import os

import keras

from mobilebert_tf import compat
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.load import load
from mobilebert_tf.modeling.models import MobileBertForPretraining

TEACHER_DTYPES = ("float32", "bfloat16")


def load_teacher(
    folder: str | os.PathLike, dtype: str = "float32"
) -> MobileBertForPretraining:
    """Opens a teacher with its weights and pre-training heads.

    Its blocks are held in `dtype`, rounded as they are read, so a float32
    teacher is never in memory. Embeddings and heads, which the student copies,
    stay float32 and are rounded where they are used.

    Args:
        folder: a model folder.
        dtype: precision it computes in, one of `TEACHER_DTYPES`.

    Raises:
        InputError: this is not a model folder, or weights or heads are missing.
    """
    with _computing_in(dtype):
        teacher = load(folder, _dtype_of(dtype))
    if not isinstance(teacher, MobileBertForPretraining):
        raise InputError(
            folder,
            "a pre-trained teacher (MobileBertForPreTraining)",
            teacher.architecture,
        )
    return teacher


def build_teacher(
    config: MobileBertConfig, dtype: str = "float32"
) -> MobileBertForPretraining:
    """Makes a teacher with random weights, held as in `load_teacher`."""
    dtype_of = _dtype_of(dtype)
    # Variables made in this scope get their values when it ends.
    with _computing_in(dtype), keras.StatelessScope():
        teacher = MobileBertForPretraining(config)
        for variable in teacher.weights:
            compat.set_dtype(variable, dtype_of(variable))
    return teacher


@contextlib.contextmanager
def _computing_in(dtype: str):
    """Sets the precision of the layers made in this context."""
    # Sublayers take the policy in force while they are constructed.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(
        "mixed_bfloat16" if dtype == "bfloat16" else dtype
    )
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _dtype_of(dtype: str):
    """Returns a function that maps a teacher's variable to its dtype."""
    return lambda variable: dtype if "/block_" in variable.path else "float32"
