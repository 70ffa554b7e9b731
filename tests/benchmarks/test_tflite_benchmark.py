"""The benchmark of .tflite files: any of them, counted as they are."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from benchmarks import instruments
from benchmarks.tflite import benchmark, files, measurement
from benchmarks.tflite.benchmark import open_file
from benchmarks.tflite.measurement import MeasuredFile
from mobilebert_tf.compat import muted
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from tests import tiny

KERNELS = [
    np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for shape in ((6, 10), (10, 3))
]


def write(path, function, *specs) -> str:
    """Converts a function of tensors without this package."""
    module = tf.Module()
    module.function = tf.function(function, input_signature=specs)
    concrete = module.function.get_concrete_function()
    with muted():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [concrete], module
        )
        path.write_bytes(converter.convert())
    return str(path)


def network(ids, mask):
    """Two dense layers on [S, 6], a sort between them, a batch product.

    No accelerated kernel sorts.
    """
    rows = tf.cast(ids + mask, tf.float32)[0, :, None] * tf.ones((1, 6))
    rows = tf.nn.relu(rows @ KERNELS[0])
    rows = tf.math.top_k(rows, 10).values
    rows = rows @ KERNELS[1]
    return tf.linalg.matmul(rows[None], rows[None], transpose_b=True)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory) -> str:
    spec = tf.TensorSpec((1, 7), tf.int32)
    path = tmp_path_factory.mktemp("fixed") / "fixed.tflite"
    return write(path, network, spec, spec)


@pytest.fixture(scope="module")
def open_length(tmp_path_factory) -> str:
    spec = tf.TensorSpec((None, None), tf.int32)
    path = tmp_path_factory.mktemp("open") / "open.tflite"
    return write(
        path, lambda ids, mask: tf.cast(ids * mask, tf.float32), spec, spec
    )


@pytest.fixture(scope="module")
def rates(tmp_path_factory) -> list[Path]:
    return files.write_dense_layers(tmp_path_factory.mktemp("rates"))


def test_operations_are_counted_as_written(fixed):
    file = MeasuredFile(fixed)
    assert file.length == 7
    counts = file.counts()
    found = counts["operations"]
    assert (found["FULLY_CONNECTED"], found["BATCH_MATMUL"]) == (2, 1)
    # A multiplication and an addition for each pair that meets.
    wanted = 2 * 7 * (6 * 10 + 10 * 3 + 3 * 7)
    assert counts["giga_operations"] == pytest.approx(wanted / 1e9)
    left = file.undelegated()
    assert left["TOPK_V2"] == found["TOPK_V2"] == 1
    assert not left["FULLY_CONNECTED"]
    assert left.total() < file.operations().total()
    assert counts["kernels"] == "float32"


def test_each_length_of_a_file_is_measured_by_itself(tmp_path):
    path = tmp_path / "two.tflite"
    config = tiny.student_config(
        num_hidden_layers=1, max_position_embeddings=32
    )
    model = mb.MobileBertForTokenClassification(config, tiny.LABELS)
    export(fold(model), path, [8, 32])
    shorter, longer = (open_file(str(path), 1, length) for length in (8, 32))
    assert (shorter.length, longer.length) == (8, 32)
    assert open_file(str(path), 1, None).length == 32
    assert shorter.operations() == longer.operations()
    assert shorter.undelegated() == longer.undelegated()
    assert not shorter.undelegated()["FULLY_CONNECTED"]
    many, few = (f.counts()["giga_operations"] for f in (longer, shorter))
    ratio = many / few
    # Four times the rows, and products of S by S.
    assert 4.0 < ratio < 8.0
    for file in (shorter, longer):
        file.run()
    with pytest.raises(InputError, match="at length 16"):
        open_file(str(path), 1, 16)


def test_unfit_files_and_lengths_are_named(tmp_path, fixed, open_length):
    assert open_file(open_length, 1, 40).length == 40
    cut, onnx = tmp_path / "cut.tflite", tmp_path / "x.onnx"
    cut.write_bytes(Path(fixed).read_bytes()[:500])
    onnx.write_bytes(b"onnx file")
    text = write(
        tmp_path / "text.tflite",
        lambda text: tf.identity(text),
        tf.TensorSpec((1,), tf.string),
    )
    for path, length, message in (
        (open_length, None, r"open\.tflite: expected a whole "),
        (fixed, 8, r"fixed\.tflite: .* at length 8"),
        (cut, None, r"cut\.tflite: expected"),
        (onnx, None, "another kind of file"),
        (text, None, "takes text"),
    ):
        with pytest.raises(InputError, match=message):
            open_file(str(path), 1, length)


def test_rounds_take_turns_and_are_summarised(monkeypatch):
    order = []
    ticks = iter([0.0, 4.0, 10.0, 11.0, 20.0, 22.0, 30.0, 31.0])
    monkeypatch.setattr(instruments.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(instruments.time, "process_time", lambda: 0.0)
    timings = instruments.interleaved(
        {name: lambda name=name: order.append(name) for name in "ab"}, 2
    )
    assert "".join(order) == "aaa" + "bbb" + "abab"
    assert timings["a"] == {
        "median_ms": 3000.0,
        "mean_ms": 3000.0,
        "low_ms": 2500.0,
        "high_ms": 3500.0,
        "min_ms": 2000.0,
        "cpu_ms": 0.0,
    }
    assert timings["b"]["median_ms"] == 1000.0


def test_large_layers_are_what_they_are_called(rates, fixed):
    for path, kernels in zip(rates, ("float32", "int8"), strict=True):
        counts = MeasuredFile(path).counts()
        assert counts["kernels"] == kernels
        assert counts["operations"] == {"FULLY_CONNECTED": 4}
        assert not counts["undelegated"]
        wanted = 2 * 4 * 512 * 1024 * 1024
        assert counts["giga_operations"] == pytest.approx(wanted / 1e9)
    # Peak memory grows with the weights.
    size = rates[0].stat().st_size / 1e6
    assert size > 16
    large, small = (
        instruments.apart(measurement.peak_megabytes, str(path), 1, None)
        for path in (rates[0], fixed)
    )
    assert 0 < small < size < large


def test_the_command_has_a_row_for_each_length(
    open_length, rates, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(files, "write_dense_layers", lambda folder: rates)
    memory = [5.0, 6.0]
    monkeypatch.setattr(benchmark, "apart", lambda *_, python: memory.pop(0))
    output = tmp_path / "x.json"
    benchmark.main(
        benchmark.BenchmarkOptions(
            (open_length,), (2,), (8, 16), repeats=2, json=str(output)
        )
    )
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert [line.split()[2:4] for line in lines[1:3]] == [
        ["8", "2"],
        ["16", "2"],
    ]
    rows = json.loads(output.read_text())["rows"]
    assert [row.get("peak_megabytes") for row in rows] == [5.0, 6.0, None, None]
    rows[0] |= {"giga_operations": 3.0, "min_ms": 2.0, "kernels": "int8"}
    rows[-1] |= {"giga_operations": 6.0, "min_ms": 1.0}
    rows[0]["undelegated"] = {"TOPK_V2": 5}
    lines = benchmark.table(rows).splitlines()
    # 1.5 of 6 operations a second.
    assert " 25%  " in lines[1] and lines[1].endswith("5 TOPK_V2")
    assert lines[-1] == "int8 dense layers: 6000 giga operations/s"
    assert len(lines) == 1 + 2 + 2


def test_no_operation_of_a_norm_is_left():
    config = mb.MobileBertConfig.from_preset("mobilebert")
    config = dataclasses.replace(files.narrowed(config), num_hidden_layers=1)
    before, after = files.before_and_after(config, 16)
    assert files.norm_operations(config, after) == 0
    # Nine norms of a block; those of dense layers without residual may merge.
    assert files.norm_operations(config, before) >= 7
    # 3 bottlenecks, 4 of attention, 4 x 2 feed-forward; projection, head.
    assert before["FULLY_CONNECTED"] == after["FULLY_CONNECTED"] == 17
    lines = files.operations_table("mobilebert", before, after).splitlines()
    assert lines[-1].split()[1:] == [str(before.total()), str(after.total())]
    assert after.total() < before.total()
