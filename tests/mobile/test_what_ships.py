"""What ships is what was trained: file and graph within one step."""

import numpy as np
import pytest

from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.rounding import FakeQuantization
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.signatures import unpacked
from tests.mobile.conftest import LENGTH, take, train_under_quantization
from tests.mobile.test_quantization import inputs_of

# One step, and what float rounding adds to it.
ONE_STEP = 1.01
_BATCH_MATMUL = 126


@pytest.fixture(scope="module")
def shipped(trained, train_arrays) -> QuantizationAwareModel:
    """Equalised, calibrated and trained, as shipping does it."""
    batches = [
        take(train_arrays, slice(begin, begin + 64))
        for begin in range(0, 256, 64)
    ]
    deployment = equalize(deployment_model(trained), batches)
    quantized = QuantizationAwareModel(deployment, trained)
    quantized.calibrate(batches)
    train_under_quantization(quantized, train_arrays)
    return quantized


@pytest.fixture(scope="module")
def file(shipped, tmp_path_factory):
    path = tmp_path_factory.mktemp("shipped") / "int8.tflite"
    export_tflite(
        shipped.deployment,
        "int8",
        path,
        max_seq_length=LENGTH,
        quantized=shipped,
    )
    return path


@pytest.fixture(scope="module")
def found(file, test_arrays):
    return TFLiteModel(file).predict(test_arrays)


def share_within_a_step(found, wanted, quantized) -> float:
    """The share of logits that differ by no more than one output step."""
    low, high = quantized.ranges.numpy()[quantized._names.index("head")]
    steps = np.abs(found - wanted) / ((high - low) / 255.0)
    return float(np.mean(steps <= ONE_STEP))


def test_file_and_graph_differ_by_at_most_a_step(found, shipped, test_arrays):
    wanted = shipped(**inputs_of(test_arrays)).numpy()
    assert len(wanted) > 800
    assert share_within_a_step(found, wanted, shipped) >= 0.999
    # Without rounding the graph is another.
    exact = shipped.deployment(**inputs_of(test_arrays)).numpy()
    assert np.abs(found - exact).mean() > 10.0 * np.abs(found - wanted).mean()


class ShiftedRightSides(FakeQuantization):
    """Values of kernels that ignore a zero point of `shift`."""

    def __init__(self, ranges, shift):
        super().__init__(ranges)
        self.shift = shift

    def symmetric(self, name, tensor):
        scale = self._ranges[name][1] / 127.0
        return super().symmetric(name, tensor) + self.shift * scale


def test_an_ignored_zero_point_would_be_noticed(found, shipped, test_arrays):
    ranges = dict(zip(shipped._names, shipped.ranges.numpy(), strict=True))
    for shift, is_noticed in ((0, False), (10, True)):
        rounding = ShiftedRightSides(ranges, shift)
        wrong = shipped.deployment(**inputs_of(test_arrays), rounding=rounding)
        share = share_within_a_step(found, wrong.numpy(), shipped)
        assert (share < 0.999) == is_noticed


def test_right_sides_of_batch_products_have_zero_point_zero(file, shipped):
    model = unpacked(file.read_bytes())
    graph = model.subgraphs[0]
    right_sides = [
        graph.tensors[operator.inputs[1]]
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode
        == _BATCH_MATMUL
    ]
    assert len(right_sides) == 4
    for tensor in right_sides:
        assert list(tensor.quantization.zeroPoint) == [0]
    for name, (low, high) in zip(
        shipped._names, shipped.ranges.numpy(), strict=True
    ):
        if name.endswith(("attention/key", "attention/value")):
            assert -low / high == pytest.approx(128.0 / 127.0)
