"""Good files predict in any batching; bad files are named and refused."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.config import INPUT_NAMES, inputs_of
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.runtime import TFLiteModel
from tests.mobile.conftest import LENGTH, take


def test_batches_and_arrays_give_the_same(files, test_arrays):
    model = TFLiteModel(files["int8"], num_threads=2)
    assert model.max_seq_length == LENGTH
    rows = inputs_of(take(test_arrays, slice(0, 10)))
    batches = [take(rows, slice(0, 7)), take(rows, slice(7, 10))]
    whole = model.predict(rows)
    assert whole.shape == (10, 2)
    np.testing.assert_array_equal(model.predict(iter(batches)), whole)


def test_predicting_needs_no_tensorflow(files):
    code = f"""
import sys
sys.modules['tensorflow'] = sys.modules['keras'] = None
import numpy as np
from mobilebert_tf.mobile.runtime import TFLiteModel
ones = np.ones((1, {LENGTH}), np.int32)
names = 'input_ids', 'input_mask', 'segment_ids'
model = TFLiteModel({str(files["int8"])!r})
print(model.predict(dict.fromkeys(names, ones)).shape)
"""
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "(1, 2)\n"


def test_latency_is_a_median_in_milliseconds(files, monkeypatch):
    model = TFLiteModel(files["float32"])
    # Each inference takes 2 ms by this clock, but for one of a second.
    ticks = iter([0.0, 0.002, 1.0, 1.002, 2.0, 3.0])
    monkeypatch.setattr(
        "mobilebert_tf.mobile.runtime.time.perf_counter",
        lambda: next(ticks),
    )
    assert model.latency_ms(repeats=3) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda ids: dict.fromkeys(INPUT_NAMES, ids[:, 1:] * 0),
            f"{LENGTH} long",
        ),
        (lambda ids: {"input_ids": ids[0]}, r"must be \[B, S\]"),
        (lambda ids: {"input_mask": ids[:1] * 0}, r"input_mask must be \[B=2"),
        (lambda ids: {"input_ids": ids + 0.5}, "input_ids must be whole"),
        (lambda ids: {"attention_mask": ids}, "input_mask must be given once"),
        (lambda ids: {"labels": ids[:, 0]}, "Received: labels"),
        (lambda ids: {"input_ids": ids - 2}, "Received: -2 to "),
        (
            lambda ids: {"input_ids": ids.astype("int64") + 2**32},
            "whole numbers",
        ),
        (lambda ids: {"input_ids": ids + 1000}, "of the file's tables"),
    ],
)
def test_inputs_that_a_file_cannot_take_are_named(
    change, message, files, test_arrays
):
    model = TFLiteModel(files["float32"])
    rows = inputs_of(take(test_arrays, slice(2)))
    with pytest.raises(ValueError, match=message):
        model.predict(rows | change(rows["input_ids"]))


def test_missing_inputs_and_no_examples_are_refused(files, test_arrays):
    model = TFLiteModel(files["float32"])
    with pytest.raises(ValueError, match="Missing: input_mask, segment_ids"):
        model.predict({"input_ids": test_arrays["input_ids"]})
    with pytest.raises(ValueError, match="no example"):
        model.predict([])


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(kept, files, tmp_path):
    content = files["int8"].read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError, match=r"cut\.tflite: expected"):
        TFLiteModel(path)


def test_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        TFLiteModel(tmp_path / "absent.tflite")
    with pytest.raises(InputError, match="directory"):
        TFLiteModel(tmp_path)
    path = tmp_path / "text.tflite"
    path.write_text("not a flatbuffer")
    with pytest.raises(InputError, match="another kind of file"):
        TFLiteModel(path)


def test_a_file_with_other_inputs_is_refused(tmp_path):
    function = tf.function(
        lambda x: {"y": x + 1.0}, input_signature=[tf.TensorSpec((1, 4))]
    )
    module = tf.Module()
    module.function = function
    folder = str(tmp_path / "saved")
    tf.saved_model.save(module, folder, signatures=function)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    path = tmp_path / "other.tflite"
    path.write_bytes(converter.convert())
    with pytest.raises(InputError, match="signatures of"):
        TFLiteModel(path)
