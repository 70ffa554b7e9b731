r"""Compiles train steps for a TPU on a machine without one.

    pip install 'mobilebert_tf[tpu]'
    python -m mobilebert_tf.tools.tpu_compile --slice=v5e:1x1 --batch_size=8

The steps are those that our loop runs, lowered for a replica of the slice and
compiled by libtpu. Printed are the operations and the memory that its compiler
reports, against the memory that it lets a program have; then, as a
projection, what the paper's schedule would take. A full-size step takes
minutes to tens of minutes of compilation on two cores.
"""

import dataclasses
import gc
import math
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import keras
from absl import flags

from mobilebert_tf import flags as shared
from mobilebert_tf.config import PRESETS, MobileBertConfig
from mobilebert_tf.distillation.distiller import check_pair
from mobilebert_tf.distillation.teacher import TEACHER_DTYPES
from mobilebert_tf.errors import InputError
from mobilebert_tf.tools.tpu_steps import (
    StepSettings,
    batch_spec,
    build_step,
    check_kind,
    counted_flops,
)
from mobilebert_tf.tools.tpu_table import Row, format_projection, format_rows
from mobilebert_tf.training.optimization import OPTIMIZERS
from mobilebert_tf.training.tpu_aot import (
    GIB,
    CompiledStep,
    NotCompiled,
    TpuSlice,
    lower_step,
)

FLAGS = flags.FLAGS

