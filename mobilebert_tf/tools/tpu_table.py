"""What `tpu_compile` prints: the table of steps, and what follows from it.

Pure functions of what was compiled; the projection is arithmetic, and says so.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mobilebert_tf.tools.tpu_steps import (
    DISTILLATION,
    PRETRAINING,
    transfer_block,
)
from mobilebert_tf.training.tpu_aot import GIB, CompiledStep, TpuChip

SECONDS_A_DAY = 86_400


@dataclasses.dataclass(frozen=True)
class Row:
    """A step that was compiled, or was not.

    Attributes:
        kind: of `tpu_steps`.
        slice_name: e.g. `v5e:2x2`.
        chip: of that slice.
        batch_size: sequences a device.
        tokens: of that batch.
        counted_flops: for a token, by its matrix products.
        compiled: what the compiler said; None if it did not compile.
        reason: why not.
    """

    kind: str
    slice_name: str
    chip: TpuChip
    batch_size: int
    tokens: int
    counted_flops: float
    compiled: CompiledStep | None
    reason: str = ""

    @property
    def chip_batch_size(self) -> int:
        """Sequences a chip."""
        return self.batch_size * self.chip.devices


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the paper's schedule (sections 4.1 and 4.4).

    Attributes:
        name: for the table.
        num_steps: its length.
        batch_size: sequences a step, all devices together.
    """

    name: str
    num_steps: int
    batch_size: int


TEACHER_PHASE = Phase("teacher, MLM and NSP", 500_000, 4096)
TRANSFER_PHASE = Phase("progressive transfer", 240_000, 2048)
DISTILLATION_PHASE = Phase("distillation", 500_000, 2048)


def format_rows(rows: Sequence[Row]) -> str:
    """Returns the table of steps; what did not compile is listed below it."""
    cells = [
        (
            "step",
            "slice",
            "sequences",
            "GFLOP",
            "MFLOP/token",
            "counted",
            "GB moved",
            "HBM used / available, GiB",
            "compiled in",
        )
    ]
    for row in rows:
        cells.append(_cells(row))
    lines = _align(cells)
    failures = [row for row in rows if row.compiled is None]
    if failures:
        lines += ["", "did not compile:"]
    for row in failures:
        lines.append(
            f"  {row.kind} on {row.slice_name} with {row.batch_size} "
            f"sequences a device: {row.reason}"
        )
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    what = row.kind, row.slice_name, str(row.batch_size)
    counted = f"{row.counted_flops / 1e6:,.1f}"
    compiled = row.compiled
    if compiled is None:
        return (*what, "-", "-", counted, "-", "-", "-")
    return (
        *what,
        f"{compiled.flops / 1e9:,.0f}",
        f"{compiled.flops / row.tokens / 1e6:,.1f}",
        counted,
        f"{compiled.bytes_accessed / 1e9:,.1f}",
        f"{compiled.used_bytes / GIB:.2f} / "
        f"{compiled.available_bytes / GIB:.2f}",
        f"{compiled.seconds:,.0f} s",
    )


def format_projection(
    rows: Sequence[Row],
    utilisation: float,
    max_seq_length: int,
    num_stages: int,
) -> str:
    """Returns what the paper's schedule would take; nothing if unknown.

    Args:
        rows: of one or several slices.
        utilisation: share of a chip's peak that a step is taken to reach.
        max_seq_length: S.
        num_stages: of progressive transfer, one a block. Those that were not
            compiled are taken from a line through two or more that were: a
            stage costs a block of both models more than the one before.
    """
    cells = [("schedule", "chips", "steps", "batch", "chip-days", "at most")]
    for name in dict.fromkeys(row.slice_name for row in rows):
        here = [row for row in rows if row.slice_name == name and row.compiled]
        for phase, flops, batch in _phases(here, num_stages):
            chip = here[0].chip
            step = flops * phase.batch_size * max_seq_length
            days = (
                phase.num_steps
                * step
                / (chip.peak_tflops * 1e12 * utilisation * SECONDS_A_DAY)
            )
            cells.append(
                (
                    phase.name,
                    name.partition(":")[0],
                    f"{phase.num_steps:,}",
                    f"{phase.batch_size:,}",
                    f"{days:,.1f}",
                    f"{phase.batch_size // batch} chips",
                )
            )
    if len(cells) == 1:
        return ""
    return "\n".join(
        [
            f"Projection, not a measurement: steps x flops / (peak bfloat16 "
            f"flops x {utilisation:g}),",
            "at the paper's batch and length. At most: the chips that share "
            "the batch if each",
            "has the sequences of the table.",
            *_align(cells),
        ]
    )


def _phases(
    rows: Sequence[Row], num_stages: int
) -> list[tuple[Phase, float, int]]:
    """The phases that rows of one slice tell of.

    Returns:
        Of each: the phase, flops a token, sequences a chip.
    """
    by_kind = {row.kind: row for row in rows}
    blocks = {
        transfer_block(row.kind): row
        for row in rows
        if transfer_block(row.kind) is not None
    }
    found = []
    if PRETRAINING in by_kind:
        row = by_kind[PRETRAINING]
        found.append((TEACHER_PHASE, _flops(row), row.chip_batch_size))
    if len(blocks) > 1:
        line = np.polyfit(list(blocks), list(map(_flops, blocks.values())), 1)
        stages = np.polyval(line, np.arange(num_stages))
        batch = min(row.chip_batch_size for row in blocks.values())
        found.append((TRANSFER_PHASE, float(np.mean(stages)), batch))
    if DISTILLATION in by_kind:
        row = by_kind[DISTILLATION]
        found.append((DISTILLATION_PHASE, _flops(row), row.chip_batch_size))
    return found


def _flops(row: Row) -> float:
    return row.compiled.flops / row.tokens


def _align(cells: Sequence[Sequence[str]]) -> list[str]:
    """Columns: the first two to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return lines
