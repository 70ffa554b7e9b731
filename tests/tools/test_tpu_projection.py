"""From rows to chips and days: the arithmetic, worked by hand."""

import pytest

from mobilebert_tf.tools.tpu_projection import (
    DISTILLATION_PHASE,
    TEACHER_PHASE,
    TRANSFER_PHASE,
    Cost,
    format_projection,
    phase_costs,
)
from tests.tools.tpu_examples import row


def lines_of(rows, utilisation=0.4, num_stages=24):
    shown = format_projection(rows, utilisation, 512, num_stages)
    return {
        line.partition("  ")[0]: line.split() for line in shown.splitlines()
    }


def test_a_phase_is_its_steps_times_its_batch():
    (cost,) = phase_costs([row()], 512, 24)
    # 4e12 operations for 8 x 512 tokens; 500,000 steps of 4,096 x 512.
    assert cost.flops == pytest.approx(4e12 * 5e5 * 4096 / 8)
    assert cost.chip_batch_size == 8 and cost.num_chips == 512
    # 1.024e21 operations at 197e12 x 0.4 a second.
    days = 1.024e21 / (197e12 * 0.4) / 86_400
    assert cost.days(197e12 * 0.4) == pytest.approx(days)
    line = lines_of([row()])["teacher, MLM and NSP"]
    assert line[-6:] == [
        "500,000",
        "4,096",
        "8",
        "512",
        f"{days:,.1f}",
        f"{days / 512:,.1f}",
    ]


@pytest.mark.parametrize(
    ("fits", "chips"), [(8, 512), (16, 256), (24, 256), (31, 256), (9999, 1)]
)
def test_the_slice_is_the_smallest_power_of_two_that_holds_the_batch(
    fits, chips
):
    assert Cost(TEACHER_PHASE, fits, 1.0).num_chips == chips


def test_transfer_is_the_mean_of_its_stages():
    stages = [
        row("transfer_block_00", flops=1e12, batch_size=64),
        row("transfer_block_03", flops=7e12),
    ]
    # Tokens stay 8 x 512, so that operations a token are 1 to 7. Stages 0 to
    # 3 lie on a line: 1, 3, 5 and 7, so that the mean is 4.
    (cost,) = phase_costs(stages, 512, 4)
    assert cost.phase is TRANSFER_PHASE
    assert cost.flops == pytest.approx(4e12 / 4096 * 2.4e5 * 2048 * 512)
    # The last stage fits least.
    assert cost.chip_batch_size == 8
    # One stage says nothing of the others.
    assert phase_costs(stages[1:], 512, 4) == []


def test_distillation_tells_what_fits_the_last_stage():
    stages = [
        row("transfer_block_00", flops=1e12, batch_size=64),
        row("transfer_block_01", flops=3e12, batch_size=32),
    ]
    assert phase_costs(stages, 512, 4) == []
    transfer, distillation = phase_costs(
        [*stages, row("distillation", batch_size=4)], 512, 4
    )
    assert transfer.flops == pytest.approx(4e12 / 4096 * 2.4e5 * 2048 * 512)
    assert transfer.chip_batch_size == distillation.chip_batch_size == 4


def test_the_largest_batch_that_was_compiled_counts():
    rows = [
        row("distillation", batch_size=64, tokens=64 * 512, flops=32e12),
        row("distillation", batch_size=128, compiled=None),
        row("distillation", batch_size=8),
        row("distillation", batch_size=256, backend="jax"),
    ]
    (cost,) = phase_costs(rows, 512, 24)
    assert cost.phase is DISTILLATION_PHASE and cost.chip_batch_size == 64
    assert cost.num_chips == 32
    assert format_projection(rows[1:2], 0.4, 512, 24) == ""


def test_the_whole_schedule_takes_the_largest_slice():
    rows = [
        row(),
        row("transfer_block_00", batch_size=64),
        row("transfer_block_01", batch_size=64),
        row("distillation", batch_size=32),
    ]
    lines = lines_of(rows)
    days = [
        float(line[-2].replace(",", ""))
        for name, line in lines.items()
        if name in ("teacher, MLM and NSP", "progressive transfer")
        or name == "distillation"
    ]
    assert len(days) == 3
    assert lines["all"][-3] == "512"
    total = float(lines["all"][-2].replace(",", ""))
    assert total == pytest.approx(sum(days), abs=0.2)
    # Without one of its parts there is no whole.
    assert "all" not in lines_of(rows[1:])


def test_generations_are_projected_apart():
    lines = [
        line.split()
        for line in format_projection(
            [row(), row(slice_name="v3:2x2")], 1.0, 512, 24
        ).splitlines()
        if line.startswith("teacher")
    ]
    assert [line[4] for line in lines] == ["v5e", "v3"]
    # A chip of v3 is two devices of 8 sequences each, and slower.
    assert [line[-3] for line in lines] == ["512", "256"]
    v5e, v3 = (float(line[-2].replace(",", "")) for line in lines)
    assert v3 / v5e == pytest.approx(197 / 123, rel=1e-3)
