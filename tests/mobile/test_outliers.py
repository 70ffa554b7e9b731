"""One token of 1e7 takes the answers of neither integers nor float16."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import Range, calibrate
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.measurement import measure
from mobilebert_tf.mobile.options import QuantizationOptions
from mobilebert_tf.mobile.outliers import (
    FLOAT16_BOUND,
    find_outliers,
    turn,
)
from mobilebert_tf.mobile.quantization import Quantized, train_quantized
from mobilebert_tf.mobile.rounding import Clipping, Exact
from mobilebert_tf.mobile.runtime import TFLiteModel, predict_in_float16
from mobilebert_tf.mobile.stages import Networks, report_outliers
from mobilebert_tf.tasks.question_answering import QuestionAnsweringTask
from tests.mobile import outlier_models
from tests.mobile.conftest import CountingTask
from tests.mobile.outlier_models import LENGTH, answers, compared, outlier_model

CALIBRATION = [outlier_models.examples(seed) for seed in (1, 2)]
TEST = outlier_models.examples(7, 128)


def networks(folded) -> Networks:
    return Networks(folded, CALIBRATION, LENGTH)


def prepared(folded):
    """The turned and equalised float network, and the rounded one."""
    even, ranges = networks(folded).integers
    return even, Quantized(even, ranges)


def float_answers(folded, rounding=Exact()):
    return answers(lambda batch: forward(folded, batch, rounding), TEST)


@pytest.mark.parametrize("amplitude", [1e5, 1e7])
@pytest.mark.parametrize(
    ("where", "blocks"),
    [({}, 1), ({}, 2), ({"in_chain": True}, 2), ({"is_sink": True}, 2)],
)
def test_answers_survive_int8(where, blocks, amplitude):
    even, quantized = prepared(fold(outlier_model(0.0, blocks)))
    model = outlier_model(0.0, blocks)
    error, same = compared(answers(model, TEST), answers(quantized, TEST), TEST)
    model = outlier_model(amplitude, blocks, **where)
    wanted = answers(model, TEST)
    even, quantized = prepared(fold(model))
    # The rewrite is exact, but float32 holds 1e7 in steps of 1.
    float_error, float_same = compared(wanted, float_answers(even), TEST)
    assert float_error < 0.015 and float_same > 0.98
    found_error, found_same = compared(wanted, answers(quantized, TEST), TEST)
    assert found_error < (2.5 if where.get("is_sink") else 1.5) * error
    assert found_same > same - 0.06


def test_a_classifier_that_reads_the_outlier_token_keeps_its_classes():
    model = outlier_model(
        1e5, model_class=mb.MobileBertForSequenceClassification
    )
    wanted, (_, quantized) = answers(model, TEST), prepared(fold(model))
    error, same = compared(wanted, answers(quantized, TEST), TEST)
    assert error < 0.1 and same > 0.94


def test_the_file_answers_as_its_graph_does(tmp_path):
    model = outlier_model(1e7)
    wanted, (_, quantized) = answers(model, TEST), prepared(fold(model))
    file = TFLiteModel(export(quantized, tmp_path / "int8.tflite", LENGTH))
    error, same = compared(wanted, answers(file.predict, TEST), TEST)
    assert error < 0.06 and same > 0.9


class Spans(QuestionAnsweringTask):
    """The answers of a model, as labels."""

    def __init__(self, model):
        self.batches = []
        for batch in CALIBRATION:
            best = {
                f"{name.removesuffix('_logits')}_positions": np.where(
                    batch["input_mask"] > 0, logits, -np.inf
                ).argmax(1)
                for name, logits in model(batch).items()
            }
            self.batches.append(batch | best)


def test_training_under_quantisation_keeps_the_outlier_cut(tmp_path):
    model = outlier_model(1e7, 1)
    task, wanted = Spans(model), answers(model, TEST)
    _, quantized = prepared(fold(model))
    train_quantized(
        quantized,
        task,
        model,
        task.batches,
        lambda start: itertools.cycle(task.batches),
        tmp_path,
        QuantizationOptions(num_steps=12),
    )
    # Neither a step nor the ranges that follow the activations let it in.
    assert np.abs(quantized.ranges.numpy()).max() < 1e3
    error, same = compared(wanted, answers(quantized, TEST), TEST)
    assert error < 0.1 and same > 0.9


@pytest.mark.parametrize("batches", [CALIBRATION, []])
def test_dynamic_files_hold_the_outlier(batches, tmp_path):
    model = outlier_model(1e7, num_blocks=1)
    network = Networks(fold(model), batches, LENGTH).of_kind("dynamic")
    path = export(network, tmp_path / "dynamic.tflite", LENGTH, "dynamic")
    found = answers(TFLiteModel(path).predict, TEST)
    error, same = compared(answers(model, TEST), found, TEST)
    assert error < 0.06 and same > 0.9


def test_16_bit_activations_hold_the_outlier(tmp_path):
    model = outlier_model(1e5, num_blocks=1)
    path = tmp_path / "int16x8.tflite"
    with pytest.warns(UserWarning, match="no accelerated delegate"):
        export(
            Networks(fold(model), CALIBRATION, LENGTH).of_kind("int16x8"),
            path,
            LENGTH,
            "int16x8",
            calibration=CALIBRATION,
        )
    found = answers(TFLiteModel(path).predict, TEST)
    error, same = compared(answers(model, TEST), found, TEST)
    assert error < 0.06 and same > 0.9


def test_cutting_the_outlier_alone_is_harmless():
    model = outlier_model(1e5, in_chain=True)
    even = equalize(turn(fold(model), CALIBRATION), CALIBRATION)
    ranges = calibrate(even, CALIBRATION)
    reached = max(found.highest - found.lowest for found in ranges.values())
    kept = max(found.high - found.low for found in ranges.values())
    assert reached > 100 * kept
    found = float_answers(even, Clipping(ranges))
    assert compared(answers(model, TEST), found, TEST)[0] < 0.02


def test_the_token_and_its_direction_are_named():
    folded = fold(outlier_model(1e5))
    first = find_outliers(folded, CALIBRATION)[0]
    assert first.position == 0
    assert first.tensor == "embeddings/with_positions"
    measured = measure(folded, CALIBRATION)[first.tensor]
    assert first.ratio == pytest.approx(measured.largest / measured.median)
    assert 1e3 < first.ratio < 1e5
    # One direction carries it.
    assert first.singular_values[0] == 1.0 and first.singular_values[1] < 1e-3


def test_a_costly_cut_is_reported_with_the_metric(capsys):
    model_class = mb.MobileBertForSequenceClassification
    folded = fold(outlier_model(1e5, 1, model_class=model_class))
    labels = answers(lambda batch: forward(folded, batch), TEST).argmax(1)
    task = CountingTask(dev=TEST | {"labels": labels})
    even, ranges = networks(folded).integers
    printed = capsys.readouterr().out
    assert "(position 0, embeddings/with_positions); float" in printed
    assert "warning" not in printed
    # The head sees a tenth of what it should.
    narrow = {
        name: Range(*(0.1 * value for value in found))
        for name, found in ranges.items()
    }
    report_outliers(folded, even, narrow, CALIBRATION, task)
    _, warning = capsys.readouterr().out.splitlines()
    after = re.search(r"dev_accuracy 1.0000, in integers (\S+?)\. ", warning)
    assert float(after[1]) < 0.9


def test_nothing_is_turned_or_cut_without_an_outlier():
    folded = fold(outlier_model(0.0))
    assert find_outliers(folded, CALIBRATION) == []
    assert turn(folded, CALIBRATION) is folded
    even = equalize(folded, CALIBRATION)
    for name, found in calibrate(even, CALIBRATION).items():
        if not name.endswith(("/logits", "head")):
            assert found.low <= found.lowest and found.highest <= found.high


class Float16(Exact):
    """Weights and activations rounded to float16, sums in float32."""

    def kernel(self, kernel):
        return self.activation("", kernel)

    def look_up(self, name, table, ids):
        return self.activation(name, tf.gather(table, ids))

    def activation(self, name, tensor):
        return tf.cast(tf.cast(tensor, tf.float16), tf.float32)


def test_files_survive_float16_arithmetic(tmp_path):
    model = outlier_model(1e6)
    wanted, folded = answers(model, TEST), fold(model)
    path = export(folded, tmp_path / "float32.tflite", LENGTH)
    found = predict_in_float16(path, TEST)["start_logits"]
    assert not np.isfinite(found).all()
    bounded = networks(folded).floats
    path = export(bounded, tmp_path / "bounded.tflite", LENGTH)
    found = predict_in_float16(path, TEST)["start_logits"]
    error, same = compared(wanted, found, TEST)
    assert error < 0.03 and same > 0.98


@pytest.mark.parametrize("in_chain", [False, True])
def test_answers_survive_float16(in_chain):
    model = outlier_model(1e7, in_chain=in_chain)
    wanted, folded = answers(model, TEST), fold(model)
    with np.errstate(invalid="ignore"):
        assert not np.isfinite(float_answers(folded, Float16())).all()
    bounded = networks(folded).floats
    for found in measure(bounded, CALIBRATION).values():
        assert np.abs(found.reached).max() <= FLOAT16_BOUND
    assert compared(wanted, float_answers(bounded), TEST)[0] < 0.015
    error, same = compared(wanted, float_answers(bounded, Float16()), TEST)
    assert error < 0.03 and same > 0.98


def test_a_network_that_fits_float16_stays_as_it_is():
    folded = fold(outlier_model(100.0))
    assert networks(folded).floats is folded


def test_what_cannot_be_bounded_is_named(capsys):
    folded = fold(outlier_model(0.0))
    name = "block_00/attention/logits"
    key = "block_00/attention/key/kernel"
    factor = 1e6 / np.abs(measure(folded, CALIBRATION)[name].reached).max()
    arrays = folded.arrays | {key: np.float32(factor * folded.arrays[key])}
    folded = dataclasses.replace(folded, arrays=arrays)
    networks(folded).floats
    printed = capsys.readouterr().out
    found = re.findall(r"warning: (\S+) reaches (\S+), which ov", printed)
    assert [named for named, _ in found] == [name]
    assert 5e5 < float(found[0][1]) < 2e6
