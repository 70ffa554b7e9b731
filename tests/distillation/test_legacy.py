"""A stage under the release's losses, put together in NumPy."""

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.distillation.distiller import Distiller
from mobilebert_tf.distillation.objectives import TransferWeights
from mobilebert_tf.distillation.schedule import TransferStage
from tests.distillation import numpy_losses

TRANSFER_SECOND = TransferStage("transfer_block_01", 1, (1,))
DISTIL = TransferStage("distillation", 1, pretraining_distillation=True)


def legacy(pair, **weights):
    return Distiller(
        pair.student,
        pair.teacher,
        TransferWeights(**weights),
        legacy_release_losses=True,
    )


def arrays(tensors):
    return [np.asarray(tensor, "float64") for tensor in tensors]


def test_a_transfer_stage(pair, batch):
    """README's weights, each divided by the number of blocks."""
    student, teacher = pair.student.encoder(batch), pair.teacher.encoder(batch)
    ours = arrays(student.feature_maps)[2]
    theirs = arrays(teacher.feature_maps)
    assert len(theirs) == 4  # all of them, the embedding output first
    logits = (student.attention_logits[1], teacher.attention_logits[1])
    expected = {
        "normalized_feature_map_loss_block_01": (
            100.0,
            numpy_losses.release_normalized_feature_map_loss(ours, theirs[2]),
        ),
        "feature_mean_loss_block_01": (
            5000.0,
            numpy_losses.release_feature_mean_loss(ours, theirs),
        ),
        "feature_variance_loss_block_01": (
            5.0,
            numpy_losses.release_feature_variance_loss(ours, theirs),
        ),
        "attention_transfer_loss_block_01": (
            1.0,
            numpy_losses.release_attention_transfer_loss(*arrays(logits)),
        ),
    }
    distiller = legacy(pair)
    distiller.set_stage(TRANSFER_SECOND)
    terms = {name: float(value) for name, value in distiller(batch).items()}
    total = terms.pop("loss")
    assert terms == pytest.approx(
        {name: value for name, (_, value) in expected.items()}, rel=1e-5
    )
    weighted = sum(weight * value for weight, value in expected.values()) / 3
    assert total == pytest.approx(weighted, rel=1e-5)


@pytest.mark.parametrize("missing", ["feature_mean", "feature_variance"])
def test_statistics_need_both_weights(missing, pair, batch):
    distiller = legacy(pair, **{missing: 0.0})
    distiller.set_stage(TRANSFER_SECOND)
    assert set(distiller(batch)) == {
        "loss",
        "normalized_feature_map_loss_block_01",
        "attention_transfer_loss_block_01",
    }


def numpy_masked_lm_logits(model, features, positions):
    """The teacher's head: dense, tanh-GELU, layer norm, tied table."""
    picked = np.take_along_axis(features, positions[:, :, None], axis=1)
    head = model.masked_lm
    weights = {
        name: np.asarray(variable.value, "float64")
        for name, variable in {
            "kernel": head.transform.kernel,
            "dense_bias": head.transform.bias,
            "gamma": head.norm.gamma,
            "beta": head.norm.beta,
            "extra": head.extra_output_weights,
            "bias": head.bias,
            "words": model.encoder.embeddings.word_embeddings,
        }.items()
    }
    hidden = picked @ weights["kernel"] + weights["dense_bias"]
    cubic = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
    hidden = 0.5 * hidden * (1 + np.tanh(cubic))
    hidden = hidden - hidden.mean(-1, keepdims=True)
    hidden = hidden / hidden.std(-1, keepdims=True)
    hidden = hidden * weights["gamma"] + weights["beta"]
    table = np.concatenate([weights["words"], weights["extra"]], axis=1)
    return hidden @ table.T + weights["bias"]


@pytest.mark.parametrize("temperature", [1.0, 0.02])
def test_pretraining_distillation(temperature, pair, batch):
    """Mixed labels; the temperature multiplies the teacher's features."""
    batch["masked_lm_weights"][1] = 0.0
    features = np.asarray(
        pair.teacher.encoder(batch).sequence_output, "float64"
    )
    positions = batch["masked_lm_positions"]
    teacher_logits = numpy_masked_lm_logits(
        pair.teacher, temperature * features, positions
    )
    outputs = pair.student(batch)
    masked_lm = numpy_losses.release_masked_lm_loss(
        np.asarray(outputs["masked_lm_logits"], "float64"),
        teacher_logits,
        batch["masked_lm_ids"],
        batch["masked_lm_weights"],
        ratio=0.3,
    )
    log_probs = scipy.special.log_softmax(
        np.asarray(outputs["next_sentence_logits"], "float64"), axis=-1
    )
    labels = batch["next_sentence_labels"]
    next_sentence = -np.take_along_axis(log_probs, labels, axis=-1).mean()
    distiller = legacy(pair, pd_alpha=0.3, temperature=temperature)
    distiller.set_stage(DISTIL)
    terms = {name: float(value) for name, value in distiller(batch).items()}
    assert terms == pytest.approx(
        {
            "loss": masked_lm + next_sentence,
            "mixed_masked_lm_loss": masked_lm,
            "next_sentence_loss": next_sentence,
        },
        rel=1e-5,
    )


def test_the_temperature_is_felt_where_there_is_a_bias(pair, batch):
    """A norm undoes the factor but for the dense layer's bias."""
    pair.teacher.masked_lm.transform.bias.assign(np.linspace(-1.0, 1.0, 16))
    found = []
    for temperature in (1.0, 0.02):
        distiller = legacy(pair, temperature=temperature)
        distiller.set_stage(DISTIL)
        found.append(float(distiller(batch)["mixed_masked_lm_loss"]))
    assert abs(found[0] - found[1]) > 1e-3


def test_the_release_has_no_plain_feature_map_loss(pair):
    with pytest.raises(ValueError, match="no plain feature_map_transfer"):
        legacy(pair, feature_map_transfer=1.0)
