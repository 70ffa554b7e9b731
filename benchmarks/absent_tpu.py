"""A train step lowered with TensorFlow and compiled for an absent TPU.

The step is lowered as a replica of a slice would run it, sums over replicas
included, and handed by way of JAX to libtpu's compiler, which needs no chip.
Weights are needed for their shapes only, and nothing is run.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.step import TrainStep


class Chip(NamedTuple):
    """A generation of TPU chips; libtpu sees one or two devices in each."""

    devices: int
    memory_gib: float  # that libtpu 0.0.42.1 lets a program have on a device
    host: tuple[int, ...]  # the smallest host that libtpu assumes by default


CHIPS = {
    "v2": Chip(2, 7.48, (2, 2)),
    "v3": Chip(2, 15.48, (2, 2)),
    "v4": Chip(2, 15.25, (2, 2, 1)),
    "v5e": Chip(1, 15.75, (2, 2)),
    "v5p": Chip(1, 95.74, (2, 2, 1)),
    "v6e": Chip(1, 31.25, (2, 2)),
}


class NotCompiled(Exception):
    """A step could not be lowered, or the compiler refused it."""


class CompiledStep(NamedTuple):
    """What the compiler reports about a step on one device."""

    flops: float
    bytes_accessed: float
    fixed_bytes: int  # weights, optimizer state, batch and program
    temporary_bytes: int  # activations and gradients at their peak


def parse_slice(name: str) -> tuple[Chip, tuple[int, ...], int]:
    """Returns the chip, layout and number of devices of e.g. `v5p:2x2x1`.

    Raises:
        InputError: for an unknown generation or layout.
    """
    generation, _, layout = name.partition(":")
    if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", layout):
        expected = f"{', '.join(CHIPS)} and a layout: v5e:2x2"
        raise InputError("--slice", expected, name)
    chip, sides = CHIPS[generation], tuple(map(int, layout.split("x")))
    return chip, sides, chip.devices * math.prod(sides)


def describe(slice_name: str) -> list:
    """Returns the devices of a slice, which need not exist.

    Raises:
        InputError: if JAX or libtpu is missing, or there is no such slice.
    """
    # Keep libtpu and JAX from looking for a chip, and from claiming one.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ["JAX_PLATFORMS"] = "cpu"
    chip, layout, _ = parse_slice(slice_name)
    try:
        import jax
        import libtpu  # noqa: F401
        from jax.experimental import topologies
    except ImportError as error:
        packages = "jax and libtpu (pip install 'mobilebert_tf[tpu]')"
        raise InputError("import", packages, f"no {error.name}") from error
    # A layout smaller than a host is that of a smaller host.
    sides = zip(layout, chip.host, strict=False)
    is_part = any(side % whole for side, whole in sides)
    bounds = {"chips_per_host_bounds": (*layout, 1, 1)[:3]} if is_part else {}
    try:
        return topologies.get_topology_desc(
            slice_name, platform="tpu", **bounds
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = _first_line(error)
        raise InputError("--slice", "a slice that exists", reason) from error


def lower_step(
    train_step: TrainStep,
    batch: Mapping[str, tf.TensorSpec],
    num_replicas: int,
) -> bytes:
    """Returns a replica's step as StableHLO.

    Args:
        train_step: built without a strategy, one step per execution; turned
            into a replica's here.
        batch: the replica's part of a batch, without unknown shapes.
        num_replicas: how many replicas sum their gradients.

    Raises:
        NotCompiled: naming the operation that XLA does not support.
    """
    train_step.distribution = _SliceReplica(num_replicas)
    names = list(batch)

    def step(*arrays):
        return train_step.run([dict(zip(names, arrays, strict=True))])

    compiled = tf.function(step, jit_compile=True, autograph=False)
    try:
        # Lowered for the CPU: before optimisation the program is the same on
        # all platforms, and asking for "TPU" fails on reading variables, as no
        # device holds them.
        ir_of = compiled.experimental_get_compiler_ir(*batch.values())
        return ir_of(stage="stablehlo_serialized")
    except (ValueError, NotImplementedError, tf.errors.OpError) as error:
        raise NotCompiled(_first_line(error)) from error


class _SliceReplica(Distribution):
    """One of the replicas that `TPUStrategy` would run.

    Its sums are XLA's collectives, since a real strategy needs a TPU.
    """

    def __init__(self, num_replicas: int):
        self.num_replicas = num_replicas

    def sum(self, tensors):
        if self.num_replicas == 1:
            return list(tensors)
        return [
            tf.raw_ops.CollectiveReduceV2(
                input=tensor,
                group_size=self.num_replicas,
                group_key=1,
                instance_key=index,
                ordering_token=[],
                merge_op="Add",
                final_op="Id",
            )
            for index, tensor in enumerate(tensors)
        ]


def compile_module(module: bytes, slice_name: str) -> CompiledStep:
    """Compiles what `lower_step` returned for every device of a slice.

    Raises:
        NotCompiled: if it needs more memory than a device has, or the
            compiler refuses it for another reason.
    """
    executable = compile_for(describe(slice_name), module)
    memory = executable.get_compiled_memory_stats()
    cost = executable.cost_analysis()
    return CompiledStep(
        cost["flops"],
        cost["bytes accessed"],
        # Variables are updated in place: their outputs alias their inputs.
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.generated_code_size_in_bytes,
        memory.temp_size_in_bytes,
    )


def compile_for(devices: Sequence, module: bytes):
    """Returns JAX's executable of a StableHLO module for absent devices.

    Raises:
        NotCompiled: as `compile_module` does.
    """
    # All private names of JAX that this project uses, for want of a public way
    # from StableHLO to an absent device; the extra `tpu` pins JAX and libtpu.
    import jax
    from jax._src import compiler
    from jax._src.interpreters import mlir
    from jax._src.lib import xla_client
    from jax._src.lib.mlir import ir

    options = compiler.get_compile_options(
        num_replicas=len(devices),
        num_partitions=1,
        device_assignment=np.array([[device.id] for device in devices]),
    )
    context = mlir.make_ir_context()
    with context, ir.Location.unknown(context):
        parsed = ir.Module.parse(module)
        _forward_copies(parsed.operation)
        try:
            return compiler.backend_compile_and_load(
                devices[0].client,
                parsed,
                xla_client.DeviceList(tuple(devices)),
                options,
                [],
            )
        except jax.errors.JaxRuntimeError as error:
            raise NotCompiled(_first_line(error)) from error


def _forward_copies(operation) -> None:
    """Removes TensorFlow's copies of variables, which StableHLO lacks."""
    for region in operation.regions:
        for block in region:
            for inner in list(block):
                _forward_copies(inner.operation)
                if inner.operation.name == "mhlo.copy":
                    (copied,) = inner.operation.operands
                    (result,) = inner.operation.results
                    result.replace_all_uses_with(copied)
                    inner.operation.erase()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:300]
