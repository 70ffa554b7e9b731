"""What a stage runs, what it trains, and what its loss is made of."""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation import losses
from mobilebert_tf.distillation.distiller import Distiller, TransferWeights
from mobilebert_tf.distillation.schedule import (
    TransferStage,
    progressive_stages,
)
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


def test_a_stage_runs_its_blocks_and_no_heads(pair, batch, monkeypatch):
    ran = []
    for model in (pair.student, pair.teacher):
        for layer in (*model.encoder.blocks, model.masked_lm):
            call = layer.call

            def counted(*args, layer=layer, call=call, **kwargs):
                ran.append(layer.name)
                return call(*args, **kwargs)

            monkeypatch.setattr(layer, "call", counted)
    pair.set_stage(TRANSFER_SECOND)
    pair(batch)
    assert sorted(ran) == ["block_00", "block_00", "block_01", "block_01"]
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


def test_the_teacher_has_no_dropout(pair, batch):
    pair.set_stage(DISTIL)
    first, second = pair(batch, training=True), pair(batch, training=True)
    assert float(first["loss"]) == float(second["loss"])


def test_no_loss_where_student_equals_teacher(batch):
    teacher = tiny_pretraining("ib_bert_small")
    student = tiny_pretraining("ib_bert_small")
    for ours, theirs in zip(student.weights, teacher.weights, strict=True):
        ours.assign(theirs.value)
    pair = Distiller(student, teacher, TransferWeights(pd_alpha=0.0))
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
        ("num_hidden_layers", 2),
        ("num_attention_heads", 4),
        ("vocab_size", 41),
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
