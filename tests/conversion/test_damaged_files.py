"""Damaged files end in a clean refusal, or load what they hold.

A mutated file is truncated, or has bits flipped, bytes replaced, cut out or put
in. TensorFlow's checkpoints carry checksums, so that no number changes unseen;
safetensors carry none, so that a flipped bit within the numbers is their value.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mobilebert_tf.conversion import tf1
from mobilebert_tf.conversion.names import tf1_names
from mobilebert_tf.conversion.tensors import blank_model, match
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.folder import match_folder
from mobilebert_tf.modeling.weight_names import match_weights
from tests.conversion.checkpoints import (
    STUDENT,
    draw,
    encoder_shapes,
    head_shapes,
    write,
)

ARCHITECTURE = "MobileBertForQuestionAnswering"
MUTATIONS = ("truncate", "flip", "replace", "cut", "insert")


@pytest.fixture(scope="module")
def model():
    return blank_model(STUDENT, ARCHITECTURE, ())


def mutate(content: bytes, kind: str, rng, upto=None) -> bytes:
    content = bytearray(content)
    place = int(rng.integers(upto or len(content)))
    length = int(rng.integers(1, 64))
    if kind == "truncate":
        del content[place:]
    elif kind == "flip":
        content[place] ^= 1 << int(rng.integers(8))
    elif kind == "replace":
        content[place : place + length] = rng.bytes(length)
    elif kind == "cut":
        del content[place : place + length]
    else:
        content[place:place] = rng.bytes(length)
    return bytes(content)


def read_all(found):
    return {
        path: matched.tensor.read() for path, matched in found.variables.items()
    }


@pytest.mark.parametrize("file", ["index", "data-00000-of-00001"])
def test_mutated_checkpoints(file, model, rng, tmp_path):
    shapes = encoder_shapes(STUDENT) | head_shapes(STUDENT, "squad")
    prefix = tmp_path / "model.ckpt"
    values = draw(shapes, rng)
    write(prefix, values)
    path = tmp_path / f"model.ckpt.{file}"
    whole = path.read_bytes()
    table = list(tf1_names(STUDENT, ARCHITECTURE))
    for attempt in range(150):
        changed = mutate(whole, MUTATIONS[attempt % 5], rng)
        if changed == whole:
            continue
        path.write_bytes(changed)
        try:
            found = match(
                prefix,
                model,
                tf1.read_checkpoint(prefix),
                table,
            )
            arrays = read_all(found)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        # Checksums cover all but a few bytes that mean nothing.
        for theirs, ours, rule in table:
            if ours in arrays:
                array = rule.from_ours(arrays[ours], 4)
                np.testing.assert_array_equal(array, values[theirs])


def safetensors_values(model, rng):
    values = {}
    for variable, name, transposed in match_weights(model):
        array = rng.standard_normal(variable.shape).astype("float32")
        values[name] = np.ascontiguousarray(array.T if transposed else array)
    return values


@pytest.mark.parametrize("place", ["header", "anywhere"])
def test_mutated_safetensors(place, model, rng, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(safetensors_values(model, rng), path, {"format": "pt"})
    whole = path.read_bytes()
    header_end = 8 + int.from_bytes(whole[:8], "little")
    loaded = 0
    for attempt in range(150):
        upto = header_end if place == "header" else None
        path.write_bytes(mutate(whole, MUTATIONS[attempt % 5], rng, upto))
        try:
            found, _ = match_folder(model, tmp_path)
            values = [entry.tensor.read() for entry in found]
        except InputError as error:
            assert "\n" not in str(error)
            continue
        loaded += 1
        in_file = load_file(path)
        for entry, value in zip(found, values, strict=True):
            np.testing.assert_array_equal(value, in_file[entry.name])
    if place == "anywhere":
        assert loaded  # flipped bits within the numbers


def test_mutated_index_of_several_files(model, rng, tmp_path):
    values = safetensors_values(model, rng)
    names = sorted(values)
    files = {}
    for number in range(2):
        file = f"model-{number + 1:05d}-of-00002.safetensors"
        part = names[number::2]
        save_file(
            {name: values[name] for name in part},
            tmp_path / file,
            {"format": "pt"},
        )
        files |= dict.fromkeys(part, file)
    index = tmp_path / "model.safetensors.index.json"
    whole = json.dumps({"metadata": {}, "weight_map": files}).encode()
    for attempt in range(150):
        index.write_bytes(mutate(whole, MUTATIONS[attempt % 5], rng))
        try:
            found, _ = match_folder(model, tmp_path)
        except InputError as error:
            assert "\n" not in str(error)
            continue
        for entry in found:
            np.testing.assert_array_equal(
                entry.tensor.read(), values[entry.name]
            )
