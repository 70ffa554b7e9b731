"""Teaching a student: from stages to phases of a run, with attention images."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import keras
import numpy as np

from mobilebert_tf.config import MobileBertConfig, inputs_of
from mobilebert_tf.distillation.distiller import Distiller, check_pair
from mobilebert_tf.distillation.initialization import copy_from_teacher
from mobilebert_tf.distillation.schedule import (
    TransferOptions,
    TransferStage,
    TransferWeights,
)
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import (
    TransferStageSchedule,
    build_schedule,
    describe_parameters,
    optimizer_with,
)
from mobilebert_tf.training.options import OptimizerOptions, StepOptions
from mobilebert_tf.training.step import TrainStep

# Terms that the progress line shows, where a stage has them.
SHOWN_TERMS = ("loss", "masked_lm_loss", "masked_lm_distillation_loss")

IMAGE_NAME = "attention"

# Longer sentences would be too small to see.
_LONGEST = 32
_NUM_BLOCKS, _NUM_HEADS = 3, 4
# Pixels: the smallest width of a map, and the gaps between maps and blocks.
_MAP_PIXELS = 96
_GAP, _WIDE_GAP = 4, 16
_WHITE, _BETWEEN = 255.0, 128.0


def build_distiller(
    config: MobileBertConfig,
    teacher: MobileBertForPretraining,
    weights: TransferWeights,
    stages: Sequence[TransferStage],
    teacher_blocks: Sequence[int] | None = None,
) -> Distiller:
    """Makes a student, copies into it, and pairs it with its teacher.

    Prints what was copied, and which variables the optimizer will not decay.
    The stages are checked here rather than hours later.

    Raises:
        ValueError: student, teacher, weights and stages do not fit.
    """
    check_pair(config, teacher.config)
    student = MobileBertForPretraining(config)
    copied = copy_from_teacher(student, teacher)
    distiller = Distiller(
        student, teacher, weights, teacher_blocks=teacher_blocks
    )
    for stage in stages:
        distiller.set_stage(stage)
    print(copied, flush=True)
    print(describe_parameters(student.weights), flush=True)
    return distiller


def stage_phases(
    stages: Sequence[TransferStage],
    build: Callable[[TransferStage], TrainStep],
    batches: Callable[[int], Iterable[dict]],
    evaluation: Evaluation | None = None,
    every: Sequence[tuple[int, Callable[[Run], None]]] = (),
) -> Iterator[Phase]:
    """Yields the phases of a run, one for each stage.

    Args:
        stages: see `distillation.schedule`.
        build: makes the step of a stage (see `build_stage`).
        batches: see `Phase`; steps are counted over all stages.
        evaluation: for pre-training distillation. Transfer stages have no
            masked LM yet.
        every: see `Phase`.
    """
    first_step = 0
    for stage in stages:
        yield Phase(
            stage.name,
            stage.num_steps,
            functools.partial(build, stage),
            lambda step, first_step=first_step: batches(first_step + step),
            shown=SHOWN_TERMS,
            evaluation=evaluation if stage.pretraining_distillation else None,
            every=every,
        )
        first_step += stage.num_steps


def build_stage(
    distiller: Distiller,
    stage: TransferStage,
    *,
    learning_rate: float,
    optimizer: OptimizerOptions = OptimizerOptions(),
    transfer: TransferOptions = TransferOptions(),
    options: StepOptions = StepOptions(),
) -> TrainStep:
    """Returns the train step of a stage, with a fresh optimizer.

    As in the release, moments start afresh at every stage. In a transfer stage
    embeddings, heads and the blocks above have no learning rate, the block
    itself has that of `TransferStageSchedule`, and the blocks below a tenth of
    it (`transfer.lower_block_multiplier`), weight decay included. The release
    does this under LAMB only; here it holds under every optimizer. With a
    multiplier of 0 the lower blocks are not trained, and their gradients are
    not computed.

    Args:
        distiller: the pair; `stage` becomes its current stage.
        stage: the stage to train.
        learning_rate: peak within pre-training distillation.
        optimizer: includes the schedule of pre-training distillation.
        transfer: learning rates of transfer stages.
        options: how a step is carried out.
    """
    distiller.set_stage(
        stage, freeze_lower_blocks=not transfer.lower_block_multiplier
    )
    if stage.pretraining_distillation:
        schedule = build_schedule(optimizer, learning_rate, stage.num_steps)
    else:
        schedule = TransferStageSchedule(
            transfer.learning_rate, stage.num_steps
        )
    multipliers = [
        (variable, transfer.lower_block_multiplier)
        for variable in distiller.lower_block_variables()
    ]
    return TrainStep(
        # The distiller itself switches dropout off where it must.
        functools.partial(distiller, training=True),
        distiller.student.trainable_variables,
        optimizer_with(optimizer, schedule, multipliers),
        options,
    )


def attention_drawer(
    distiller: Distiller, batch: Mapping
) -> Callable[[Run], None]:
    """Returns a function that shows attention in a run's TensorBoard.

    The first sequence of a pre-training batch is shown: the teacher's pattern
    grows into the student block by block. The maps are computed without a
    graph: tracing two encoders would take longer than all images of a run.
    """
    inputs = sentence_inputs(batch)
    student, teacher = distiller.student.encoder, distiller.teacher.encoder
    number = len(student.blocks)
    blocks = sorted({0, number // 2, number - 1})[:_NUM_BLOCKS]
    theirs = [distiller.teacher_blocks[block] for block in blocks]

    description = (
        f"Top: heads of the student's blocks {str(blocks)[1:-1]}. Bottom: of "
        f"the teacher's {str(theirs)[1:-1]}. A row is a query; dark means much "
        "attention."
    )

    def draw(run: Run) -> None:
        image = attention_image(
            _attention_maps(student, inputs, blocks),
            _attention_maps(teacher, inputs, theirs),
        )
        run.log.write_image(IMAGE_NAME, image, run.global_step, description)

    return draw


def sentence_inputs(batch: Mapping) -> dict[str, np.ndarray]:
    """Returns encoder inputs of a batch's first sequence, [1, S]."""
    length = min(int(np.sum(batch["input_mask"][0])), _LONGEST)
    return {
        name: np.asarray(values)[:1, :length]
        for name, values in inputs_of(batch).items()
    }


