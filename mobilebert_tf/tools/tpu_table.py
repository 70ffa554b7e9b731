"""What `tpu_compile` prints: the table of steps, measured by the compiler."""

import dataclasses
from collections.abc import Sequence

from mobilebert_tf.training.tpu_aot import GIB, CompiledStep, TpuChip

# Ways from a step to the compiler.
TENSORFLOW, JAX = "tensorflow", "jax"

# A reason that says nothing of the step: another time it may compile.
CRASHED = "the compiler crashed, or was killed for its memory"


@dataclasses.dataclass(frozen=True)
class Row:
    """A step that was compiled, or was not.

    Attributes:
        kind: of `tpu_steps`.
        backend: `TENSORFLOW` or `JAX`.
        slice_name: e.g. `v5e:2x2`.
        chip: of that slice.
        batch_size: sequences a device.
        tokens: of that batch.
        counted_flops: for a token, by its matrix products.
        compiled: what the compiler said; None if it did not compile.
        reason: why not.
    """

    kind: str
    backend: str
    slice_name: str
    chip: TpuChip
    batch_size: int
    tokens: int
    counted_flops: float
    compiled: CompiledStep | None
    reason: str = ""

    @property
    def generation(self) -> str:
        """Of the chip, e.g. `v5e`."""
        return self.slice_name.partition(":")[0]

    @property
    def flops_a_token(self) -> float:
        """As compiled."""
        return self.compiled.flops / self.tokens

    @property
    def chip_batch_size(self) -> int:
        """Sequences a chip."""
        return self.batch_size * self.chip.devices


def format_rows(rows: Sequence[Row]) -> str:
    """Returns the table of steps; what did not compile is listed below it."""
    cells = [
        (
            "step",
            "slice",
            "by way of",
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
    lines = align(cells, 3)
    if any(row.backend == JAX for row in rows):
        lines += ["", *_JAX_NOTE]
    failures = [row for row in rows if row.compiled is None]
    if failures:
        lines += ["", "did not compile:"]
    for row in failures:
        lines.append(
            f"  {row.kind} on {row.slice_name} by way of {row.backend} with "
            f"{row.batch_size} sequences a device: {row.reason}"
        )
    return "\n".join(lines)


_JAX_NOTE = (
    "By way of jax: loss, gradients, clipping and update by the same models,",
    "losses and optimizer, of one device. What only the loop has is missing:",
    "sums over replicas, and leaving out an update that is not finite.",
)


def _cells(row: Row) -> tuple[str, ...]:
    what = row.kind, row.slice_name, row.backend, str(row.batch_size)
    counted = f"{row.counted_flops / 1e6:,.1f}"
    compiled = row.compiled
    if compiled is None:
        return (*what, "-", "-", counted, "-", "-", "-")
    return (
        *what,
        f"{compiled.flops / 1e9:,.0f}",
        f"{row.flops_a_token / 1e6:,.1f}",
        counted,
        f"{compiled.bytes_accessed / 1e9:,.1f}",
        f"{compiled.used_bytes / GIB:.2f} / "
        f"{compiled.available_bytes / GIB:.2f}",
        f"{compiled.seconds:,.0f} s",
    )


def align(cells: Sequence[Sequence[str]], left: int) -> list[str]:
    """Returns lines, their first `left` columns to the left, others right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index < left else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    return lines
