"""Model folders: what is written is read again.

That the names and layouts are Hugging Face's is proved in `tests/peers`.
"""

import dataclasses
import json
import resource

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling import folder as model_folder
from mobilebert_tf.modeling.weights_file import tensors_of_file, write_tensors
from tests.modeling.folders import (
    TASKS,
    refusal,
    rewrite,
    values,
    weights_file,
)
from tests.tiny import numpy


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


INDEX = model_folder.INDEX_FILE
FILES = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]


@pytest.fixture
def sharded(folder):
    """The classifier's weights in three files, as Hugging Face splits them."""
    tensors = load_file(weights_file(folder))
    weights_file(folder).unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, file in enumerate(FILES):
        part = {name: tensors[name] for name in names[number::3]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


def edit_index(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_several_files_are_one_model(config, tmp_path):
    model = mb.MobileBertForQuestionAnswering(config)
    model.save_pretrained(tmp_path)
    tensors = load_file(weights_file(tmp_path))
    weights_file(tmp_path).unlink()
    names = list(tensors)
    for number, file in enumerate(FILES[:2]):
        save_file(
            {name: tensors[name] for name in names[number::2]}, tmp_path / file
        )
    weight_map = {name: FILES[number % 2] for number, name in enumerate(names)}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    for found, expected in zip(
        values(mb.load(tmp_path)), values(model), strict=True
    ):
        assert np.array_equal(found, expected)


def test_one_file_wins_over_an_index(sharded):
    model = mb.load(sharded)
    for variable in model.weights:
        variable.assign(np.ones(variable.shape, "float32"))
    model.save_pretrained(sharded)
    assert all((value == 1).all() for value in values(mb.load(sharded)))


NAME = "classifier.bias"


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda files: files.clear(), "weight_map: expected names and files"),
        (lambda files: files.update({NAME: "../x.safetensors"}), "beside it"),
        (lambda files: files.update({NAME: "x.bin"}), "found x.bin"),
        (lambda files: files.update({NAME: 7}), "found 7"),
        (
            lambda files: files.update({NAME: "\0.safetensors"}),
            "expected safetensors files beside it",
        ),
        (
            lambda files: files.update({NAME: "x.safetensors"}),
            f"expected {NAME} in model-00001-of-00003.safetensors, found x",
        ),
        (lambda files: files.pop(NAME), f"expected {NAME} in model-0000"),
        (
            lambda files: files.update(extra=FILES[0]),
            f"{FILES[0]}: expected extra, found no such name",
        ),
    ],
)
def test_an_index_that_does_not_fit(sharded, change, expected):
    edit_index(sharded, change)
    assert expected in refusal(sharded)


def test_an_index_without_a_map(sharded):
    (sharded / INDEX).write_text("{}")
    assert "weight_map: expected names and files" in refusal(sharded)


def test_a_missing_part(sharded):
    (sharded / FILES[1]).unlink()
    message = refusal(sharded)
    assert f"{FILES[1]}: expected a weights file" in message


@pytest.fixture
def tensors(rng):
    values = {
        f"block.{index}.weight": rng.standard_normal((index % 7 + 1, 5))
        for index in range(40)
    }
    values |= {"empty": np.zeros((0, 4)), "é": rng.standard_normal(3)}
    values["large"] = rng.standard_normal((700, 900))
    return {name: value.astype("float32") for name, value in values.items()}


def shapes_of(tensors):
    return {name: value.shape for name, value in tensors.items()}


def test_written_byte_for_byte_as_by_the_library(tensors, tmp_path):
    write_tensors(tmp_path / "ours", shapes_of(tensors), tensors.__getitem__)
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (
        tmp_path / "theirs"
    ).read_bytes()


def test_transposed_views_are_written_by_rows(tensors, tmp_path):
    turned = {"a": tensors["large"].T, "b": tensors["large"][:, ::2]}
    write_tensors(tmp_path / "ours", shapes_of(turned), turned.__getitem__)
    for name, value in load_file(tmp_path / "ours").items():
        np.testing.assert_array_equal(value, turned[name])


def test_listed_by_the_header(tensors, tmp_path):
    save_file(tensors, tmp_path / "theirs")
    found = tensors_of_file(tmp_path / "theirs")
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        assert found[name].shape == value.shape
        assert found[name].dtype == "float32"
        np.testing.assert_array_equal(found[name].read(), value)


def test_no_such_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        tensors_of_file(tmp_path / "theirs")


@pytest.mark.parametrize(
    "value", [np.zeros((2, 3), "float32"), np.zeros((3, 2), "float64")]
)
def test_another_tensor_than_announced(value, tmp_path):
    with pytest.raises(ValueError, match="announced as float32"):
        write_tensors(tmp_path / "ours", {"a": (3, 2)}, lambda name: value)
    assert list(tmp_path.iterdir()) == []
