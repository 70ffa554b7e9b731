"""The order of stages, by hand."""

import pytest

from mobilebert_tf.distillation.schedule import (
    TransferStage,
    auxiliary_stages,
    joint_stages,
    progressive_stages,
    transfer_rate,
)


def test_progressive_stages_walk_up_then_distil():
    stages = progressive_stages(3, transfer_steps=7, distillation_steps=5)
    assert [
        (s.name, s.num_steps, s.transfer_blocks, s.num_blocks) for s in stages
    ] == [
        ("transfer_block_00", 3, (0,), 1),
        ("transfer_block_01", 2, (1,), 2),
        ("transfer_block_02", 2, (2,), 3),
        ("distillation", 5, (), None),
    ]
    assert [s.pretraining_distillation for s in stages] == [False] * 3 + [True]


def test_the_papers_schedule():
    stages = progressive_stages(24, 240_000, 500_000)
    assert [s.num_steps for s in stages] == [10_000] * 24 + [500_000]


def test_joint_stages():
    first, last = joint_stages(3, 7, 5)
    assert (first.num_steps, first.transfer_blocks) == (7, (0, 1, 2))
    assert not first.pretraining_distillation
    assert (last.num_steps, last.pretraining_distillation) == (5, True)


def test_auxiliary_stages_are_one():
    (stage,) = auxiliary_stages(3, 7, 5)
    assert stage.num_steps == 12
    assert stage.transfer_blocks == (0, 1, 2)
    assert stage.pretraining_distillation


def test_stages_without_steps_are_left_out():
    assert len(progressive_stages(3, 0, 5)) == 1
    assert len(progressive_stages(3, 2, 0)) == 2


@pytest.mark.parametrize(
    "progress, factor",
    # 10 * t up to the crossing near 0.0995, then 0.9 + 0.1 * sqrt(1 - t).
    [(0.0, 0.0), (0.05, 0.5), (0.19, 0.99), (0.75, 0.95), (1.0, 0.9)],
)
def test_rate_within_a_stage(progress, factor):
    assert transfer_rate(progress) == pytest.approx(factor)


def test_a_stage_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="no loss"):
        TransferStage("empty", 3)
    with pytest.raises(ValueError, match="negative"):
        TransferStage("negative", -1, (0,))
