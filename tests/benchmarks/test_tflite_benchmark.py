"""The benchmark of .tflite files: any of them, counted as they are."""

import collections
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from benchmarks.tflite import files, measurement
from benchmarks.tflite.benchmark import benchmark, open_file, table
from benchmarks.tflite.measurement import (
    MeasuredFile,
    interleaved,
    run_apart,
)
from benchmarks.tflite.profile import operation_times, totals_by_type
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.export import export, muted
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.presets import PRESETS
from tests import tiny

BENCHMARK = Path(__file__).parents[2] / "benchmarks/tflite/benchmark.py"
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
    counts = file.operations()
    assert (counts["FULLY_CONNECTED"], counts["BATCH_MATMUL"]) == (2, 1)
    # A multiplication and an addition for each pair that meets.
    wanted = 2 * 7 * (6 * 10 + 10 * 3 + 3 * 7)
    assert file.matrix_operations() == wanted
    left = file.undelegated()
    assert left["TOPK_V2"] == counts["TOPK_V2"] == 1
    assert not left["FULLY_CONNECTED"] and left.total() < counts.total()
    assert not file.has_integer_kernels()


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
    ratio = longer.matrix_operations() / shorter.matrix_operations()
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
    monkeypatch.setattr(measurement.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(measurement.time, "process_time", lambda: 0.0)
    timings = interleaved(
        {name: lambda name=name: order.append(name) for name in "ab"}, 2
    )
    assert "".join(order) == "aaa" + "bbb" + "abab"
    assert timings["a"] == {
        "median_ms": 3000.0,
        "low_ms": 2500.0,
        "high_ms": 3500.0,
        "min_ms": 2000.0,
        "cpu_ms": 0.0,
    }
    assert timings["b"]["median_ms"] == 1000.0


def test_large_layers_are_what_they_are_called(rates, fixed):
    for path, is_integer in zip(rates, (False, True), strict=True):
        file = MeasuredFile(path)
        assert file.has_integer_kernels() is is_integer
        assert file.operations() == {"FULLY_CONNECTED": 4}
        assert not file.undelegated()
        assert file.matrix_operations() == 2 * 4 * 512 * 1024 * 1024
    # Peak memory grows with the weights.
    size = rates[0].stat().st_size / 1e6
    assert size > 16
    assert run_apart("peak_megabytes", str(rates[0]), 1, None) > size
    assert 0 < run_apart("peak_megabytes", fixed, 1, None) < size


def test_the_table_has_a_row_for_each_length(open_length):
    rows = benchmark([open_length], 2, [8, 16], repeats=2)
    assert [row["length"] for row in rows[:2]] == [8, 16]
    rows[0] |= {"giga_operations": 3.0, "min_ms": 2.0, "kernels": "int8"}
    rows[-1] |= {"giga_operations": 6.0, "min_ms": 1.0}
    rows[0]["undelegated"] = {"TOPK_V2": 5}
    lines = table(rows).splitlines()
    # 1.5 of 6 operations a second.
    assert lines[1].split()[-5:-4] == ["25%"] or "25%" in lines[1]
    assert "5 TOPK_V2" in lines[1] and lines[1].split()[2:4] == ["8", "2"]
    assert lines[-1] == "int8 dense layers: 6000 giga operations/s"
    assert len(lines) == 1 + 2 + 2


def test_the_command_prints_and_writes(tmp_path, fixed):
    done = subprocess.run(
        [
            *(sys.executable, BENCHMARK, f"--files={fixed}", "--lengths=7"),
            *("--repeats=2", "--profile", f"--json={tmp_path / 'x.json'}"),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fixed.tflite" in done.stdout
    content = json.loads((tmp_path / "x.json").read_text())
    assert [row["length"] for row in content["rows"][:1]] == [7]
    assert "TOPK_V2" in done.stdout.split("by themselves")[1]
    assert {one["name"] for one in content["profiles"]} >= {"TOPK_V2"}


@pytest.mark.parametrize("flag", ["--threads=none", "--threads=", "--files="])
def test_bad_flags_end_in_a_line(flag, fixed, monkeypatch, capsys):
    from benchmarks.tflite import benchmark as command

    monkeypatch.setattr(sys, "argv", ["x", f"--files={fixed}", flag])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert flag.partition("=")[0] in last


def test_distinct_operations_are_counted_and_the_slowest_come_first(tmp_path):
    wide = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)

    def network(rows):
        for _ in range(3):
            rows = tf.tanh(rows @ wide)
        return tf.tanh(rows[:, :2]) @ wide[:2, :3]

    path = write(tmp_path / "x.tflite", network, tf.TensorSpec((256, 256)))
    rows = operation_times(path, repeats=3)
    times = [row.total for row in rows]
    assert times == sorted(times, reverse=True) and min(times) > 0
    totals = totals_by_type(rows)
    counts = {name: count for name, (count, _) in totals.items()}
    assert counts == MeasuredFile(path).operations()
    dense = [row for row in rows if row.name == "FULLY_CONNECTED"]
    assert {row.shapes: row.count for row in dense} == {
        "(256, 256) (256, 256) -> (256, 256)": 3,
        "(256, 2) (3, 2) -> (256, 3)": 1,
    }
    assert totals["FULLY_CONNECTED"][1] == pytest.approx(
        sum(row.total for row in dense)
    )


@pytest.mark.parametrize("kind", ["float16", "dynamic"])
def test_weights_stay_constants(tmp_path, kind):
    path = tmp_path / "x.tflite"
    model = tiny.classifier(num_hidden_layers=1)
    tiny.randomise(model, np.random.default_rng(0))
    export(fold(model), path, 8, kind)
    counts = collections.Counter()
    for row in operation_times(path, repeats=1):
        counts[row.name] += row.count
    operations = MeasuredFile(path).operations()
    # Delegates widen float16 weights once, before the first inference.
    assert operations.pop("DEQUANTIZE", 0) >= 20 * (kind == "float16")
    assert {name: counts[name] for name in operations} == operations


def test_truth_values_and_indices_are_timed_too(tmp_path):
    def network(rows):
        rows = tf.where(tf.sin(rows) > 0.5, rows, 2.0 * rows)
        # A table of one row: any index but 0 would fail.
        return tf.gather(rows[:1], tf.cast(rows[:, 0], tf.int32) * 0)

    path = write(tmp_path / "x.tflite", network, tf.TensorSpec((4, 3)))
    rows = operation_times(path, repeats=1)
    names = {row.name for row in rows}
    assert names == MeasuredFile(path).operations().keys()
    assert {"GREATER", "GATHER"} < names
    # Rows are multiplied in float, which is delegated; indices are integers.
    for row in rows:
        if row.name in ("MUL", "GATHER"):
            is_float = row.name == "MUL" and row.shapes.startswith("(4, 3)")
            assert row.is_delegated == is_float, row


def test_open_shapes_are_refused(open_length):
    with pytest.raises(ValueError, match="left open"):
        operation_times(open_length)


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


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_narrowed(preset):
    config = mb.MobileBertConfig.from_preset(preset)
    narrow = files.narrowed(config)
    assert narrow.num_hidden_layers == config.num_hidden_layers
    assert narrow.hidden_size * 4 == config.hidden_size
