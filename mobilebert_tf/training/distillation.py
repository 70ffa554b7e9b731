"""From a transfer stage to the step that trains it."""

import keras

from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.schedule import TransferStage
from mobilebert_tf.training.optimization import (
    TransferStageSchedule,
    WarmupLinearDecay,
)
from mobilebert_tf.training.step import build_train_step


def build_stage(
    distiller: Distiller,
    stage: TransferStage,
    *,
    optimizer_class: type[keras.optimizers.Optimizer],
    optimizer_settings: dict,
    learning_rate: float,
    warmup_proportion: float,
    transfer_learning_rate: float,
    lower_block_multiplier: float,
):
    """Returns the train step and the fresh optimizer of a stage.

    Fresh, because the release's moments, too, are reset at every stage
    boundary. With a `lower_block_multiplier` of 0 the lower blocks are not
    trained at all, and no gradient is computed for them.

    Args:
        distiller: the pair; `stage` becomes its current stage.
        stage: what to train.
        optimizer_class: of `training.optimization`.
        optimizer_settings: its arguments besides schedule and multipliers.
        learning_rate: peak of the distillation stage, with linear decay.
        warmup_proportion: share of that stage's steps to warm up.
        transfer_learning_rate: peak within a transfer stage.
        lower_block_multiplier: rate of the blocks below, relative to it.
    """
    distiller.set_stage(stage)
    lower = distiller.lower_block_variables()
    variables = distiller.student.trainable_variables
    if not lower_block_multiplier:
        frozen = {id(variable) for variable in lower}
        variables = [v for v in variables if id(v) not in frozen]
        lower = []
    if stage.pretraining_distillation:
        schedule = WarmupLinearDecay(
            learning_rate,
            stage.num_steps,
            round(warmup_proportion * stage.num_steps),
        )
    else:
        schedule = TransferStageSchedule(
            transfer_learning_rate, stage.num_steps
        )
    optimizer = optimizer_class(
        schedule,
        multipliers=[(variable, lower_block_multiplier) for variable in lower],
        **optimizer_settings,
    )
    return build_train_step(distiller, variables, optimizer), optimizer
