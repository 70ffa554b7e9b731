"""A train step compiled for a TPU on a machine that has none.

The step is lowered as a replica of a slice would run it, sums over replicas
included, and handed to libtpu's compiler, which needs no chip. Weights are
needed for their shapes only, and nothing is run.

jax is the way to that compiler. Its client for devices that are not there is
internal to it, so that jax and libtpu are pinned (the extra `tpu`).
"""

import dataclasses
import os
import re
import time
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.step import TrainStep

GIB = 2.0**30


@dataclasses.dataclass(frozen=True)
class TpuChip:
    """A generation of chips, as published by their maker.

    Attributes:
        peak_tflops: of bfloat16 products, the whole chip.
        devices: what libtpu takes a chip for: its cores, each with its own
            share of the memory, or one.
        host: chips of the smallest host that libtpu assumes by itself.
    """

    peak_tflops: float
    devices: int
    host: tuple[int, ...]


CHIPS = {
    "v2": TpuChip(45.0, 2, (2, 2)),
    "v3": TpuChip(123.0, 2, (2, 2)),
    "v4": TpuChip(275.0, 2, (2, 2, 1)),
    "v5e": TpuChip(197.0, 1, (2, 2)),
    "v5p": TpuChip(459.0, 1, (2, 2, 1)),
    "v6e": TpuChip(918.0, 1, (2, 2)),
}


class NotCompiled(Exception):
    """A step could not be lowered, or the compiler refused it."""


class DoesNotFit(NotCompiled):
    """The compiled step needs more memory than a device has.

    Args:
        message: the compiler's.
        available: bytes that it says there are, None if it does not.
    """

    def __init__(self, message: str, available: int | None = None):
        super().__init__(message)
        self.available = available


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """What the compiler says of a step, for one device.

    Attributes:
        flops: operations of a step.
        bytes_accessed: read from and written to memory in a step.
        argument_bytes: weights, optimizer state and batch.
        temporary_bytes: activations and gradients, at their most.
        program_bytes: the program, which lies in the same memory.
        available_bytes: memory that the compiler lets a program have.
        seconds: that the compilation took.
    """

    flops: float
    bytes_accessed: float
    argument_bytes: int
    temporary_bytes: int
    program_bytes: int
    available_bytes: int
    seconds: float

    @property
    def used_bytes(self) -> int:
        """All memory in use while a step runs."""
        return self.argument_bytes + self.temporary_bytes + self.program_bytes

    @property
    def batches_that_fit(self) -> float:
        """About how many times the batch would fit; at least 1."""
        fixed = self.argument_bytes + self.program_bytes
        return max(
            1.0, (self.available_bytes - fixed) / max(self.temporary_bytes, 1)
        )


class TpuSlice:
    """Chips that are described to the compiler, but need not exist.

    Args:
        name: generation and layout, e.g. `v5e:2x2` or `v5p:2x2x1`.

    Raises:
        InputError: if jax or libtpu is missing, or there is no such slice.
    """

    def __init__(self, name: str):
        self.name = name
        generation, _, layout = name.partition(":")
        if generation not in CHIPS or not re.fullmatch(r"\d+(x\d+)*", layout):
            raise InputError(
                "--slice", f"{', '.join(CHIPS)} and a layout: v5e:2x2", name
            )
        self.chip = CHIPS[generation]
        bounds = tuple(int(side) for side in layout.split("x"))
        self.num_chips = int(np.prod(bounds))
        self._devices = _describe(name, bounds, self.chip)
        self.available_bytes = self._measure_memory()

    @property
    def num_replicas(self) -> int:
        """Devices, each of which takes its part of a batch."""
        return len(self._devices)

    def compile(self, module: bytes) -> CompiledStep:
        """Compiles a module of `lower_step` for every device of the slice.

        Raises:
            DoesNotFit: if it needs more memory than there is.
            NotCompiled: if the compiler refuses it for another reason.
        """
        executable, seconds = self._compile(module, self.num_replicas)
        memory = executable.get_compiled_memory_stats()
        cost = executable.cost_analysis()
        if isinstance(cost, list):
            (cost,) = cost
        return CompiledStep(
            flops=cost["flops"],
            bytes_accessed=cost["bytes accessed"],
            # Variables are updated in place: as outputs they are no others.
            argument_bytes=memory.argument_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes,
            temporary_bytes=memory.temp_size_in_bytes,
            program_bytes=memory.generated_code_size_in_bytes,
            available_bytes=self.available_bytes,
            seconds=seconds,
        )

    def _measure_memory(self) -> int:
        """Asks the compiler, by a program that cannot fit any device."""
        try:
            self._compile(_TOO_LARGE.encode(), 1)
        except DoesNotFit as error:
            if error.available:
                return error.available
            raise
        raise NotCompiled("the compiler placed half a tebibyte in a device")

    def _compile(self, module: bytes, num_replicas: int):
        jax = import_jax()
        from jax._src import compiler
        from jax._src.interpreters import mlir
        from jax._src.lib import xla_client
        from jax._src.lib.mlir import ir

        devices = self._devices[:num_replicas]
        options = compiler.get_compile_options(
            num_replicas=num_replicas,
            num_partitions=1,
            device_assignment=np.array([[device.id] for device in devices]),
        )
        context = mlir.make_ir_context()
        with context, ir.Location.unknown(context):
            parsed = ir.Module.parse(module)
            _forward_copies(parsed.operation)
            start = time.monotonic()
            try:
                executable = compiler.backend_compile_and_load(
                    devices[0].client,
                    parsed,
                    xla_client.DeviceList(tuple(devices)),
                    options,
                    [],
                )
            except jax.errors.JaxRuntimeError as error:
                raise compiler_error(str(error)) from error
        return executable, time.monotonic() - start


