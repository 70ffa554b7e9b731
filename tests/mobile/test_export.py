"""What is in the .tflite files, and that they compute what their graphs do."""

import os
from collections import Counter

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType
from scipy.special import expit, softmax

import mobilebert_tf as mb
from benchmarks.tflite.measurement import MeasuredFile
from mobilebert_tf import compat
from mobilebert_tf.compat import muted
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.mobile.rounding import FakeQuantization
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import unpack
from tests import tiny
from tests.mobile.conftest import LENGTH, inputs_of
from tests.mobile.test_folding import random_classifier
from tests.tiny import relative_error

# One step, and what float rounding adds to it.
ONE_STEP = 1.01


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
            for operation in compat.operation_details(interpreter)
            if operation["op_name"] != "DELEGATE"
        ]
        self.counts = Counter(o["op_name"] for o in self.operations)

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


@pytest.fixture(scope="module")
def found(files, test_arrays):
    return TFLiteModel(files["int8_qat"], 2).predict(inputs_of(test_arrays))


def accuracy(logits, arrays) -> float:
    return float((np.asarray(logits).argmax(1) == arrays["labels"]).mean())


def quantize(model, batches) -> Quantized:
    folded = fold(model)
    return Quantized(folded, calibrate(folded, batches))


def many(rng, size=16) -> dict:
    return tiny.batch(rng, rng.integers(3, LENGTH + 1, size), LENGTH)


def test_every_kind_is_within_a_point_of_float(files, trained, test_arrays):
    assert len(test_arrays["labels"]) >= 500
    inputs = inputs_of(test_arrays)
    wanted = accuracy(trained(inputs), test_arrays)
    assert wanted > 0.95
    for kind, path in files.items():
        outputs = TFLiteModel(path, 2).predict(inputs)
        assert abs(accuracy(outputs, test_arrays) - wanted) <= 0.01, kind


def test_float32_logits_are_those_of_keras(files, trained, test_arrays):
    inputs = inputs_of(test_arrays)
    outputs = TFLiteModel(files["float32"]).predict(inputs)
    assert outputs.dtype == np.float32
    assert relative_error(outputs, trained(inputs)) < 1e-5


def share_within_a_step(found, wanted, quantized) -> float:
    """The share of logits that differ by no more than one output step."""
    low, high = quantized.ranges.numpy()[quantized.names.index("head")]
    steps = np.abs(found - wanted) / ((high - low) / 255.0)
    return float(np.mean(steps <= ONE_STEP))


def test_file_and_graph_differ_by_at_most_a_step(found, quantized, test_arrays):
    inputs = inputs_of(test_arrays)
    wanted = quantized(inputs).numpy()
    assert share_within_a_step(found, wanted, quantized) >= 0.999
    # Without rounding the graph is another.
    exact = forward(quantized.folded, inputs).numpy()
    assert np.abs(found - exact).mean() > 10.0 * np.abs(found - wanted).mean()


class ShiftedRightSides(FakeQuantization):
    """Values of kernels that ignore a zero point of `shift`."""

    def __init__(self, ranges, shift):
        super().__init__(ranges)
        self.shift = shift

    def symmetric(self, name, tensor):
        scale = self._ranges[name][1] / 127.0
        return super().symmetric(name, tensor) + self.shift * scale


def test_an_ignored_zero_point_would_be_noticed(found, quantized, test_arrays):
    values = quantized.ranges.numpy()
    ranges = dict(zip(quantized.names, values, strict=True))
    for shift, is_noticed in ((0, False), (10, True)):
        rounding = ShiftedRightSides(ranges, shift)
        wrong = forward(quantized.folded, inputs_of(test_arrays), rounding)
        share = share_within_a_step(found, wrong.numpy(), quantized)
        assert (share < 0.999) == is_noticed


