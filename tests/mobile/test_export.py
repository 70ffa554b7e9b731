"""What is in the .tflite files, and that they answer like their graphs."""

import os
from collections import Counter

import numpy as np
import pytest

import mobilebert_tf as mb
from benchmarks.tflite.measurement import MeasuredFile
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.export import export_tflite, muted
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.runtime import TFLiteModel
from tests.mobile.networks import (
    classifier,
    random_batch,
    randomise,
    relative_error,
    small_config,
)
from tests.mobile.test_quantization import inputs_of


class Contents:
    """Operations and tensors of a file, before the delegate."""

    def __init__(self, path):
        interpreter = TFLiteModel(path).interpreter
        self.tensors = {
            detail["index"]: detail
            for detail in interpreter.get_tensor_details()
        }
        self.operations = [
            operation
            for operation in interpreter._get_ops_details()
            if operation["op_name"] != "DELEGATE"
        ]
        self.counts = Counter(op["op_name"] for op in self.operations)

    def inputs(self, op_name, position):
        """The details of one input of every operation of that name."""
        return [
            self.tensors[operation["inputs"][position]]
            for operation in self.operations
            if operation["op_name"] == op_name
        ]


@pytest.fixture(scope="module")
def int8(files) -> Contents:
    return Contents(files["int8_qat"])


def accuracy(logits, arrays) -> float:
    return float((np.asarray(logits).argmax(1) == arrays["labels"]).mean())


def test_int8_is_within_a_point_of_float(files, trained, test_arrays):
    assert len(test_arrays["labels"]) >= 500
    wanted = accuracy(trained(inputs_of(test_arrays)), test_arrays)
    assert wanted > 0.95
    for kind, path in files.items():
        found = accuracy(TFLiteModel(path).predict(test_arrays), test_arrays)
        assert abs(found - wanted) <= 0.01, kind


def test_float32_logits_are_those_of_keras(files, trained, test_arrays):
    found = TFLiteModel(files["float32"]).predict(test_arrays)
    assert found.dtype == np.float32
    assert relative_error(found, trained(inputs_of(test_arrays))) < 1e-5


def test_int8_logits_are_those_of_the_trained_graph(
    files, quantized, test_arrays
):
    found = TFLiteModel(files["int8_qat"]).predict(test_arrays)
    wanted = quantized(**inputs_of(test_arrays)).numpy()
    low, high = dict(
        zip(quantized._names, quantized.ranges.numpy(), strict=True)
    )["head"]
    steps = np.abs(found - wanted) / ((high - low) / 255.0)
    # Kernels and graph part at ties only; with other scales they would in a
    # tenth of all logits.
    assert np.mean(steps < 0.01) >= 0.97
    assert np.mean(steps < 2.01) >= 0.99
    # The graph without rounding is further away: rounding is simulated.
    exact = quantized.deployment(**inputs_of(test_arrays)).numpy()
    assert np.abs(found - exact).mean() > 10.0 * np.abs(found - wanted).mean()


def test_files_shrink_with_their_integers(files):
    sizes = {kind: path.stat().st_size for kind, path in files.items()}
    # Small matrices stay float in a dynamic file; structure weighs here too.
    assert sizes["int8"] < 0.6 * sizes["float32"]
    assert sizes["dynamic"] < 0.8 * sizes["float32"]


def test_signature_names_inputs_and_outputs(files):
    for path in files.values():
        signatures = TFLiteModel(path).interpreter.get_signature_list()
        assert signatures == {
            "serving_default": {
                "inputs": ["input_ids", "input_mask", "segment_ids"],
                "outputs": ["logits"],
            }
        }


def test_no_norm_is_left_in_any_file(files):
    for kind, path in files.items():
        counts = Contents(path).counts
        # Two blocks of 3 bottlenecks, 4 attention and 2 x 2 feed-forward
        # layers; embedding projection; head.
        assert counts["FULLY_CONNECTED"] == 2 * 11 + 2, kind
        # Four residual sums and a mask a block; segments and positions.
        assert counts["ADD"] == 2 * 5 + 2, kind
        # The mask's value, once; no gamma.
        assert counts["MUL"] == 1, kind
        assert counts["BATCH_MATMUL"] == 4, kind


def test_only_look_ups_and_the_mask_are_left_to_slow_kernels(files):
    for kind in ("float32", "int8", "int8_qat"):
        left = MeasuredFile(files[kind]).undelegated()
        assert left == {"GATHER": 2, "CAST": 1, "RESHAPE": 1}, kind


def test_dense_weights_are_int8_per_channel_around_zero(int8):
    kernels = int8.inputs("FULLY_CONNECTED", 1)
    for kernel in kernels:
        quantization = kernel["quantization_parameters"]
        assert kernel["dtype"] == np.int8
        assert len(quantization["scales"]) == kernel["shape"][0]
        assert not quantization["zero_points"].any()
    for rows in int8.inputs("FULLY_CONNECTED", 0):
        assert rows["dtype"] == np.int8


def test_keys_and_values_have_zero_point_zero(int8):
    for detail in int8.inputs("BATCH_MATMUL", 1):
        assert detail["dtype"] == np.int8
        assert detail["quantization_parameters"]["zero_points"] == [0]


def test_probabilities_are_multiples_of_one_256th(int8):
    left = int8.inputs("BATCH_MATMUL", 0)
    scales = [d["quantization_parameters"]["scales"][0] for d in left]
    assert sum(abs(scale - 1 / 256) < 1e-9 for scale in scales) == 2


