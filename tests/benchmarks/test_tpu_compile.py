"""The TPU compiler: steps that are lowered, searched, projected, compiled."""

import importlib.util

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import absent_tpu, tpu_compile
from benchmarks.absent_tpu import CompiledStep, NotCompiled
from mobilebert_tf.errors import InputError

has_libtpu = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not has_libtpu, reason="libtpu is an extra")
TINY = (
    "--preset=mobilebert_small",
    "--teacher_preset=ib_bert_small",
    "--max_seq_length=16",
)


def options(*arguments):
    return tpu_compile.parse_options([*TINY, *arguments])


def lower(kind, slice_name):
    """Lowers a step of a tiny pair under the policy of all tests."""
    tiny = options(f"--slice={slice_name}", "--mixed_precision=float32")
    return tpu_compile.lower_kind(kind, tiny, 2)


@pytest.mark.parametrize(
    "kind", ["pretraining", "transfer_block_00", "distillation"]
)
def test_every_step_is_lowered(kind):
    module = lower(kind, "v5e:1x1")
    assert module.startswith(b"ML\xefR") and b"all_reduce" not in module


def test_replicas_sum_their_gradients():
    assert b"all_reduce" in lower("transfer_block_00", "v5e:2x2")


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
    ("flag", "message"),
    [
        ("--step=transfer_block_03", "transfer_block_00 to transfer_block_0"),
        ("--step=pkt", "expected pretraining, distillation, transfer_block_00"),
        ("--teacher_preset=mobilebert_tiny", "--preset: expected a student"),
    ],
)
def test_bad_flags_end_in_one_line(flag, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tpu_compile.py", *TINY, flag])
    with pytest.raises(SystemExit) as ended:
        tpu_compile.main()
    assert ended.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


@pytest.mark.skipif(has_libtpu, reason="libtpu is installed")
def test_without_libtpu_the_extra_is_named():
    with pytest.raises(InputError, match=r"mobilebert_tf\[tpu\]"):
        absent_tpu.describe("v5e:1x1")


@pytest.mark.parametrize("limit", [1, 2, 3, 16, 17, 64])
def test_the_largest_batch_that_fits_is_found(limit):
    tried = []

    def compile_batch(batch):
        tried.append(batch)
        return CompiledStep(1.0, 1.0, 0, batch) if batch <= limit else None

    # A gibibyte a sequence of nominally 16: other limits surprise.
    best = tpu_compile.largest_batch(compile_batch, 2, 16)
    assert best == max(2, 2 ** int(np.log2(limit)))
    assert len(tried) == len(set(tried))
    assert tried[1:3] == {1: [], 16: [16, 32]}.get(limit, tried[1:3])


def project(steps, *arguments):
    """Projects steps by name and batch size of so many FLOP a sequence."""
    compiled = {
        (kind, batch): CompiledStep(flops * batch, 0.0, 0, 0)
        for (kind, batch), flops in steps.items()
    }
    rows = tpu_compile.project(compiled, options(*arguments))
    return {row[0]: row[1:] for row in rows}


def test_a_phase_is_its_steps_times_its_batch():
    rows = project({("pretraining", 8): 1e12, ("pretraining", 4): 9e12})
    # 500,000 steps of 4,096 sequences at 40 % of 197 TFLOP/s.
    days = 1e12 * 5e5 * 4096 / (197e12 * 0.4) / 86_400
    assert rows == {"pretraining": (500_000, 4096, 512, pytest.approx(days))}
    (half,) = project({("pretraining", 8): 1e12}, "--utilisation=0.8").values()
    assert half[3] == pytest.approx(days / 2)


@pytest.mark.parametrize(
    ("fits", "chips"), [(8, 512), (16, 256), (24, 256), (31, 256), (9999, 1)]
)
def test_the_slice_is_the_smallest_power_of_two_that_holds_the_batch(
    fits, chips
):
    assert project({("pretraining", fits): 1.0})["pretraining"][2] == chips


def test_two_devices_share_a_chip_of_v3():
    (row,) = project({("pretraining", 8): 1e12}, "--slice=v3:2x2").values()
    assert row[2] == 256


def test_transfer_costs_the_mean_of_its_stages():
    stages = tpu_compile.stage_names(options())
    # Each stage costs 2 more than the one before.
    costs = {stage: 1e12 * (1 + 2 * n) for n, stage in enumerate(stages)}
    ends = {(stages[0], 64): costs[stages[0]], (stages[-1], 8): 0.0}
    ends[stages[-1], 8] = costs[stages[-1]]
    _, batch, chips, days = project(ends)["progressive transfer"]
    mean = np.mean(list(costs.values()))
    expected = mean * 240_000 * 2048 / (197e12 * 0.4) / 86_400
    assert (batch, chips) == (2048, 256)
    assert days == pytest.approx(expected)
    # One stage tells nothing about the others.
    assert project({(stages[0], 64): 1e12}) == {}


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
            absent_tpu._compile(module, devices)
        else:
            with pytest.raises(NotCompiled, match="RESOURCE_EXHAUSTED"):
                absent_tpu._compile(module, devices)
