"""Lengths, names and orders of a file's tensors, as any program meets them."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from scipy.special import expit, softmax

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.export import export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.runtime import TFLiteModel
from tests.mobile.networks import (
    classifier,
    random_batch,
    randomise,
    relative_error,
    small_config,
)


@pytest.fixture(scope="module")
def one_block():
    config = small_config(num_hidden_layers=1, vocab_size=1009)
    return classifier(config, np.random.default_rng(5))


@pytest.fixture(scope="module")
def several(one_block, tmp_path_factory):
    """A file of three lengths."""
    path = tmp_path_factory.mktemp("several") / "several.tflite"
    export_tflite(one_block, "dynamic", path, max_seq_length=[12, 24, 8])
    return path


def names(details) -> list[str]:
    return [detail["name"] for detail in details]


def test_each_length_has_a_signature_and_its_own_answer(several, one_block):
    model = TFLiteModel(several)
    assert model.lengths == (8, 12, 24)
    assert model.max_seq_length == 24
    assert set(model.interpreter.get_signature_list()) == {
        "serving_default",
        "serving_12",
        "serving_8",
    }
    rng = np.random.default_rng(6)
    for length in model.lengths:
        batch = random_batch(one_block.config, rng, length=length)
        wanted = one_block(batch).numpy()
        assert relative_error(model.predict(batch), wanted) < 0.05, length
    with pytest.raises(ValueError, match="must be 8 or 12 or 24 long"):
        model.predict(random_batch(one_block.config, rng, length=10))


def test_lengths_share_their_weights(several, one_block, tmp_path):
    path = tmp_path / "one.tflite"
    export_tflite(one_block, "dynamic", path, max_seq_length=24)
    # The word table alone, int8 or float.
    table = one_block.config.vocab_size * one_block.config.embedding_size
    more = several.stat().st_size - path.stat().st_size
    # Two more graphs of 23 constants with scales, and no second table.
    assert more < 2 * table
    # The same answer, to the bit, with or without other lengths beside it.
    batch = random_batch(one_block.config, np.random.default_rng(7), length=24)
    np.testing.assert_array_equal(
        TFLiteModel(path).predict(batch), TFLiteModel(several).predict(batch)
    )


def test_programs_without_signatures_find_a_fixed_order(several):
    interpreter = Interpreter(str(several))
    assert names(interpreter.get_input_details()) == [
        "input_ids",
        "input_mask",
        "segment_ids",
    ]
    assert names(interpreter.get_output_details()) == ["logits"]
    # The longest sequences are the graph that they run.
    shape = interpreter.get_input_details()[0]["shape"].tolist()
    assert shape == [1, 24]


def test_inputs_are_taken_by_name_in_any_order(several, one_block):
    batch = random_batch(one_block.config, np.random.default_rng(8), length=12)
    turned = dict(reversed(batch.items()))
    assert list(turned) != list(batch)
    model = TFLiteModel(several)
    np.testing.assert_array_equal(model.predict(turned), model.predict(batch))


def test_arrays_begin_at_multiples_of_16_bytes(several):
    content = np.fromfile(several, np.uint8)
    model = schema.Model.GetRootAs(content)
    begin = content.__array_interface__["data"][0]
    places = []
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if isinstance(data, np.ndarray):
            places.append(data.__array_interface__["data"][0] - begin)
    assert len(places) > 20
    assert not np.any(np.array(places) % 16)


def test_mlperf_reads_the_end_before_the_start(tmp_path, rng):
    config = small_config(num_hidden_layers=1)
    model = mb.MobileBertForQuestionAnswering(config)
    randomise(model, rng)
    batch = random_batch(config, rng, size=1, length=20)
    wanted = {name: logits.numpy() for name, logits in model(batch).items()}
    for mlperf_order in (False, True):
        path = tmp_path / f"{mlperf_order}.tflite"
        export_tflite(
            model,
            "float32",
            path,
            max_seq_length=20,
            mlperf_order=mlperf_order,
        )
        interpreter = Interpreter(str(path))
        interpreter.allocate_tensors()
        # As MLPerf Mobile does: by position, ids, mask, segments.
        for detail, name in zip(
            interpreter.get_input_details(),
            ("input_ids", "input_mask", "segment_ids"),
            strict=True,
        ):
            interpreter.set_tensor(detail["index"], batch[name])
        interpreter.invoke()
        order = ["start_logits", "end_logits"]
        order = order[::-1] if mlperf_order else order
        for detail, name in zip(
            interpreter.get_output_details(), order, strict=True
        ):
            found = interpreter.get_tensor(detail["index"])
            assert relative_error(found, wanted[name]) < 1e-5


@pytest.mark.parametrize(
    "output, wanted",
    [
        ("probabilities", lambda logits: softmax(logits, axis=-1)),
        ("independent_probabilities", expit),
    ],
)
def test_probabilities_are_those_of_the_logits(
    output, wanted, one_block, tmp_path, rng
):
    path = tmp_path / "x.tflite"
    export_tflite(one_block, "float32", path, max_seq_length=20, output=output)
    batch = random_batch(one_block.config, rng)
    model = TFLiteModel(path)
    assert model.output_names == ("probabilities",)
    np.testing.assert_allclose(
        model.predict(batch), wanted(one_block(batch).numpy()), atol=1e-5
    )


def test_integer_files_have_float_probabilities(one_block, tmp_path, rng):
    batch = random_batch(one_block.config, rng)
    quantized = QuantizationAwareModel(deployment_model(one_block))
    quantized.calibrate([batch])
    path = tmp_path / "x.tflite"
    export_tflite(
        one_block,
        "int8",
        path,
        max_seq_length=20,
        quantized=quantized,
        output="probabilities",
    )
    found = TFLiteModel(path).predict(batch)
    wanted = softmax(quantized(**batch).numpy(), axis=-1)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
    # The integer kernel's would be multiples of 1/256.
    assert np.mean(found * 256 % 1 == 0) < 0.2


@pytest.mark.parametrize("output", ["first_token", "mean"])
def test_embeddings_are_of_real_tokens(output, tmp_path, rng):
    config = small_config(num_hidden_layers=1)
    encoder = mb.MobileBertEncoder(config)
    randomise(encoder, rng)
    path = tmp_path / "x.tflite"
    export_tflite(encoder, "float32", path, max_seq_length=20, output=output)
    batch = random_batch(config, rng)
    rows = encoder(batch).sequence_output.numpy()
    wanted = [
        row[: 1 if output == "first_token" else mask.sum()].mean(0)
        for row, mask in zip(rows, batch["input_mask"], strict=True)
    ]
    model = TFLiteModel(path)
    assert model.output_names == ("embedding",)
    assert relative_error(model.predict(batch), wanted) < 1e-5


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"max_seq_length": [8, 8]}, "several different"),
        ({"max_seq_length": []}, "several different"),
        ({"max_seq_length": 0}, "several different"),
        ({"max_seq_length": 41}, "at most 40"),
        ({"output": "embedding"}, "output must be one of"),
        ({"mlperf_order": True}, "for question answering"),
        ({"kind": "int16x8", "max_seq_length": [8, 9]}, "one length"),
        ({"kind": "int16x8"}, "at least one batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:no accelerated delegate")
def test_impossible_requests_are_refused(
    request_, message, one_block, tmp_path
):
    request = {"kind": "float32", "max_seq_length": 8} | request_
    with pytest.raises(ValueError, match=message):
        export_tflite(one_block, path=tmp_path / "x.tflite", **request)
    assert not list(tmp_path.iterdir())


def test_int16x8_warns_that_no_delegate_runs_it(one_block, tmp_path, rng):
    batch = random_batch(one_block.config, rng)
    with pytest.warns(UserWarning, match="no accelerated delegate"):
        export_tflite(
            one_block,
            "int16x8",
            tmp_path / "x.tflite",
            max_seq_length=20,
            calibration=[batch],
        )
    found = TFLiteModel(tmp_path / "x.tflite").predict(batch)
    assert relative_error(found, one_block(batch)) < 0.01