def test_files_shrink_with_their_weights(files, trained):
    sizes = {kind: path.stat().st_size for kind, path in files.items()}
    # Of four bytes a weight int8 saves three; scales take some at this size.
    assert sizes["int8"] < sizes["float32"] - trained.count_params()


def test_signature_and_operations_of_every_kind(files):
    for kind, path in files.items():
        assert TFLiteModel(path).interpreter.get_signature_list() == {
            "serving_default": {
                "inputs": ["input_ids", "input_mask", "segment_ids"],
                "outputs": ["logits"],
            }
        }
        counts = Contents(path).counts
        # Two blocks of 3 bottlenecks, 4 attention and 2 x 2 feed-forward
        # layers; embedding projection; head.
        assert counts["FULLY_CONNECTED"] == 2 * 11 + 2, kind
        # Four residual sums and a mask a block; segments and positions.
        assert counts["ADD"] == 2 * 5 + 2, kind
        # The mask's value, once; no gamma.
        assert counts["MUL"] == 1, kind
        assert counts["BATCH_MATMUL"] == 4, kind


@pytest.mark.parametrize("kind", ["float32", "int8", "int8_qat"])
def test_only_look_ups_and_the_mask_are_left_to_slow_kernels(kind, files):
    left = MeasuredFile(files[kind]).undelegated()
    assert left == {"GATHER": 2, "CAST": 1, "RESHAPE": 2}


def test_dense_weights_are_int8_per_channel_around_zero(int8):
    for kernel in int8.inputs("FULLY_CONNECTED", 1):
        quantization = kernel["quantization_parameters"]
        assert kernel["dtype"] == np.int8
        assert len(quantization["scales"]) == kernel["shape"][0]
        assert not quantization["zero_points"].any()
    for rows in int8.inputs("FULLY_CONNECTED", 0):
        assert rows["dtype"] == np.int8


def test_keys_and_values_have_zero_point_zero(int8):
    right_sides = int8.inputs("BATCH_MATMUL", 1)
    assert len(right_sides) == 4
    for detail in right_sides:
        assert detail["dtype"] == np.int8
        assert detail["quantization_parameters"]["zero_points"] == [0]


def test_tables_are_int8_and_only_the_softmax_is_float(int8):
    for table in int8.inputs("GATHER", 0):
        assert table["dtype"] == np.int8
    for name in ("FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE"):
        assert {d["dtype"] for d in int8.inputs(name, 0)} == {np.int8}, name
    assert {d["dtype"] for d in int8.inputs("SOFTMAX", 0)} == {np.float32}
    # Logits of two blocks and of the head; probabilities.
    assert int8.counts["DEQUANTIZE"] == 3
    assert int8.counts["QUANTIZE"] == 2
    # Probabilities are multiples of 1/256.
    left = int8.inputs("BATCH_MATMUL", 0)
    scales = [d["quantization_parameters"]["scales"][0] for d in left]
    assert sum(abs(scale - 1 / 256) < 1e-9 for scale in scales) == 2


def test_masked_positions_change_nothing(files, test_arrays):
    rows = {n: a[:32].copy() for n, a in inputs_of(test_arrays).items()}
    rows["input_mask"][:, 10:] = 0
    changed = {name: a.copy() for name, a in rows.items()}
    changed["input_ids"][:, 11:] = 50
    changed["segment_ids"][:, 10:] = 1
    # Dynamic ranges of activations are taken over padding as well.
    tolerances = {"float32": 1e-5, "float16": 1e-5, "dynamic": 0.05}
    for kind, path in files.items():
        model = TFLiteModel(path)
        error = relative_error(model.predict(changed), model.predict(rows))
        assert error <= tolerances.get(kind, 0.0), kind


