"""Flags of a fine-tuned teacher, and the loss that they ask for."""

from collections.abc import Callable, Sequence

from absl import flags

from mobilebert_tf.hub import model_folder
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.fine_tuning import (
    TaskModel,
    TeacherWeights,
    load_task_teacher,
    taught_loss,
)

FLAGS = flags.FLAGS


def define_teacher_flags() -> None:
    """Defines a fine-tuned teacher and what is learned from it."""
    flags.DEFINE_string(
        "teacher",
        None,
        "Model folder of a fine-tuned model of the same task, with the same "
        "labels and vocabulary, to learn from too.",
    )
    flags.DEFINE_float(
        "distillation_weight",
        0.5,
        "Share of the loss that is the teacher's answers, not the labels.",
        0.0,
        1.0,
    )
    flags.DEFINE_float(
        "temperature",
        1.0,
        "Divides the logits of teacher and student before they are compared.",
        0.01,
    )
    flags.DEFINE_float(
        "feature_map_transfer_weight",
        0.0,
        "Factor of the difference of feature maps, for a teacher with equally "
        "many blocks of the same width.",
        0.0,
    )


def open_teacher(
    distribution: Distribution,
    tokenizer: WordpieceTokenizer,
    model_class: type[TaskModel],
    label_names: Sequence[str],
    max_seq_length: int,
) -> TaskModel | None:
    """Opens --teacher, if there is one; see `load_task_teacher`."""
    if not FLAGS.teacher:
        return None
    with distribution.scope():
        return load_task_teacher(
            model_folder(FLAGS.teacher),
            tokenizer,
            model_class,
            label_names,
            max_seq_length,
        )


def task_or_taught_loss(
    loss: Callable, student: TaskModel, teacher: TaskModel | None
) -> Callable[[dict], dict]:
    """Returns the loss of a training.

    Args:
        loss: from a model to its loss without a teacher.
        student: what is trained.
        teacher: of `open_teacher`.
    """
    if teacher is None:
        return loss(student)
    weights = TeacherWeights(
        FLAGS.distillation_weight,
        FLAGS.temperature,
        FLAGS.feature_map_transfer_weight,
    )
    return taught_loss(student, teacher, weights)
