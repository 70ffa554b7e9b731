"""Latency, memory and operation counts of any .tflite file.

LiteRT's own `litert-benchmark` cannot time these files: it feeds random
integers, negative ones among them, which no embedding table has, and knows one
file and one signature. Nor does it count operations. Importing this module
needs NumPy and LiteRT only.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, SignatureRunner

from benchmarks.instruments import MEGABYTE, PeakMemory, interleaved
from mobilebert_tf import compat

# The input whose last axis is summed over: kernels are [out, in].
_DEPTH_INPUT = {"FULLY_CONNECTED": 1, "BATCH_MATMUL": 0}
_NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}


class MeasuredFile:
    """A .tflite file at one sequence length and thread count, ready to time.

    All inputs are ones: valid ids, and no padding.

    Args:
        path: the file.
        num_threads: threads of the interpreter.
        length: sequence length to run at; one of the file's signatures, or
            any length where the file leaves it open. None: the file's own.

    Attributes:
        length: the sequence length in use; None if the inputs are not
            sequences.

    Raises:
        ValueError: if the file cannot run at that length, or takes text.
    """

    def __init__(self, path, num_threads: int = 1, length: int | None = None):
        self._path = path
        self._interpreter = Interpreter(str(path), num_threads=num_threads)
        self._runner = self._signature_runner(length)
        if self._runner is not None:
            details = self._runner.get_input_details()
        else:
            self._resize(length)
            details = {
                detail["index"]: detail
                for detail in self._interpreter.get_input_details()
            }
            self._interpreter.allocate_tensors()
        for detail in details.values():
            if not issubclass(detail["dtype"], np.number | np.bool_):
                raise ValueError(f"{path} takes text, not numbers")
        self._inputs = {
            name: np.ones(detail["shape"], detail["dtype"])
            for name, detail in details.items()
        }
        lengths = {a.shape[-1] for a in self._inputs.values() if a.ndim > 1}
        self.length = lengths.pop() if len(lengths) == 1 else None
        if length not in (None, self.length):
            raise ValueError(
                f"{path} runs at length {self.length}, not at {length}"
            )

    def _signature_runner(self, length: int | None) -> SignatureRunner | None:
        """Returns the runner for that length unless it is the first graph."""
        signatures = self._interpreter.get_signature_list()
        if length is None or len(signatures) < 2:
            return None
        # Delegated operations are listed only after this call, which is no
        # longer possible once a runner exists.
        self._interpreter.allocate_tensors()
        for name in signatures:
            runner = self._interpreter.get_signature_runner(name)
            shapes = [d["shape"] for d in runner.get_input_details().values()]
            if all(shape[-1] == length for shape in shapes):
                return runner if compat.graph_index(runner) else None
        return None

    def _resize(self, length: int | None) -> None:
        """Sets open columns to `length`, and an open batch size to one."""
        for detail in self._interpreter.get_input_details():
            wanted = detail["shape_signature"].copy()
            if not (wanted < 0).any():
                continue
            if length is None:
                raise ValueError(f"{self._path} leaves its length open")
            wanted[0] = abs(wanted[0])
            wanted[wanted < 0] = length
            self._interpreter.resize_tensor_input(detail["index"], wanted)

    def run(self) -> None:
        """Runs one inference."""
        if self._runner is not None:
            self._runner(**self._inputs)
            return
        for index, values in self._inputs.items():
            self._interpreter.set_tensor(index, values)
        self._interpreter.invoke()

    def operations(self) -> Counter:
        """Counts the operations in the file by type."""
        return Counter(name for name, _ in self._operators())

    def undelegated(self) -> Counter:
        """Counts the first graph's operations that no delegate has taken.

        Walks back from the outputs, since the interpreter also lists the
        operations that a delegate replaced; it lists none of other graphs.
        """
        makers = {}
        # Delegates come last in the list and overwrite what they replaced.
        for one in compat.operation_details(self._interpreter):
            makers |= {int(index): one for index in one["outputs"]}
        seen, counts = set(), Counter()
        todo = [d["index"] for d in self._interpreter.get_output_details()]
        while todo:
            maker = makers.get(int(todo.pop()))
            if maker is None or maker["index"] in seen:
                continue
            seen.add(maker["index"])
            todo += [index for index in maker["inputs"] if index >= 0]
            if maker["op_name"] != "DELEGATE":
                counts[maker["op_name"]] += 1
        return counts

    def counts(self) -> dict:
        """Returns what a row of `measure` holds besides times.

        `giga_operations` are multiplications and additions in dense layers and
        batch products; `kernels` is what most dense layers multiply.
        """
        details = self._interpreter.get_tensor_details(self._graph_index())
        tensors = {detail["index"]: detail for detail in details}
        total, dtypes = 0.0, []
        for name, operator in self._operators():
            if name in _DEPTH_INPUT:
                deep = tensors[operator.inputs[_DEPTH_INPUT[name]]]
                output = tensors[operator.outputs[0]]
                total += 2.0 * np.prod(output["shape"]) * deep["shape"][-1]
            if name == "FULLY_CONNECTED":
                dtypes.append(tensors[operator.inputs[1]]["dtype"])
        is_integer = 2 * dtypes.count(np.int8) > len(dtypes)
        return {
            "giga_operations": total / 1e9,
            "kernels": "int8" if is_integer else "float32",
            "operations": dict(self.operations()),
            "undelegated": dict(self.undelegated()),
        }

    def _graph_index(self) -> int:
        return compat.graph_index(self._runner) if self._runner else 0

    def _operators(self) -> list[tuple[str, schema.OperatorT]]:
        """The operations as stored in the file, by type."""
        content = Path(self._path).read_bytes()
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        named = []
        for operator in model.subgraphs[self._graph_index()].operators:
            code = model.operatorCodes[operator.opcodeIndex]
            # Old files keep the number in an older field.
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            is_custom = number == schema.BuiltinOperator.CUSTOM
            name = code.customCode.decode() if is_custom else _NAMES[number]
            named.append((name, operator))
        return named


class OnnxFile:
    """An .onnx file with ONNX Runtime, to time it among .tflite files."""

    def __init__(self, path, num_threads: int, length: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        self.length = length
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        ones = np.ones((1, length), np.int32)
        self._inputs = {one.name: ones for one in self._session.get_inputs()}

    def run(self) -> None:
        """Runs one inference."""
        self._session.run(None, self._inputs)

    def counts(self) -> dict:
        """Returns nothing: operations of another runtime are not counted."""
        return {}


def measure(
    files: Sequence[tuple[str, int | None]], num_threads: int, repeats: int
) -> list[dict]:
    """Times files in turn.

    Args:
        files: paths of .tflite or .onnx files and sequence lengths; None for
            a file's own.
        num_threads: threads of the interpreters.
        repeats: timed inferences of each.

    Returns:
        A row for each: `file`, `length`, `threads`, `megabytes`, the times of
        `interleaved` and the counts of `MeasuredFile.counts`.
    """
    opened = [
        (OnnxFile if str(path).endswith(".onnx") else MeasuredFile)(
            path, num_threads, length
        )
        for path, length in files
    ]
    timings = interleaved(
        {index: file.run for index, file in enumerate(opened)}, repeats
    )
    return [
        {
            "file": str(path),
            "length": file.length,
            "threads": num_threads,
            "megabytes": Path(path).stat().st_size / MEGABYTE,
            **timings[index],
            **file.counts(),
        }
        for index, ((path, _), file) in enumerate(
            zip(files, opened, strict=True)
        )
    ]


def peak_megabytes(path: str, num_threads: int, length: int | None) -> float:
    """Returns the memory that running a file adds to this process's peak.

    Meaningful in a process that has done nothing else: see `apart`.
    """
    memory = PeakMemory()
    measure([(path, length)], num_threads, 1)
    return memory.megabytes()
