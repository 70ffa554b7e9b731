"""Latency, memory and operation counts of any .tflite file.

Imports only NumPy and LiteRT: `run_apart` measures the interpreter's memory
without TensorFlow's, and also works in an environment that holds other
converters instead of this package. LiteRT's own `litert-benchmark` cannot
do this: it feeds random integers, which fall outside the embedding table, runs
one file at a time and counts no operations.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, SignatureRunner

from mobilebert_tf import compat

WARM_UP = 3

# The input whose last axis is summed over: kernels are [out, in].
_DEPTH_INPUT = {"FULLY_CONNECTED": 1, "BATCH_MATMUL": 0}
_MEGABYTE = 1e6

_NAMES = {
    number: name
    for name, number in vars(schema.BuiltinOperator).items()
    if not name.startswith("_")
}


class MeasuredFile:
    """A .tflite file at one sequence length and thread count, ready to time.

    Args:
        path: the file.
        num_threads: threads of the interpreter.
        length: sequence length to run at; one of the file's signatures, or
            any length where the file leaves it open. None: the file's own.
        index: value for integer inputs (ids, masks); other inputs are ones.

    Attributes:
        length: the sequence length in use; None if the inputs are not
            sequences.

    Raises:
        ValueError: if the file cannot run at that length, or takes text.
    """

    def __init__(
        self,
        path,
        num_threads: int = 1,
        length: int | None = None,
        index: int = 1,
    ):
        self._path = path
        self._interpreter = Interpreter(str(path), num_threads=num_threads)
        self._runner = self._signature_runner(length)
        if self._runner is not None:
            details = self._runner.get_input_details()
        else:
            self._resize(path, length)
            details = {
                detail["index"]: detail
                for detail in self._interpreter.get_input_details()
            }
            self._interpreter.allocate_tensors()
        self._inputs = {
            name: _filled(path, detail, index)
            for name, detail in details.items()
        }
        self.length = _common_length(self._inputs.values())
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

    def _resize(self, path, length: int | None) -> None:
        """Sets open columns to `length`, and an open batch size to one."""
        for detail in self._interpreter.get_input_details():
            wanted = detail["shape_signature"].copy()
            if not (wanted < 0).any():
                continue
            if length is None:
                raise ValueError(f"{path} leaves its length open: name one")
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

    def matrix_operations(self) -> float:
        """Multiplications and additions in dense layers and batch products."""
        tensors, total = self._tensors(), 0.0
        for name, operator in self._operators():
            if name in _DEPTH_INPUT:
                deep = tensors[operator.inputs[_DEPTH_INPUT[name]]]
                output = tensors[operator.outputs[0]]
                total += 2.0 * np.prod(output["shape"]) * deep["shape"][-1]
        return total

    def has_integer_kernels(self) -> bool:
        """Whether most dense layers multiply integers."""
        tensors = self._tensors()
        dtypes = [
            tensors[operator.inputs[1]]["dtype"]
            for name, operator in self._operators()
            if name == "FULLY_CONNECTED"
        ]
        return bool(dtypes) and 2 * dtypes.count(np.int8) > len(dtypes)

    def counts(self) -> dict:
        """Returns what a row of `measure` holds besides times."""
        return {
            "giga_operations": self.matrix_operations() / 1e9,
            "kernels": "int8" if self.has_integer_kernels() else "float32",
            "operations": dict(self.operations()),
            "undelegated": dict(self.undelegated()),
        }

    def _graph_index(self) -> int:
        return compat.graph_index(self._runner) if self._runner else 0

    def _tensors(self) -> dict[int, dict]:
        details = self._interpreter.get_tensor_details(self._graph_index())
        return {detail["index"]: detail for detail in details}

    def _operators(self) -> list[tuple[str, schema.OperatorT]]:
        """The operations as stored in the file, before delegation."""
        content = Path(self._path).read_bytes()
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        graph = model.subgraphs[self._graph_index()]
        return [(operation_name(model, one), one) for one in graph.operators]


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


def operation_name(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Returns an operation's type, e.g. FULLY_CONNECTED."""
    code = model.operatorCodes[operator.opcodeIndex]
    # Old files keep the number in an older field.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return code.customCode.decode()
    return _NAMES[number]


def _filled(path, detail: dict, index: int) -> np.ndarray:
    if not issubclass(detail["dtype"], np.number | np.bool_):
        raise ValueError(f"{path} takes text; only numbers can be filled in")
    is_index = detail["dtype"] in (np.int32, np.int64)
    return np.full(detail["shape"], index if is_index else 1, detail["dtype"])


def _common_length(inputs) -> int | None:
    lengths = {array.shape[-1] for array in inputs if array.ndim > 1}
    return lengths.pop() if len(lengths) == 1 else None


def interleaved(
    runs: Mapping[object, Callable[[], None]], repeats: int
) -> dict[object, dict[str, float]]:
    """Times functions in turn, so that a busy moment affects all of them.

    Args:
        runs: functions to time, by name.
        repeats: timed rounds, after `WARM_UP` untimed ones.

    Returns:
        By name, in milliseconds: `median_ms`, `low_ms` and `high_ms` (the
        quartiles), `min_ms`, and `cpu_ms`, the median processor time of all
        threads, which is less sensitive to other processes.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    walls = {name: [] for name in runs}
    processors = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            processors[name].append(1e3 * (time.process_time() - processor))
            walls[name].append(1e3 * (time.perf_counter() - wall))
    return {
        name: {
            "median_ms": statistics.median(values),
            "low_ms": float(np.percentile(values, 25)),
            "high_ms": float(np.percentile(values, 75)),
            "min_ms": min(values),
            "cpu_ms": statistics.median(processors[name]),
        }
        for name, values in walls.items()
    }


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
            "megabytes": Path(path).stat().st_size / _MEGABYTE,
            **timings[index],
            **file.counts(),
        }
        for index, ((path, _), file) in enumerate(
            zip(files, opened, strict=True)
        )
    ]


def peak_megabytes(path: str, num_threads: int, length: int | None) -> float:
    """Returns the memory that running a file adds to this process's peak.

    Meaningful in a process that has done nothing else: see `run_apart`.
    """
    before = _memory("VmRSS")
    # Resets the recorded peak to the memory in use now.
    Path("/proc/self/clear_refs").write_text("5")
    measure([(path, length)], num_threads, 1)
    return (_memory("VmHWM") - before) / _MEGABYTE


def _memory(field: str) -> int:
    """Bytes in a field of this process's status."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def run_apart(function: str, *arguments, python: str = sys.executable):
    """Calls `measure` or `peak_megabytes` in a process of its own.

    Args:
        function: its name.
        *arguments: of the function.
        python: the interpreter, which needs NumPy and LiteRT only.
    """
    # -P: the file profile.py beside this one must not hide Python's.
    command = [python, "-P", __file__, function, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*json.loads(sys.argv[2]))))
