"""How long each operation of a .tflite file takes by itself.

LiteRT's Python package has no profiler, so every distinct operation (type,
shapes, dtypes, options) is copied several times into a file of its own and
timed there. This misses what a delegate saves by running operations one after
another and what a whole network loses to cache misses, and a delegate may
refuse an operation alone that it takes within a network (other converters'
dynamic dense layers). The sum therefore differs from the file's own latency.
"""

import copy
import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from benchmarks.tflite.measurement import (
    MeasuredFile,
    interleaved,
    operation_name,
)
from mobilebert_tf.mobile.tflite_file import pack, unpack

# Enough that the interpreter's own overhead does not count.
_COPIES = 8
# Distinct operations that a table lists one by one.
_SLOWEST = 12


@dataclasses.dataclass(frozen=True)
class OperationTime:
    """The time of one distinct operation.

    Attributes:
        name: its type.
        shapes: shapes of its inputs, constants included, and of its first
            output: `(1, 128, 512) (128, 512) -> (1, 128, 128)`.
        count: number of its occurrences in the file.
        milliseconds: median time of one occurrence.
        is_delegated: whether the delegate takes it by itself.
    """

    name: str
    shapes: str
    count: int
    milliseconds: float
    is_delegated: bool

    @property
    def total(self) -> float:
        """Milliseconds of all occurrences."""
        return self.count * self.milliseconds


def operation_times(
    path, num_threads: int = 1, repeats: int = 30
) -> list[OperationTime]:
    """Times every distinct operation of a file's first graph, slowest first.

    Operations on constants alone are left out: delegates run them once.

    Args:
        path: the file.
        num_threads: threads of the interpreter.
        repeats: timed rounds; each runs every operation in turn.

    Raises:
        ValueError: if the file leaves shapes open.
    """
    model = unpack(Path(path).read_bytes())
    _fold_constants(model)
    groups = _distinct_operators(model)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for index, (key, operators) in enumerate(groups.items()):
            path = Path(folder) / f"{index}.tflite"
            path.write_bytes(_by_itself(model, operators[0]))
            # Indices of 0: any table has a first row.
            files[key] = MeasuredFile(path, num_threads, index=0)
        timings = interleaved(
            {key: file.run for key, file in files.items()}, repeats
        )
        delegated = {key: not file.undelegated() for key, file in files.items()}
    rows = [
        OperationTime(
            key[0],
            _shapes(model.subgraphs[0], operators[0]),
            len(operators),
            timings[key]["median_ms"] / _COPIES,
            delegated[key],
        )
        for key, operators in groups.items()
    ]
    return sorted(rows, key=lambda row: -row.total)


def totals_by_type(
    rows: Iterable[OperationTime],
) -> dict[str, tuple[int, float]]:
    """Returns the count and milliseconds of each type, slowest first."""
    totals = defaultdict(lambda: (0, 0.0))
    for row in rows:
        count, milliseconds = totals[row.name]
        totals[row.name] = count + row.count, milliseconds + row.total
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def profile_table(
    path: str, num_threads: int, rows: Sequence[OperationTime]
) -> str:
    """Formats a profile: totals by type, then the slowest operations."""
    total = sum(row.total for row in rows)
    lines = [
        f"{Path(path).name}, {num_threads} thread(s), operations by themselves",
        f"{'type':<22} number        ms   share",
    ]
    for name, (count, milliseconds) in totals_by_type(rows).items():
        share = milliseconds / total
        lines.append(f"{name:<22} {count:6} {milliseconds:9.3f}  {share:6.1%}")
    lines += [
        f"{'all':<22} {sum(row.count for row in rows):6} {total:9.3f}",
        "",
        f"{'slowest':<22} number        ms  microseconds each, and shapes",
    ]
    for row in rows[:_SLOWEST]:
        slow = "" if row.is_delegated else ", not delegated"
        lines.append(
            f"{row.name:<22} {row.count:6} {row.total:9.3f}"
            f"  {1e3 * row.milliseconds:7.1f}  {row.shapes}{slow}"
        )
    return "\n".join(lines)


