"""Knowledge transfer as a list of stages (paper, section 3.6); pure Python.

A stage says what is trained, for how long and with which loss. Blocks are
numbered from 0, starting at the bottom.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from mobilebert_tf.errors import InputError
from mobilebert_tf.options import Options, option


@dataclasses.dataclass(frozen=True)
class TransferStage:
    """A stretch of training with one loss.

    Attributes:
        name: shown in logs, for example `transfer_block_03`.
        num_steps: its length.
        transfer_blocks: blocks whose feature maps and attention are fitted to
            the teacher's.
        pretraining_distillation: whether the loss includes pre-training
            distillation.
    """

    name: str
    num_steps: int
    transfer_blocks: tuple[int, ...] = ()
    pretraining_distillation: bool = False

    def __post_init__(self):
        if self.num_steps < 0:
            raise ValueError(
                f"num_steps must not be negative. Received: {self.num_steps}"
            )
        if not self.transfer_blocks and not self.pretraining_distillation:
            raise ValueError(f"stage {self.name} has no loss")

    @property
    def num_blocks(self) -> int | None:
        """Blocks that the stage runs; None for all of them and the heads."""
        if self.pretraining_distillation:
            return None
        return max(self.transfer_blocks) + 1


def progressive_stages(
    num_blocks: int, transfer_steps: int, distillation_steps: int
) -> list[TransferStage]:
    """PKT: one block after the other, bottom first; then distillation.

    `transfer_steps` is the total over all blocks, split evenly among them.
    """
    share, rest = divmod(transfer_steps, num_blocks)
    stages = [
        TransferStage(
            f"transfer_block_{block:02d}", share + (block < rest), (block,)
        )
        for block in range(num_blocks)
    ]
    return _without_empty([*stages, _distillation(distillation_steps)])


def joint_stages(
    num_blocks: int, transfer_steps: int, distillation_steps: int
) -> list[TransferStage]:
    """JKT: all blocks at once, then distillation."""
    blocks = tuple(range(num_blocks))
    transfer = TransferStage("transfer_all_blocks", transfer_steps, blocks)
    return _without_empty([transfer, _distillation(distillation_steps)])


def auxiliary_stages(
    num_blocks: int, transfer_steps: int, distillation_steps: int
) -> list[TransferStage]:
    """AKT: one stage, with transfer losses added to distillation."""
    stage = TransferStage(
        "distillation_with_transfer",
        transfer_steps + distillation_steps,
        tuple(range(num_blocks)),
        pretraining_distillation=True,
    )
    return _without_empty([stage])


def _distillation(num_steps: int) -> TransferStage:
    return TransferStage(
        "distillation", num_steps, pretraining_distillation=True
    )


def _without_empty(stages: list[TransferStage]) -> list[TransferStage]:
    return [stage for stage in stages if stage.num_steps]


STRATEGIES = {
    "progressive": progressive_stages,
    "joint": joint_stages,
    "auxiliary": auxiliary_stages,
    # The paper's abbreviations of the same.
    "pkt": progressive_stages,
    "jkt": joint_stages,
    "akt": auxiliary_stages,
}


@dataclasses.dataclass(frozen=True)
class TransferOptions(Options):
    """Which stages there are, and how fast they learn."""

    strategy: str = option(
        "progressive",
        "progressive (pkt), joint (jkt) or auxiliary (akt) transfer. "
        "progressive: block by block, then distillation; joint: all blocks at "
        "once, then distillation; auxiliary: everything at once.",
        flag="transfer_strategy",
        choices=tuple(STRATEGIES),
        everyday=True,
    )
    num_transfer_steps: int = option(
        1000,
        "Steps of knowledge transfer, total over all blocks.",
        min=0,
        everyday=True,
    )
    num_train_steps: int = option(
        1000, "Steps of pre-training distillation.", min=0, everyday=True
    )
    learning_rate: float = option(
        3e-3,
        "Peak learning rate of the block being transferred.",
        flag="transfer_learning_rate",
        min=0.0,
    )
    lower_block_multiplier: float = option(
        0.1,
        "Learning rate of the blocks below, relative to "
        "--transfer_learning_rate (soft freezing); 0 freezes them.",
        min=0.0,
    )

    def stages(self, num_blocks: int) -> list[TransferStage]:
        """Returns the stages for a student of `num_blocks` blocks."""
        return STRATEGIES[self.strategy](
            num_blocks, self.num_transfer_steps, self.num_train_steps
        )


@dataclasses.dataclass(frozen=True)
class TransferWeights(Options):
    """Weights of the loss terms, by default the release's.

    The weights of transfer terms are divided by the number of the student's
    blocks. A term of weight 0 is not computed.
    """

    normalized_feature_map: float = option(
        100.0,
        "Weight of the difference of normalised feature maps.",
        flag="normalized_feature_map_weight",
        min=0.0,
    )
    feature_mean: float = option(
        5000.0,
        "Weight of the difference of feature means.",
        flag="feature_mean_weight",
        min=0.0,
    )
    feature_variance: float = option(
        5.0,
        "Weight of the difference of feature variances.",
        flag="feature_variance_weight",
        min=0.0,
    )
    feature_map_transfer: float = option(
        0.0,
        "Weight of the plain difference of feature maps, the paper's formula, "
        "which the three terms above replace.",
        flag="feature_map_transfer_weight",
        min=0.0,
    )
    attention_transfer: float = option(
        1.0,
        "Weight of attention transfer.",
        flag="attention_transfer_weight",
        min=0.0,
    )
    pretraining_distillation: float = option(
        1.0,
        "Weight of pre-training distillation as a whole.",
        flag="pretraining_distillation_weight",
        min=0.0,
    )
    pd_alpha: float = option(
        0.5,
        "Share of the true label, against the teacher's soft label, within "
        "pre-training distillation.",
        min=0.0,
        max=1.0,
    )
    next_sentence: float = option(
        1.0,
        "Weight of next sentence prediction within pre-training distillation.",
        flag="next_sentence_weight",
        min=0.0,
    )
    temperature: float = option(
        1.0, "Temperature of the soft labels; above 0.", min=0.0
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.temperature:
            raise InputError("--temperature", "a number above 0", 0.0)

    @property
    def transfer(self) -> bool:
        """Whether any term compares blocks."""
        return any(
            (
                self.normalized_feature_map,
                self.feature_mean,
                self.feature_variance,
                self.feature_map_transfer,
                self.attention_transfer,
            )
        )

    @property
    def soft_labels(self) -> bool:
        """Whether pre-training distillation reads the teacher."""
        return self.pretraining_distillation > 0 and self.pd_alpha < 1


def uniform_teacher_blocks(
    num_student_blocks: int, num_teacher_blocks: int
) -> tuple[int, ...]:
    """Returns the teacher block that each student block learns from.

    Each student block stands for an equal run of teacher blocks and learns
    from the last of them, so that the last learns from the last: 6 blocks
    learn from blocks 3, 7, 11, 15, 19 and 23 of 24.

    Raises:
        ValueError: the runs cannot be equal.
    """
    if num_teacher_blocks % num_student_blocks:
        raise ValueError(
            f"a student of {num_student_blocks} blocks cannot divide the "
            f"teacher's {num_teacher_blocks} evenly; name the block that each "
            "learns from (teacher_blocks)"
        )
    run = num_teacher_blocks // num_student_blocks
    return tuple(range(run - 1, num_teacher_blocks, run))


def check_teacher_blocks(
    teacher_blocks: Sequence[int],
    num_student_blocks: int,
    num_teacher_blocks: int,
) -> tuple[int, ...]:
    """Checks an explicit map from student blocks to teacher blocks.

    Raises:
        ValueError: it does not name one teacher block for each student block,
            in rising order.
    """
    rising = all(
        lower < upper
        for lower, upper in itertools.pairwise(
            (-1, *teacher_blocks, num_teacher_blocks)
        )
    )
    if len(teacher_blocks) != num_student_blocks or not rising:
        raise ValueError(
            f"teacher_blocks must be {num_student_blocks} rising numbers, one "
            "for each of the student's blocks, between 0 and "
            f"{num_teacher_blocks - 1}. Received: {list(teacher_blocks)}"
        )
    return tuple(teacher_blocks)
