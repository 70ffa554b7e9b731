"""Each kind of operation is found, counted and timed by itself."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.mobile.export import export_tflite, muted
from mobilebert_tf.mobile.measurement import MeasuredFile
from mobilebert_tf.mobile.operation_profile import (
    operation_times,
    totals_by_type,
)
from tests.mobile.networks import classifier, small_config


def write(path, function, shape) -> str:
    module = tf.Module()
    module.function = tf.function(
        function, input_signature=[tf.TensorSpec(shape)]
    )
    with muted():
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [module.function.get_concrete_function()], module
        )
        path.write_bytes(converter.convert())
    return str(path)


def test_kinds_are_counted_and_the_slowest_come_first(tmp_path):
    wide = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)

    def network(rows):
        for _ in range(3):
            rows = tf.tanh(rows @ wide)
        return tf.tanh(rows[:, :2]) @ wide[:2, :3]

    path = write(tmp_path / "x.tflite", network, (256, 256))
    rows = operation_times(path, repeats=3)
    assert [row.total for row in rows] == sorted(
        (row.total for row in rows), reverse=True
    )
    counts = collections.Counter()
    for row in rows:
        counts[row.name] += row.count
    assert counts == MeasuredFile(path).operations()
    dense = [row for row in rows if row.name == "FULLY_CONNECTED"]
    assert {row.shapes: row.count for row in dense} == {
        "(256, 256) (256, 256) -> (256, 256)": 3,
        "(256, 2) (3, 2) -> (256, 3)": 1,
    }
    assert all(row.milliseconds > 0 for row in rows)
    totals = totals_by_type(rows)
    assert totals["TANH"][0] == 4
    assert totals["FULLY_CONNECTED"][1] == pytest.approx(
        sum(row.total for row in dense)
    )


@pytest.mark.parametrize("kind", ["float16", "dynamic"])
def test_weights_stay_constants(tmp_path, kind):
    path = tmp_path / "x.tflite"
    model = classifier(
        small_config(num_hidden_layers=1), np.random.default_rng(0)
    )
    export_tflite(model, kind, path, max_seq_length=8)
    counts = collections.Counter()
    for row in operation_times(path, repeats=1):
        counts[row.name] += row.count
    operations = MeasuredFile(path).operations()
    # Delegates widen float16 weights once, before the first inference.
    assert operations.pop("DEQUANTIZE", 0) >= 20 * (kind == "float16")
    for name, count in operations.items():
        assert counts[name] == count, name


def test_choices_and_places_are_timed_too(tmp_path):
    def network(rows):
        rows = tf.where(tf.sin(rows) > 0.5, rows, 2.0 * rows)
        # From a table of one row: any other place would not be there.
        return tf.gather(rows[:1], tf.cast(rows[:, 0], tf.int32) * 0)

    path = write(tmp_path / "x.tflite", network, (4, 3))
    rows = operation_times(path, repeats=1)
    names = {row.name for row in rows}
    assert names == MeasuredFile(path).operations().keys()
    # Truth values, and places in a table, which no file has from the start.
    assert {"GREATER", "GATHER"} < names
    # Rows are multiplied in float, places in integers.
    for row in rows:
        if row.name in ("MUL", "GATHER"):
            is_float = row.name == "MUL" and row.shapes.startswith("(4, 3)")
            assert row.is_delegated == is_float, row


def test_open_shapes_are_refused(tmp_path):
    path = write(tmp_path / "x.tflite", tf.tanh, (None, 3))
    with pytest.raises(ValueError, match="left open"):
        operation_times(path)
