"""From a transfer stage to the step that trains it."""

from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.schedule import TransferStage
from mobilebert_tf.training.optimization import (
    OPTIMIZERS,
    TransferStageSchedule,
    WarmupLinearDecay,
)
from mobilebert_tf.training.step import build_train_step


def build_stage(
    distiller: Distiller,
    stage: TransferStage,
    *,
    optimizer: str,
    learning_rate: float,
    warmup_proportion: float,
    transfer_learning_rate: float,
    lower_block_multiplier: float,
    weight_decay: float,
):
    """Returns the train step and the fresh optimizer of a stage.

    Fresh, because the release's moments, too, are reset at every stage
    boundary. With a `lower_block_multiplier` of 0 the lower blocks are not
    trained at all, and no gradient is computed for them.

    Args:
        distiller: the pair; `stage` becomes its current stage.
        stage: what to train.
        optimizer: `adamw` or `lamb`.
        learning_rate: peak of the distillation stage, with linear decay.
        warmup_proportion: share of that stage's steps to warm up.
        transfer_learning_rate: peak within a transfer stage.
        lower_block_multiplier: rate of the blocks below, relative to it.
        weight_decay: of matrices and tables.
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
    built = OPTIMIZERS[optimizer](
        schedule,
        decay_rate=weight_decay,
        global_clipnorm=1.0,
        multipliers=[(variable, lower_block_multiplier) for variable in lower],
    )
    return build_train_step(distiller, variables, built), built
