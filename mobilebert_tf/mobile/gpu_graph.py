"""Rewrites converted graphs so that GPU delegates compute them rightly.

The converter drops a RESHAPE wherever broadcasting makes it superfluous. On a
GPU LiteRT then reads a constant [S, W] beside [1, S, W] as its first row and
refuses a dense layer that maps [1, S, W] to [S, E]; nor does it take a table
that is dequantised before the look-up. Here dense layers keep the rank of their
inputs, both sides of an addition have the same rank, and rows are dequantised
after the look-up. CPUs compute the same bits.
"""

from collections.abc import Sequence

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_KINDS = schema.BuiltinOperator
_DENSE, _RESHAPE = _KINDS.FULLY_CONNECTED, _KINDS.RESHAPE
_LOOK_UP, _DEQUANTIZE = _KINDS.GATHER, _KINDS.DEQUANTIZE
_BINARY = (_KINDS.ADD, _KINDS.SUB, _KINDS.MUL)
# Operations whose output has the shape of their input.
_UNARY = (_DEQUANTIZE, _KINDS.QUANTIZE, _KINDS.GELU, _KINDS.RELU, _KINDS.TANH)
# The first version of dense layers that keep the rank of their inputs.
_DENSE_VERSION = 5


def suit_gpus(model: schema.ModelT) -> None:
    """Rewrites all graphs of a converted model, in place."""
    for graph in model.subgraphs:
        _Rewriting(model, graph).run()


