"""Task models as Keras models: wiring, serialisation, `fit`."""

import dataclasses

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from tests import tiny
from tests.modeling.folders import TASKS
from tests.tiny import numpy

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
POSITIONS = np.array([[1, 4], [2, 3], [0, 2]], "int32")
WORDS = np.array([[5, 6], [7, 8], [9, 10]])
# For each task, labels and shape of each output.
OUTPUTS = {
    "pretraining": {
        "masked_lm_logits": (WORDS, (3, 2, 50)),
        "next_sentence_logits": (np.array([[0], [1], [0]]), (3, 2)),
    },
    "masked LM": {"logits": (WORDS, (3, 2, 50))},
    "next sentence": {"logits": (np.array([0, 1, 0]), (3, 2))},
    "classifier": {"logits": (np.array([2, 0, 1]), (3, 3))},
    "regression": {"logits": (np.array([[2.0], [-1.0], [0.5]]), (3, 1))},
    "tagger": {"logits": (None, (3, 10, 3))},
    "question answering": {
        "start_logits": (np.array([1, 3, 2]), (3, 10)),
        "end_logits": (np.array([4, 3, 2]), (3, 10)),
    },
    "multiple choice": {"logits": (np.array([0, 1, 1]), (3, 2))},
}


def inputs_of(task, batch):
    if task == "multiple choice":
        return choices(batch)
    if task in ("pretraining", "masked LM"):
        return batch | {"masked_lm_positions": POSITIONS}
    return batch


def choices(batch):
    """Two alternatives a row: the batch, and the batch back to front."""
    return {
        name: np.stack((value, value[::-1]), axis=1)
        for name, value in batch.items()
    }


def as_dict(outputs) -> dict[str, np.ndarray]:
    outputs = outputs if isinstance(outputs, dict) else {"logits": outputs}
    return {name: numpy(value) for name, value in outputs.items()}


@pytest.mark.parametrize("task", OUTPUTS)
def test_a_model_of_each_task(task, small_config, batch, tmp_path):
    model, inputs = TASKS[task](small_config), inputs_of(task, batch)
    expected = as_dict(model(inputs))
    shapes = {name: shape for name, (_, shape) in OUTPUTS[task].items()}
    assert {name: value.shape for name, value in expected.items()} == shapes
    # Keras saves and opens it, and counts its weights.
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert type(again) is type(model)
    assert again.get_config() == model.get_config()
    assert again.config == small_config
    assert [(w.path, w.shape) for w in again.weights] == [
        (w.path, w.shape) for w in model.weights
    ]
    for name, value in as_dict(again(inputs)).items():
        assert np.array_equal(value, expected[name])
    lines = []
    model.summary(print_fn=lines.append, line_length=80)
    assert f"{model.count_params():,}" in "\n".join(lines)
    assert "encoder" in "\n".join(lines)


# Losses of a dict, of classes, of a number, and over an axis of choices.
@pytest.mark.parametrize(
    "task", ["pretraining", "tagger", "regression", "multiple choice"]
)
def test_fit_lowers_the_loss(task, small_config, batch):
    # What takes the time here is the compilation of a step: one block only.
    config = dataclasses.replace(
        small_config,
        num_hidden_layers=1,
        num_feedforward_networks=1,
        initializer_range=0.2,
    )
    loss = "mean_squared_error" if task == "regression" else CROSS_ENTROPY
    labels = {name: label for name, (label, _) in OUTPUTS[task].items()}
    if task == "tagger":  # labels that the words tell
        labels = {"logits": batch["input_ids"] % 3}
    if labels.keys() == {"logits"}:
        labels = labels["logits"]
    else:
        loss = dict.fromkeys(labels, loss)
    model, inputs = TASKS[task](config), inputs_of(task, batch)
    optimizer = keras.optimizers.SGD(0.03)
    model.compile(optimizer, loss, jit_compile=tiny.JIT_COMPILE)
    history = model.fit(inputs, labels, batch_size=3, epochs=12, verbose=0)
    losses = history.history["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.9 * losses[0]


def test_masked_positions_are_the_full_logits_at_those(small_config, batch):
    model = mb.MobileBertForPretraining(small_config)
    inputs = inputs_of("pretraining", batch)
    gathered = numpy(model(inputs)["masked_lm_logits"])
    full = numpy(model(batch)["masked_lm_logits"])
    assert full.shape == (3, 10, 50)
    for row, positions in enumerate(inputs["masked_lm_positions"]):
        np.testing.assert_allclose(
            gathered[row], full[row][positions], atol=1e-6
        )


def test_heads_alone_are_the_heads_of_both(small_config, batch):
    """The same weights give the same logits, apart or together."""
    both = mb.MobileBertForPretraining(small_config)
    expected = as_dict(both(batch))
    for model, name in (
        (mb.MobileBertForMaskedLM(small_config), "masked_lm"),
        (mb.MobileBertForNextSentencePrediction(small_config), "next_sentence"),
    ):
        model.encoder.set_weights(both.encoder.get_weights())
        getattr(model, name).set_weights(getattr(both, name).get_weights())
        assert np.array_equal(numpy(model(batch)), expected[f"{name}_logits"])


def test_word_table_is_tied(small_config, batch):
    """The head predicts through the encoder's own table."""
    model = mb.MobileBertForPretraining(small_config)
    table = model.encoder.embeddings.word_embeddings
    unused = 49  # not in the batch, so that only the head sees its row
    batch["input_ids"][batch["input_ids"] == unused] = 1
    before = numpy(model(batch)["masked_lm_logits"])
    changed = numpy(table).copy()
    changed[unused] += 1.0
    table.assign(changed)
    after = numpy(model(batch)["masked_lm_logits"])
    assert np.abs(after - before)[..., unused].min() > 0
    assert np.array_equal(after[..., :unused], before[..., :unused])
    shared = [w for w in model.weights if w.shape == (50, 12)]
    assert len(shared) == 1


def test_no_extra_output_weights_for_wide_words(batch, small_config):
    values = small_config.to_dict() | {"embedding_size": 32}
    model = mb.MobileBertForPretraining(mb.MobileBertConfig(**values))
    assert model.masked_lm.extra_output_weights is None
    assert model(batch)["masked_lm_logits"].shape == (3, 10, 50)


def test_choices_are_scored_apart(small_config, batch):
    model, inputs = mb.MobileBertForMultipleChoice(small_config), choices(batch)
    scores = numpy(model(inputs))
    np.testing.assert_allclose(scores[:, 0], scores[::-1, 1], atol=1e-6)
    optional = {"input_ids": inputs["input_ids"]}
    assert model(optional).shape == (3, 2)


def test_pooler_only_where_it_is_read(small_config):
    """An unread pooler would be a weight that no loss ever reaches."""
    values = small_config.to_dict() | {"classifier_activation": True}
    config = mb.MobileBertConfig(**values)
    reads = mb.MobileBertForSequenceClassification(config, ["a", "b"])
    assert reads.encoder.pooler is not None
    for model in (
        mb.MobileBertForMaskedLM(config),
        mb.MobileBertForQuestionAnswering(config),
        mb.MobileBertForTokenClassification(config, ["a", "b"]),
    ):
        assert model.encoder.pooler is None
        assert model.config == config


def test_classes_need_names(small_config):
    with pytest.raises(ValueError, match="at least one"):
        mb.MobileBertForSequenceClassification(small_config, [])