@pytest.mark.parametrize(
    "changes",
    [
        {"normalization_type": "layer_norm", "hidden_act": "gelu"},
        {"classifier_activation": True, "attention_mask_form": "multiply_add"},
    ],
    ids=["layer norm", "pooler"],
)
def test_other_architectures_export_as_int8(changes, rng, tmp_path):
    model, batch = (
        random_classifier(rng, num_hidden_layers=1, **changes),
        many(rng),
    )
    quantized = quantize(model, [batch])
    path = export(quantized, tmp_path / "int8.tflite", LENGTH)
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, quantized(batch)) < 0.1


def test_a_restarted_stream_exports_as_int8(rng, tmp_path):
    model, batch = random_classifier(rng, num_hidden_layers=1), many(rng)
    gamma = model.encoder.blocks[0].attention_norm.gamma
    gamma.assign(gamma.numpy() * (np.arange(gamma.shape[0]) % 3 > 0))
    quantized = quantize(model, [batch])
    path = export(quantized, tmp_path / "int8.tflite", LENGTH)
    assert Contents(path).counts["MUL"] == 2
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, quantized(batch)) < 0.1


@pytest.mark.parametrize(("per_tensor", "version"), [(False, 12), (True, 9)])
def test_older_runtimes_open_one_scale_per_kernel(
    per_tensor, version, rng, tmp_path
):
    """TensorFlow Lite 2.14 knows FULLY_CONNECTED up to version 11."""
    model, batch = random_classifier(rng, num_hidden_layers=1), many(rng)
    path = tmp_path / "dynamic.tflite"
    export(fold(model), path, LENGTH, "dynamic", per_tensor=per_tensor)
    # As it is stored: XNNPACK changes the scales that an interpreter shows.
    content = unpack(path.read_bytes())
    versions = [
        code.version
        for code in content.operatorCodes
        if code.builtinCode == BuiltinOperator.FULLY_CONNECTED
    ]
    assert max(versions) == version
    (scales,) = (
        len(tensor.quantization.scale)
        for tensor in content.subgraphs[0].tensors
        if tensor.type == TensorType.INT8 and len(tensor.shape) == 2
    )
    assert scales == (1 if per_tensor else 32)
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, model(batch).numpy()) < 0.1


@pytest.mark.parametrize("mlperf_order", [False, True])
def test_question_answering_has_two_outputs(mlperf_order, rng, tmp_path):
    config = tiny.student_config(num_hidden_layers=1)
    model = mb.MobileBertForQuestionAnswering(config)
    tiny.randomise(model, rng)
    path, batch = tmp_path / "spans.tflite", tiny.batch(rng, (LENGTH,))
    export(fold(model), path, LENGTH, mlperf_order=mlperf_order)
    found, wanted = TFLiteModel(path).predict(batch), model(batch)
    assert found.keys() == wanted.keys() == {"start_logits", "end_logits"}
    # As MLPerf Mobile does: by position, ids, mask, segments.
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    for detail, name in zip(
        interpreter.get_input_details(), batch, strict=True
    ):
        interpreter.set_tensor(detail["index"], batch[name])
    interpreter.invoke()
    order = ["start_logits", "end_logits"][:: -1 if mlperf_order else 1]
    for detail, name in zip(
        interpreter.get_output_details(), order, strict=True
    ):
        outputs = interpreter.get_tensor(detail["index"])
        assert relative_error(outputs, wanted[name]) < 1e-5
        assert relative_error(found[name], wanted[name]) < 1e-5


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("output", ["first_token", "mean"])
def test_embeddings_are_of_real_tokens(kind, output, rng, tmp_path):
    encoder = mb.MobileBertEncoder(tiny.student_config(num_hidden_layers=1))
    tiny.randomise(encoder, rng)
    batch = many(rng)
    rows = encoder(batch).sequence_output.numpy()
    wanted = [
        row[: 1 if output == "first_token" else mask.sum()].mean(0)
        for row, mask in zip(rows, batch["input_mask"], strict=True)
    ]
    network = fold(encoder)
    if kind == "int8":
        network = quantize(encoder, [batch])
    path = export(network, tmp_path / "x.tflite", LENGTH, output=output)
    model = TFLiteModel(path)
    assert model.output_names == ("embedding",)
    tolerance = 1e-5 if kind == "float32" else 0.1
    assert relative_error(model.predict(batch), wanted) < tolerance


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ("probabilities", lambda logits: softmax(logits, axis=-1)),
        ("independent_probabilities", expit),
    ],
)
def test_probabilities_are_those_of_the_logits(output, wanted, rng, tmp_path):
    model, batch = random_classifier(rng, num_hidden_layers=1), many(rng)
    path = export(fold(model), tmp_path / "x.tflite", LENGTH, output=output)
    runtime = TFLiteModel(path)
    assert runtime.output_names == ("probabilities",)
    found, logits = runtime.predict(batch), model(batch).numpy()
    np.testing.assert_allclose(found, wanted(logits), atol=1e-5)


