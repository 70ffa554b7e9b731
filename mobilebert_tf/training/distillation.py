"""From a teacher to its student's stages, and from a stage to its step."""

import functools
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.distillation.distiller import Distiller, check_pair
from mobilebert_tf.distillation.initialization import copy_from_teacher
from mobilebert_tf.distillation.objectives import TransferWeights
from mobilebert_tf.distillation.schedule import TransferStage
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import (
    TransferStageSchedule,
    describe_parameters,
)
from mobilebert_tf.training.options import StepOptions
from mobilebert_tf.training.step import TrainStep

# What the progress line shows of a stage's terms, where the stage has them.
SHOWN_TERMS = (
    "loss",
    "masked_lm_loss",
    "masked_lm_distillation_loss",
    "mixed_masked_lm_loss",
)


def build_distiller(
    config: MobileBertConfig,
    teacher: MobileBertForPretraining,
    weights: TransferWeights,
    stages: Sequence[TransferStage],
    **settings,
) -> Distiller:
    """Makes a student, copies into it, and pairs it with its teacher.

    Prints what was copied, and what the optimizer will not decay.

    Args:
        config: the student's.
        teacher: see `load_teacher`.
        weights: of the loss.
        stages: what the pair is for, checked here rather than hours later.
        **settings: of `Distiller`.

    Raises:
        ValueError: if student, teacher, weights and stages do not fit.
    """
    check_pair(config, teacher.config)
    student = MobileBertForPretraining(config)
    copied = copy_from_teacher(student, teacher)
    distiller = Distiller(student, teacher, weights, **settings)
    for stage in stages:
        distiller.set_stage(stage)
    print(copied, flush=True)
    print(describe_parameters(student.weights), flush=True)
    return distiller


def run_stages(
    run: Run,
    distiller: Distiller,
    stages: Sequence[TransferStage],
    dataset_from: Callable[[int, int], tf.data.Dataset],
    *,
    evaluation: Evaluation | None = None,
    every: Sequence[tuple[int, Callable[[Run], None]]] = (),
    **settings,
) -> None:
    """Runs all stages, or what is left of them.

    Args:
        run: the run they are phases of.
        distiller: the pair.
        stages: of `distillation.schedule`.
        dataset_from: from the steps of the stages before, and of the current
            one, to endless batches from there on.
        evaluation: how pre-training distillation is judged. Before it there
            is no masked LM yet.
        every: see `Phase`, in all stages.
        **settings: of `build_stage`.
    """
    first_step = 0
    for stage in stages:
        distils = stage.pretraining_distillation
        run.train(
            Phase(
                stage.name,
                stage.num_steps,
                functools.partial(build_stage, distiller, stage, **settings),
                functools.partial(dataset_from, first_step),
                shown=SHOWN_TERMS,
                evaluation=evaluation if distils else None,
                every=every,
            )
        )
        first_step += stage.num_steps


def build_stage(
    distiller: Distiller,
    stage: TransferStage,
    *,
    optimizer_class: type[keras.optimizers.Optimizer],
    optimizer_settings: dict,
    build_schedule: Callable,
    transfer_learning_rate: float,
    lower_block_multiplier: float,
    step_options: StepOptions = StepOptions(),
) -> TrainStep:
    """Returns the train step of a stage, with a fresh optimizer.

    What is the release's here: moments start afresh at every stage; in a
    transfer stage embeddings, heads and blocks above have no rate, the block
    itself has the one of `TransferStageSchedule`, blocks below a tenth of it
    (`lower_block_multiplier`), decay included. The release has this under
    LAMB only; here it holds under every optimizer. With a multiplier of 0 the
    lower blocks are not trained at all, and no gradient is computed for them.

    Args:
        distiller: the pair; `stage` becomes its current stage.
        stage: what to train.
        optimizer_class: of `training.optimization`.
        optimizer_settings: its arguments besides schedule and multipliers.
        build_schedule: from the steps of the distillation stage to the
            schedule of its learning rate.
        transfer_learning_rate: peak within a transfer stage.
        lower_block_multiplier: rate of the blocks below, relative to it.
        step_options: how a step is carried out.
    """
    distiller.set_stage(stage, freeze_lower_blocks=not lower_block_multiplier)
    if stage.pretraining_distillation:
        schedule = build_schedule(stage.num_steps)
    else:
        schedule = TransferStageSchedule(
            transfer_learning_rate, stage.num_steps
        )
    optimizer = optimizer_class(
        schedule,
        multipliers=[
            (variable, lower_block_multiplier)
            for variable in distiller.lower_block_variables()
        ],
        **optimizer_settings,
    )
    return TrainStep(
        # Dropout is the distiller's to switch off.
        functools.partial(distiller, training=True),
        distiller.student.trainable_variables,
        optimizer,
        step_options,
    )
