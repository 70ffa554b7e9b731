"""What a stage runs, what it trains, and what its loss is made of."""

import keras
import numpy as np
import pytest

from mobilebert_tf.config import inputs_of
from mobilebert_tf.distillation import losses, objectives
from mobilebert_tf.distillation.distiller import Distiller, check_pair
from mobilebert_tf.distillation.schedule import (
    TransferStage,
    TransferWeights,
    joint_stages,
    progressive_stages,
)
from mobilebert_tf.distillation.teachers import load_teacher
from mobilebert_tf.modeling.models import MobileBertForPretraining
from tests import tiny
from tests.distillation import pairs

TRANSFER_SECOND = TransferStage("transfer_block_01", 1, (1,))
DISTIL = TransferStage("distillation", 1, pretraining_distillation=True)


def floats(terms):
    return {name: float(value) for name, value in terms.items()}


def paths(variables):
    return {variable.path for variable in variables}


def watch(pair, monkeypatch, shapes=None):
    """Notes which blocks and heads run, as (model, layer), and input shapes."""
    ran = []
    for owner in ("student", "teacher"):
        model = getattr(pair, owner)
        for layer in (*model.encoder.blocks, model.masked_lm):
            call = layer.call

            def noted(x, *args, owner=owner, layer=layer, call=call, **kwargs):
                ran.append((owner, layer.name))
                if shapes is not None:
                    shapes[owner, layer.name] = tuple(x.shape)
                return call(x, *args, **kwargs)

            monkeypatch.setattr(layer, "call", noted)
    return ran


def test_transfer_loss_is_the_weighted_sum_over_the_block(pair, batch):
    pair.set_stage(TRANSFER_SECOND)
    terms = floats(pair(batch))
    inputs = inputs_of(batch)
    student, teacher = (
        model.encoder(inputs) for model in (pair.student, pair.teacher)
    )
    maps = student.feature_maps[2], teacher.feature_maps[2]
    logits = student.attention_logits[1], teacher.attention_logits[1]
    mask = batch["input_mask"]
    expected = (
        100.0 * losses.normalized_feature_map_loss(*maps, mask)
        + 5000.0 * losses.feature_mean_loss(*maps, mask)
        + 5.0 * losses.feature_variance_loss(*maps, mask)
        + 1.0 * losses.attention_transfer_loss(*logits, mask)
    ) / 3
    assert terms["loss"] == pytest.approx(float(expected), rel=1e-5)
    assert set(terms) == {
        "loss",
        "normalized_feature_map_loss_block_01",
        "feature_mean_loss_block_01",
        "feature_variance_loss_block_01",
        "attention_transfer_loss_block_01",
    }


def test_distillation_loss_is_the_papers_equation(pair, batch):
    pair.set_stage(DISTIL)
    terms = floats(pair(batch))
    assert terms["loss"] == pytest.approx(
        0.5 * terms["masked_lm_loss"]
        + 0.5 * terms["masked_lm_distillation_loss"]
        + terms["next_sentence_loss"],
        rel=1e-6,
    )


TERMS = [
    (TRANSFER_SECOND, "normalized_feature_map", "normalized_feature_map_loss"),
    (TRANSFER_SECOND, "feature_mean", "feature_mean_loss"),
    (TRANSFER_SECOND, "feature_variance", "feature_variance_loss"),
    (TRANSFER_SECOND, "feature_map_transfer", "feature_map_transfer_loss"),
    (TRANSFER_SECOND, "attention_transfer", "attention_transfer_loss"),
    (DISTIL, "pd_alpha", "masked_lm_loss"),
    (DISTIL, "next_sentence", "next_sentence_loss"),
]


@pytest.mark.parametrize("stage, weight, function", TERMS)
def test_a_term_of_weight_0_is_not_computed(
    stage, weight, function, pair, batch, monkeypatch
):
    def refuse(*arguments):
        raise AssertionError(f"{function} was computed")

    module = losses if stage is TRANSFER_SECOND else objectives
    refuse.__name__ = function
    monkeypatch.setattr(module, function, refuse)
    settings = {"feature_map_transfer": 1.0, "pd_alpha": 0.5}
    for weights in (settings, settings | {weight: 0.0}):
        distiller = Distiller(
            pair.student, pair.teacher, TransferWeights(**weights)
        )
        distiller.set_stage(stage)
        if weights is settings:
            with pytest.raises(AssertionError, match="was computed"):
                distiller(batch)
        else:
            terms = distiller(batch)
    computed = {name.removesuffix("_block_01") for name in terms}
    assert function not in computed
    others = {name for other, _, name in TERMS if other is stage}
    assert others - {function} <= computed