def test_tables_are_int8_and_only_the_softmax_is_float(int8):
    for table in int8.inputs("GATHER", 0):
        assert table["dtype"] == np.int8
    for name in ("FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE"):
        assert {d["dtype"] for d in int8.inputs(name, 0)} == {np.int8}, name
    assert {d["dtype"] for d in int8.inputs("SOFTMAX", 0)} == {np.float32}
    # Logits of two blocks and of the head; probabilities.
    assert int8.counts["DEQUANTIZE"] == 3
    assert int8.counts["QUANTIZE"] == 2


def test_masked_positions_change_nothing(files, test_arrays):
    rows = {name: a[:32].copy() for name, a in test_arrays.items()}
    rows["input_mask"][:, 10:] = 0
    changed = {name: a.copy() for name, a in rows.items()}
    changed["input_ids"][:, 11:] = 50
    changed["segment_ids"][:, 10:] = 1
    for kind, path in files.items():
        model = TFLiteModel(path)
        found, wanted = model.predict(changed), model.predict(rows)
        # Dynamic ranges of activations are taken over padding as well.
        tolerance = {"float32": 1e-5, "float16": 1e-5, "dynamic": 0.05}.get(
            kind, 0.0
        )
        assert relative_error(found, wanted) <= tolerance, kind


@pytest.mark.parametrize(
    "changes",
    [
        {"normalization_type": "layer_norm", "hidden_act": "gelu"},
        {"classifier_activation": True, "attention_mask_form": "multiply_add"},
    ],
    ids=["layer norm", "pooler"],
)
def test_other_architectures_export_as_int8(changes, rng, tmp_path):
    config = small_config(num_hidden_layers=1, **changes)
    model = classifier(config, rng)
    batch = random_batch(config, rng, size=16)
    quantized = QuantizationAwareModel(deployment_model(model), model)
    quantized.calibrate([batch])
    path = tmp_path / "int8.tflite"
    export_tflite(model, "int8", path, max_seq_length=20, quantized=quantized)
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, quantized(**batch)) < 0.1


def test_a_restarted_stream_exports_as_int8(rng, tmp_path):
    config = small_config(num_hidden_layers=1)
    model = classifier(config, rng)
    gamma = model.encoder.blocks[0].attention_norm.gamma
    gamma.assign(gamma.numpy() * (np.arange(32) % 3 > 0))
    batch = random_batch(config, rng, size=16)
    quantized = QuantizationAwareModel(deployment_model(model), model)
    quantized.calibrate([batch])
    path = tmp_path / "int8.tflite"
    export_tflite(model, "int8", path, max_seq_length=20, quantized=quantized)
    assert Contents(path).counts["MUL"] == 2
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, quantized(**batch)) < 0.1


def test_question_answering_has_two_outputs(rng, tmp_path):
    config = small_config(num_hidden_layers=1)
    model = mb.MobileBertForQuestionAnswering(config)
    path = tmp_path / "spans.tflite"
    export_tflite(model, "float32", path, max_seq_length=20)
    batch = random_batch(config, rng)
    found, wanted = TFLiteModel(path).predict(batch), model(batch)
    assert sorted(found) == ["end_logits", "start_logits"]
    for name, logits in found.items():
        assert relative_error(logits, wanted[name]) < 1e-5


@pytest.mark.parametrize("output", ["first_token", "mean"])
def test_an_embedder_exports_as_int8(output, rng, tmp_path):
    config = small_config(num_hidden_layers=2)
    encoder = mb.MobileBertEncoder(config)
    randomise(encoder, rng)
    batch = random_batch(config, rng, size=16)
    rows = np.asarray(encoder(batch).sequence_output)
    keep = batch["input_mask"][:, :, None]
    wanted = rows[:, 0]
    if output == "mean":
        wanted = (rows * keep).sum(axis=1) / keep.sum(axis=1)
    quantized = QuantizationAwareModel(deployment_model(encoder))
    quantized.calibrate([batch])
    path = tmp_path / "int8.tflite"
    export_tflite(
        encoder,
        "int8",
        path,
        max_seq_length=20,
        quantized=quantized,
        output=output,
    )
    assert MeasuredFile(path).has_integer_kernels()
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, wanted) < 0.1


def test_what_cannot_be_written_is_refused(trained, tmp_path):
    path = tmp_path / "int8.tflite"
    with pytest.raises(ValueError, match="int8 needs"):
        export_tflite(trained, "int8", path, max_seq_length=8)
    with pytest.raises(ValueError, match="kind must be one of"):
        export_tflite(trained, "int4", path, max_seq_length=8)
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_with_its_graph_is_not_written(
    trained, tmp_path, monkeypatch
):
    answer = TFLiteModel.predict
    monkeypatch.setattr(
        TFLiteModel, "predict", lambda *arguments: 0.5 * answer(*arguments)
    )
    with pytest.raises(RuntimeError, match="differ from the graph's"):
        export_tflite(
            trained, "float32", tmp_path / "x.tflite", max_seq_length=8
        )
    assert not list(tmp_path.iterdir())


def test_the_converter_is_silent_unless_it_fails(trained, tmp_path, capfd):
    path = tmp_path / "x.tflite"
    export_tflite(trained, "float32", path, max_seq_length=8)
    printed = capfd.readouterr().err.splitlines()
    # LiteRT's own line about its delegate comes from the check.
    assert [line for line in printed if "XNNPACK" not in line] == []
    with pytest.raises(ZeroDivisionError), muted():
        os.write(2, b"the reason\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "the reason\n"
