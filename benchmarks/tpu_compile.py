r"""Compiles train steps for a TPU on a machine without one.

    pip install 'mobilebert_tf[tpu]'
    python -m benchmarks.tpu_compile --slice=v5e:1x1 --batch_size=8

Lowers the steps that our loop runs, as a replica of a slice would run them,
sums over replicas included, and compiles them with libtpu, which needs no chip.
Nothing is run, so there are no times: printed are the operations and the memory
that the compiler reports, against the memory that it lets a program have, or
why it refuses the step. A full-size step takes minutes of one core, and
distillation 8 GB of memory. The smallest run:
`--preset=mobilebert_small --teacher_preset=ib_bert_small --step=pretraining`.
"""

import contextlib
import dataclasses
import io
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

from benchmarks.absent_tpu import (
    CompiledStep,
    NotCompiled,
    compile_module,
    describe,
    lower_step,
    parse_slice,
)
from benchmarks.instruments import apart, random_batch, settings, start
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.distillation.distiller import check_pair
from mobilebert_tf.distillation.schedule import TransferStage, TransferWeights
from mobilebert_tf.distillation.teachers import TEACHER_DTYPES, build_teacher
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.options import Options, option
from mobilebert_tf.presets import PRESETS
from mobilebert_tf.training import distillation
from mobilebert_tf.training.optimizers import OPTIMIZERS, build_optimizer
from mobilebert_tf.training.options import OptimizerOptions
from mobilebert_tf.training.pretraining import pretraining_loss
from mobilebert_tf.training.step import TrainStep

GIB = 2.0**30
# Part of a step's learning rate schedule; changes no shape.
_NUM_STEPS = 1000


@dataclasses.dataclass(frozen=True)
class CompileOptions(Options):
    """Which steps, for which slice."""

    step: tuple[str, ...] = option(
        (
            *("pretraining", "transfer_block_00", "transfer_block_23"),
            "distillation",
        ),
        "Steps to compile; pretraining is the teacher's.",
    )
    slice: str = option("v5e:1x1", "Chips and layout, e.g. v5p:2x2x1.")
    teacher_preset: str = option(
        "ib_bert_large", "The teacher.", choices=list(PRESETS)
    )
    preset: str = option("mobilebert", "The student.", choices=list(PRESETS))
    max_seq_length: int = option(512, "Sequence length.", min=1)
    batch_size: tuple[int, ...] = option((8,), "Sequences a device.", min=1)
    optimizer: str = option("lamb", "Optimizer.", choices=list(OPTIMIZERS))
    mixed_precision: str = option(
        "bfloat16",
        "What layers compute in; weights stay float32.",
        choices=("float32", "bfloat16"),
    )
    teacher_dtype: str = option(
        "bfloat16", "The teacher's weights.", choices=list(TEACHER_DTYPES)
    )


def stage_names(options: CompileOptions) -> list[str]:
    """Returns the steps of progressive transfer, one a block."""
    student = MobileBertConfig.from_preset(options.preset)
    return [f"transfer_block_{n:02d}" for n in range(student.num_hidden_layers)]


def build_step(kind: str, options: CompileOptions) -> TrainStep:
    """Builds a step with freshly initialised models and optimizer.

    Args:
        kind: `pretraining` (the teacher's), `transfer_block_NN` or
            `distillation`.
        options: of the command line.
    """
    config = MobileBertConfig.from_preset(options.teacher_preset)
    optimizer = OptimizerOptions(options.optimizer, bias_correction=False)
    if kind == "pretraining":
        model = MobileBertForPretraining(config)
        return TrainStep(
            pretraining_loss(model),
            model.trainable_variables,
            build_optimizer(optimizer, 1e-3, _NUM_STEPS),
        )
    if kind == "distillation":
        stage = TransferStage(kind, _NUM_STEPS, pretraining_distillation=True)
    else:
        block = stage_names(options).index(kind)
        stage = TransferStage(kind, _NUM_STEPS, (block,))
    # Hides the list of what is copied from the teacher.
    with contextlib.redirect_stdout(io.StringIO()):
        distiller = distillation.build_distiller(
            MobileBertConfig.from_preset(options.preset),
            build_teacher(config, options.teacher_dtype),
            TransferWeights(),
            [stage],
        )
    return distillation.build_stage(
        distiller, stage, learning_rate=1e-3, optimizer=optimizer
    )


