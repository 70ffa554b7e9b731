r"""Compiles train steps for a TPU on a machine without one.

    pip install 'mobilebert_tf[tpu]'
    python benchmarks/tpu_compile.py --slice=v5e:1x1 --batch_size=8

Lowers the steps that our loop runs, as a replica of a slice would run them,
sums over replicas included, and compiles them with libtpu, which needs no chip.
Nothing is run, so there are no times: printed are the operations and the memory
that the compiler reports, against the memory that it lets a program have. Then
follows a projection of the paper's schedule from these steps. A full-size step
takes minutes of one core, and distillation 8 GB of memory.
"""

import argparse
import contextlib
import io
import math
import multiprocessing
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks.absent_tpu import (  # noqa: E402
    CompiledStep,
    NotCompiled,
    compile_module,
    describe,
    lower_step,
    parse_slice,
)
from mobilebert_tf.config import MobileBertConfig  # noqa: E402
from mobilebert_tf.distillation.distiller import check_pair  # noqa: E402
from mobilebert_tf.distillation.schedule import (  # noqa: E402
    TransferStage,
    TransferWeights,
)
from mobilebert_tf.distillation.teachers import (  # noqa: E402
    TEACHER_DTYPES,
    build_teacher,
)
from mobilebert_tf.errors import InputError  # noqa: E402
from mobilebert_tf.modeling.models import (  # noqa: E402
    MobileBertForPretraining,
)
from mobilebert_tf.presets import PRESETS  # noqa: E402
from mobilebert_tf.training.distillation import (  # noqa: E402
    build_distiller,
    build_stage,
)
from mobilebert_tf.training.optimizers import (  # noqa: E402
    OPTIMIZERS,
    build_optimizer,
)
from mobilebert_tf.training.options import OptimizerOptions  # noqa: E402
from mobilebert_tf.training.pretraining import pretraining_loss  # noqa: E402
from mobilebert_tf.training.step import TrainStep  # noqa: E402

GIB = 2.0**30
# The paper's schedule: steps and batch sizes of the teacher (section 4.1) and
# of the released student, with 24 stages of 10,000 steps.
TRANSFER = "progressive transfer"
SCHEDULE = {
    "pretraining": (500_000, 4096),
    TRANSFER: (240_000, 2048),
    "distillation": (500_000, 2048),
}
# Part of a step's learning rate schedule; changes no shape.
_NUM_STEPS = 1000


def stage_names(options: argparse.Namespace) -> list[str]:
    """Returns the steps of progressive transfer, one a block."""
    student = MobileBertConfig.from_preset(options.preset)
    return [f"transfer_block_{n:02d}" for n in range(student.num_hidden_layers)]


def build_step(kind: str, options: argparse.Namespace) -> TrainStep:
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
        distiller = build_distiller(
            MobileBertConfig.from_preset(options.preset),
            build_teacher(config, options.teacher_dtype),
            TransferWeights(),
            [stage],
        )
    return build_stage(
        distiller, stage, learning_rate=1e-3, optimizer=optimizer
    )


def batch_spec(batch_size: int, length: int) -> dict[str, tf.TensorSpec]:
    """Returns the shapes of a replica's part of a batch."""
    predictions = max(1, round(0.15 * length))
    columns = {
        "input_ids": length,
        "input_mask": length,
        "segment_ids": length,
        "masked_lm_positions": predictions,
        "masked_lm_ids": predictions,
        "masked_lm_weights": predictions,
        "next_sentence_labels": 1,
    }
    return {
        name: tf.TensorSpec(
            (batch_size, number),
            tf.float32 if name == "masked_lm_weights" else tf.int32,
        )
        for name, number in columns.items()
    }


def lower_kind(kind: str, options: argparse.Namespace, batch: int) -> bytes:
    """Builds and lowers a step for `batch` sequences a device."""
    is_mixed = options.mixed_precision == "bfloat16"
    keras.config.set_dtype_policy("mixed_bfloat16" if is_mixed else "float32")
    spec = batch_spec(batch, options.max_seq_length)
    step = build_step(kind, options)
    return lower_step(step, spec, parse_slice(options.slice)[2])


def compile_kind(
    kind: str, options: argparse.Namespace, batch: int
) -> CompiledStep | None:
    """Compiles a step and prints its row; returns None if it is refused.

    Lowering and compiling run in processes of their own: the compiler gets
    the memory that the weights had, and either may crash.
    """
    try:
        module = _apart(lower_kind, kind, options, batch)
        step = _apart(compile_module, module, options.slice)
    except NotCompiled as error:
        print(f"{kind:<18} {batch:>9}  {error}", flush=True)
        return None
    used = (step.fixed_bytes + step.temporary_bytes) / GIB
    print(
        f"{kind:<18} {batch:>9} {step.flops / 1e9:>9,.0f}"
        f" {step.flops / batch / options.max_seq_length / 1e6:>12,.1f}"
        f" {step.bytes_accessed / 1e9:>9,.1f}"
        f" {used:>9.2f} / {parse_slice(options.slice)[0].memory_gib:.2f}",
        flush=True,
    )
    return step


def _apart(function: Callable, *arguments):
    # Python cannot handle Ctrl-C while the compiler runs: let it kill.
    on_interrupt = signal.SIGINT, signal.SIG_DFL
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, signal.signal, on_interrupt) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise NotCompiled("crashed, or killed for its memory") from error