class _Rewriting:
    """Rewrites the operations of one graph in their order."""

    def __init__(self, model: schema.ModelT, graph: schema.SubGraphT):
        self.model = model
        self.graph = graph
        self.kinds = [
            max(code.builtinCode, code.deprecatedBuiltinCode)
            for code in model.operatorCodes
        ]
        self.shapes = [self.shape(i) for i in range(len(graph.tensors))]
        self.written: list[schema.OperatorT] = []
        # Tensors that are read instead of others.
        self.instead: dict[int, int] = {}

    def run(self) -> None:
        """Rewrites the graph."""
        for operator in self.graph.operators:
            before = operator.inputs
            inputs = [self.instead.get(int(i), int(i)) for i in before]
            operator.inputs = np.array(inputs, np.int32)
            kind = self.kinds[operator.opcodeIndex]
            if kind == _DENSE:
                self.keep_rank(operator)
            elif kind in _BINARY:
                self.align_ranks(operator)
            elif kind in _UNARY:
                self.set_shape(operator.outputs[0], self.shape(inputs[0]))
            elif kind != _RESHAPE:
                self.restore_inputs(operator, before)
            elif not self.is_needed(operator):
                self.instead[int(operator.outputs[0])] = inputs[0]
                continue
            self.written.append(operator)
            if kind == _LOOK_UP:
                self.dequantize_rows(operator)
        self.restore_outputs()
        self.graph.operators = self.written

    def shape(self, index: int) -> list[int]:
        shape = self.graph.tensors[index].shape
        # Some scalars have none.
        return [] if shape is None else [int(size) for size in shape]

    def set_shape(self, index: int, shape: Sequence[int]) -> None:
        self.graph.tensors[index].shape = np.array(shape, np.int32)

    def keep_rank(self, dense: schema.OperatorT) -> None:
        """Makes a dense layer map [..., W] to [..., E]."""
        dense.builtinOptions.keepNumDims = True
        code = self.model.operatorCodes[dense.opcodeIndex]
        code.version = max(code.version, _DENSE_VERSION)
        rows, kernel = map(self.shape, dense.inputs[:2])
        self.set_shape(dense.outputs[0], [*rows[:-1], kernel[0]])

    def align_ranks(self, binary: schema.OperatorT) -> None:
        """Gives a matrix the rank of what it is combined with."""
        shapes = [self.shape(index) for index in binary.inputs]
        rank = max(map(len, shapes))
        for place, shape in enumerate(shapes):
            if len(shape) < rank and np.prod(shape[:-1]) > 1:
                source = int(binary.inputs[place])
                shape = [1] * (rank - len(shape)) + shape
                binary.inputs[place] = self.reshaped(source, shape)
        self.set_shape(binary.outputs[0], np.broadcast_shapes(*shapes))

    def is_needed(self, reshape: schema.OperatorT) -> bool:
        """Returns whether a RESHAPE changes anything.

        Rows for dense layers alone become [1, S, W].
        """
        output = int(reshape.outputs[0])
        shape = self.shape(output)
        readers = {
            self.kinds[reader.opcodeIndex]
            for reader in self.graph.operators
            if output in reader.inputs
        }
        if len(shape) == 2 and readers == {_DENSE}:
            shape = [1, *shape]
            reshape.inputs[1] = self.constant(shape)
            self.set_shape(output, shape)
        is_same = shape == self.shape(reshape.inputs[0])
        return not is_same or output in self.graph.outputs

    def restore_inputs(
        self, operator: schema.OperatorT, before: Sequence[int]
    ) -> None:
        """Gives an operation of any other kind the shapes that it had."""
        for place, index in enumerate(before):
            now, wanted = operator.inputs[place], self.shapes[index]
            if index >= 0 and self.shape(now) != wanted:
                operator.inputs[place] = self.reshaped(now, wanted)

    def restore_outputs(self) -> None:
        """Gives the graph's outputs the shapes that they had."""
        for index in self.graph.outputs:
            if self.shape(index) != self.shapes[index]:
                before = self.add_like(index, self.shape(index))
                for operator in self.written:
                    for name in ("inputs", "outputs"):
                        tensors = getattr(operator, name)
                        tensors = np.where(tensors == index, before, tensors)
                        setattr(operator, name, tensors.astype(np.int32))
                self.set_shape(index, self.shapes[index])
                self.write_reshape(before, index)

    def dequantize_rows(self, look_up: schema.OperatorT) -> None:
        """Makes the rows float that a look-up found, instead of its table.

        Tables of float16 stay as they are: GPUs take neither form.
        """
        for maker in self.written:
            if maker.outputs[0] != look_up.inputs[0]:
                continue
            table = maker.inputs[0]
            if self.graph.tensors[table].type == schema.TensorType.INT8:
                rows = self.add_like(table, self.shape(look_up.outputs[0]))
                self.written.remove(maker)
                self.written.append(maker)
                look_up.inputs[0], maker.inputs[0] = table, rows
                maker.outputs, look_up.outputs = look_up.outputs, maker.inputs
            return

    def reshaped(self, source: int, shape: Sequence[int]) -> int:
        """Returns a tensor of another shape with the same content."""
        index = self.add_like(source, shape)
        buffer = self.graph.tensors[source].buffer
        if self.model.buffers[buffer].data is not None:
            self.graph.tensors[index].buffer = buffer
            return index
        self.write_reshape(source, index)
        return index

    def write_reshape(self, source: int, output: int) -> None:
        sizes = self.constant(self.shape(output))
        self.written.append(
            schema.OperatorT(
                opcodeIndex=self.kinds.index(_RESHAPE),
                inputs=np.array([source, sizes], np.int32),
                outputs=np.array([output], np.int32),
            )
        )

    def constant(self, sizes: Sequence[int]) -> int:
        """Returns an int32 tensor, the second input of a RESHAPE."""
        data = np.array(sizes, np.int32)
        self.model.buffers.append(schema.BufferT(data=data.view(np.uint8)))
        return self._add(
            schema.TensorT(
                shape=np.array(data.shape, np.int32),
                type=schema.TensorType.INT32,
                buffer=len(self.model.buffers) - 1,
                name=b"sizes",
            )
        )

    def add_like(self, source: int, shape: Sequence[int]) -> int:
        """Adds an activation of the type and quantisation of a tensor."""
        tensor = self.graph.tensors[source]
        return self._add(
            schema.TensorT(
                shape=np.array(shape, np.int32),
                type=tensor.type,
                # The empty buffer.
                buffer=0,
                name=tensor.name,
                quantization=tensor.quantization,
            )
        )

    def _add(self, tensor: schema.TensorT) -> int:
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1