def lower_kind(kind: str, options: CompileOptions, batch: int) -> bytes:
    """Builds and lowers a step for `batch` sequences a device."""
    is_mixed = options.mixed_precision == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16" if is_mixed else "float32")
    length = options.max_seq_length
    arrays = random_batch(2, batch, length, max(1, round(0.15 * length)))
    spec = {
        name: tf.TensorSpec(array.shape, array.dtype)
        for name, array in arrays.items()
    }
    num_replicas = parse_slice(options.slice)[2]
    return lower_step(build_step(kind, options), spec, num_replicas)


def write_lowered(path: str, kind: str, options: dict, batch: int) -> str:
    """Lowers a step into a file; returns why not, or nothing."""
    try:
        lowered = lower_kind(kind, CompileOptions(**options), batch)
    except NotCompiled as error:
        return str(error)
    Path(path).write_bytes(lowered)
    return ""


def compile_lowered(path: str, slice_name: str) -> CompiledStep | str:
    """Compiles such a file, or returns why not."""
    try:
        return compile_module(Path(path).read_bytes(), slice_name)
    except NotCompiled as error:
        return str(error)


def compile_kind(
    kind: str, options: CompileOptions, batch: int
) -> CompiledStep | None:
    """Compiles a step and prints its row; returns None if it is refused.

    Lowering and compiling run in processes of their own: the compiler gets
    the memory that the weights had, and either may crash.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/step"
        try:
            result = apart(
                write_lowered, path, kind, settings(options), batch
            ) or apart(compile_lowered, path, options.slice)
        except subprocess.CalledProcessError:
            result = "crashed, or killed for its memory"
    if isinstance(result, str):
        print(f"{kind:<18} {batch:>9}  {result}", flush=True)
        return None
    step = CompiledStep(*result)
    used = (step.fixed_bytes + step.temporary_bytes) / GIB
    print(
        f"{kind:<18} {batch:>9} {step.flops / 1e9:>9,.0f}"
        f" {step.flops / batch / options.max_seq_length / 1e6:>12,.1f}"
        f" {step.bytes_accessed / 1e9:>9,.1f}"
        f" {used:>9.2f} / {parse_slice(options.slice)[0].memory_gib:.2f}",
        flush=True,
    )
    return step


def check(options: CompileOptions) -> None:
    """Checks the command line.

    Raises:
        InputError: for steps, models or a slice that cannot be.
    """
    student = MobileBertConfig.from_preset(options.preset)
    teacher = MobileBertConfig.from_preset(options.teacher_preset)
    try:
        check_pair(student, teacher)
    except ValueError as error:
        raise InputError("--preset", "a student for it", error) from error
    *known, last = ["pretraining", "distillation", *stage_names(options)]
    for kind in options.step:
        if kind not in [*known, last]:
            expected = f"{', '.join(known[:3])} to {last}"
            raise InputError("--step", expected, kind)
    describe(options.slice)


def main(options: CompileOptions) -> None:
    """Compiles step after step; prints the table and the projection."""
    check(options)
    print(
        f"{'step':<18} sequences     GFLOP  MFLOP/token  GB moved"
        "  HBM used / available, GiB"
    )
    steps = [
        compile_kind(kind, options, batch)
        for kind in options.step
        for batch in options.batch_size
    ]
    sys.exit(None in steps)


if __name__ == "__main__":
    start(main, CompileOptions, __doc__)
