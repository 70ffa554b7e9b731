"""What a stage runs, what it trains, and what its loss is made of."""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation import losses, objectives
from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.objectives import TransferWeights
from mobilebert_tf.distillation.schedule import (
    TransferStage,
    progressive_stages,
)
from mobilebert_tf.distillation.teachers import load_teacher
from tests.distillation.pairs import tiny_pretraining

TRANSFER_SECOND = TransferStage("transfer_block_01", 1, (1,))
DISTIL = TransferStage("distillation", 1, pretraining_distillation=True)


def paths(variables):
    return {variable.path for variable in variables}


def test_transfer_loss_is_the_weighted_sum_over_the_block(pair, batch):
    pair.set_stage(TRANSFER_SECOND)
    terms = {name: float(value) for name, value in pair(batch).items()}
    student = pair.student.encoder(batch)
    teacher = pair.teacher.encoder(batch)
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
    terms = {name: float(value) for name, value in pair(batch).items()}
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


def test_the_plain_feature_map_loss_can_be_had(pair, batch):
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
        np.asarray(model.encoder(batch).feature_maps[2])
        for model in (pair.student, pair.teacher)
    )
    real = batch["input_mask"].astype(bool)
    expected = 2.0 / 3 * np.mean((ours - theirs)[real] ** 2)
    assert float(terms["loss"]) == pytest.approx(expected, rel=1e-5)


def test_a_stage_without_any_weight_is_refused(pair):
    nothing = Distiller(
        pair.student, pair.teacher, TransferWeights(0.0, 0.0, 0.0, 0.0, 0.0)
    )
    with pytest.raises(ValueError, match="all weights of stage transfer"):
        nothing.set_stage(TRANSFER_SECOND)
    nothing.set_stage(DISTIL)


@pytest.mark.parametrize(
    "weights",
    [{"pd_alpha": 1.5}, {"feature_mean": -1.0}, {"temperature": 0.0}],
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match=next(iter(weights))):
        TransferWeights(**weights)


@pytest.fixture
def ran(pair, monkeypatch):
    return watch(pair, monkeypatch)


def watch(pair, monkeypatch):
    """Notes which blocks and heads run, as (model, layer)."""
    ran = []
    for owner in ("student", "teacher"):
        model = getattr(pair, owner)
        for layer in (*model.encoder.blocks, model.masked_lm):
            call = layer.call

            def noted(*args, owner=owner, layer=layer, call=call, **kwargs):
                ran.append((owner, layer.name))
                return call(*args, **kwargs)

            monkeypatch.setattr(layer, "call", noted)
    return ran


def test_a_stage_runs_its_blocks_and_no_heads(pair, batch, ran):
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


def test_a_transfer_stage_trains_blocks_up_to_its_own(pair):
    pair.set_stage(TRANSFER_SECOND)
    trained = paths(pair.trainable_variables)
    assert trained
    assert all(path.startswith("encoder/block_0") for path in trained)
    assert not any("block_02" in path for path in trained)
    lower = paths(pair.lower_block_variables())
    assert lower and all("block_00" in path for path in lower)


def test_distillation_trains_the_whole_student_only(pair):
    pair.set_stage(DISTIL)
    student = {id(variable) for variable in pair.student.variables}
    trained = {id(variable) for variable in pair.trainable_variables}
    assert trained <= student
    assert len(trained) == len(pair.student.trainable_variables)
    assert pair.lower_block_variables() == []
    assert not pair.teacher.trainable_variables


def test_frozen_lower_blocks_are_not_trained(pair):
    pair.set_stage(TRANSFER_SECOND, freeze_lower_blocks=True)
    trained = paths(pair.trainable_variables)
    assert trained and all("block_01" in path for path in trained)
    assert pair.lower_block_variables() == []


