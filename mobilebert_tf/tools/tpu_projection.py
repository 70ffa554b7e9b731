"""From the table of steps to chips and days: what the paper's schedule needs.

Arithmetic on what was compiled and on one assumption, the share of a chip's
peak that a step reaches; what is printed says so.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from mobilebert_tf.tools.tpu_steps import (
    DISTILLATION,
    PRETRAINING,
    transfer_block,
)
from mobilebert_tf.tools.tpu_table import TENSORFLOW, Row, align

SECONDS_A_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the schedule.

    Attributes:
        name: for the table.
        num_steps: its length.
        batch_size: sequences a step, all devices together.
    """

    name: str
    num_steps: int
    batch_size: int


# The teacher as in the paper (section 4.1), the student as in the release:
# 24 stages of 10,000 steps, then distillation.
TEACHER_PHASE = Phase("teacher, MLM and NSP", 500_000, 4096)
TRANSFER_PHASE = Phase("progressive transfer", 240_000, 2048)
DISTILLATION_PHASE = Phase("distillation", 500_000, 2048)
PHASES = (TEACHER_PHASE, TRANSFER_PHASE, DISTILLATION_PHASE)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a phase costs.

    Attributes:
        phase: which.
        chip_batch_size: sequences that fit a chip.
        flops: of all its steps.
    """

    phase: Phase
    chip_batch_size: int
    flops: float

    @property
    def num_chips(self) -> int:
        """The smallest slice that holds the batch at once, a power of two."""
        share = max(1.0, self.phase.batch_size / self.chip_batch_size)
        return 2 ** math.ceil(math.log2(share))

    def days(self, flops_a_second: float) -> float:
        """Returns how long a chip would take, all by itself."""
        return self.flops / flops_a_second / SECONDS_A_DAY


def phase_costs(
    rows: Sequence[Row], max_seq_length: int, num_stages: int
) -> list[Cost]:
    """Returns the phases that rows of one generation of chips tell of.

    Args:
        rows: where there are several of a step, the largest batch that was
            compiled counts. Those by way of JAX do not.
        max_seq_length: S.
        num_stages: of progressive transfer, one a block. Those that were not
            compiled are taken from a line through two or more that were: a
            stage costs a block of both models more than the one before. What
            fits the last stage, or distillation, fits them all.
    """
    largest = {}
    for row in sorted(rows, key=lambda row: row.batch_size):
        if row.compiled and row.backend == TENSORFLOW:
            largest[row.kind] = row
    blocks = {
        transfer_block(kind): row
        for kind, row in largest.items()
        if transfer_block(kind) is not None
    }
    found = {}
    for phase, kind in (
        (TEACHER_PHASE, PRETRAINING),
        (DISTILLATION_PHASE, DISTILLATION),
    ):
        if kind in largest:
            row = largest[kind]
            found[phase] = row.chip_batch_size, row.flops_a_token
    # Of all stages the last one fits least; distillation has all it has, and
    # the heads.
    widest = [
        row
        for kind, row in largest.items()
        if kind == DISTILLATION or transfer_block(kind) == num_stages - 1
    ]
    if len(blocks) > 1 and widest:
        flops = [row.flops_a_token for row in blocks.values()]
        line = np.polyfit(list(blocks), flops, 1)
        mean = np.mean(np.polyval(line, np.arange(num_stages)))
        batch = max(row.chip_batch_size for row in widest)
        found[TRANSFER_PHASE] = batch, float(mean)
    costs = []
    for phase in PHASES:
        if phase in found:
            batch, flops = found[phase]
            tokens = phase.num_steps * phase.batch_size * max_seq_length
            costs.append(Cost(phase, batch, flops * tokens))
    return costs


def format_projection(
    rows: Sequence[Row],
    utilisation: float,
    max_seq_length: int,
    num_stages: int,
) -> str:
    """Returns what the paper's schedule would take; nothing if unknown.

    Args:
        rows: of one or several generations of chips.
        utilisation: share of a chip's peak that a step is taken to reach.
        max_seq_length: S.
        num_stages: of progressive transfer.
    """
    cells = []
    for generation in dict.fromkeys(row.generation for row in rows):
        here = [row for row in rows if row.generation == generation]
        costs = phase_costs(here, max_seq_length, num_stages)
        rate = here[0].chip.peak_tflops * 1e12 * utilisation
        cells += [_cells(generation, cost, rate) for cost in costs]
        if len(costs) == len(PHASES):
            chips = max(cost.num_chips for cost in costs)
            days = sum(cost.days(rate) for cost in costs)
            cells.append(_times("all", generation, "", "", "", chips, days))
    if not cells:
        return ""
    titles = (
        "schedule",
        "chip",
        "steps",
        "batch",
        "fit a chip",
        "slice",
        "chip-days",
        "days",
    )
    return "\n".join(
        [
            "Projection, not a measurement. That a step reaches "
            f"{utilisation:.0%} of a chip's published peak",
            "of bfloat16 operations is an assumption. Slice: the fewest chips, "
            "a power of two, that",
            "hold the batch at once; with --accumulation_steps fewer do.",
            *align([titles, *cells], 2),
        ]
    )


def _cells(generation: str, cost: Cost, rate: float) -> tuple[str, ...]:
    return _times(
        cost.phase.name,
        generation,
        f"{cost.phase.num_steps:,}",
        f"{cost.phase.batch_size:,}",
        f"{cost.chip_batch_size:,}",
        cost.num_chips,
        cost.days(rate),
    )


def _times(*cells) -> tuple[str, ...]:
    *first, chips, days = cells
    return *first, f"{chips:,}", f"{days:,.1f}", f"{days / chips:,.1f}"
