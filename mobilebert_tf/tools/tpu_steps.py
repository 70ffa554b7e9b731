"""The steps that `tpu_compile` compiles: as the scripts make them, no data.

Each kind is one class of step that training takes, with the model or the pair
that takes it, the shapes of its batch, and how many operations it should need
by counting its matrix products. They can be built under either backend; the
loop's step runs under TensorFlow only.
"""

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence

import keras
import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.distillation.objectives import TransferWeights
from mobilebert_tf.distillation.schedule import (
    TransferStage,
    uniform_teacher_blocks,
)
from mobilebert_tf.distillation.teachers import build_teacher
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import (
    MobileBertForPretraining,
    MobileBertForSequenceClassification,
)
from mobilebert_tf.tasks.classification import fine_tuning_loss
from mobilebert_tf.training.distillation import build_distiller, build_stage
from mobilebert_tf.training.optimizers import OPTIMIZERS, WarmupPolynomialDecay
from mobilebert_tf.training.pretraining import pretraining_loss
from mobilebert_tf.training.step import (
    TrainStep,
    build_train_step,
    rematerialize,
)

PRETRAINING = "pretraining"
DISTILLATION = "distillation"
FINE_TUNING = "fine_tuning"
_TRANSFER = re.compile(r"transfer_block_(\d\d)")

# A step that is trained costs its forward pass and twice that for the
# gradients, of inputs and of weights.
_TRAINED, _RUN = 3, 1
# Of the schedules, which are part of the step; they change no shape.
_NUM_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class StepSettings:
    """What all steps of a table share.

    Attributes:
        teacher, student: architectures.
        max_seq_length: S.
        max_predictions_per_seq: P.
        optimizer: of `OPTIMIZERS`.
        teacher_dtype: of `TEACHER_DTYPES`.
        rematerialize: whether trained blocks are computed twice.
    """

    teacher: MobileBertConfig
    student: MobileBertConfig
    max_seq_length: int
    max_predictions_per_seq: int
    optimizer: str = "lamb"
    teacher_dtype: str = "float32"
    rematerialize: bool = False


def transfer_block(kind: str) -> int | None:
    """Returns l for `transfer_block_l`, None for the other kinds."""
    match = _TRANSFER.fullmatch(kind)
    return int(match[1]) if match else None


def check_kind(kind: str, settings: StepSettings) -> None:
    """Checks that there is such a step.

    Raises:
        InputError: if there is not.
    """
    num_blocks = settings.student.num_hidden_layers
    block = transfer_block(kind)
    if kind in (PRETRAINING, DISTILLATION, FINE_TUNING):
        return
    if block is None or block >= num_blocks:
        raise InputError(
            "--step",
            f"{PRETRAINING}, {DISTILLATION}, {FINE_TUNING}, or "
            f"transfer_block_00 to transfer_block_{num_blocks - 1:02d}",
            kind,
        )


@dataclasses.dataclass(frozen=True)
class BuiltStep:
    """A step and what it is made of.

    Attributes:
        train_step: as our loop takes it.
        model: owns all variables that the loss reads.
        compute_loss: from a batch to a dict of scalars, `loss` among them.
        variables: what is trained.
        optimizer: built on these.
    """

    train_step: TrainStep
    model: keras.Model
    compute_loss: Callable[[dict], dict]
    variables: Sequence[keras.Variable]
    optimizer: keras.optimizers.Optimizer


def build_step(kind: str, settings: StepSettings) -> BuiltStep:
    """Makes models, optimizer and step, all with fresh weights."""
    if kind in (PRETRAINING, FINE_TUNING):
        return _build_own(kind, settings)
    teacher = build_teacher(settings.teacher, settings.teacher_dtype)
    stage = _stage(kind)
    # What was copied, and what is not decayed, is no news here.
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        distiller = build_distiller(
            settings.student, teacher, TransferWeights(), [stage]
        )
    if settings.rematerialize:
        rematerialize(distiller.student.encoder.blocks)
    step = build_stage(
        distiller,
        stage,
        optimizer_class=OPTIMIZERS[settings.optimizer],
        optimizer_settings={"global_clipnorm": 1.0},
        build_schedule=_schedule,
        transfer_learning_rate=1e-3,
        lower_block_multiplier=0.1,
    )
    return BuiltStep(
        step,
        distiller,
        functools.partial(distiller, training=True),
        distiller.student.trainable_variables,
        step.optimizer,
    )