def largest_batch(
    compile_batch: Callable[[int], CompiledStep | None],
    first: int,
    available: float,
) -> int:
    """Returns the largest batch that fits: `first` times a power of two.

    Args:
        compile_batch: maps a batch size to a step, None if it does not fit.
        first: the smallest batch size, returned even if it does not fit.
        available: bytes of a device.
    """
    tried = {first: compile_batch(first)}
    if tried[first] is None:
        return first
    # Temporaries are nearly proportional to the batch: start where they would
    # fill the memory, and go up or down until one fits and the next does not.
    room = available - tried[first].fixed_bytes
    ratio = max(2.0, room / max(tried[first].temporary_bytes, 1))
    size = first << int(math.log2(ratio))
    while size not in tried:
        tried[size] = compile_batch(size)
        size = 2 * size if tried[size] else size // 2
    return max(size for size, step in tried.items() if step)


def project(
    steps: Mapping[tuple[str, int], CompiledStep], options: argparse.Namespace
) -> list[tuple[str, int, int, int, float]]:
    """Projects the paper's schedule from compiled steps, as far as they tell.

    Args:
        steps: by name and batch size a device; of several batch sizes the
            largest counts. A stage of progressive transfer costs a block of
            both models more than the one before, so the first and the last
            stage give their mean, and the last one gives what fits.
        options: of the command line.

    Returns:
        Phases with their steps, batch size, the fewest chips (a power of two)
        that hold the batch at once, and chip-days.
    """
    chip, _, _ = parse_slice(options.slice)
    fit, flops = {}, {}
    for (kind, batch), step in sorted(steps.items()):
        fit[kind], flops[kind] = batch * chip.devices, step.flops / batch
    first, last = stage_names(options)[0], stage_names(options)[-1]
    if first in flops and last in flops:
        flops[TRANSFER] = (flops[first] + flops[last]) / 2
        fit[TRANSFER] = fit[last]
    rate = chip.peak_tflops * 1e12 * options.utilisation
    rows = []
    for phase, (num_steps, batch) in SCHEDULE.items():
        if phase in flops:
            chips = 2 ** math.ceil(math.log2(max(1.0, batch / fit[phase])))
            days = num_steps * batch * flops[phase] / rate / 86_400
            rows.append((phase, num_steps, batch, chips, days))
    return rows


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--step",
        default="pretraining,transfer_block_00,transfer_block_23,distillation",
        help="Steps to compile; pretraining is the teacher's.",
    )
    add("--slice", default="v5e:1x1", help="Chips and layout, e.g. v5p:2x2x1.")
    add("--teacher_preset", default="ib_bert_large", choices=list(PRESETS))
    add("--preset", default="mobilebert", choices=list(PRESETS))
    add("--max_seq_length", type=int, default=512, help="Sequence length.")
    add("--batch_size", type=int, default=8, help="Sequences a device.")
    add(
        "--find_batch",
        action="store_true",
        help="Find the largest batch that fits, from --batch_size on.",
    )
    add("--optimizer", default="lamb", choices=list(OPTIMIZERS))
    add(
        "--mixed_precision",
        default="bfloat16",
        choices=["float32", "bfloat16"],
        help="What layers compute in; weights stay float32.",
    )
    add("--teacher_dtype", default="bfloat16", choices=list(TEACHER_DTYPES))
    add(
        "--utilisation",
        type=float,
        default=0.4,
        help="Assumed share of a chip's peak.",
    )
    return parser.parse_args(arguments)


def check(options: argparse.Namespace) -> None:
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
    for kind in options.step.split(","):
        if kind not in [*known, last]:
            expected = f"{', '.join(known[:3])} to {last}"
            raise InputError("--step", expected, kind)
    describe(options.slice)


def main() -> None:
    """Compiles step after step; prints the table and the projection."""
    options = parse_options()
    try:
        check(options)
    except InputError as error:
        print(f"{Path(__file__).name}: {error}", file=sys.stderr)
        sys.exit(2)
    available = parse_slice(options.slice)[0].memory_gib * GIB
    print(
        f"{'step':<18} sequences     GFLOP  MFLOP/token  GB moved"
        "  HBM used / available, GiB"
    )
    steps, kinds = {}, options.step.split(",")
    for kind in kinds:

        def compile_batch(batch: int, kind=kind) -> CompiledStep | None:
            step = compile_kind(kind, options, batch)
            if step is not None:
                steps[kind, batch] = step
            return step

        if options.find_batch:
            largest_batch(compile_batch, options.batch_size, available)
        else:
            compile_batch(options.batch_size)
    if rows := project(steps, options):
        print(
            "\nProjection, not a measurement: assumes the smallest slice that "
            f"holds a batch at once\nand {options.utilisation:.0%} of a chip's "
            "published bfloat16 peak.\n"
            f"{'schedule':<21}    steps  batch  chips  chip-days   days"
        )
    for phase, num_steps, batch, chips, days in rows:
        print(
            f"{phase:<20} {num_steps:>9,} {batch:>6,} {chips:>6,}"
            f" {days:>10,.1f} {days / chips:>6,.1f}"
        )
    sys.exit({kind for kind, _ in steps} != set(kinds))


if __name__ == "__main__":
    main()