def _fold_constants(model: schema.ModelT) -> None:
    """Replaces float16 constants that are only widened by float32 ones."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        name = operation_name(model, operator)
        source = graph.tensors[operator.inputs[0]]
        is_half = source.type == schema.TensorType.FLOAT16
        if name == "DEQUANTIZE" and is_half and _is_constant(model, source):
            values = np.asarray(model.buffers[source.buffer].data, np.uint8)
            buffer = schema.BufferT()
            wide = values.view(np.float16).astype(np.float32)
            buffer.data = wide.view(np.uint8)
            model.buffers.append(buffer)
            target = graph.tensors[operator.outputs[0]]
            target.buffer = len(model.buffers) - 1


def _distinct_operators(
    model: schema.ModelT,
) -> dict[tuple, list[schema.OperatorT]]:
    """Groups the first graph's operators by what determines their time."""
    groups = defaultdict(list)
    tensors = model.subgraphs[0].tensors
    for operator in model.subgraphs[0].operators:
        if not all(
            index < 0 or _is_constant(model, tensors[index])
            for index in operator.inputs
        ):
            groups[_key(model, operator)].append(operator)
    return groups


def _key(model: schema.ModelT, operator: schema.OperatorT) -> tuple:
    """Returns the name, options, shapes and dtypes of an operator."""
    options = operator.builtinOptions
    tensors = []
    for index in (*operator.inputs, *operator.outputs):
        if index < 0:
            continue
        tensor = model.subgraphs[0].tensors[index]
        signature = tensor.shapeSignature
        if signature is not None and min(signature, default=0) < 0:
            raise ValueError("shapes are left open")
        shape = tuple(_shape(tensor))
        tensors.append((shape, tensor.type, _is_constant(model, tensor)))
    return (
        operation_name(model, operator),
        repr(sorted(vars(options).items())) if options else "",
        *tensors,
    )


def _by_itself(model: schema.ModelT, operator: schema.OperatorT) -> bytes:
    """Returns a file with copies of an operation that share their inputs."""
    tensors = model.subgraphs[0].tensors
    graph, buffers = schema.SubGraphT(), [schema.BufferT()]
    graph.tensors, graph.operators = [], []
    graph.inputs, graph.outputs = [], []

    def add(tensor: schema.TensorT) -> int:
        alone = copy.copy(tensor)
        alone.name = f"tensor_{len(graph.tensors)}"
        alone.buffer = 0
        if _is_constant(model, tensor):
            buffers.append(model.buffers[tensor.buffer])
            alone.buffer = len(buffers) - 1
        graph.tensors.append(alone)
        return len(graph.tensors) - 1

    known = {-1: -1}
    for index in operator.inputs:
        if index not in known:
            known[index] = add(tensors[index])
            if not _is_constant(model, tensors[index]):
                graph.inputs.append(known[index])
    for _ in range(_COPIES):
        one = copy.copy(operator)
        one.opcodeIndex = 0
        one.inputs = [known[index] for index in operator.inputs]
        one.outputs = [add(tensors[index]) for index in operator.outputs]
        graph.operators.append(one)
        graph.outputs += one.outputs
    alone = schema.ModelT()
    alone.version, alone.buffers, alone.subgraphs = 3, buffers, [graph]
    alone.operatorCodes = [model.operatorCodes[operator.opcodeIndex]]
    return pack(alone)


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _shape(tensor: schema.TensorT) -> Sequence[int]:
    return () if tensor.shape is None else [int(size) for size in tensor.shape]


def _shapes(graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    inputs = [
        str(tuple(_shape(graph.tensors[index])))
        for index in operator.inputs
        if index >= 0
    ]
    output = tuple(_shape(graph.tensors[operator.outputs[0]]))
    return f"{' '.join(inputs)} -> {output}"
