"""Inputs of models: names of both kinds, and what is refused."""

import collections

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.modeling.inputs import read_inputs
from tests import tiny
from tests.tiny import numpy

BOUNDS = {"input_ids": 50, "input_mask": 2, "segment_ids": 2}
OTHER = {"input_mask": "attention_mask", "segment_ids": "token_type_ids"}
IDS = np.array([[5, 6, 7], [8, 9, 0]])


def renamed(batch):
    """As `transformers` tokenizers return it: a Mapping that is not a dict."""
    return collections.UserDict(
        {OTHER.get(name, name): value for name, value in batch.items()}
    )


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (IDS, "must be a dict with input_ids, input_mask, segment_ids, att"),
        ({"input_ids": IDS, "inputmask": IDS}, "Received: inputmask"),
        ({"input_ids": IDS, "labels": IDS}, "must be named .* labels"),
        ({"input_mask": IDS}, "Missing: input_ids"),
        ({"input_ids": None}, "Missing: input_ids"),
        (
            {"input_ids": IDS, "attention_mask": IDS, "input_mask": IDS},
            "input_mask must be given once. .* attention_mask and input_mask",
        ),
        ({"input_ids": IDS[0]}, r"input_ids must be \[B, S\]. .* \[3\]"),
        (
            {"input_ids": IDS, "segment_ids": IDS[:, :2] * 0},
            r"segment_ids must be \[B=2, S=3\]. Received: \[2, 2\]",
        ),
        (
            {"segment_ids": IDS[:1] * 0, "input_ids": IDS},
            r"segment_ids must be \[B=2, S=3\]. Received: \[1, 3\]",
        ),
        ({"input_ids": [[1, 2], [3]]}, "input_ids must have rows of one"),
        ({"input_ids": [["a"]]}, "whole numbers. Received: str"),
        ({"input_ids": IDS + 0.5}, "from 0 to 49. Received: 0.5 to 9.5, float"),
        ({"input_ids": IDS * np.nan}, "from 0 to 49. Received: nan"),
        ({"input_ids": IDS * 10}, "from 0 to 49. Received: 0 to 90, int64"),
        ({"input_ids": IDS - 1}, "Received: -1 to 8"),
        ({"input_ids": IDS + 2**32}, "input_ids must be whole numbers from"),
        (
            {"input_ids": IDS, "attention_mask": IDS},
            "must .* 0 to 1",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(inputs, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_inputs(inputs, BOUNDS)
    assert len(str(refused.value).splitlines()) == 1


def test_positions_are_within_the_sequences():
    """Beyond its row, a position would be one of the next row."""
    inputs = {"masked_lm_positions": [[0, 2], [3, 0]], "input_ids": IDS}
    bounds = BOUNDS | {"masked_lm_positions": None}
    with pytest.raises(ValueError, match="positions must .* from 0 to 2. Rec"):
        read_inputs(inputs, bounds)
    read_inputs(inputs | {"masked_lm_positions": [[0, 2], [2, 0]]}, bounds)
    with pytest.raises(ValueError, match=r"input_ids must be \[B, S\]"):
        read_inputs(inputs | {"input_ids": 5}, bounds)
    for positions in ([[0, 2]], [0, 2]):
        wrong = inputs | {"masked_lm_positions": positions}
        with pytest.raises(ValueError, match=r"positions must be \[B=2, P\]"):
            read_inputs(wrong, bounds)


def test_lists_and_arrays_become_int32():
    found = read_inputs(
        {"input_ids": IDS.tolist(), "attention_mask": IDS > 0}, BOUNDS
    )
    assert {name: value.dtype for name, value in found.items()} == {
        "input_ids": np.int32,
        "input_mask": np.int32,
    }
    np.testing.assert_array_equal(found["input_ids"], IDS)


def test_a_models_own_errors_are_one_line(small_config, batch):
    model = tiny.classifier(config=small_config)
    long = np.ones((1, small_config.max_position_embeddings + 1), "int32")
    for inputs, message in (
        (batch | {"inputmask": batch["input_mask"]}, "inputmask"),
        ({"input_ids": long}, "1 to 24 tokens"),
        ({"input_ids": long[:, :0]}, "1 to 24 tokens"),
    ):
        for call in (model, model.predict):
            with pytest.raises(ValueError, match=message) as refused:
                call(inputs)
            assert len(str(refused.value).splitlines()) == 1
    choice = mb.MobileBertForMultipleChoice(small_config)
    with pytest.raises(ValueError, match=r"must be \[B, C, S\]"):
        choice(batch)


def test_both_kinds_of_names_mean_the_same(small_config, batch):
    model = tiny.classifier(config=small_config)
    tiny.randomise(model, np.random.default_rng(0))
    expected = numpy(model(batch))
    assert (expected != numpy(model({"input_ids": batch["input_ids"]}))).any()
    other = renamed(batch)
    np.testing.assert_array_equal(numpy(model(other)), expected)
    np.testing.assert_array_equal(numpy(model.encoder(other)[1]).shape, (3, 32))
    found = model.predict(other, verbose=0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    tensors = {
        name: keras.ops.convert_to_tensor(value)
        for name, value in other.items()
    }
    np.testing.assert_array_equal(numpy(model(tensors)), expected)


def test_a_function_with_autograph_is_traced_once(small_config, batch):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's functions")
    model = tiny.classifier(config=small_config)
    traced = tf.function(lambda inputs: model(inputs, training=False))
    expected = numpy(model(batch))
    for rows in (3, 2):
        inputs = {
            name: tf.constant(value[:rows])
            for name, value in renamed(batch).items()
        }
        np.testing.assert_allclose(
            traced(inputs), expected[:rows], rtol=1e-5, atol=1e-6
        )
    with pytest.raises(ValueError, match="Received: inputmask"):
        traced(inputs | {"inputmask": inputs["input_ids"]})


def test_a_saved_model_is_exported_for_any_size(small_config, batch, tmp_path):
    tf = pytest.importorskip("tensorflow")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("TensorFlow's own format")
    model = tiny.classifier(config=small_config)
    model.export(tmp_path / "saved", verbose=False)
    opened = tf.saved_model.load(tmp_path / "saved")
    for columns in (10, 8):
        inputs = {name: value[:, :columns] for name, value in batch.items()}
        np.testing.assert_allclose(
            opened.serve(inputs), numpy(model(inputs)), rtol=1e-4, atol=1e-6
        )


def test_fit_takes_both_kinds_from_datasets(small_config, batch):
    """`fit` sees the mask and segments: losses are equal, in both spellings."""
    tf = pytest.importorskip("tensorflow")
    losses = []
    for inputs in (batch, dict(renamed(batch)), {"input_ids": 0}):
        if inputs == {"input_ids": 0}:
            inputs = {"input_ids": batch["input_ids"]}
        keras.utils.set_random_seed(0)
        model = tiny.classifier(config=small_config)
        tiny.randomise(model, np.random.default_rng(0))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=tiny.JIT_COMPILE)
        labels = np.array([2, 0, 1])
        data = tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(3)
        history = model.fit(data, shuffle=False, verbose=0)
        losses += history.history["loss"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)
    wrong = data.map(lambda x, y: (x | {"inputmask": x["input_ids"]}, y))
    with pytest.raises(ValueError, match="Received: inputmask"):
        model.fit(wrong, shuffle=False, verbose=0)
