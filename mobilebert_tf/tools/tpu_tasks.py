"""Compilations one by one, each step in processes of its own.

A process lowers the step and ends, and another compiles it: so the compiler
has the memory that the weights had, each may have a backend of its own, and
either may crash.
"""

import contextlib
import dataclasses
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import keras

from mobilebert_tf.tools.tpu_steps import (
    StepSettings,
    batch_spec,
    build_step,
    counted_flops,
)
from mobilebert_tf.tools.tpu_table import CRASHED, TENSORFLOW, Row
from mobilebert_tf.training.jax_step import JaxStep, lower_jax_step
from mobilebert_tf.training.tpu_aot import (
    GIB,
    CompiledStep,
    NotCompiled,
    TpuSlice,
    lower_step,
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A row to be made, by a process of its own."""

    kind: str
    settings: StepSettings
    slice_name: str
    batch_size: int
    policy: str
    backend: str = TENSORFLOW


def lower_task(task: Task, num_replicas: int) -> bytes:
    """Makes a step and lowers it by way of the backend of this process."""
    keras.config.set_dtype_policy(task.policy)
    step = build_step(task.kind, task.settings)
    batch = batch_spec(task.kind, task.settings, task.batch_size)
    if task.backend == TENSORFLOW:
        return lower_step(step.train_step, batch, num_replicas)
    return lower_jax_step(
        JaxStep(step.model, step.compute_loss, step.variables, step.optimizer),
        batch,
    )


def compile_module(module: bytes, slice_name: str) -> CompiledStep:
    """Compiles what `lower_task` returned."""
    return TpuSlice(slice_name).compile(module)


def compile_task(task: Task, num_replicas: int) -> CompiledStep:
    """Lowers and compiles a step.

    Raises:
        NotCompiled: if it does not compile.
    """
    with keras_backend(task.backend):
        module = _apart(lower_task, task, num_replicas)
        _say(f"{task.kind}: lowered, {len(module) / 1e6:.1f} MB; compiling ...")
        return _apart(compile_module, module, task.slice_name)


def _apart(function: Callable, *arguments):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise NotCompiled(CRASHED) from error
        except KeyboardInterrupt:
            # The compiler hears no signal that Python would have to handle.
            for process in multiprocessing.active_children():
                process.kill()
            raise


@contextlib.contextmanager
def keras_backend(name: str):
    """Makes processes that are started inside import Keras with a backend."""
    before = os.environ.get("KERAS_BACKEND")
    os.environ["KERAS_BACKEND"] = name
    try:
        yield
    finally:
        if before is None:
            del os.environ["KERAS_BACKEND"]
        else:
            os.environ["KERAS_BACKEND"] = before


def make_row(task: Task, tpu: TpuSlice) -> Row:
    """Compiles a step with the batch that was asked for."""
    start = time.monotonic()
    _say(
        f"{task.kind}: {task.batch_size} sequences a device of {tpu.name}, by "
        f"way of {task.backend} ..."
    )
    compiled, reason = None, ""
    try:
        compiled = compile_task(task, tpu.num_replicas)
    except NotCompiled as error:
        reason = str(error)
    shown = f"{compiled.used_bytes / GIB:.2f} GiB" if compiled else reason
    _say(f"{task.kind}: {shown} (after {time.monotonic() - start:.0f} s)")
    return Row(
        kind=task.kind,
        backend=task.backend,
        slice_name=tpu.name,
        chip=tpu.chip,
        batch_size=task.batch_size,
        tokens=task.batch_size * task.settings.max_seq_length,
        counted_flops=counted_flops(task.kind, task.settings),
        compiled=compiled,
        reason=reason,
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


def _say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True)