def lower_step(
    train_step: TrainStep,
    batch: Mapping[str, tf.TensorSpec],
    num_replicas: int,
) -> bytes:
    """Returns a step as a replica runs it, as StableHLO.

    Args:
        train_step: of `build_train_step`, without a strategy and with one
            step per execution. It is a replica's from here on.
        batch: the replica's part of a batch; shapes without unknowns.
        num_replicas: that sum their gradients.

    Raises:
        NotCompiled: naming the operation that XLA cannot have.
    """
    train_step.distribution = _SliceReplica(num_replicas)
    names = list(batch)

    def step(*arrays):
        return train_step.run([dict(zip(names, arrays, strict=True))])

    compiled = tf.function(step, jit_compile=True, autograph=False)
    try:
        # Until it is optimised, a program is the same for all platforms. One
        # asked for by the name of a platform cannot read variables, as there
        # is no device that holds them.
        ir_of = compiled.experimental_get_compiler_ir(*batch.values())
        return ir_of(stage="stablehlo_serialized")
    except (ValueError, NotImplementedError, tf.errors.OpError) as error:
        raise NotCompiled(_first_reason(str(error))) from error


def compiler_error(message: str) -> NotCompiled:
    """Sorts a compiler's message: `DoesNotFit` or any other `NotCompiled`."""
    if "RESOURCE_EXHAUSTED" not in message:
        return NotCompiled(_first_reason(message))
    available = _AVAILABLE.search(message)
    return DoesNotFit(
        _first_reason(message), available and parse_size(available[1])
    )


def parse_size(text: str) -> int:
    """Returns the bytes of a compiler's size, `15.75G` say."""
    units = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)", text).groups()
    return round(float(number) * units[unit])


class _SliceReplica(Distribution):
    """One of the replicas that `TPUStrategy` would run.

    The sums are collectives of XLA; a strategy's own need a TPU to be made.
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


# Half a tebibyte, out of a vector.
_TOO_LARGE = """
module @too_large {
  func.func public @main(%value: tensor<1024xf32>)
      -> tensor<128x1024x1024x1024xf32> {
    %0 = stablehlo.broadcast_in_dim %value, dims = [3]
        : (tensor<1024xf32>) -> tensor<128x1024x1024x1024xf32>
    return %0 : tensor<128x1024x1024x1024xf32>
  }
}
"""
# As in `exceeds available HBM (15.75G)` and `Used 20.1G of 15.75G hbm`.
_AVAILABLE = re.compile(
    r"(?:available hbm \(| of )([\d.]+[KMGT]?)(?:\)| hbm)", re.IGNORECASE
)


def _describe(name: str, bounds: tuple[int, ...], chip: TpuChip) -> list:
    jax = import_jax()
    from jax.experimental import topologies

    # A layout smaller than a host is one of a smaller host.
    is_part = any(
        side % whole for side, whole in zip(bounds, chip.host, strict=False)
    )
    part = (*bounds, 1, 1)[:3]
    arguments = {"chips_per_host_bounds": part} if is_part else {}
    try:
        return topologies.get_topology_desc(
            name, platform="tpu", **arguments
        ).devices
    except jax.errors.JaxRuntimeError as error:
        reason = _first_reason(str(error))
        raise InputError("--slice", "a slice that exists", reason) from error


def import_jax():
    """Returns jax, set up for chips that are not there.

    Raises:
        InputError: if it, or libtpu, is missing.
    """
    # Nothing here asks for a chip: not which there are, nor for itself alone.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        import jax
        import libtpu  # noqa: F401
    except ImportError as error:
        raise InputError(
            "tpu_compile",
            "jax and libtpu (pip install 'mobilebert_tf[tpu]')",
            f"no {error.name}",
        ) from error
    return jax


def _forward_copies(operation) -> None:
    """Replaces TensorFlow's copies of variables, which StableHLO has not."""
    for region in operation.regions:
        for block in region:
            for inner in list(block):
                _forward_copies(inner.operation)
                if inner.operation.name == "mhlo.copy":
                    (copied,) = inner.operation.operands
                    (result,) = inner.operation.results
                    result.replace_all_uses_with(copied)
                    inner.operation.erase()


def _first_reason(message: str) -> str:
    """Returns the first line of a compiler's message that says something."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else "no reason given"
