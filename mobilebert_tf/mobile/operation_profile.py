"""How long each operation of a .tflite file takes, by itself.

LiteRT's Python package has no profiler. So every kind of operation that a file
has (one type, one set of shapes and types) is copied into a file of its own,
several times over so that the call itself does not count, and timed there. What
a delegate saves by running operations one after the other is not seen, and
neither are caches that a whole network overflows. Nor does a delegate take all
that it takes in a network: of other converters' files dynamic dense layers were
left to slow kernels when alone. The sum need not be the file's own time, then,
which is to be shown beside it.
"""

import copy
import dataclasses
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from mobilebert_tf.mobile.measurement import (
    MeasuredFile,
    interleaved,
    operation_name,
)
from mobilebert_tf.mobile.signatures import packed, unpacked

_COPIES = 8


@dataclasses.dataclass(frozen=True)
class OperationTime:
    """One kind of operation.

    Attributes:
        name: its type.
        shapes: of what it computes from, constants among them, and its first
            output: `(1, 128, 512) (128, 512) -> (1, 128, 128)`.
        count: how often the file has it.
        milliseconds: of one of them, the median of all rounds.
        is_delegated: whether the delegate takes it by itself.
    """

    name: str
    shapes: str
    count: int
    milliseconds: float
    is_delegated: bool

    @property
    def total(self) -> float:
        """Milliseconds of all of them."""
        return self.count * self.milliseconds


def operation_times(
    path, num_threads: int = 1, repeats: int = 30
) -> list[OperationTime]:
    """Times every kind of operation of a file's first graph.

    Operations on constants alone are left out: delegates run them once.

    Args:
        path: the file.
        num_threads: threads of the interpreter.
        repeats: rounds, all kinds in turn.

    Returns:
        The kinds, the most expensive first.

    Raises:
        ValueError: if shapes of the file are left open.
    """
    model = unpacked(Path(path).read_bytes())
    kinds = _kinds(model)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for index, (kind, operators) in enumerate(kinds.items()):
            path = Path(folder) / f"{index}.tflite"
            path.write_bytes(_by_itself(model, operators[0]))
            # Zeros: whatever is looked up has a first row.
            files[kind] = MeasuredFile(path, num_threads, index=0)
        timings = interleaved(
            {kind: file.run for kind, file in files.items()}, repeats
        )
        delegated = {
            kind: not file.undelegated() for kind, file in files.items()
        }
    rows = [
        OperationTime(
            kind[0],
            _shapes(model.subgraphs[0], operators[0]),
            len(operators),
            timings[kind]["median_ms"] / _COPIES,
            delegated[kind],
        )
        for kind, operators in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row.total)


def totals_by_type(
    rows: Iterable[OperationTime],
) -> dict[str, tuple[int, float]]:
    """Returns number and milliseconds of each type, the slowest first."""
    totals = defaultdict(lambda: (0, 0.0))
    for row in rows:
        count, milliseconds = totals[row.name]
        totals[row.name] = count + row.count, milliseconds + row.total
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def _kinds(model: schema.ModelT) -> dict[tuple, list[schema.OperatorT]]:
    """The operators of the first graph by what decides how long they take."""
    graph, kinds = model.subgraphs[0], defaultdict(list)
    _fold_constants(model)
    for operator in graph.operators:
        variable = [
            index
            for index in operator.inputs
            if index >= 0 and not _is_constant(model, graph.tensors[index])
        ]
        if variable:
            kinds[_kind(model, operator)].append(operator)
    return kinds


def _kind(model: schema.ModelT, operator: schema.OperatorT) -> tuple:
    """A name, and all that tells two operations of it apart."""
    graph = model.subgraphs[0]
    options = operator.builtinOptions
    tensors = []
    for index in (*operator.inputs, *operator.outputs):
        if index >= 0:
            tensor = graph.tensors[index]
            if (
                tensor.shapeSignature is not None
                and min(tensor.shapeSignature, default=0) < 0
            ):
                raise ValueError("shapes are left open")
            tensors.append(
                (
                    tuple(_shape(tensor)),
                    tensor.type,
                    _is_constant(model, tensor),
                )
            )
    return (
        operation_name(model.operatorCodes[operator.opcodeIndex]),
        repr(sorted(vars(options).items())) if options else "",
        *tensors,
    )


def _fold_constants(model: schema.ModelT) -> None:
    """Gives float16 constants that are only widened their wide values."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        name = operation_name(model.operatorCodes[operator.opcodeIndex])
        if name != "DEQUANTIZE":
            continue
        source = graph.tensors[operator.inputs[0]]
        is_half = source.type == schema.TensorType.FLOAT16
        if not (is_half and _is_constant(model, source)):
            continue
        values = np.asarray(model.buffers[source.buffer].data, np.uint8)
        wide = values.view(np.float16).astype(np.float32)
        buffer = schema.BufferT()
        buffer.data = wide.view(np.uint8)
        model.buffers.append(buffer)
        target = graph.tensors[operator.outputs[0]]
        target.buffer = len(model.buffers) - 1


def _by_itself(model: schema.ModelT, operator: schema.OperatorT) -> bytes:
    """A file of some copies of an operation, which read the same inputs."""
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
    return packed(alone)


def _is_constant(model: schema.ModelT, tensor: schema.TensorT) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _shape(tensor: schema.TensorT) -> Sequence[int]:
    return () if tensor.shape is None else [int(size) for size in tensor.shape]


def _shapes(graph: schema.SubGraphT, operator: schema.OperatorT) -> str:
    """The shapes of inputs and first output, of those that have one."""
    inputs = [
        str(tuple(_shape(graph.tensors[index])))
        for index in operator.inputs
        if index >= 0
    ]
    output = tuple(_shape(graph.tensors[operator.outputs[0]]))
    return f"{' '.join(inputs)} -> {output}"
