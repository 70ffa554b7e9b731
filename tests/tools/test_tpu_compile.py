"""The TPU compiler: what it prints, what it asks for, and, with libtpu, it."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.tools import tpu_compile, tpu_steps, tpu_tasks
from mobilebert_tf.tools.tpu_steps import StepSettings
from mobilebert_tf.tools.tpu_table import format_rows
from mobilebert_tf.training import tpu_aot
from mobilebert_tf.training.tpu_aot import DoesNotFit, NotCompiled
from tests.tools.tpu_examples import GIB, compiled, row

REPOSITORY = Path(__file__).resolve().parents[2]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is an extra"
)
FULL = StepSettings(
    MobileBertConfig.from_preset("ib_bert_large"),
    MobileBertConfig.from_preset("mobilebert"),
    512,
    77,
)
TINY = MobileBertConfig.from_preset(
    "mobilebert_small", vocab_size=64, num_hidden_layers=1
)
TINY_TEACHER = MobileBertConfig.from_preset(
    "ib_bert_small", vocab_size=64, num_hidden_layers=1
)
SMALL = StepSettings(TINY_TEACHER, TINY, 16, 2)


def run_tool(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "mobilebert_tf.tools.tpu_compile", *arguments],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=REPOSITORY,
    )


# Messages as libtpu 0.0.42 words them.
def test_a_lack_of_memory_is_told_from_other_errors():
    error = tpu_aot.compiler_error(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory "
        "required for HLO temporaries (512.00G) exceeds available HBM (15.75G)."
    )
    assert isinstance(error, DoesNotFit)
    assert error.available == round(15.75 * GIB)
    error = tpu_aot.compiler_error(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory"
        " in memory space hbm. Used 20.10G of 15.75G hbm. Exceeded hbm capacity"
    )
    assert error.available == round(15.75 * GIB)
    other = tpu_aot.compiler_error("UNIMPLEMENTED: no float8\nstack trace")
    assert type(other) is NotCompiled and str(other).endswith("no float8")


@pytest.mark.parametrize(
    ("text", "size"),
    [("7", 7), ("1.5K", 1536), ("2M", 2**21), ("3.0G", 3 << 30)],
)
def test_sizes(text, size):
    assert tpu_aot.parse_size(text) == size


def test_memory_adds_up_and_tells_what_would_fit():
    step = compiled()
    assert step.used_bytes == 5.5 * GIB
    assert step.batches_that_fit == pytest.approx((16 - 2.5) / 3)
    assert compiled(temporary_bytes=20 * GIB).batches_that_fit == 1.0


def test_the_table_shows_each_step_and_each_failure():
    shown = format_rows(
        [row(), row("distillation", compiled=None, reason="no such op")]
    )
    lines = shown.splitlines()
    assert lines[2].split()[:4] == ["pretraining", "v5e:1x1", "tensorflow", "8"]
    # 4e12 operations for 8 x 512 tokens.
    assert "4,000" in lines[2] and "976.6" in lines[2] and "900.0" in lines[2]
    assert "5.50 / 16.00" in lines[2] and "61 s" in lines[2]
    assert "did not compile:" in lines
    assert lines[-1].strip() == (
        "distillation on v5e:1x1 by way of tensorflow with 8 sequences a "
        "device: no such op"
    )


def test_what_jax_leaves_out_is_said_where_it_is_shown():
    assert "update that is not finite" in format_rows([row(backend="jax")])
    assert "not finite" not in format_rows([row()])


def test_two_devices_share_a_chip_of_v3():
    assert row(slice_name="v3:2x2").chip_batch_size == 16


def test_counted_operations_of_a_block():
    """By hand: every matrix product of both blocks, at length 512."""
    student = 2 * 512 * 128 + 128 * 512  # both bottlenecks, output bottleneck
    student += 2 * 128 * 128 + 512 * 128  # query and key, value
    student += 2 * 512 * 128 + 128 * 128  # logits and mixing, output
    student += 4 * 2 * 128 * 512
    assert tpu_steps.block_flops(FULL.student, 512) == 2 * student
    teacher = 2 * 512 * 1024 + 3 * 512 * 1024 + 2 * 512 * 1024 + 1024 * 1024
    teacher += 2 * 1024 * 4096
    assert tpu_steps.block_flops(FULL.teacher, 512) == 2 * teacher


def test_counted_operations_of_steps():
    student = tpu_steps.block_flops(FULL.student, 512)
    teacher = tpu_steps.block_flops(FULL.teacher, 512)
    embedding = 2 * 3 * 128 * 512
    first = tpu_steps.counted_flops("transfer_block_00", FULL)
    assert first == 3 * student + teacher + 2 * embedding
    last = tpu_steps.counted_flops("transfer_block_23", FULL)
    assert last == 24 * (3 * student + teacher) + 2 * embedding
    head = 2 * 512 * (512 + 30522) * 77 / 512
    assert tpu_steps.counted_flops("distillation", FULL) == pytest.approx(
        last + 2 * embedding + 4 * head
    )


@pytest.mark.parametrize("kind", ["transfer_block_24", "transfer", "pkt"])
def test_unknown_steps_are_refused(kind):
    with pytest.raises(InputError, match="transfer_block_23"):
        tpu_steps.check_kind(kind, FULL)


@pytest.mark.parametrize(
    "kind",
    ["pretraining", "transfer_block_00", "distillation", "fine_tuning"],
)
def test_every_step_is_lowered(kind):
    step = tpu_steps.build_step(kind, SMALL).train_step
    batch = tpu_steps.batch_spec(kind, SMALL, 2)
    assert b"all_reduce" not in tpu_aot.lower_step(step, batch, 1)


def test_replicas_sum_their_gradients():
    settings = dataclasses.replace(SMALL, rematerialize=True)
    step = tpu_steps.build_step("fine_tuning", settings).train_step
    batch = tpu_steps.batch_spec("fine_tuning", settings, 2)
    assert b"all_reduce" in tpu_aot.lower_step(step, batch, 4)


def test_what_cannot_be_lowered_is_named():
    class Reading:
        def run(self, batches):
            (batch,) = batches
            return tf.py_function(np.sum, [batch["values"]], tf.float32)

    batch = {"values": tf.TensorSpec((2,), tf.float32, "values")}
    with pytest.raises(NotCompiled, match="EagerPyFunc"):
        tpu_aot.lower_step(Reading(), batch, 1)


@pytest.mark.parametrize("name", ["v9:1x1", "v5e", "v5e:2by2", ""])
def test_unknown_slices_are_refused(name):
    with pytest.raises(InputError, match="v6e and a layout"):
        tpu_aot.TpuSlice(name)


def test_bad_flags_end_in_one_line():
    done = run_tool("--step=transfer_block_99")
    assert done.returncode == 2
    assert "transfer_block_23" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("backends", "rematerialized", "said"),
    [
        (["tensorflow", "torch"], False, "tensorflow, jax, found tensorflow,t"),
        ([], False, "tensorflow, jax"),
        (["jax"], True, "tensorflow alone with --rematerialize, found jax"),
    ],
)
def test_backends_that_cannot_be_are_refused(backends, rematerialized, said):
    with pytest.raises(InputError, match=said):
        tpu_compile.check_backends(backends, rematerialized)


def rows_up_to(limit):
    """A stand-in for compilations: 1 GiB a sequence, and what was tried."""
    tried = []

    def make(batch_size):
        tried.append(batch_size)
        step = compiled(
            argument_bytes=0,
            program_bytes=0,
            temporary_bytes=batch_size * GIB,
        )
        fits = batch_size <= limit
        return row(batch_size=batch_size, compiled=step if fits else None)

    return make, tried


@pytest.mark.parametrize("limit", [2, 3, 16, 17, 64])
def test_the_largest_batch_that_fits_is_found(limit):
    make, tried = rows_up_to(limit)
    best = tpu_tasks.largest_row(make, 2)
    assert best.batch_size == 2 ** int(np.log2(limit))
    assert best.compiled and len(tried) == len(set(tried))


def test_the_first_guess_is_what_memory_lets_expect():
    make, tried = rows_up_to(16)
    tpu_tasks.largest_row(make, 2)
    assert tried == [2, 16, 32]


def test_a_first_batch_that_does_not_fit_is_the_row():
    make, tried = rows_up_to(1)
    assert tpu_tasks.largest_row(make, 2).compiled is None
    assert tried == [2]


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is not None, reason="libtpu is here"
)
def test_without_libtpu_the_extra_is_named():
    done = run_tool("--slice=v5e:1x1")
    assert done.returncode == 2
    assert "mobilebert_tf[tpu]" in done.stderr.splitlines()[-1]


@needs_libtpu
@pytest.mark.parametrize(
    ("name", "devices", "gib"),
    [("v3:2x2", 8, 15.48), ("v5e:1x1", 1, 15.75), ("v6e:2x4", 8, 31.25)],
)
def test_slices(name, devices, gib):
    tpu = tpu_aot.TpuSlice(name)
    assert tpu.num_replicas == devices
    assert tpu.available_bytes == pytest.approx(gib * GIB)


@needs_libtpu
def test_a_slice_that_does_not_exist():
    with pytest.raises(InputError, match="--slice"):
        tpu_aot.TpuSlice("v5e:3x3x3x3")


@needs_libtpu
def test_a_product_of_known_cost():
    """A product of 256 x 512 and 512 x 128 by hand: 2 x 256 x 512 x 128."""
    weights = tf.Variable(tf.ones((512, 128)))

    class Product:
        def run(self, batches):
            weights.assign_add(tf.ones((512, 128)))
            return tf.matmul(batches[0]["values"], weights)

    batch = {"values": tf.TensorSpec((256, 512), tf.float32, "values")}
    module = tpu_aot.lower_step(Product(), batch, 1)
    step = tpu_aot.TpuSlice("v5e:1x1").compile(module)
    products = 2 * 256 * 512 * 128
    assert products <= step.flops < 1.01 * products + 2 * 512 * 128
    # In place: the variable counts once, beside input and output.
    floats = 256 * 512 + 512 * 128 + 256 * 128
    assert step.argument_bytes == pytest.approx(4 * floats, rel=0.01)


@needs_libtpu
@pytest.mark.slow
def test_both_ways_to_a_step_need_the_same_operations(tmp_path):
    flags = [
        "--teacher_preset=ib_bert_small",
        "--preset=mobilebert_small",
        "--max_seq_length=32",
        "--step=transfer_block_00",
        "--backends=tensorflow,jax",
        f"--rows_file={tmp_path / 'rows.json'}",
    ]
    done = run_tool(*flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    ours, jax = (row["compiled"]["flops"] for row in rows)
    assert [row["backend"] for row in rows] == ["tensorflow", "jax"]
    assert jax == pytest.approx(ours, rel=0.1)
    # What was made is shown again, without a compilation.
    again = run_tool(*flags)
    assert again.returncode == 0 and "compiling" not in again.stdout
    assert done.stdout.endswith(again.stdout)
