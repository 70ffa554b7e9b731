"""From a transfer stage to its steps: who moves, how far, and who does not."""

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.objectives import TransferWeights
from mobilebert_tf.distillation.schedule import (
    STRATEGIES,
    TransferStage,
    progressive_stages,
)
from mobilebert_tf.training.distillation import build_distiller, build_stage
from mobilebert_tf.training.optimizers import OPTIMIZERS, WarmupPolynomialDecay
from tests.distillation.pairs import (
    TINY,
    tiny_batch,
    tiny_pair,
    tiny_pretraining,
)

LAST_BLOCK = TransferStage("transfer_block_02", 50, (2,))
DISTIL = TransferStage("distillation", 50, pretraining_distillation=True)


def tensors(batch):
    return {name: tf.constant(array) for name, array in batch.items()}


def take_steps(distiller, stage, batch, num_steps=1, **settings):
    """Returns the loss of each step."""
    arguments = {
        "optimizer_class": OPTIMIZERS[settings.pop("optimizer", "adamw")],
        "optimizer_settings": {"bias_correction": True},
        "build_schedule": lambda steps: WarmupPolynomialDecay(1e-2, steps),
        "transfer_learning_rate": 1e-2,
        "lower_block_multiplier": 0.1,
    }
    step = build_stage(distiller, stage, **(arguments | settings))
    return [float(step(tensors(batch))["loss"]) for _ in range(num_steps)]


