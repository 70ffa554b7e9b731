"""Weights in several files, and reading a few rows at a time."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobilebert_tf as mb
from mobilebert_tf.modeling import folder as stored_weights
from tests.modeling.folders import refusal, values, weights_file

INDEX = stored_weights.INDEX_FILE
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


@pytest.mark.parametrize("block_bytes", [4, 40, 2**20])
@pytest.mark.parametrize("transposed", [False, True])
def test_rows_make_the_whole(
    block_bytes, transposed, rng, tmp_path, monkeypatch
):
    """Whatever the size of a block, and wherever a file is opened anew."""
    monkeypatch.setattr(stored_weights, "_BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(stored_weights, "_OPENING_BYTES", 3 * block_bytes)
    tensors = {
        name: rng.normal(size=shape).astype("float32")
        for name, shape in {"a": (7, 3), "b": (5,), "c": (1, 40)}.items()
    }
    save_file(tensors, tmp_path / stored_weights.WEIGHTS_FILE)
    listed = stored_weights.stored_tensors(tmp_path)
    wanted = {
        listed["mobilebert." + name]: transposed and name != "b"
        for name in ("c", "a", "b")
    }
    read = list(stored_weights.read_arrays(wanted))
    assert [tensor.name for tensor, _ in read] == ["c", "a", "b"]
    for tensor, array in read:
        expected = tensors[tensor.name]
        assert np.array_equal(array, expected.T if wanted[tensor] else expected)
        assert array.flags.c_contiguous
