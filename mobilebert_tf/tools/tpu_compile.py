r"""Compiles train steps for a TPU on a machine without one.

    pip install 'mobilebert_tf[tpu]'
    python -m mobilebert_tf.tools.tpu_compile --slice=v5e:1x1 --batch_size=8

The steps are those that our loop runs, lowered for a replica of the slice and
compiled by libtpu. Printed are the operations and the memory that its compiler
reports, against the memory that it lets a program have; then, as a
projection, what the paper's schedule would take. A full-size step takes
minutes to tens of minutes of compilation on two cores.

With --backends=tensorflow,jax each step is compiled a second time, from the
same models, losses and optimizer by way of JAX: a measure of what the way
through TensorFlow costs.
"""

import dataclasses
import importlib.metadata
from collections.abc import Sequence

from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.config import PRESETS, MobileBertConfig
from mobilebert_tf.distillation.distiller import check_pair
from mobilebert_tf.distillation.teachers import TEACHER_DTYPES
from mobilebert_tf.errors import InputError
from mobilebert_tf.tools.tpu_projection import format_projection
from mobilebert_tf.tools.tpu_rows import RowFile
from mobilebert_tf.tools.tpu_steps import StepSettings, check_kind
from mobilebert_tf.tools.tpu_table import JAX, TENSORFLOW, Row, format_rows
from mobilebert_tf.tools.tpu_tasks import Task, largest_row, make_row
from mobilebert_tf.training.optimizers import OPTIMIZERS
from mobilebert_tf.training.tpu_aot import TpuSlice

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
flags.DEFINE_list(
    "backends",
    [TENSORFLOW],
    "Ways to a step: tensorflow, our loop's; jax, the same for one device "
    "without the loop. With the batch of the first.",
)
flags.DEFINE_string(
    "rows_file",
    None,
    "JSON file that keeps every row; those it holds are shown, and are not "
    "made again.",
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


def compile_rows(task: Task, tpu: TpuSlice, file: RowFile) -> list[Row]:
    """Compiles a step as --batch_size, --find_batch and --backends say."""

    def make(batch_size, backend=FLAGS.backends[0]):
        changed = dataclasses.replace(
            task, batch_size=batch_size, backend=backend
        )
        return file.get(
            lambda: make_row(changed, tpu),
            kind=task.kind,
            backend=backend,
            slice_name=task.slice_name,
            batch_size=batch_size,
        )

    if FLAGS.find_batch:
        first = largest_row(make, task.batch_size)
    else:
        first = make(task.batch_size)
    others = [make(first.batch_size, name) for name in FLAGS.backends[1:]]
    return [first, *others]


def open_rows(settings: StepSettings, policy: str) -> RowFile:
    """Opens --rows_file, for rows that share all of these settings."""
    return RowFile(
        FLAGS.rows_file,
        {
            "libtpu": importlib.metadata.version("libtpu"),
            "mixed_precision": policy,
            **dataclasses.asdict(settings),
        },
    )


def check_backends(backends: Sequence[str], rematerialized: bool) -> None:
    """Checks --backends.

    Raises:
        InputError: if there is no such way, or not with the other flags.
    """
    if not backends or set(backends) - {TENSORFLOW, JAX}:
        raise InputError(
            "--backends", f"{TENSORFLOW}, {JAX}", ",".join(backends)
        )
    if JAX in backends and rematerialized:
        raise InputError(
            "--backends", f"{TENSORFLOW} alone with --rematerialize", JAX
        )


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


def main(_) -> None:
    """Compiles step after step; prints the table and the projection."""
    check_backends(FLAGS.backends, FLAGS.rematerialize)
    settings = settings_from_flags()
    for kind in FLAGS.step:
        check_kind(kind, settings)
    tpu = TpuSlice(FLAGS.slice)
    mixed = FLAGS.mixed_precision == "bfloat16"
    policy = "mixed_bfloat16" if mixed else "float32"
    file = open_rows(settings, policy)
    rows = []
    for kind in FLAGS.step:
        task = Task(kind, settings, tpu.name, FLAGS.batch_size, policy)
        rows += compile_rows(task, tpu, file)
    shown = file.rows if FLAGS.rows_file else rows
    print(f"\n{format_rows(shown)}")
    projection = format_projection(
        shown,
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
