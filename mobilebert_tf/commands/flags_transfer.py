"""Flags of knowledge transfer: the teacher, the stages, the loss."""

from absl import flags

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.data.stream import PretrainingInput
from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.objectives import TransferWeights
from mobilebert_tf.distillation.schedule import STRATEGIES, TransferStage
from mobilebert_tf.distillation.teachers import TEACHER_DTYPES
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.training.attention_images import (
    AttentionImages,
    sentence_inputs,
)
from mobilebert_tf.training.distillation import build_distiller

FLAGS = flags.FLAGS

# The fields of `TransferWeights`; a weight of 0 leaves a term out.
LOSS_FLAGS = {
    "normalized_feature_map_weight": "Of feature maps without statistics.",
    "feature_mean_weight": "Of feature means.",
    "feature_variance_weight": "Of feature variances.",
    "feature_map_transfer_weight": "Of feature maps as they are: the paper's "
    "formula, which normalised maps, means and variances replace.",
    "attention_transfer_weight": "Of attention transfer.",
    "pretraining_distillation_weight": "Of pre-training distillation.",
    "next_sentence_weight": "Of next sentence prediction, within "
    "pre-training distillation.",
    "pd_alpha": "Weight of the true label against the soft, within "
    "pre-training distillation.",
    "temperature": "Of the soft labels.",
}


def define_transfer_flags() -> None:
    """Defines the teacher, the stages and the loss."""
    flags.DEFINE_string(
        "teacher", None, "Model folder of the teacher.", required=True
    )
    flags.DEFINE_enum(
        "teacher_dtype",
        "float32",
        TEACHER_DTYPES,
        "What the teacher computes in, and its blocks are held in.",
    )
    flags.DEFINE_list(
        "teacher_blocks",
        None,
        "For each block of the student the number, from 0, of the teacher's "
        "that it learns from, e.g. 1,3,5. Not given: each learns from the last "
        "of an equal run of the teacher's blocks.",
    )
    flags.DEFINE_enum(
        "transfer_strategy",
        "progressive",
        list(STRATEGIES),
        "progressive (PKT): block by block, then distillation; joint (JKT): "
        "all blocks at once, then distillation; auxiliary (AKT): all in one.",
    )
    flags.DEFINE_integer(
        "num_transfer_steps",
        1000,
        "Steps of knowledge transfer, over all blocks.",
        0,
    )
    flags.DEFINE_integer(
        "num_train_steps", 1000, "Steps of pre-training distillation.", 0
    )
    flags.DEFINE_integer(
        "attention_images_every",
        500,
        "Steps between two images, in TensorBoard, of what heads of student "
        "and teacher attend to; 0: none.",
        0,
    )
    flags.DEFINE_float(
        "transfer_learning_rate",
        3e-3,
        "Peak rate of the block in transfer.",
        0.0,
    )
    flags.DEFINE_float(
        "lower_block_multiplier",
        0.1,
        "Learning rate of the blocks below, relative to "
        "--transfer_learning_rate (soft freezing); 0 freezes them.",
        0.0,
    )
    for name, text in LOSS_FLAGS.items():
        default = getattr(TransferWeights, name.removesuffix("_weight"))
        flags.DEFINE_float(name, default, text, 0.0)
    flags.DEFINE_bool(
        "legacy_release_losses",
        False,
        "Compute the losses exactly as the release does, defects included.",
    )
    flags.DEFINE_bool(
        "match_embedding_norm",
        True,
        "Start a NoNorm student's embedding norm on the teacher's scale (the "
        "release does not).",
    )


def transfer_stages(config: MobileBertConfig) -> list[TransferStage]:
    """Returns the stages that the flags ask for.

    Args:
        config: the student's.
    """
    return STRATEGIES[FLAGS.transfer_strategy](
        config.num_hidden_layers,
        FLAGS.num_transfer_steps,
        FLAGS.num_train_steps,
    )


def distiller_from_flags(
    config: MobileBertConfig,
    teacher: MobileBertForPretraining,
    stages: list[TransferStage],
) -> Distiller:
    """Makes a student and pairs it with its teacher.

    Raises:
        InputError: if the two, or the flags, do not fit each other.
    """
    weights = {
        name.removesuffix("_weight"): FLAGS[name].value for name in LOSS_FLAGS
    }
    blocks = FLAGS.teacher_blocks
    if blocks and not all(block.isdecimal() for block in blocks):
        raise InputError("--teacher_blocks", "numbers, say 1,3,5", blocks)
    try:
        return build_distiller(
            config,
            teacher,
            TransferWeights(**weights),
            stages,
            teacher_blocks=blocks and [int(block) for block in blocks],
            legacy_release_losses=FLAGS.legacy_release_losses,
        )
    except ValueError as error:
        raise InputError(
            FLAGS.teacher, "a teacher of this student", error
        ) from error


def attention_images(
    distiller: Distiller, data: PretrainingInput
) -> list[tuple[int, AttentionImages]]:
    """Returns what is shown of the pair in TensorBoard (see `Phase.every`)."""
    if not FLAGS.attention_images_every:
        return []
    batches, _ = data.held_out_batches()
    sentence = sentence_inputs(next(batches))
    images = AttentionImages(distiller, sentence)
    return [(FLAGS.attention_images_every, images)]


def stage_settings() -> dict:
    """Returns the transfer's part of the arguments of `build_stage`."""
    return {
        "transfer_learning_rate": FLAGS.transfer_learning_rate,
        "lower_block_multiplier": FLAGS.lower_block_multiplier,
    }