def attention_image(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Draws the student's maps above the teacher's, [blocks, heads, S, S] each.

    Returns:
        Grey levels, [height, width, 1], uint8.
    """
    factor = max(1, _MAP_PIXELS // student.shape[-1])
    rows = []
    for maps in (student, teacher):
        # The root spreads small probabilities, so that they can be told apart.
        grey = _WHITE * (1.0 - np.sqrt(maps[:, :_NUM_HEADS]))
        large = grey.repeat(factor, axis=-2).repeat(factor, axis=-1)
        blocks = [_joined(heads, _GAP, axis=1) for heads in large]
        rows.append(_joined(blocks, _WIDE_GAP, axis=1))
    image = _joined(rows, _WIDE_GAP, axis=0)
    return image.round().astype("uint8")[..., None]


def _joined(images: Sequence[np.ndarray], gap: int, axis: int) -> np.ndarray:
    """Joins images along an axis, with a grey line between."""
    shape = list(images[0].shape)
    shape[axis] = gap
    between = np.full(shape, _BETWEEN)
    parts = [part for image in images for part in (between, image)]
    return np.concatenate(parts[1:], axis=axis)


def _attention_maps(encoder, inputs, blocks: Sequence[int]) -> np.ndarray:
    """Returns attention probabilities, [blocks, heads, S, S]."""
    probs = encoder(inputs, training=False).attention_probs
    chosen = [keras.ops.cast(probs[block][0], "float32") for block in blocks]
    return np.stack([keras.ops.convert_to_numpy(heads) for heads in chosen])
