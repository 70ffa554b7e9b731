"""From a transfer stage to its steps: who moves, how far, and who does not.

And what TensorBoard shows of attention meanwhile.
"""

import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.schedule import (
    STRATEGIES,
    TransferOptions,
    TransferStage,
    TransferWeights,
    progressive_stages,
)
from mobilebert_tf.training.distillation import (
    IMAGE_NAME,
    attention_drawer,
    attention_image,
    build_distiller,
    build_stage,
    sentence_inputs,
    stage_phases,
)
from mobilebert_tf.training.log import MetricsLog
from mobilebert_tf.training.optimizers import OPTIMIZERS
from mobilebert_tf.training.options import OptimizerOptions
from tests import tiny
from tests.distillation import pairs

pytestmark = pytest.mark.usefixtures("eagerly")

LAST_BLOCK = TransferStage("transfer_block_02", 50, (2,))
DISTIL = TransferStage("distillation", 50, pretraining_distillation=True)


def tensors(batch):
    return {name: tf.constant(array) for name, array in batch.items()}


def step_of(distiller, stage, optimizer="adamw", multiplier=0.1):
    return build_stage(
        distiller,
        stage,
        learning_rate=1e-2,
        optimizer=OptimizerOptions(optimizer, warmup_proportion=0.0),
        transfer=TransferOptions(
            learning_rate=1e-2, lower_block_multiplier=multiplier
        ),
    )


def values(model):
    return {weight.path: weight.numpy() for weight in model.weights}


@pytest.fixture
def distiller():
    return pairs.pair()


@pytest.fixture
def examples():
    return tensors(tiny.pretraining_batch())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_transfer_stage_moves_its_block_and_softly_those_below(
    optimizer, distiller, examples
):
    start = values(distiller.student)
    moved = {}
    for multiplier in (1.0, 0.1, 0.0):
        for weight in distiller.student.weights:
            weight.assign(start[weight.path])
        step_of(distiller, LAST_BLOCK, optimizer, multiplier)(examples)
        after = values(distiller.student)
        moved[multiplier] = {
            path: after[path] - start[path] for path in sorted(start)
        }
    for path, full in moved[1.0].items():
        is_block = path.startswith("encoder/block_")
        is_lower = is_block and not path.startswith("encoder/block_02")
        # A tenth of the way, matrices and norms, decay included.
        np.testing.assert_allclose(
            moved[0.1][path],
            (0.1 if is_lower else 1.0) * full,
            rtol=1e-3,
            atol=1e-7,
            err_msg=path,
        )
        # Embeddings and heads, copied from the teacher, stay.
        assert full.any() == is_block, path
        assert moved[0.0][path].any() == (is_block and not is_lower), path


def test_no_gradient_is_computed_for_frozen_blocks(
    distiller, examples, monkeypatch
):
    block = distiller.student.encoder.blocks[1]
    call, passed = block.call, []

    @tf.custom_gradient
    def watched(rows):
        def gradient(upstream):
            passed.append(1)
            return upstream

        return tf.identity(rows), gradient

    def watched_call(*arguments, **settings):
        rows, logits, probs = call(*arguments, **settings)
        return watched(rows), logits, probs

    monkeypatch.setattr(block, "call", watched_call)
    step_of(distiller, LAST_BLOCK, multiplier=0.0)(examples)
    assert not passed
    step_of(distiller, LAST_BLOCK, multiplier=0.1)(examples)
    assert passed


def test_distillation_moves_the_whole_student(distiller, examples):
    start = values(distiller.student)
    step_of(distiller, DISTIL)(examples)
    moved = {}
    for path, value in values(distiller.student).items():
        part = "/".join(path.split("/")[:2])
        distance = float(np.abs(value - start[path]).max())
        moved[part] = max(moved.get(part, 0.0), distance)
    assert min(moved.values()) > 1e-4, moved


def test_moments_start_afresh_at_every_stage(distiller, examples):
    for block in (0, 1):
        stage = TransferStage(f"transfer_block_0{block}", 10, (block,))
        step = step_of(distiller, stage)
        optimizer = step.optimizer
        assert int(optimizer.iterations) == 0
        assert not any(m.numpy().any() for m in optimizer._velocities)
        step(examples)
        assert any(m.numpy().any() for m in optimizer._velocities)


def test_no_gradient_where_student_equals_teacher(examples):
    """Every transfer term, and soft labels alone of distillation."""
    teacher, student = pairs.teacher(), pairs.teacher()
    pairs.copy_weights(student, teacher)
    weights = TransferWeights(
        feature_map_transfer=1.0, pd_alpha=0.0, next_sentence=0.0
    )
    distiller = Distiller(student, teacher, weights)

    def loss_and_largest_gradient():
        weights = [v.value for v in distiller.student.trainable_variables]
        with tf.GradientTape() as tape:
            loss = distiller(examples, training=True)["loss"]
        found = tape.gradient(loss, weights)
        return loss, max(float(tf.norm(g)) for g in found if g is not None)

    transfer, distil = STRATEGIES["joint"](3, 1, 1)
    for stage in (transfer, distil):
        distiller.set_stage(stage)
        loss, largest = loss_and_largest_gradient()
        assert abs(float(loss)) < 1e-6 and largest < 1e-4, stage.name
    # With one weight shaken, the gradient is far from zero.
    kernel = student.encoder.blocks[0].input_bottleneck.dense.kernel
    kernel.assign_add(np.random.default_rng(0).normal(size=kernel.shape))
    for stage in (transfer, distil):
        distiller.set_stage(stage)
        assert loss_and_largest_gradient()[1] > 1e-2, stage.name