def test_the_plain_feature_map_loss_alone(pair, batch):
    """Paper, equation 2, with the three losses of the release off."""
    plain = Distiller(
        pair.student,
        pair.teacher,
        TransferWeights(0.0, 0.0, 0.0, 2.0, attention_transfer=0.0),
    )
    plain.set_stage(TRANSFER_SECOND)
    terms = plain(batch)
    assert set(terms) == {"loss", "feature_map_transfer_loss_block_01"}
    ours, theirs = (
        np.asarray(model.encoder(inputs_of(batch)).feature_maps[2])
        for model in (pair.student, pair.teacher)
    )
    real = batch["input_mask"].astype(bool)
    expected = 2.0 / 3 * np.mean((ours - theirs)[real] ** 2)
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_stage_runs_its_blocks_and_no_heads(pair, batch, monkeypatch):
    shapes = {}
    ran = watch(pair, monkeypatch, shapes)
    pair.set_stage(TRANSFER_SECOND)
    pair(batch)
    assert sorted(ran) == [
        (owner, f"block_{block:02d}")
        for owner in ("student", "teacher")
        for block in (0, 1)
    ]
    ran.clear()
    pair.set_stage(DISTIL)
    pair(batch)
    assert len(ran) == 2 * (3 + 1)
    for owner in ("student", "teacher"):  # [B, P, D], where S is 10
        assert shapes[owner, "masked_lm"] == (4, 3, 32)


def test_each_stage_trains_what_it_fits(pair):
    pair.set_stage(TRANSFER_SECOND)
    trained = paths(pair.trainable_variables)
    blocks = {path.split("/")[1] for path in trained}
    assert blocks == {"block_00", "block_01"}
    lower = paths(pair.lower_block_variables())
    assert lower and all("block_00" in path for path in lower)
    pair.set_stage(TRANSFER_SECOND, freeze_lower_blocks=True)
    trained = paths(pair.trainable_variables)
    assert trained and all("block_01" in path for path in trained)
    assert pair.lower_block_variables() == []
    pair.set_stage(DISTIL)
    student = {id(variable) for variable in pair.student.variables}
    trained = {id(variable) for variable in pair.trainable_variables}
    assert trained <= student
    assert len(trained) == len(pair.student.weights)
    assert pair.lower_block_variables() == []
    assert not pair.teacher.trainable_variables


def test_the_teacher_has_no_dropout(batch):
    """Its soft labels are those of inference, whatever `training` is."""
    pair = Distiller(pairs.student(), pairs.teacher(hidden_dropout_prob=0.1))
    pair.set_stage(DISTIL)
    inputs = inputs_of(batch, pair.student.further_inputs)
    calm, wild = (
        losses.masked_lm_distillation_loss(
            pair.student(inputs)["masked_lm_logits"],
            pair.teacher(inputs, training=training)["masked_lm_logits"],
            batch["masked_lm_weights"],
        )
        for training in (False, True)
    )
    found = pair(batch, training=True)["masked_lm_distillation_loss"]
    assert float(found) == pytest.approx(float(calm), rel=1e-6)
    assert abs(float(wild) - float(calm)) > 1e-3 * float(calm)


def test_without_soft_labels_no_teacher_runs_and_dropout_is_on(
    pair, batch, monkeypatch
):
    alone = Distiller(
        pairs.student(hidden_dropout_prob=0.1),
        pair.teacher,
        TransferWeights(pd_alpha=1.0),
    )
    ran = watch(alone, monkeypatch)
    alone.set_stage(DISTIL)
    first, second = (float(alone(batch, training=True)["loss"]) for _ in "12")
    assert {owner for owner, _ in ran} == {"student"}
    assert first != second
    calm = [float(alone(batch, training=False)["loss"]) for _ in "12"]
    assert calm[0] == calm[1]


def test_a_bfloat16_teacher_gives_nearly_the_same_loss(batch, tmp_path):
    student = pairs.student()
    pairs.teacher().save_pretrained(tmp_path)
    for stage in (TRANSFER_SECOND, DISTIL):
        values = []
        for dtype in ("float32", "bfloat16"):
            pair = Distiller(student, load_teacher(tmp_path, dtype))
            pair.set_stage(stage)
            values.append(floats(pair(batch)))
        exact, rounded = values
        assert exact.keys() == rounded.keys()
        assert exact != rounded
        for name in exact:
            # Statistics are sums of small differences.
            assert rounded[name] == pytest.approx(exact[name], rel=0.02), name
    assert {weight.dtype for weight in student.weights} == {"float32"}