def values(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def moves(before, after):
    """By part of the model, how far its variables went, largest first."""
    parts = {}
    for path, value in after.items():
        part = "/".join(path.split("/")[:2])
        distance = np.abs(value - before[path]).max()
        parts[part] = max(parts.get(part, 0.0), float(distance))
    return parts


@pytest.fixture
def distiller():
    return tiny_pair()


@pytest.fixture
def eagerly():
    """For a step or two, tracing would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def examples():
    return tiny_batch()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.usefixtures("eagerly")
def test_a_transfer_stage_moves_its_block_and_softly_those_below(
    optimizer, distiller, examples
):
    start = values(distiller.student)
    moved = {}
    for multiplier in (1.0, 0.1, 0.0):
        for weight in distiller.student.weights:
            weight.assign(start[weight.path])
        take_steps(
            distiller,
            LAST_BLOCK,
            examples,
            optimizer=optimizer,
            lower_block_multiplier=multiplier,
        )
        after = values(distiller.student)
        moved[multiplier] = {
            path: after[path] - start[path] for path in sorted(start)
        }
    for path, full in moved[1.0].items():
        is_block = path.startswith("encoder/block_")
        is_lower = is_block and not path.startswith("encoder/block_02")
        factors = {1.0: 1.0, 0.1: 0.1, 0.0: 0.0} if is_lower else {}
        for multiplier in moved:
            # A tenth of the way, matrices and norms, decay included.
            np.testing.assert_allclose(
                moved[multiplier][path],
                factors.get(multiplier, 1.0) * full,
                rtol=1e-3,
                atol=1e-7,
                err_msg=f"{path} x {multiplier}",
            )
        # Embeddings and heads, copied from the teacher, stay.
        assert full.any() == is_block, path


def test_no_gradient_is_computed_for_frozen_blocks(
    distiller, examples, monkeypatch
):
    block = distiller.student.encoder.blocks[1]
    call = block.call

    passed = []

    @tf.custom_gradient
    def watched(rows):
        def gradient(upstream, *unused):
            def note(values):
                passed.append(1)
                return values

            # Stateless, so that it does not run where nobody needs it.
            return tf.ensure_shape(
                tf.numpy_function(note, [upstream], tf.float32, False),
                upstream.shape,
            )

        return tf.identity(rows), gradient

    def watched_call(*arguments, **settings):
        rows, logits, probs = call(*arguments, **settings)
        return watched(rows), logits, probs

    monkeypatch.setattr(block, "call", watched_call)
    take_steps(distiller, LAST_BLOCK, examples, lower_block_multiplier=0.0)
    assert not passed
    take_steps(distiller, LAST_BLOCK, examples, lower_block_multiplier=0.1)
    assert passed


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.usefixtures("eagerly")
def test_distillation_moves_the_whole_student(optimizer, distiller, examples):
    start = values(distiller.student)
    take_steps(distiller, DISTIL, examples, optimizer=optimizer)
    moved = moves(start, values(distiller.student))
    assert min(moved.values()) > 1e-4, moved


@pytest.mark.usefixtures("eagerly")
def test_moments_start_afresh_at_every_stage(distiller, examples):
    arguments = {
        "optimizer_class": OPTIMIZERS["lamb"],
        "optimizer_settings": {},
        "build_schedule": lambda steps: WarmupPolynomialDecay(1.0, steps),
        "transfer_learning_rate": 1e-3,
        "lower_block_multiplier": 0.1,
    }
    for block in (0, 1):
        stage = TransferStage(f"transfer_block_0{block}", 10, (block,))
        step = build_stage(distiller, stage, **arguments)
        optimizer = step.optimizer
        assert int(optimizer.iterations) == 0
        assert not any(m.numpy().any() for m in optimizer._velocities)
        step(tensors(examples))
        assert any(m.numpy().any() for m in optimizer._velocities)


STAGES = [
    stage
    for strategy in ("progressive", "joint", "auxiliary")
    for stage in STRATEGIES[strategy](3, 3, 1)
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_no_gradient_where_student_equals_teacher(stage, examples):
    """Every transfer term, and soft labels alone of distillation."""
    teacher = tiny_pretraining("ib_bert_small")
    student = tiny_pretraining("ib_bert_small")
    for ours, theirs in zip(student.weights, teacher.weights, strict=True):
        ours.assign(theirs.value)
    distiller = Distiller(
        student,
        teacher,
        TransferWeights(
            feature_map_transfer=1.0, pd_alpha=0.0, next_sentence=0.0
        ),
    )
    distiller.set_stage(stage)
    weights = [v.value for v in distiller.student.trainable_variables]
    with tf.GradientTape() as tape:
        loss = distiller(tensors(examples), training=True)["loss"]
    found = tape.gradient(loss, weights)
    assert abs(float(loss)) < 1e-6
    norms = [float(tf.norm(g)) for g in found if g is not None]
    assert norms and max(norms) < 1e-4
    # The same weights, one of them shaken, have a gradient to speak of.
    kernel = student.encoder.blocks[0].input_bottleneck.dense.kernel
    kernel.assign_add(np.random.default_rng(0).normal(size=kernel.shape))
    with tf.GradientTape() as tape:
        loss = distiller(tensors(examples), training=True)["loss"]
    norms = [
        float(tf.norm(g)) for g in tape.gradient(loss, weights) if g is not None
    ]
    assert max(norms) > 1e-2


PUBLISHED = {
    "mobilebert": 2,
    "mobilebert_tiny": 2,
    "mobilebert_without_opt": 2,
    "mobilebert_edgetpu_xxs": 1,
    "mobilebert_edgetpu_xs": 1,
    "mobilebert_edgetpu_m": 1,
}


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("preset", PUBLISHED)
def test_every_published_student_learns(preset, examples, capsys):
    """Built as the script does, from a teacher of two blocks."""
    teacher = tiny_pretraining("ib_bert_large", num_hidden_layers=2)
    config = MobileBertConfig.from_preset(
        preset,
        **TINY
        | {"num_hidden_layers": PUBLISHED[preset], "intra_bottleneck_size": 8},
    )
    first, *_, last = stages = progressive_stages(PUBLISHED[preset], 20, 20)
    distiller = build_distiller(config, teacher, TransferWeights(), stages)
    printed = capsys.readouterr().out
    assert "variables from the teacher: encoder/embeddings/word" in printed
    assert "norms and biases: neither decayed nor adapted" in printed
    for stage in (first, last):
        seen = take_steps(distiller, stage, examples, num_steps=6)
        assert np.isfinite(seen).all()
        assert seen[-1] < 0.9 * seen[0], stage.name


def test_stages_without_a_loss_are_refused_before_training():
    nothing = TransferWeights(0.0, 0.0, 0.0, attention_transfer=0.0)
    teacher = tiny_pretraining("ib_bert_small")
    config = MobileBertConfig.from_preset("mobilebert_small", **TINY)
    with pytest.raises(ValueError, match="stage transfer_block_00 are 0"):
        build_distiller(config, teacher, nothing, progressive_stages(3, 3, 1))