@pytest.mark.parametrize(
    "preset", ["mobilebert_tiny", "mobilebert_without_opt"]
)
def test_published_students_learn(preset, examples, capsys):
    """Built as the command does, from a teacher of two blocks."""
    teacher = pairs.teacher(num_hidden_layers=2)
    config = pairs.preset_config(preset, num_hidden_layers=1)
    stages = progressive_stages(1, 20, 20)
    distiller = build_distiller(config, teacher, TransferWeights(), stages)
    printed = capsys.readouterr().out
    assert "variables from the teacher: encoder/embeddings/word" in printed
    assert "norms and biases: neither decayed nor adapted" in printed
    for stage in stages:
        step = step_of(distiller, stage)
        seen = [float(step(examples)["loss"]) for _ in range(4)]
        assert np.isfinite(seen).all()
        assert seen[-1] < 0.9 * seen[0], stage.name


def test_stages_without_a_loss_are_refused_before_training():
    nothing = TransferWeights(0.0, 0.0, 0.0, attention_transfer=0.0)
    config = tiny.student_config(num_hidden_layers=1)
    teacher = pairs.teacher(num_hidden_layers=1)
    with pytest.raises(ValueError, match="stage transfer_block_00 are 0"):
        build_distiller(config, teacher, nothing, progressive_stages(1, 3, 1))


def test_phases_follow_the_stages_and_the_batches_go_on():
    stages = progressive_stages(3, 7, 5)
    evaluation, every = object(), [(2, print)]
    phases = list(
        stage_phases(
            stages,
            lambda stage: stage,
            range(99).__getitem__,
            evaluation,
            every,
        )
    )
    assert [phase.build() for phase in phases] == stages
    assert [phase.num_steps for phase in phases] == [3, 2, 2, 5]
    assert [phase.batches(1) for phase in phases] == [1, 4, 6, 8]
    # Transfer stages have no masked LM to evaluate.
    assert [phase.evaluation for phase in phases] == [None] * 3 + [evaluation]
    assert all(phase.every is every for phase in phases)


def test_the_student_is_above_and_dark_is_much():
    student, teacher = np.zeros((2, 2, 2, 48, 48))
    # First block, second head: the first query looks at the last key.
    student[0, 1, 0, 47] = 1.0
    # Second block, first head, at a quarter, whose root is a half.
    teacher[1, 0, 47, 0] = 0.25
    image = attention_image(student, teacher)
    # Maps of 48 x 48 at two pixels each; gaps of 4 and of 16.
    assert image.shape == (2 * 96 + 16, 4 * 96 + 2 * 4 + 16, 1)
    assert image.dtype == np.uint8
    rows, columns, _ = np.nonzero(image < 64)
    assert sorted({*rows}) == [0, 1]
    assert sorted({*columns}) == [96 + 4 + 94, 96 + 4 + 95]
    # 255 / 2, as the gaps are 128: look inside the teacher's third map only.
    third = image[112:, 2 * 96 + 4 + 16 :][:, :96, 0]
    assert third[94:, :2].tolist() == [[128, 128], [128, 128]]
    assert (np.delete(third, [94, 95], axis=0) == 255).all()


def test_a_sentence_is_cut_at_its_end():
    for first, length in ((0, 10), (1, 7)):
        batch = tiny.pretraining_batch()
        batch = {name: array[first:] for name, array in batch.items()}
        inputs = sentence_inputs(batch)
        assert list(inputs) == ["input_ids", "input_mask", "segment_ids"]
        assert {array.shape for array in inputs.values()} == {(1, length)}
        assert inputs["input_mask"].all()


def test_tensorboard_shows_both_models(tmp_path, distiller):
    batch = tiny.pretraining_batch()
    weights = [weight.numpy() for weight in distiller.weights]
    log = MetricsLog(tmp_path)
    draw = attention_drawer(distiller, batch)
    draw(types.SimpleNamespace(log=log, global_step=20))
    log.close()
    tf.config.run_functions_eagerly(False)  # It would not hold for tf.data.
    for before, weight in zip(weights, distiller.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), before)
    (path,) = (tmp_path / "tensorboard").iterdir()
    (event,) = [
        event
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        if (event := event_pb2.Event.FromString(record)).summary.value
    ]
    (value,) = event.summary.value
    assert (event.step, value.tag) == (20, IMAGE_NAME)
    assert "student" in value.metadata.summary_description
    *_, encoded = tf.make_ndarray(value.tensor)
    maps = []
    for model in (distiller.student, distiller.teacher):
        outputs = model.encoder(sentence_inputs(batch), training=False)
        maps.append(np.stack([block[0] for block in outputs.attention_probs]))
    np.testing.assert_array_equal(
        tf.io.decode_png(encoded).numpy(), attention_image(*maps)
    )
