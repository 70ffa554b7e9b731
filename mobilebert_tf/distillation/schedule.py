"""The order of knowledge transfer, as a list of stages (paper, section 3.6).

Pure Python: what is transferred at each stage and for how long. Blocks are
numbered from 0, below.
"""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class TransferStage:
    """A stretch of training with one loss.

    Attributes:
        name: for logs, e.g. `transfer_block_03`.
        num_steps: its length.
        transfer_blocks: the blocks whose feature maps and attention are
            matched to the teacher's.
        pretraining_distillation: whether the pre-training distillation loss
            is part of the stage's loss.
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
        """How many blocks the stage has to run; None for all and the heads."""
        if self.pretraining_distillation:
            return None
        return max(self.transfer_blocks) + 1


def progressive_stages(
    num_blocks: int, transfer_steps: int, distillation_steps: int
) -> list[TransferStage]:
    """PKT: one block after the other from below, then distillation.

    Args:
        num_blocks: L.
        transfer_steps: in all; each block gets an equal share of them.
        distillation_steps: steps of pre-training distillation.
    """
    share, rest = divmod(transfer_steps, num_blocks)
    stages = [
        TransferStage(
            f"transfer_block_{block:02d}",
            share + (block < rest),
            transfer_blocks=(block,),
        )
        for block in range(num_blocks)
    ]
    return _drop_empty([*stages, _distillation(distillation_steps)])


def joint_stages(
    num_blocks: int, transfer_steps: int, distillation_steps: int
) -> list[TransferStage]:
    """JKT: all blocks at once, then distillation."""
    blocks = tuple(range(num_blocks))
    return _drop_empty(
        [
            TransferStage("transfer_all_blocks", transfer_steps, blocks),
            _distillation(distillation_steps),
        ]
    )


def auxiliary_stages(
    num_blocks: int, transfer_steps: int, distillation_steps: int
) -> list[TransferStage]:
    """AKT: a single stage, transfer losses added to distillation."""
    return _drop_empty(
        [
            TransferStage(
                "distillation_with_transfer",
                transfer_steps + distillation_steps,
                tuple(range(num_blocks)),
                pretraining_distillation=True,
            )
        ]
    )


STRATEGIES = {
    "progressive": progressive_stages,
    "joint": joint_stages,
    "auxiliary": auxiliary_stages,
    # The paper's abbreviations of the same.
    "pkt": progressive_stages,
    "jkt": joint_stages,
    "akt": auxiliary_stages,
}


def uniform_teacher_blocks(
    num_student_blocks: int, num_teacher_blocks: int
) -> tuple[int, ...]:
    """Returns the teacher's block that each student block learns from.

    Each student block stands for an equal run of teacher blocks and learns
    from the last of them, so that the last learns from the last: 6 blocks
    against 24 learn from 3, 7, 11, 15, 19 and 23.

    Raises:
        ValueError: if the runs cannot be equal.
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
    """Returns an explicit map from student to teacher blocks, checked.

    Raises:
        ValueError: unless it names one block for each of the student's, in
            rising order, all of which the teacher has.
    """
    rising = all(
        lower < upper
        for lower, upper in zip(
            (-1, *teacher_blocks), (*teacher_blocks, num_teacher_blocks)
        )
    )
    if len(teacher_blocks) != num_student_blocks or not rising:
        raise ValueError(
            f"teacher_blocks must be {num_student_blocks} rising numbers, one "
            "for each of the student's blocks, between 0 and "
            f"{num_teacher_blocks - 1}. Received: {list(teacher_blocks)}"
        )
    return tuple(teacher_blocks)


def transfer_rate(progress: float) -> float:
    """The release's learning-rate curve within one transfer stage.

    Args:
        progress: the part of the stage that is done, in [0, 1].

    Returns:
        A factor: a linear ramp to 0.995 over the first tenth, then a slow
        fall to 0.9.
    """
    return min(0.9 + 0.1 * math.sqrt(1.0 - progress), 10.0 * progress)


def _distillation(num_steps: int) -> TransferStage:
    return TransferStage(
        "distillation", num_steps, pretraining_distillation=True
    )


def _drop_empty(stages: list[TransferStage]) -> list[TransferStage]:
    return [stage for stage in stages if stage.num_steps]
