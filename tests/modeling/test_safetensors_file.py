"""Files of weights, against the format's own library."""

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.folder import tensors_of_file, write_tensors


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
