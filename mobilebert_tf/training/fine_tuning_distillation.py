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
from mobilebert_tf.modeling.losses import mean, weighted_mean
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.modeling.pretrained import load
from mobilebert_tf.training.fine_tuning import task_loss
from mobilebert_tf.training.question_answering import answer_loss
from mobilebert_tf.training.token_classification import (
    at_all_labels,
    token_loss,
)

TaskModel = (
    MobileBertForSequenceClassification
    | MobileBertForTokenClassification
    | MobileBertForQuestionAnswering
)


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
    model_class: type[TaskModel],
    label_names: Sequence[str] = (),
    max_seq_length: int = 0,
) -> TaskModel:
    """Opens a teacher of the same task and the same pieces.

    Args:
        folder: its model folder.
        tokenizer: the student's.
        model_class: the student's.
        label_names: of the task, if it has any.
        max_seq_length: of the sequences that it will read.

    Raises:
        InputError: if it is no such teacher.
    """
    teacher = load(folder)
    if not isinstance(teacher, model_class):
        raise InputError(
            folder, f"a {model_class.architecture}", teacher.architecture
        )
    names = getattr(teacher, "label_names", ())
    if names != tuple(label_names):
        raise InputError(
            folder,
            f"a teacher of the classes {', '.join(label_names)}",
            ", ".join(names),
        )
    theirs = WordpieceTokenizer.from_folder(folder)
    if (theirs.vocab, theirs.do_lower_case) != (
        tokenizer.vocab,
        tokenizer.do_lower_case,
    ):
        raise InputError(folder, "the student's vocabulary", "another one")
    longest = teacher.config.max_position_embeddings
    if longest < max_seq_length:
        raise InputError(
            folder,
            f"a teacher of sequences of {max_seq_length} pieces",
            f"{longest} at most",
        )
    return teacher


def check_feature_maps(
    student: TaskModel,
    teacher: TaskModel,
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
    student: TaskModel,
    teacher: TaskModel,
    weights: TeacherWeights,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a labelled batch to its loss terms.

    `loss` is (1 - logits) * `task_loss` + logits * `distillation_loss`
    + feature_maps * `feature_map_transfer_loss`.
    """
    if weights.feature_maps:
        check_feature_maps(student, teacher)
    labelled_loss, answers_loss = _LOSSES[type(student)]

    def compute_loss(batch):
        outputs = student.encoder(batch, training=True)
        logits = student.logits(outputs, training=True)
        theirs = teacher.encoder(batch, training=False)
        teacher_logits = tf.nest.map_structure(
            ops.stop_gradient, teacher.logits(theirs, training=False)
        )
        labelled = labelled_loss(logits, batch)
        taught = answers_loss(
            logits, teacher_logits, weights.temperature, batch
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
    if several:
        # Each class as a choice between yes and no.
        logits, teacher_logits = (
            ops.stack([rows, ops.zeros_like(rows)], axis=-1)
            for rows in (logits, teacher_logits)
        )
    return mean(_divergence(logits, teacher_logits, temperature))


def _divergence(logits, teacher_logits, temperature):
    """KL(teacher || student) over the last axis, times temperature squared."""
    ours = ops.log_softmax(logits / temperature, axis=-1)
    theirs = ops.log_softmax(teacher_logits / temperature, axis=-1)
    divergence = ops.sum(ops.exp(theirs) * (theirs - ours), axis=-1)
    return temperature**2 * divergence


def _class_answers_loss(logits, teacher_logits, temperature, batch):
    several = len(batch["labels"].shape) == 2
    return distillation_loss(logits, teacher_logits, temperature, several)


def _token_answers_loss(logits, teacher_logits, temperature, batch):
    """The mean over tokens, each at its first piece, as the labels are."""
    divergence = _divergence(logits, teacher_logits, temperature)
    divergence = at_all_labels(divergence[:, :, None], batch)[:, :, 0]
    return weighted_mean(divergence, batch["label_weights"])


def _span_answers_loss(logits, teacher_logits, temperature, batch):
    """The mean of both ends, each a choice among positions."""
    start, end = (
        mean(_divergence(logits[name], teacher_logits[name], temperature))
        for name in ("start_logits", "end_logits")
    )
    return (start + end) / 2.0


# By the student's class: the loss against labels, and against a teacher.
_LOSSES = {
    MobileBertForSequenceClassification: (
        lambda logits, batch: task_loss(logits, batch["labels"]),
        _class_answers_loss,
    ),
    MobileBertForTokenClassification: (token_loss, _token_answers_loss),
    MobileBertForQuestionAnswering: (answer_loss, _span_answers_loss),
}


def _feature_map_loss(student_maps, teacher_maps, input_mask):
    # The first map is the embeddings'.
    pairs = list(zip(student_maps[1:], teacher_maps[1:], strict=True))
    losses = [
        feature_map_transfer_loss(ours, ops.stop_gradient(theirs), input_mask)
        for ours, theirs in pairs
    ]
    return sum(losses) / len(losses)
