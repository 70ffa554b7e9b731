"""The TPU compiler: lowered and compiled steps, and what is refused."""

import dataclasses
import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import absent_tpu, tpu_compile
from benchmarks.absent_tpu import NotCompiled
from mobilebert_tf.errors import InputError

has_libtpu = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not has_libtpu, reason="libtpu is an extra")
TINY = tpu_compile.CompileOptions(
    preset="mobilebert_small",
    teacher_preset="ib_bert_small",
    max_seq_length=16,
    # The policy of all tests.
    mixed_precision="float32",
)


@pytest.mark.parametrize(
    "kind, slice_name",
    [("pretraining", "v5e:1x1"), ("transfer_block_00", "v5e:2x2")],
)
def test_steps_are_lowered_and_replicas_sum_their_gradients(kind, slice_name):
    options = dataclasses.replace(TINY, slice=slice_name)
    module = tpu_compile.lower_kind(kind, options, 2)
    assert module.startswith(b"ML\xefR")
    assert (b"all_reduce" in module) is (slice_name == "v5e:2x2")


def test_an_operation_that_xla_lacks_is_named():
    class Reading:
        def run(self, batches):
            (batch,) = batches
            return tf.py_function(np.sum, [batch["values"]], tf.float32)

    batch = {"values": tf.TensorSpec((2,), tf.float32)}
    with pytest.raises(NotCompiled, match="EagerPyFunc"):
        absent_tpu.lower_step(Reading(), batch, 1)


@pytest.mark.parametrize("name", ["v9:1x1", "v5e", "v5e:2by2", ""])
def test_unknown_slices_are_refused(name):
    with pytest.raises(InputError, match="v6e and a layout"):
        absent_tpu.parse_slice(name)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"step": ("transfer_block_03",)},
            "distillation, transfer_block_00 to transfer_block_02",
        ),
        (
            {"teacher_preset": "mobilebert_tiny"},
            "--preset: expected a student",
        ),
    ],
)
def test_impossible_steps_and_pairs_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tpu_compile.check(dataclasses.replace(TINY, **changes))


@pytest.mark.skipif(has_libtpu, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named():
    with pytest.raises(InputError, match=r"mobilebert_tf\[tpu\]"):
        absent_tpu.describe("v5e:1x1")


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "devices"), [("v3:2x2", 8), ("v5e:1x1", 1), ("v6e:2x4", 8)]
)
def test_slices(name, devices):
    assert len(absent_tpu.describe(name)) == devices
    assert absent_tpu.parse_slice(name)[2] == devices


@needs_libtpu
def test_a_slice_that_does_not_exist():
    with pytest.raises(InputError, match="--slice"):
        absent_tpu.describe("v5e:3x3x3x3")


@needs_libtpu
def test_a_product_of_known_cost():
    """A product of 256 x 512 and 512 x 128 by hand: 2 x 256 x 512 x 128."""
    weights = tf.Variable(tf.ones((512, 128)))

    class Product:
        def run(self, batches):
            weights.assign_add(tf.ones((512, 128)))
            return tf.matmul(batches[0]["values"], weights)

    batch = {"values": tf.TensorSpec((256, 512), tf.float32)}
    module = absent_tpu.lower_step(Product(), batch, 1)
    step = absent_tpu.compile_module(module, "v5e:1x1")
    products = 2 * 256 * 512 * 128
    assert products <= step.flops < 1.01 * products + 2 * 512 * 128
    # In place: the variable counts once, beside input, output and program.
    floats = 256 * 512 + 512 * 128 + 256 * 128
    assert 4 * floats <= step.fixed_bytes < 2 * 4 * floats


@needs_libtpu
@pytest.mark.parametrize("generation", absent_tpu.CHIPS)
def test_memory_is_what_the_compiler_allows(generation):
    """A program that just fits the table's figure compiles, a larger not."""
    chip = absent_tpu.CHIPS[generation]
    name = f"{generation}:{'x'.join(map(str, chip.host))}"
    devices = absent_tpu.describe(name)[:1]
    for share, fits in ((0.98, True), (1.02, False)):
        rows = int(share * chip.memory_gib * 2**30) // 4096
        module = f"""func.func public @main(%value: tensor<1024xf32>)
            -> tensor<{rows}x1024xf32> {{
          %0 = stablehlo.broadcast_in_dim %value, dims = [1]
              : (tensor<1024xf32>) -> tensor<{rows}x1024xf32>
          return %0 : tensor<{rows}x1024xf32>
        }}"""
        module = f"module @fill {{ {module} }}".encode()
        if fits:
            absent_tpu.compile_for(devices, module)
        else:
            with pytest.raises(NotCompiled, match="RESOURCE_EXHAUSTED"):
                absent_tpu.compile_for(devices, module)
