"""The private names that `compat` uses still do what it needs."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from google.protobuf.message import DecodeError

from mobilebert_tf import compat


def sgd_step(optimizer, gradient=1.0):
    """Applies a gradient to a variable of 1; returns the new value."""
    variable = keras.Variable(1.0)
    optimizer.build([variable])
    optimizer.apply([tf.constant(gradient)], [variable])
    return float(variable.value)


def test_deferred_variables_start_as_told():
    with keras.StatelessScope():
        dense = keras.layers.Dense(2)
        dense.build((None, 3))
        compat.set_initializer(dense.kernel, keras.initializers.Constant(7.0))
        compat.set_dtype(dense.kernel, "bfloat16")
    np.testing.assert_array_equal(dense.kernel.numpy(), np.full((3, 2), 7.0))
    assert dense.kernel.dtype == "bfloat16"
    assert dense.bias.dtype == "float32"


def test_seeds_are_changed_within_the_context_only():
    def dropped(seed):
        dropout = keras.layers.Dropout(0.5, seed=seed)
        return dropout(np.ones((4, 50)), training=True).numpy()

    with compat.changed_seeds(lambda seed: seed + np.array([4, 0])):
        changed = dropped(3)
    np.testing.assert_array_equal(changed, dropped(7))
    assert (changed != dropped(3)).any()


def test_update_hooks_see_all_gradients():
    @compat.with_update_hooks
    class Doubled(keras.optimizers.SGD):
        def clip(self, gradients, keras_clip):
            return [2.0 * gradient for gradient in keras_clip(gradients)]

        def update(self, gradients, variables, learning_rate, keras_update):
            keras_update(gradients, variables, 10.0 * learning_rate)

    # A gradient of 4, clipped to 1, doubled, at ten times the rate.
    assert sgd_step(Doubled(0.01, clipvalue=1.0), 4.0) == pytest.approx(0.8)


def test_a_keras_variable_and_its_tensorflow_variable_share_a_key():
    optimizer = keras.optimizers.SGD()
    first, second = keras.Variable(1.0), keras.Variable(1.0)
    key = compat.variable_key(optimizer, first)
    assert key == compat.variable_key(optimizer, first.value)
    assert key != compat.variable_key(optimizer, second)


def test_gradients_are_left_unsummed():
    class Summing(keras.optimizers.SGD):
        def _all_reduce_sum_gradients(self, grads_and_vars):
            raise RuntimeError("summed")

    with pytest.raises(RuntimeError, match="summed"):
        sgd_step(Summing(0.5))
    optimizer = Summing(0.5)
    compat.leave_gradients_unsummed(optimizer)
    assert sgd_step(optimizer) == 0.5


def test_an_object_graph_has_the_names_of_variables(tmp_path):
    checkpoint = tf.train.Checkpoint(path=tf.Variable(1.0, name="its_name"))
    prefix = checkpoint.write(str(tmp_path / "ckpt"))
    reader = tf.train.load_checkpoint(prefix)
    graph = compat.object_graph(
        reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
    )
    names = {
        attribute.checkpoint_key: attribute.full_name
        for node in graph.nodes
        for attribute in node.attributes
    }
    assert names["path/.ATTRIBUTES/VARIABLE_VALUE"] == "its_name"
    with pytest.raises(DecodeError):
        compat.object_graph(b"\xff")


class TwoGraphs(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([1, 4])])
    def add(self, x):
        return {"y": x + 1.5}

    @tf.function(input_signature=[tf.TensorSpec([1, 8])])
    def multiply(self, x):
        return {"y": x * 2.5}


def test_operations_and_graphs_of_a_tflite_file(tmp_path):
    module, folder = TwoGraphs(), str(tmp_path / "model")
    signatures = {"add": module.add, "multiply": module.multiply}
    tf.saved_model.save(module, folder, signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    interpreter = Interpreter(model_content=converter.convert())
    interpreter.allocate_tensors()
    operations = compat.operation_details(interpreter)
    (first,) = (one for one in operations if one["op_name"] != "DELEGATE")
    assert first["op_name"] == "ADD"
    (output,) = interpreter.get_output_details()
    assert list(first["outputs"]) == [output["index"]]
    runners = map(interpreter.get_signature_runner, ("add", "multiply"))
    assert [compat.graph_index(runner) for runner in runners] == [0, 1]


# Prints as TensorFlow does, to the file descriptor, more than a pipe holds.
FAKE_TENSORFLOW = """
import os
os.write(2, b"noise\\n" * 20_000)
class config:
    def list_physical_devices(kind):
        os.write(2, b"noise about GPUs\\n")
        return []
if "FAIL" in os.environ:
    raise ImportError("no such CPU")
"""
IMPORT_FAKE = """
import os, subprocess, sys, mobilebert_tf
from mobilebert_tf import compat
compat._NVIDIA_DEVICE = os.environ.get("DRIVER", "/nowhere")
compat.mute_tensorflow("SHOW" not in os.environ)
try:
    import tensorflow
except ImportError as error:
    print(error)
print("in", tensorflow.__file__ if "tensorflow" in sys.modules else "vain")
os.system("echo of a child >&2")
if sys.stderr:
    print("after", file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("variables", "redirection", "noise"),
    [
        ({}, "", []),
        ({}, "2>&-", None),
        ({"FAIL": "1"}, "", ["noise"]),
        ({"FAIL": "1"}, "2>&-", None),
        ({"SHOW": "1"}, "", ["noise"]),
        ({"DRIVER": "/dev/null"}, "", ["noise", "noise about GPUs"]),
        # There is nowhere to keep it.
        ({"TMPDIR": "/nowhere"}, "", []),
    ],
)
def test_importing_tensorflow_is_silent_unless_it_fails(
    variables, redirection, noise, tmp_path
):
    package = tmp_path / "tensorflow" / "__init__.py"
    package.parent.mkdir()
    package.write_text(FAKE_TENSORFLOW)
    path = f"{tmp_path}:{Path(__file__).parents[1]}"
    done = subprocess.run(
        f"{sys.executable} -c '{IMPORT_FAKE}' {redirection}",
        shell=True,
        env=os.environ | variables | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    end = "vain" if "FAIL" in variables else str(package)
    assert done.stdout.endswith(f"in {end}\n") and done.returncode == 0
    printed = list(dict.fromkeys(done.stderr.splitlines()))
    wanted = [] if noise is None else [*noise, "of a child", "after"]
    assert printed == wanted


@pytest.mark.parametrize(("per_tensor", "number"), [(False, 64), (True, 1)])
def test_a_kernel_gets_one_scale(per_tensor, number):
    kernel = tf.constant(
        np.random.default_rng(0).normal(size=(64, 64)), tf.float32
    )
    multiply = tf.function(
        lambda x: x @ kernel, input_signature=[tf.TensorSpec([1, 64])]
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [multiply.get_concrete_function()], multiply
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if per_tensor:
        compat.quantize_per_tensor(converter)
    interpreter = Interpreter(model_content=converter.convert())
    scales = [
        len(detail["quantization_parameters"]["scales"])
        for detail in interpreter.get_tensor_details()
    ]
    assert max(scales) == number