def test_padding_does_not_count(pair, batch):
    """Segments of padded tokens change their feature maps, but no loss."""
    changed = dict(batch)
    changed["segment_ids"] = np.where(
        batch["input_mask"] == 1, batch["segment_ids"], 1
    ).astype("int32")
    maps = [
        np.asarray(pair.student.encoder(inputs_of(inputs)).feature_maps[2])
        for inputs in (batch, changed)
    ]
    assert np.abs(maps[0] - maps[1]).max() > 0.1
    pair.set_stage(TRANSFER_SECOND)
    before, after = (float(pair(inputs)["loss"]) for inputs in (batch, changed))
    assert after == pytest.approx(before, rel=1e-4)


def test_fit_lowers_a_stages_loss_and_leaves_the_rest_alone(pair, batch):
    pair.set_stage(TransferStage("transfer_block_00", 1, (0,)))
    embeddings = pair.student.encoder.embeddings.word_embeddings
    frozen = [embeddings, *pair.teacher.weights]
    before = [weight.numpy() for weight in frozen]
    pair.compile(keras.optimizers.Adam(1e-2), jit_compile=tiny.JIT_COMPILE)
    history = pair.fit(batch, batch_size=4, epochs=10, verbose=0)
    seen = history.history["loss"]
    assert seen[-1] < 0.5 * seen[0]
    for weight, value in zip(frozen, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_a_pair_that_does_not_fit_is_refused(pair):
    theirs = tiny.teacher_config()
    for name, value in {
        "hidden_size": 24,
        "num_attention_heads": 2,
        "vocab_size": 41,
        "embedding_size": 16,
        "trigram_input": False,
        "max_position_embeddings": 16,
    }.items():
        with pytest.raises(ValueError, match=name):
            check_pair(tiny.student_config(**{name: value}), theirs)
    with pytest.raises(ValueError, match="student of 2 blocks"):
        Distiller(pairs.student(num_hidden_layers=2), pair.teacher)


def test_unfit_stages_are_refused(pair, batch):
    with pytest.raises(ValueError, match="set_stage"):
        pair(batch)
    with pytest.raises(ValueError, match="3 blocks"):
        pair.set_stage(TransferStage("transfer_block_03", 1, (3,)))
    nothing = Distiller(
        pair.student, pair.teacher, TransferWeights(0.0, 0.0, 0.0, 0.0, 0.0)
    )
    with pytest.raises(ValueError, match="all weights of stage transfer"):
        nothing.set_stage(TRANSFER_SECOND)
    nothing.set_stage(DISTIL)


@pytest.mark.parametrize(
    "preset, num_blocks",
    [("mobilebert_tiny", 4), ("mobilebert_edgetpu_xxs", 2)],
)
def test_a_student_may_have_fewer_blocks_than_its_teacher(
    preset, num_blocks, batch, monkeypatch
):
    """Stage l runs the blocks up to the last of the l-th equal run of 4."""
    student = MobileBertForPretraining(
        pairs.preset_config(preset, num_hidden_layers=num_blocks)
    )
    pair = Distiller(student, pairs.teacher(num_hidden_layers=4))
    ran = watch(pair, monkeypatch)
    first, *_, last, distil = progressive_stages(num_blocks, num_blocks, 1)
    run = 4 // num_blocks
    for stage, num_teacher_blocks in ((first, run), (last, 4), (distil, 4)):
        ran.clear()
        pair.set_stage(stage)
        terms = floats(pair(batch))
        blocks = [
            layer
            for owner, layer in ran
            if owner == "teacher" and layer.startswith("block")
        ]
        assert blocks == [f"block_{b:02d}" for b in range(num_teacher_blocks)]
        assert np.isfinite(list(terms.values())).all()


def test_a_block_is_compared_with_the_one_it_is_mapped_to(batch):
    """The student holds copies of the teacher's first two blocks."""
    teacher = pairs.teacher(num_hidden_layers=5)
    student = pairs.teacher(num_hidden_layers=2)
    for ours, theirs in (
        (student.encoder.embeddings, teacher.encoder.embeddings),
        (student.encoder.blocks[0], teacher.encoder.blocks[0]),
        (student.encoder.blocks[1], teacher.encoder.blocks[1]),
    ):
        pairs.copy_weights(ours, theirs)
    (stage,) = joint_stages(2, 1, 0)
    found = {}
    for blocks in ((0, 1), (0, 2), (1, 4)):
        pair = Distiller(student, teacher, teacher_blocks=blocks)
        pair.set_stage(stage)
        terms = pair(batch)
        found[blocks] = [
            float(terms[f"attention_transfer_loss_block_0{block}"])
            for block in (0, 1)
        ]
    assert found[0, 1] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found[0, 2][0] < 1e-6 < 1e-3 < found[0, 2][1]
    assert min(found[1, 4]) > 1e-3
