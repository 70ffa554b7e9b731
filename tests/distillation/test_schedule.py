"""The order of stages by hand, and which block learns from which."""

import pytest

from mobilebert_tf.distillation.schedule import (
    TransferOptions,
    TransferStage,
    TransferWeights,
    check_teacher_blocks,
    progressive_stages,
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
    "names, expected",
    [
        (("progressive", "pkt"), PROGRESSIVE),
        (("joint", "jkt"), JOINT),
        (("auxiliary", "akt"), AUXILIARY),
    ],
)
def test_strategies(names, expected):
    for name in names:
        stages = TransferOptions(name, 7, 5).stages(3)
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


def test_lengths_of_stages():
    def lengths(*arguments):
        return [stage.num_steps for stage in progressive_stages(*arguments)]

    # The paper's.
    assert lengths(24, 240_000, 500_000) == [10_000] * 24 + [500_000]
    # Stages without steps are left out.
    assert lengths(3, 0, 5) == [5]
    assert lengths(3, 2, 0) == [1, 1]


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


def test_each_block_learns_from_the_last_of_its_run():
    for number, expected in {
        1: (23,),
        6: (3, 7, 11, 15, 19, 23),
        8: (2, 5, 8, 11, 14, 17, 20, 23),
        24: tuple(range(24)),
    }.items():
        assert uniform_teacher_blocks(number, 24) == expected
    for number in (5, 9, 48):
        with pytest.raises(ValueError, match="teacher_blocks"):
            uniform_teacher_blocks(number, 24)


def test_an_impossible_list_is_refused():
    assert check_teacher_blocks([0, 1, 3], 3, 4) == (0, 1, 3)
    for blocks in ([0, 1], [0, 1, 1], [2, 1, 0], [0, 1, 4], [-1, 0, 1], []):
        with pytest.raises(ValueError, match="3 rising numbers.*0 and 3"):
            check_teacher_blocks(blocks, 3, 4)
