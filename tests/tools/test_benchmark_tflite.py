"""The benchmark of .tflite files: any of them, counted as they are."""

import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile import measurement
from mobilebert_tf.mobile.export import export_tflite, muted
from mobilebert_tf.mobile.matrix_rate import dense_layers
from mobilebert_tf.mobile.measurement import MeasuredFile, interleaved
from mobilebert_tf.tools.benchmark_tflite import (
    benchmark,
    open_file,
    peak_megabytes,
    table,
)
from tests.mobile.networks import LABELS, small_config


def write(path, function, *specs) -> str:
    """Converts a function of tensors as other people would."""
    module = tf.Module()
    module.function = tf.function(function, input_signature=specs)
    concrete = module.function.get_concrete_function()
    with muted():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [concrete], module
        )
        path.write_bytes(converter.convert())
    return str(path)


KERNELS = [
    np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for shape in ((6, 10), (10, 3))
]


def network(ids, mask):
    """Two dense layers on [S, 6], a batch product, and a sort in between.

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
        path,
        lambda ids, mask: tf.cast(ids * mask, tf.float32) * 2.0,
        spec,
        spec,
    )


def test_operations_are_counted_as_written(fixed):
    file = MeasuredFile(fixed)
    assert file.length == 7
    counts = file.operations()
    assert counts["FULLY_CONNECTED"] == 2
    assert counts["BATCH_MATMUL"] == 1
    assert counts["TOPK_V2"] == 1
    # A multiplication and an addition for each pair that meets.
    wanted = 2 * 7 * (6 * 10 + 10 * 3 + 3 * 7)
    assert file.matrix_operations() == wanted
    left = file.undelegated()
    assert left["TOPK_V2"] == 1
    assert not left["FULLY_CONNECTED"]
    assert sum(left.values()) < sum(counts.values())
    assert not file.has_integer_kernels()


def test_open_lengths_are_set_and_fixed_ones_kept(fixed, open_length):
    assert open_file(open_length, 1, 40).length == 40
    for path, length in ((open_length, None), (fixed, 8)):
        with pytest.raises(InputError, match=r"\.tflite: expected a whole "):
            open_file(path, 1, length)


@pytest.fixture(scope="module")
def two_lengths(tmp_path_factory) -> str:
    config = small_config(num_hidden_layers=1)
    path = tmp_path_factory.mktemp("two") / "two.tflite"
    model = mb.MobileBertForTokenClassification(config, LABELS)
    export_tflite(model, "float32", path, max_seq_length=[8, 32])
    return str(path)


def test_each_length_of_a_file_is_measured_by_itself(two_lengths, tmp_path):
    shorter, longer = (open_file(two_lengths, 1, length) for length in (8, 32))
    assert (shorter.length, longer.length) == (8, 32)
    assert open_file(two_lengths, 1, None).length == 32
    assert shorter.operations() == longer.operations()
    assert shorter.undelegated() == longer.undelegated()
    assert not shorter.undelegated()["FULLY_CONNECTED"]
    ratio = longer.matrix_operations() / shorter.matrix_operations()
    # Four times the rows, and products of S by S.
    assert 4.0 < ratio < 8.0
    for file in (shorter, longer):
        file.run()
    assert peak_megabytes(two_lengths, 1, 8) > 0.0
    with pytest.raises(InputError, match="at length 16"):
        open_file(two_lengths, 1, 16)


def test_unfit_files_are_named(tmp_path, fixed):
    cut = tmp_path / "cut.tflite"
    with open(fixed, "rb") as file:
        cut.write_bytes(file.read()[:500])
    with pytest.raises(InputError, match=r"cut\.tflite: expected"):
        open_file(str(cut), 1, None)
    (tmp_path / "x.onnx").write_bytes(b"onnx file")
    with pytest.raises(InputError, match="another kind of file"):
        open_file(str(tmp_path / "x.onnx"), 1, None)
    text = write(
        tmp_path / "text.tflite",
        lambda text: tf.identity(text),
        tf.TensorSpec((1,), tf.string),
    )
    with pytest.raises(InputError, match="takes text"):
        open_file(text, 1, None)


def test_rounds_take_turns_and_are_summarised(monkeypatch):
    order = []
    # Four seconds a clock, then one; the processor's clock stands still.
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


def test_large_layers_are_what_they_are_called(tmp_path):
    for is_integer in (False, True):
        path = tmp_path / "x.tflite"
        with muted():
            path.write_bytes(dense_layers(is_integer))
        file = MeasuredFile(path)
        assert file.has_integer_kernels() is is_integer
        assert file.operations() == {"FULLY_CONNECTED": 4}
        assert not file.undelegated()
        assert file.matrix_operations() == 2 * 4 * 512 * 1024 * 1024


def test_memory_grows_with_the_weights(tmp_path, fixed):
    large = tmp_path / "large.tflite"
    with muted():
        large.write_bytes(dense_layers(False))
    size = large.stat().st_size / 1e6
    assert size > 16
    assert peak_megabytes(str(large), 1, None) > size
    assert peak_megabytes(fixed, 1, None) < size


def test_the_table_has_a_row_for_each(fixed):
    rows, rates = benchmark([fixed], [1, 2], [None], repeats=2)
    assert [row["threads"] for row in rows] == [1, 2]
    assert set(rates) == {
        (name, threads) for name in ("float32", "int8") for threads in (1, 2)
    }
    for row in rows:
        rate = row["giga_operations"] * 1e9 / (row["min_ms"] / 1e3)
        share = rate / rates["float32", row["threads"]]
        assert row["share_of_rate"] == pytest.approx(share)
    lines = table(rows, rates)
    assert lines[1].startswith("fixed.tflite ")
    assert "1 TOPK_V2" in lines[1]
    assert len(lines) == 1 + 2 + 1 + 4


def test_the_command_prints_and_writes(tmp_path, fixed):
    command = [sys.executable, "-m", "mobilebert_tf.tools.benchmark_tflite"]
    done = subprocess.run(
        [
            *command,
            f"--files={fixed}",
            "--lengths=7",
            "--repeats=2",
            "--profile",
            f"--json={tmp_path / 'x.json'}",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "fixed.tflite" in done.stdout
    content = json.loads((tmp_path / "x.json").read_text())
    assert content["rows"][0]["length"] == 7
    assert len(content["rates"]) == 2
    assert "TOPK_V2" in done.stdout.split("by themselves")[1]
    assert {one["name"] for one in content["profiles"]} >= {"TOPK_V2"}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--threads=none", "--threads: expected whole numbers from 1 on"),
        ("--threads=", "--threads: expected whole numbers from 1 on"),
        ("--files=", "--files: expected .tflite files, found none"),
    ],
)
def test_flags_that_say_nothing_are_one_line(flag, message, fixed):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mobilebert_tf.tools.benchmark_tflite",
            f"--files={fixed}",
            flag,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"benchmark_tflite.py: {message}")