def test_integer_files_have_float_probabilities(rng, tmp_path):
    model, batch = random_classifier(rng, num_hidden_layers=1), many(rng)
    quantized, path = quantize(model, [batch]), tmp_path / "x.tflite"
    export(quantized, path, LENGTH, output="probabilities")
    found = TFLiteModel(path).predict(batch)
    wanted = softmax(quantized(batch).numpy(), axis=-1)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-6)
    # The integer kernel's would be multiples of 1/256.
    assert np.mean(found * 256 % 1 == 0) < 0.2


def test_int16x8_warns_that_no_delegate_runs_it(rng, tmp_path):
    model, batch = random_classifier(rng, num_hidden_layers=1), many(rng)
    path = tmp_path / "x.tflite"
    with pytest.warns(UserWarning, match="no accelerated delegate"):
        export(fold(model), path, LENGTH, "int16x8", calibration=[batch])
    found = TFLiteModel(path).predict(batch)
    assert relative_error(found, model(batch)) < 0.01


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"lengths": [8, 8]}, "several different"),
        ({"lengths": []}, "several different"),
        ({"lengths": 0}, "several different"),
        ({"lengths": 25}, "at most 24"),
        ({"output": "embedding"}, "output must be one of"),
        ({"mlperf_order": True}, "for question answering"),
        ({"kind": "int4"}, "kind must be one of"),
        ({"kind": "int8"}, "int8 needs a Quantized network"),
        ({"kind": "int16x8", "lengths": [8, 9]}, "one length"),
        ({"kind": "int16x8"}, "at least one batch"),
    ],
)
@pytest.mark.filterwarnings("ignore:no accelerated delegate")
def test_impossible_requests_are_refused(request_, message, tmp_path):
    request = {"lengths": 8, "path": tmp_path / "x.tflite"} | request_
    with pytest.raises(ValueError, match=message):
        export(fold(tiny.classifier()), **request)
    assert not list(tmp_path.iterdir())


def test_quantised_networks_make_integer_files_only(make_quantized, tmp_path):
    with pytest.raises(ValueError, match="dynamic needs a Folded network"):
        export(make_quantized(), tmp_path / "x.tflite", 8, "dynamic")


def test_a_file_that_disagrees_with_its_graph_is_not_written(
    trained, tmp_path, monkeypatch
):
    predict = TFLiteModel.predict
    monkeypatch.setattr(
        TFLiteModel, "predict", lambda *arguments: 0.5 * predict(*arguments)
    )
    with pytest.raises(RuntimeError, match="differ from the graph's"):
        export(fold(trained), tmp_path / "x.tflite", 8)
    assert not list(tmp_path.iterdir())


def test_the_converter_is_silent_unless_it_fails(trained, tmp_path, capfd):
    export(fold(trained), tmp_path / "x.tflite", 8)
    assert capfd.readouterr().err == ""
    with pytest.raises(ZeroDivisionError), muted():
        os.write(2, b"the reason\n")
        raise ZeroDivisionError
    assert capfd.readouterr().err == "the reason\n"
