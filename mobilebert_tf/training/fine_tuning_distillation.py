"""A fine-tuned teacher beside the labels: what it says, and how it sees.

After pre-training distillation this is what is done to get the last points of
a task: the student learns the teacher's probabilities, which say more of an
example than its label, and where both are equally wide and deep also its
feature maps.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence

import tensorflow as tf
from keras import ops

from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.distillation.losses import feature_map_transfer_loss
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.losses import mean
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification
from mobilebert_tf.modeling.pretrained import load
from mobilebert_tf.training.fine_tuning import task_loss


@dataclasses.dataclass(frozen=True)
class TeacherWeights:
    """How much of a loss is the teacher's.

    Attributes:
        logits: share of the teacher's answers; the rest is the labels'.
        temperature: divides both logits; the result is multiplied by its
            square, so that gradients keep their size.
        feature_maps: factor of the mean squared difference of feature maps,
            averaged over blocks; 0 leaves them out.
    """

    logits: float = 0.5
    temperature: float = 1.0
    feature_maps: float = 0.0


def load_task_teacher(
    folder: str | os.PathLike,
    tokenizer: WordpieceTokenizer,
    label_names: Sequence[str],
) -> MobileBertForSequenceClassification:
    """Opens a teacher of the same classes and the same pieces.

    Raises:
        InputError: if it is none.
    """
    teacher = load(folder)
    if not isinstance(teacher, MobileBertForSequenceClassification):
        raise InputError(folder, "a classifier", teacher.architecture)
    if teacher.label_names != tuple(label_names):
        raise InputError(
            folder,
            f"a teacher of the classes {', '.join(label_names)}",
            ", ".join(teacher.label_names),
        )
    theirs = WordpieceTokenizer.from_folder(folder)
    if (theirs.vocab, theirs.do_lower_case) != (
        tokenizer.vocab,
        tokenizer.do_lower_case,
    ):
        raise InputError(folder, "the student's vocabulary", "another one")
    return teacher


def check_feature_maps(
    student: MobileBertForSequenceClassification,
    teacher: MobileBertForSequenceClassification,
) -> None:
    """Checks that feature maps can be compared, block by block.

    Raises:
        InputError: if widths or numbers of blocks differ.
    """
    ours, theirs = (
        f"{model.config.num_hidden_layers} blocks of width "
        f"{model.config.hidden_size}"
        for model in (student, teacher)
    )
    if ours != theirs:
        raise InputError(
            "--feature_map_transfer_weight",
            f"a teacher with {ours}, or 0",
            theirs,
        )


def taught_loss(
    student: MobileBertForSequenceClassification,
    teacher: MobileBertForSequenceClassification,
    weights: TeacherWeights,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch with `labels` to its loss terms.

    `loss` is (1 - logits) * `task_loss` + logits * `distillation_loss`
    + feature_maps * `feature_map_transfer_loss`.
    """
    if weights.feature_maps:
        check_feature_maps(student, teacher)

    def compute_loss(batch):
        outputs = student.encoder(batch, training=True)
        logits = student.head(outputs.pooled_output, training=True)
        theirs = teacher.encoder(batch, training=False)
        teacher_logits = ops.stop_gradient(
            teacher.head(theirs.pooled_output, training=False)
        )
        labelled = task_loss(logits, batch["labels"])
        taught = distillation_loss(
            logits,
            teacher_logits,
            weights.temperature,
            several=len(batch["labels"].shape) == 2,
        )
        total = (1.0 - weights.logits) * labelled + weights.logits * taught
        terms = {"task_loss": labelled, "distillation_loss": taught}
        if weights.feature_maps:
            terms["feature_map_transfer_loss"] = _feature_map_loss(
                outputs.feature_maps, theirs.feature_maps, batch["input_mask"]
            )
            total += weights.feature_maps * terms["feature_map_transfer_loss"]
        return {"loss": total} | terms

    return compute_loss


def distillation_loss(
    logits, teacher_logits, temperature: float, several: bool
):
    """How far a student's answers are from its teacher's.

    Args:
        logits: [B, C]. A single column is a regression: the squared difference.
        teacher_logits: the same of the teacher.
        temperature: see `TeacherWeights`.
        several: whether each class has a probability of its own.

    Returns:
        The mean KL(teacher || student) in nats, of several classes the mean
        over them: 0 where both agree.
    """
    if logits.shape[-1] == 1 and not several:
        return mean(ops.square(logits - teacher_logits))
    ours, theirs = logits / temperature, teacher_logits / temperature
    if several:
        # Each class as a choice between yes and no.
        ours = ops.stack([ours, ops.zeros_like(ours)], axis=-1)
        theirs = ops.stack([theirs, ops.zeros_like(theirs)], axis=-1)
    ours = ops.log_softmax(ours, axis=-1)
    theirs = ops.log_softmax(theirs, axis=-1)
    divergence = ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)
    return temperature**2 * mean(divergence)


def _feature_map_loss(student_maps, teacher_maps, input_mask):
    # The first map is the embeddings'.
    pairs = list(zip(student_maps[1:], teacher_maps[1:], strict=True))
    losses = [
        feature_map_transfer_loss(ours, ops.stop_gradient(theirs), input_mask)
        for ours, theirs in pairs
    ]
    return sum(losses) / len(losses)