flags.DEFINE_list(
    "step",
    [
        "pretraining",
        "transfer_block_00",
        "transfer_block_11",
        "transfer_block_23",
        "distillation",
    ],
    "Steps to compile: pretraining (the teacher's), transfer_block_NN, "
    "distillation, fine_tuning (the student's).",
)
flags.DEFINE_string(
    "slice", "v5e:1x1", "Chips and their layout: v3:4x4, v5p:2x2x1, v6e:2x2."
)
flags.DEFINE_enum(
    "teacher_preset", "ib_bert_large", list(PRESETS), "The teacher."
)
flags.DEFINE_enum("preset", "mobilebert", list(PRESETS), "The student.")
flags.DEFINE_integer("max_seq_length", 512, "Length of all sequences.", 8)
flags.DEFINE_integer(
    "max_predictions_per_seq",
    None,
    "Masked pieces in a sequence; 15 % of --max_seq_length if not given.",
    1,
)
flags.DEFINE_integer("batch_size", 8, "Sequences a device of the slice.", 1)
flags.DEFINE_bool(
    "find_batch",
    False,
    "Find the largest power of two that fits, from --batch_size on. Each try "
    "is a compilation.",
)
flags.DEFINE_enum("optimizer", "lamb", list(OPTIMIZERS), "Optimizer.")
flags.DEFINE_enum(
    "mixed_precision",
    "bfloat16",
    ["float32", "bfloat16"],
    "What layers compute in; weights stay float32.",
)
flags.DEFINE_enum(
    "teacher_dtype",
    "bfloat16",
    TEACHER_DTYPES,
    "What the teacher of a pair computes in.",
)
flags.DEFINE_bool(
    "rematerialize",
    False,
    "Keep the inputs of trained blocks only, and compute the rest twice.",
)
flags.DEFINE_float(
    "utilisation",
    0.4,
    "Of the projection: share of a chip's peak that steps are taken to reach.",
    0.01,
    1.0,
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A row to be made, by a process of its own."""

    kind: str
    settings: StepSettings
    slice_name: str
    batch_size: int
    policy: str


def compile_task(task: Task) -> CompiledStep | str:
    """Makes, lowers and compiles a step; returns why not where it fails."""
    keras.config.set_dtype_policy(task.policy)
    tpu = TpuSlice(task.slice_name)
    step = build_step(task.kind, task.settings)
    batch = batch_spec(task.kind, task.settings, task.batch_size)
    try:
        module = lower_step(step, batch, tpu.num_replicas)
        # The weights have done their duty, and the compiler needs memory.
        del step
        keras.backend.clear_session()
        gc.collect()
        _say(f"{task.kind}: lowered, {len(module) / 1e6:.1f} MB; compiling ...")
        return tpu.compile(module)
    except NotCompiled as error:
        return str(error)


def compile_apart(task: Task) -> CompiledStep | str:
    """Calls `compile_task` in a process, which may crash, and ends."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(compile_task, task).result()
        except BrokenProcessPool:
            return "the compiler crashed, or was killed for its memory"


def make_row(task: Task, tpu: TpuSlice) -> Row:
    """Compiles a step with the batch that was asked for."""
    start = time.monotonic()
    _say(f"{task.kind}: {task.batch_size} sequences a device of {tpu.name} ...")
    outcome = compile_apart(task)
    compiled = None if isinstance(outcome, str) else outcome
    shown = f"{compiled.used_bytes / GIB:.2f} GiB" if compiled else outcome
    _say(f"{task.kind}: {shown} (after {time.monotonic() - start:.0f} s)")
    return Row(
        kind=task.kind,
        slice_name=tpu.name,
        chip=tpu.chip,
        batch_size=task.batch_size,
        tokens=task.batch_size * task.settings.max_seq_length,
        counted_flops=counted_flops(task.kind, task.settings),
        compiled=compiled,
        reason="" if compiled else outcome,
    )


def largest_row(make: Callable[[int], Row], first: int) -> Row:
    """Compiles with several batches; returns the row of the largest that fits.

    Tried are `first` times powers of two: next what the memory of `first`
    lets expect, then larger ones up to one that fails, then those between.

    Args:
        make: from a batch size to its row.
        first: returned as it is if even this does not fit.
    """
    best = make(first)
    if not best.compiled:
        return best
    fits, fails = 0, None
    power = max(1, int(math.log2(best.compiled.batches_that_fit)))
    while fails is None or fails - fits > 1:
        row = make(first << power)
        if row.compiled:
            fits, best = power, row
        else:
            fails = power
        power = fits + 1 if fails is None else (fits + fails) // 2
    return best


def compile_row(task: Task, tpu: TpuSlice) -> Row:
    """Compiles a step as --batch_size and --find_batch say."""

    def make(batch_size):
        return make_row(dataclasses.replace(task, batch_size=batch_size), tpu)

    if FLAGS.find_batch:
        return largest_row(make, task.batch_size)
    return make(task.batch_size)


def settings_from_flags() -> StepSettings:
    """Returns what the flags say of the steps.

    Raises:
        InputError: if the two models are no pair, or too short.
    """
    teacher = MobileBertConfig.from_preset(FLAGS.teacher_preset)
    student = MobileBertConfig.from_preset(FLAGS.preset)
    for config in (teacher, student):
        shared.check_max_seq_length(config)
    try:
        check_pair(student, teacher)
    except ValueError as error:
        raise InputError("--preset", "a student for it", error) from error
    predictions = FLAGS.max_predictions_per_seq or round(
        0.15 * FLAGS.max_seq_length
    )
    return StepSettings(
        teacher=teacher,
        student=student,
        max_seq_length=FLAGS.max_seq_length,
        max_predictions_per_seq=max(1, predictions),
        optimizer=FLAGS.optimizer,
        teacher_dtype=FLAGS.teacher_dtype,
        rematerialize=FLAGS.rematerialize,
    )


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)


def main(_) -> None:
    """Compiles step after step; prints the table and the projection."""
    settings = settings_from_flags()
    for kind in FLAGS.step:
        check_kind(kind, settings)
    tpu = TpuSlice(FLAGS.slice)
    mixed = FLAGS.mixed_precision == "bfloat16"
    policy = "mixed_bfloat16" if mixed else "float32"
    rows = []
    for kind in FLAGS.step:
        task = Task(kind, settings, tpu.name, FLAGS.batch_size, policy)
        rows.append(compile_row(task, tpu))
    print(f"\n{format_rows(rows)}")
    projection = format_projection(
        rows,
        FLAGS.utilisation,
        settings.max_seq_length,
        settings.student.num_hidden_layers,
    )
    if projection:
        print(f"\n{projection}")
    for row in rows:
        if not row.compiled:
            raise InputError(f"--step={row.kind}", "it to compile", row.reason)


if __name__ == "__main__":
    shared.run_script(main, goes_on=False)