def _build_own(kind: str, settings: StepSettings) -> BuiltStep:
    """The step of a model alone."""
    if kind == PRETRAINING:
        model = MobileBertForPretraining(settings.teacher)
        loss = pretraining_loss(model)
    else:
        model = MobileBertForSequenceClassification(
            settings.student, ("negative", "positive")
        )
        loss = fine_tuning_loss(model)
    if settings.rematerialize:
        rematerialize(model.encoder.blocks)
    optimizer = OPTIMIZERS[settings.optimizer](
        _schedule(_NUM_STEPS), global_clipnorm=1.0
    )
    variables = model.trainable_variables
    step = build_train_step(loss, variables, optimizer)
    return BuiltStep(step, model, loss, variables, optimizer)


def _schedule(num_steps: int) -> WarmupPolynomialDecay:
    return WarmupPolynomialDecay(1e-3, num_steps, num_steps // 10)


def _stage(kind: str) -> TransferStage:
    block = transfer_block(kind)
    if block is None:
        return TransferStage(kind, _NUM_STEPS, pretraining_distillation=True)
    return TransferStage(kind, _NUM_STEPS, (block,))


def batch_spec(
    kind: str, settings: StepSettings, batch_size: int
) -> Mapping[str, tf.TensorSpec]:
    """Returns the shapes and dtypes of a replica's part of a batch."""
    sequences = (batch_size, settings.max_seq_length)
    shapes = {
        name: (sequences, tf.int32)
        for name in ("input_ids", "input_mask", "segment_ids")
    }
    if kind == FINE_TUNING:
        shapes["labels"] = (batch_size,), tf.int32
    else:
        predictions = (batch_size, settings.max_predictions_per_seq)
        shapes["masked_lm_positions"] = predictions, tf.int32
        shapes["masked_lm_ids"] = predictions, tf.int32
        shapes["masked_lm_weights"] = predictions, tf.float32
        shapes["next_sentence_labels"] = (batch_size, 1), tf.int32
    return {
        name: tf.TensorSpec(shape, dtype, name)
        for name, (shape, dtype) in shapes.items()
    }


def counted_flops(kind: str, settings: StepSettings) -> float:
    """Returns the operations of a step's matrix products, for one token."""
    teacher, student = settings.teacher, settings.student
    length = settings.max_seq_length
    if kind == PRETRAINING:
        return _TRAINED * _whole(teacher, settings)
    if kind == FINE_TUNING:
        return _TRAINED * (
            embedding_flops(student)
            + student.num_hidden_layers * block_flops(student, length)
        )
    if kind == DISTILLATION:
        return _TRAINED * _whole(student, settings) + _RUN * _whole(
            teacher, settings
        )
    block = transfer_block(kind)
    theirs = uniform_teacher_blocks(
        student.num_hidden_layers, teacher.num_hidden_layers
    )[block]
    return (
        _TRAINED * (block + 1) * block_flops(student, length)
        + _RUN * (theirs + 1) * block_flops(teacher, length)
        + _RUN * (embedding_flops(student) + embedding_flops(teacher))
    )


def _whole(config: MobileBertConfig, settings: StepSettings) -> float:
    head = 2 * config.hidden_size * (config.hidden_size + config.vocab_size)
    share = settings.max_predictions_per_seq / settings.max_seq_length
    return (
        embedding_flops(config)
        + config.num_hidden_layers
        * block_flops(config, settings.max_seq_length)
        + share * head
    )


def embedding_flops(config: MobileBertConfig) -> float:
    """Forward operations of a token's embedding."""
    width = config.embedding_size * (3 if config.trigram_input else 1)
    projected = config.trigram_input or width != config.hidden_size
    return 2 * width * config.hidden_size * projected


def block_flops(config: MobileBertConfig, length: int) -> float:
    """Forward operations of a token in one block, in sequences of `length`."""
    inter, intra = config.hidden_size, config.intra_bottleneck_size
    source = config.attention_source
    query = inter if source == "input" else intra
    value = intra if source == "bottleneck" else inter
    # Into the block and out of it, then query and key, then value.
    width = 2 * query + value
    if config.use_bottleneck:
        width += 2 * inter + (inter if source == "shared" else 0)
    # The output of attention; logits and mixing see every other token.
    width += intra + 2 * length
    width += config.num_feedforward_networks * 2 * config.intermediate_size
    return 2 * width * intra
