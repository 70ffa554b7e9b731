"""The order of stages by hand, and which block learns from which."""

import pytest

from mobilebert_tf.distillation.schedule import (
    TransferOptions,
    TransferStage,
    TransferWeights,
    check_teacher_blocks,
    progressive_stages,
    transfer_rate,
    uniform_teacher_blocks,
)
from mobilebert_tf.errors import InputError

PROGRESSIVE = [
    ("transfer_block_00", 3, (0,), 1, False),
    ("transfer_block_01", 2, (1,), 2, False),
    ("transfer_block_02", 2, (2,), 3, False),
    ("distillation", 5, (), None, True),
]
JOINT = [
    ("transfer_all_blocks", 7, (0, 1, 2), 3, False),
    ("distillation", 5, (), None, True),
]
AUXILIARY = [("distillation_with_transfer", 12, (0, 1, 2), None, True)]


@pytest.mark.parametrize(
    "strategy, expected",
    [
        ("progressive", PROGRESSIVE),
        ("pkt", PROGRESSIVE),
        ("joint", JOINT),
        ("jkt", JOINT),
        ("auxiliary", AUXILIARY),
        ("akt", AUXILIARY),
    ],
)
def test_strategies(strategy, expected):
    stages = TransferOptions(strategy, 7, 5).stages(3)
    assert [
        (
            stage.name,
            stage.num_steps,
            stage.transfer_blocks,
            stage.num_blocks,
            stage.pretraining_distillation,
        )
        for stage in stages
    ] == expected


def test_the_papers_schedule():
    stages = progressive_stages(24, 240_000, 500_000)
    assert [s.num_steps for s in stages] == [10_000] * 24 + [500_000]


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


@pytest.mark.parametrize(
    "name, value",
    [("pd_alpha", 1.5), ("feature_mean", -1.0), ("temperature", 0.0)],
)
def test_impossible_weights_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"--{name}"):
        TransferWeights(**{name: value})


@pytest.mark.parametrize(
    "num_student_blocks, expected",
    [
        (1, [23]),
        (6, [3, 7, 11, 15, 19, 23]),
        (8, [2, 5, 8, 11, 14, 17, 20, 23]),
        (12, [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]),
        (24, list(range(24))),
    ],
)
def test_each_block_learns_from_the_last_of_its_run(
    num_student_blocks, expected
):
    assert list(uniform_teacher_blocks(num_student_blocks, 24)) == expected


@pytest.mark.parametrize("num_student_blocks", [5, 9, 48])
def test_uneven_depths_need_a_list(num_student_blocks):
    with pytest.raises(ValueError, match="teacher_blocks"):
        uniform_teacher_blocks(num_student_blocks, 24)


@pytest.mark.parametrize(
    "blocks", [[0, 1], [0, 1, 1], [2, 1, 0], [0, 1, 4], [-1, 0, 1], []]
)
def test_an_impossible_list_is_refused(blocks):
    assert check_teacher_blocks([0, 1, 3], 3, 4) == (0, 1, 3)
    with pytest.raises(ValueError, match="3 rising numbers.*0 and 3"):
        check_teacher_blocks(blocks, 3, 4)
