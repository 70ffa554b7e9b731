"""Opening folders: as they were saved, for another task, or refused."""

import dataclasses

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.modeling import folder as model_folder
from tests.modeling.folders import (
    TASKS,
    edit_config,
    refusal,
    rewrite,
    values,
    weights_file,
)
from tests.tiny import numpy

KEY = "mobilebert.encoder.layer.0.attention.self.key.weight"


def replace_by(convert):
    def change(tensors):
        tensors[KEY] = convert(tensors[KEY])

    return change


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda tensors: tensors.pop(KEY), f"{KEY} missing"),
        (
            lambda tensors: tensors.update(extra=np.ones(2, "float32")),
            "extra surplus",
        ),
        (
            replace_by(lambda tensor: tensor[:, :-1].copy()),
            f"{KEY} of shape (16, 15), not (16, 16)",
        ),
        (
            replace_by(lambda tensor: tensor.ravel()),
            f"{KEY} of shape (256,), not (16, 16)",
        ),
        (
            replace_by(lambda tensor: tensor.astype("int32")),
            f"{KEY} of type int32, not a float",
        ),
        (
            replace_by(lambda tensor: tensor * np.nan),
            f"{KEY} with non-finite values",
        ),
        (
            replace_by(lambda tensor: tensor + np.float64(1e39)),
            f"{KEY} with non-finite values",
        ),
    ],
    ids=[
        "missing",
        "surplus",
        "misshapen",
        "flat",
        "int32",
        "nan",
        "too large for float32",
    ],
)
def test_wrong_tensors_are_named(config, folder, change, expected):
    rewrite(folder, change)
    assert expected in refusal(folder)
    # Nothing was assigned, not even the tensors that are right.
    model = TASKS["classifier"](config)
    before = values(model)
    refusal(folder, lambda path: model_folder.load_weights(model, path))
    for found, wanted in zip(values(model), before, strict=True):
        assert np.array_equal(found, wanted)


def test_all_problems_are_counted(config, folder):
    rewrite(folder, lambda tensors: tensors.clear())
    message = refusal(folder)
    assert message.count("missing") == 8
    others = len(TASKS["classifier"](config).weights) - 8
    assert f"; and {others} more" in message


def test_another_tasks_head_is_refused(config, folder, tmp_path):
    other = tmp_path / "other"
    mb.MobileBertForQuestionAnswering(config).save_pretrained(other)
    weights_file(other).replace(weights_file(folder))
    message = refusal(folder)
    assert "classifier.weight missing" in message
    assert "qa_outputs.weight surplus" in message


@pytest.mark.parametrize("size", [0, 4, 100, -100])
def test_truncated_file(folder, size):
    content = weights_file(folder).read_bytes()
    weights_file(folder).write_bytes(content[:size])
    assert "expected a safetensors file" in refusal(folder)


def test_refused_folder_costs_no_initial_values(folder, monkeypatch):
    """A teacher given as a student is refused before 1.2 GB are made."""
    weights_file(folder).write_bytes(b"")
    drawn = []
    monkeypatch.setattr(
        keras.initializers.TruncatedNormal,
        "__call__",
        lambda self, shape, dtype=None: drawn.append(shape),
    )
    refusal(folder)
    assert drawn == []


def test_a_refused_folder_leaves_keras_as_it_was(config, folder):
    """Variables that were never given values must not haunt later scopes."""
    weights_file(folder).unlink()
    refusal(folder)
    with keras.StatelessScope():
        model = TASKS["classifier"](config)
    assert all(np.isfinite(value).all() for value in values(model))


def test_garbage(folder):
    weights_file(folder).write_bytes(b"PK\x03\x04" + bytes(range(256)) * 9)
    assert "expected a safetensors file" in refusal(folder)


def test_no_weights(folder):
    weights_file(folder).unlink()
    assert "expected a weights file" in refusal(folder)


def test_pickle_is_not_opened(folder):
    weights_file(folder).rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "pytorch_model.bin" in message
    assert "pickle" in message


