"""Students with fewer blocks than their teacher, and every published student.

Depths are the real ones, widths those of a toy.
"""

import numpy as np
import pytest

from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.schedule import (
    check_teacher_blocks,
    joint_stages,
    progressive_stages,
    uniform_teacher_blocks,
)
from tests.distillation.pairs import tiny_pretraining

STUDENTS = {
    "mobilebert_tiny": 24,
    "mobilebert_without_opt": 24,
    "mobilebert_paper": 24,
    "mobilebert_edgetpu_xxs": 6,
    "mobilebert_edgetpu_xs": 8,
    "mobilebert_edgetpu_s": 12,
    "mobilebert_edgetpu_m": 12,
}


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
def test_the_uniform_map(num_student_blocks, expected):
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


@pytest.fixture(scope="module")
def teacher():
    return tiny_pretraining("ib_bert_large", num_hidden_layers=24)


@pytest.mark.parametrize("preset", STUDENTS)
def test_every_student_learns_from_a_teacher_of_24_blocks(
    preset, teacher, batch, monkeypatch
):
    num_blocks = STUDENTS[preset]
    student = tiny_pretraining(preset, num_hidden_layers=num_blocks)
    pair = Distiller(student, teacher)
    ran = []
    for index, block in enumerate(teacher.encoder.blocks):
        call = block.call

        def noted(*args, index=index, call=call, **kwargs):
            ran.append(index)
            return call(*args, **kwargs)

        monkeypatch.setattr(block, "call", noted)
    stages = progressive_stages(num_blocks, num_blocks, 1)
    run = 24 // num_blocks
    for stage, num_teacher_blocks in (
        (stages[0], run),
        (stages[-2], 24),
        (stages[-1], 24),
    ):
        ran.clear()
        pair.set_stage(stage)
        terms = pair(batch)
        assert ran == list(range(num_teacher_blocks))
        assert all(np.isfinite(float(value)) for value in terms.values())


def test_a_block_is_compared_with_the_one_it_is_mapped_to(batch):
    """The teacher's blocks are copied to where a list says they belong."""
    teacher = tiny_pretraining("ib_bert_small", num_hidden_layers=5)
    student = tiny_pretraining("ib_bert_small", num_hidden_layers=2)
    for ours, theirs in (
        (student.encoder.embeddings, teacher.encoder.embeddings),
        (student.encoder.blocks[0], teacher.encoder.blocks[0]),
        (student.encoder.blocks[1], teacher.encoder.blocks[1]),
    ):
        for weight, source in zip(ours.weights, theirs.weights, strict=True):
            weight.assign(source.value)
    (stage,) = joint_stages(2, 1, 0)
    found = {}
    for blocks in ([0, 1], [0, 2], [1, 4]):
        pair = Distiller(student, teacher, teacher_blocks=blocks)
        pair.set_stage(stage)
        terms = pair(batch)
        found[tuple(blocks)] = [
            float(terms[f"attention_transfer_loss_block_0{block}"])
            for block in (0, 1)
        ]
    assert found[0, 1] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found[0, 2][0] < 1e-6 < 1e-3 < found[0, 2][1]
    assert min(found[1, 4]) > 1e-3


def test_a_student_of_uneven_depth_is_refused_by_name():
    with pytest.raises(ValueError, match="student of 2 blocks"):
        Distiller(
            tiny_pretraining("mobilebert_small", num_hidden_layers=2),
            tiny_pretraining("ib_bert_small"),
        )
