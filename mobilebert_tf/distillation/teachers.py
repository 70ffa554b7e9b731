"""Opening a teacher, and the number format it computes in.

Four fifths of a distillation step are the teacher's forward pass, and nobody
trains it: it can do with bfloat16 where its student cannot.
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
    """Opens the teacher, which must have its weights and pre-training heads.

    Its blocks are held in `dtype`, rounded as they are read: a float32 teacher
    is never in memory. What a student takes over, embeddings and heads, stays
    float32, so that it is copied exactly, and is rounded where it is used.

    Args:
        folder: a model folder.
        dtype: what it computes in, of `TEACHER_DTYPES`.

    Raises:
        InputError: if the folder is none, or lacks any of that.
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
    """Makes a teacher with random weights, held as `load_teacher` holds them.

    Args:
        config: the teacher's.
        dtype: what it computes in, of `TEACHER_DTYPES`.
    """
    dtype_of = _dtype_of(dtype)
    # Keras gives variables made in this scope their values when it ends.
    with _computing_in(dtype), keras.StatelessScope():
        teacher = MobileBertForPretraining(config)
        for variable in teacher.weights:
            compat.set_dtype(variable, dtype_of(variable))
    return teacher


@contextlib.contextmanager
def _computing_in(dtype: str):
    """Makes layers that compute in `dtype`, whatever the others compute in."""
    # Sublayers take the policy that rules while they are constructed.
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(
        "mixed_bfloat16" if dtype == "bfloat16" else dtype
    )
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)


def _dtype_of(dtype: str):
    """Returns the function from a teacher's variable to its dtype."""
    return lambda variable: dtype if "/block_" in variable.path else "float32"