def test_no_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "config.json: expected a config file" in refusal(folder)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"architectures": ["BertModel"]}, "architectures: expected one of"),
        # Classifiers of sequences and of tokens have the same head.
        ({"architectures": None}, "architectures: expected one of"),
        ({"architectures": [["x"]]}, "architectures: expected one of"),
        ({"architectures": 5}, "architectures: expected one of"),
        ({"id2label": {}}, "id2label: expected the names of the classes"),
        ({"id2label": ["no"]}, "id2label: expected the names of the classes"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label: expected keys 0, 1"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.bias of shape (3,)"),
        ({"vocab_size": 49}, "of shape (50, 12), not (49, 12)"),
    ],
)
def test_config_that_does_not_fit(folder, changes, expected):
    edit_config(folder, **changes)
    assert expected in refusal(folder)


@pytest.mark.parametrize("task", TASKS)
def test_encoder_of_any_model(config, task, tmp_path):
    model = TASKS[task](config)
    model.save_pretrained(tmp_path)
    source = getattr(model, "encoder", model)
    encoder = mb.MobileBertEncoder(source.config)
    model_folder.load_weights(encoder, tmp_path, allow_heads=True)
    for found, wanted in zip(values(encoder), values(source), strict=True):
        assert np.array_equal(found, wanted)


def test_encoder_leaves_an_unread_pooler_behind(config, folder):
    model = mb.MobileBertForQuestionAnswering(config)
    model_folder.load_weights(model.encoder, folder, allow_heads=True)
    wanted = numpy(mb.load(folder).encoder.embeddings.word_embeddings)
    found = numpy(model.encoder.embeddings.word_embeddings)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"num_hidden_layers": 2},
            "mobilebert.encoder.layer.1.bottleneck.input.dense.weight missing",
        ),
        (
            {"num_feedforward_networks": 1},
            "mobilebert.encoder.layer.0.ffn.0.intermediate.dense.bias surplus",
        ),
        ({"vocab_size": 49}, "of shape (50, 12), not (49, 12)"),
    ],
)
def test_encoder_of_another_shape(config, folder, changes, expected):
    encoder = mb.MobileBertEncoder(dataclasses.replace(config, **changes))
    message = refusal(
        folder,
        lambda path: model_folder.load_weights(encoder, path, allow_heads=True),
    )
    assert expected in message


@pytest.mark.parametrize("labels", [["no", "maybe", "yes"], None])
def test_a_fitting_head_is_kept(folder, labels):
    keywords = {} if labels is None else {"label_names": labels}
    model = mb.MobileBertForSequenceClassification.from_pretrained(
        folder, **keywords
    )
    for found, wanted in zip(
        values(model), values(mb.load(folder)), strict=True
    ):
        assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "build, keywords",
    [
        (mb.MobileBertForSequenceClassification, {"label_names": ["a", "b"]}),
        (mb.MobileBertForTokenClassification, {"label_names": ["O", "B"]}),
        (mb.MobileBertForQuestionAnswering, {}),
        (mb.MobileBertEncoder, {}),
    ],
)
def test_another_head_is_new(folder, build, keywords):
    model = build.from_pretrained(folder, **keywords)
    assert type(model) is build
    encoder = getattr(model, "encoder", model)
    saved = mb.load(folder)
    table = encoder.embeddings.word_embeddings
    wanted = numpy(saved.encoder.embeddings.word_embeddings)
    assert np.array_equal(numpy(table), wanted)
    if keywords:
        assert list(model.label_names) == keywords["label_names"]
        assert not np.isin(
            numpy(model.head.dense.kernel), numpy(saved.head.dense.kernel)
        ).any()


def test_a_number_of_labels_is_for_new_heads(folder):
    model = mb.MobileBertForTokenClassification.from_pretrained(
        folder, num_labels=4
    )
    assert model.label_names == ("LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3")
    with pytest.raises(TypeError, match=r"takes no num_labels. .*from_pre"):
        mb.load(folder, num_labels=2)