def test_the_teacher_has_no_dropout(pair, batch):
    """Its soft labels are those of inference, whatever `training` says."""
    pair.set_stage(DISTIL)
    calm, wild = (
        losses.masked_lm_distillation_loss(
            pair.student(batch)["masked_lm_logits"],
            pair.teacher(batch, training=training)["masked_lm_logits"],
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
        tiny_pretraining("mobilebert_small", hidden_dropout_prob=0.1),
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


def test_heads_see_masked_positions_only(pair, batch, monkeypatch):
    shapes = []
    for model in (pair.student, pair.teacher):
        call = model.masked_lm.call

        def noted(features, *args, call=call, **kwargs):
            shapes.append(tuple(features.shape))
            return call(features, *args, **kwargs)

        monkeypatch.setattr(model.masked_lm, "call", noted)
    pair.set_stage(DISTIL)
    pair(batch)
    assert shapes == [(4, 2, 16)] * 2  # [B, P, D], where S is 12


@pytest.mark.parametrize("stage", [TRANSFER_SECOND, DISTIL])
def test_a_bfloat16_teacher_gives_nearly_the_same_loss(stage, batch, tmp_path):
    student = tiny_pretraining("mobilebert_small")
    tiny_pretraining("ib_bert_small").save_pretrained(tmp_path)
    values = []
    for dtype in ("float32", "bfloat16"):
        pair = Distiller(student, load_teacher(tmp_path, dtype))
        pair.set_stage(stage)
        terms = pair(batch)
        values.append({name: float(value) for name, value in terms.items()})
    assert {weight.dtype for weight in student.weights} == {"float32"}
    assert keras.config.dtype_policy().name == "float32"
    exact, rounded = values
    assert exact.keys() == rounded.keys()
    assert exact != rounded
    for name in exact:
        # The L1 statistics are sums of small differences.
        assert rounded[name] == pytest.approx(exact[name], rel=0.02), name


def test_padding_does_not_count(pair, batch):
    """Segments of padded tokens change their feature maps, and no loss."""
    changed = dict(batch)
    changed["segment_ids"] = np.where(
        batch["input_mask"] == 1, batch["segment_ids"], 1
    ).astype("int32")
    maps = [
        np.asarray(pair.student.encoder(inputs).feature_maps[2])
        for inputs in (batch, changed)
    ]
    assert np.abs(maps[0] - maps[1]).max() > 0.1
    legacy = Distiller(pair.student, pair.teacher, legacy_release_losses=True)
    for distiller, counts in ((pair, False), (legacy, True)):
        distiller.set_stage(TRANSFER_SECOND)
        before, after = (
            float(distiller(inputs)["loss"]) for inputs in (batch, changed)
        )
        assert (abs(before - after) > 1e-4 * before) == counts


def test_no_loss_where_student_equals_teacher(batch):
    teacher = tiny_pretraining("ib_bert_small")
    student = tiny_pretraining("ib_bert_small")
    for ours, theirs in zip(student.weights, teacher.weights, strict=True):
        ours.assign(theirs.value)
    weights = TransferWeights(feature_map_transfer=1.0, pd_alpha=0.0)
    pair = Distiller(student, teacher, weights)
    for stage in progressive_stages(3, 3, 0):
        pair.set_stage(stage)
        assert abs(float(pair(batch)["loss"])) < 1e-6
    pair.set_stage(DISTIL)
    assert abs(float(pair(batch)["masked_lm_distillation_loss"])) < 1e-6


def test_fit_lowers_a_stages_loss_and_leaves_the_rest_alone(pair, batch):
    pair.set_stage(TransferStage("transfer_block_00", 1, (0,)))
    embeddings = pair.student.encoder.embeddings.word_embeddings.numpy()
    teacher = [weight.numpy() for weight in pair.teacher.weights]
    pair.compile(optimizer=keras.optimizers.Adam(3e-3))
    history = pair.fit(batch, batch_size=4, epochs=30, verbose=0)
    losses_seen = history.history["loss"]
    assert losses_seen[-1] < 0.5 * losses_seen[0]
    np.testing.assert_array_equal(
        pair.student.encoder.embeddings.word_embeddings.numpy(), embeddings
    )
    for before, weight in zip(teacher, pair.teacher.weights, strict=True):
        np.testing.assert_array_equal(before, weight.numpy())


@pytest.mark.parametrize(
    "name, value",
    [
        ("hidden_size", 24),
        ("num_attention_heads", 4),
        ("vocab_size", 41),
        ("embedding_size", 12),
        ("trigram_input", False),
        ("max_position_embeddings", 16),
    ],
)
def test_a_pair_that_does_not_fit_is_refused(name, value):
    with pytest.raises(ValueError, match=name):
        Distiller(
            tiny_pretraining("mobilebert_small", **{name: value}),
            tiny_pretraining("ib_bert_small"),
        )


def test_a_stage_beyond_the_student_is_refused(pair):
    with pytest.raises(ValueError, match="3 blocks"):
        pair.set_stage(TransferStage("transfer_block_03", 1, (3,)))


def test_a_distiller_without_a_stage_is_refused(pair, batch):
    with pytest.raises(ValueError, match="set_stage"):
        pair(batch)
