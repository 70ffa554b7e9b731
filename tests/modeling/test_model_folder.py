"""Model folders: what is written is read again.

That the names and layouts are Hugging Face's is proved in `tests/peers`.
"""

import dataclasses
import json
import resource

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import mobilebert_tf as mb
from mobilebert_tf.modeling.weight_names import match_weights
from tests.modeling.conftest import numpy
from tests.modeling.folders import (
    TASKS,
    edit_config,
    rewrite,
    values,
    weights_file,
)


@pytest.mark.parametrize(
    "task, name",
    [*((task, "mine") for task in TASKS), ("classifier", "encoder")],
)
def test_round_trip(config, task, name, tmp_path):
    """Under any name: users call their models teacher, student, encoder."""
    model = TASKS[task](config, name=name)
    model.save_pretrained(tmp_path)
    again = mb.load(tmp_path)
    assert type(again) is type(model)
    assert again.config == config
    labels = getattr(model, "label_names", None)
    assert getattr(again, "label_names", None) == labels
    for found, expected in zip(values(again), values(model), strict=True):
        assert np.array_equal(found, expected)


def test_files_of_a_folder(folder):
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["config.json", "model.safetensors"]
    written = json.loads((folder / "config.json").read_text())
    assert written["architectures"] == ["MobileBertForSequenceClassification"]
    assert written["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert written["label2id"] == {"no": 0, "maybe": 1, "yes": 2}
    dtypes = {
        tensor.dtype for tensor in load_file(weights_file(folder)).values()
    }
    assert dtypes == {np.dtype("float32")}


def test_kernels_are_stored_transposed(config, tmp_path):
    model = mb.MobileBertEncoder(config)
    model.save_pretrained(tmp_path)
    tensors = load_file(weights_file(tmp_path))
    value = tensors["mobilebert.encoder.layer.0.attention.self.value.weight"]
    assert value.shape == (16, 32)
    kernel = numpy(model.blocks[0].attention.value.kernel)
    assert np.array_equal(value, kernel.T)
    # The last network has BERT's names, the one before it a number.
    last = tensors["mobilebert.encoder.layer.0.intermediate.dense.weight"]
    first = tensors[
        "mobilebert.encoder.layer.0.ffn.0.intermediate.dense.weight"
    ]
    for ffn, found in enumerate((first, last)):
        dense = model.blocks[0].feed_forwards[ffn].intermediate_dense
        assert np.array_equal(found, numpy(dense.kernel).T)


def test_extra_output_weights_are_stored_transposed(config, tmp_path):
    mb.MobileBertForPretraining(config).save_pretrained(tmp_path)
    tensors = load_file(weights_file(tmp_path))
    assert tensors["cls.predictions.dense.weight"].shape == (20, 50)
    assert tensors["cls.seq_relationship.weight"].shape == (2, 32)


def test_empty_extra_output_weights(config, tmp_path):
    """Hugging Face has the tensor even where it has no columns."""
    wide = dataclasses.replace(config, embedding_size=config.hidden_size)
    model = mb.MobileBertForPretraining(wide)
    model.save_pretrained(tmp_path)
    tensors = load_file(weights_file(tmp_path))
    assert tensors["cls.predictions.dense.weight"].shape == (0, 50)
    for found, expected in zip(
        values(mb.load(tmp_path)), values(model), strict=True
    ):
        assert np.array_equal(found, expected)


def test_what_hugging_face_adds_is_let_by(config, tmp_path):
    """Tied copies, a constant buffer, and a bare encoder's missing prefix."""
    model = mb.MobileBertForPretraining(config)
    model.save_pretrained(tmp_path)

    def add(tensors):
        table = tensors["mobilebert.embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.weight"] = table
        tensors["cls.predictions.decoder.bias"] = tensors[
            "cls.predictions.bias"
        ]
        ids = np.arange(config.max_position_embeddings)[None]
        tensors["mobilebert.embeddings.position_ids"] = ids

    rewrite(tmp_path, add)
    assert isinstance(mb.load(tmp_path), mb.MobileBertForPretraining)

    model.encoder.save_pretrained(tmp_path)

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("mobilebert.")] = tensors.pop(name)

    rewrite(tmp_path, strip)
    again = mb.load(tmp_path)
    for found, expected in zip(
        values(again), values(model.encoder), strict=True
    ):
        assert np.array_equal(found, expected)


def test_two_classes_may_go_unnamed(config, tmp_path):
    """Hugging Face does not write its default, LABEL_0 and LABEL_1."""
    mb.MobileBertForSequenceClassification(config, ["a", "b"]).save_pretrained(
        tmp_path
    )
    edit_config(tmp_path, id2label=None, label2id=None)
    assert mb.load(tmp_path).label_names == ("LABEL_0", "LABEL_1")


def test_full_disk_leaves_the_old_model(config, folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = TASKS["classifier"](config)
    # Stands for a full disk: Python ignores the signal, so that writing fails.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            model.save_pretrained(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before


def test_failed_config_leaves_the_old_one(config, folder, monkeypatch):
    before = {path.name for path in folder.iterdir()}
    old = (folder / "config.json").read_bytes()

    def fail(config):
        raise OSError("No space left on device")

    monkeypatch.setattr("mobilebert_tf.config.to_hugging_face", fail)
    with pytest.raises(OSError, match="No space left"):
        TASKS["classifier"](config).save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == before
    assert (folder / "config.json").read_bytes() == old


def test_save_replaces_and_keeps_the_rest(config, folder):
    (folder / "vocab.txt").write_text("[PAD]\n")
    model = TASKS["classifier"](config)
    model.save_pretrained(folder)
    assert (folder / "vocab.txt").read_text() == "[PAD]\n"
    for found, expected in zip(
        values(mb.load(folder)), values(model), strict=True
    ):
        assert np.array_equal(found, expected)


def test_real_names_and_shapes(shared_data):
    """All 748 bias and norm vectors of a published model have their place."""
    real = np.load(shared_data / "mobilebert_real" / "vectors.npz")
    assert len(real.files) == 748
    config = mb.MobileBertConfig.from_preset("mobilebert", vocab_size=50)
    # Shapes are all that is asked for.
    with keras.StatelessScope(initialize_variables=False):
        model = mb.MobileBertForSequenceClassification(config, ["0", "1"])
    ours = {
        name: tuple(variable.shape)
        for variable, name, _ in match_weights(
            model, config, model.architecture
        )
        if len(variable.shape) == 1
    }
    theirs = {
        name.replace("bert.", "mobilebert.", 1): real[name].shape
        for name in real.files
    }
    assert ours == theirs
