"""Latency, operations and memory of any .tflite file, ours or not.

    python measurement.py FILE THREADS [LENGTH]    # prints peak memory, in MB

Imports nothing of this package, only NumPy and LiteRT: run by itself it
measures the memory of an interpreter and not that of TensorFlow, and it works
in an environment that has other people's converters and not ours.
"""

import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, SignatureRunner

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
    """One file at one length with a number of threads, ready to be timed.

    Args:
        path: the file.
        num_threads: threads of the interpreter.
        length: columns of its inputs; one that a signature has, or any where
            the file leaves it open. None: the file's own.
        index: what inputs of whole numbers (ids, masks, places) are filled
            with; other inputs are ones.

    Attributes:
        length: as it runs; None if its inputs are no sequences.

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
        self.length = _columns(self._inputs.values())
        if length not in (None, self.length):
            raise ValueError(
                f"{path} runs at length {self.length}, not at {length}"
            )

    def _signature_runner(self, length: int | None) -> SignatureRunner | None:
        """Returns what runs at that length, if it is not the first graph."""
        signatures = self._interpreter.get_signature_list()
        if length is None or len(signatures) < 2:
            return None
        # What delegates take is listed after this, which runners forbid.
        self._interpreter.allocate_tensors()
        for name in signatures:
            runner = self._interpreter.get_signature_runner(name)
            shapes = [d["shape"] for d in runner.get_input_details().values()]
            if all(shape[-1] == length for shape in shapes):
                return runner if runner._subgraph_index else None
        return None

    def _resize(self, path, length: int | None) -> None:
        """Sets open columns to `length`; one row where rows are open too."""
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
        """Counts the operations by type."""
        return Counter(one["op_name"] for one in self._originals())

    def undelegated(self) -> Counter:
        """Counts those of the first graph that no delegate has taken.

        Walked back from the outputs, since the interpreter lists what it
        replaced as well; of other graphs it lists nothing.
        """
        makers = {}
        # Delegates come last in the list, and win.
        for one in self._interpreter._get_ops_details():
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
        """Multiplications and additions of dense layers and batch products."""
        shapes = {
            index: detail["shape"] for index, detail in self._tensors().items()
        }
        total = 0.0
        for one in self._originals():
            if one["op_name"] in _DEPTH_INPUT:
                deep = one["inputs"][_DEPTH_INPUT[one["op_name"]]]
                outputs = shapes[int(one["outputs"][0])]
                total += 2.0 * np.prod(outputs) * shapes[int(deep)][-1]
        return total

    def has_integer_kernels(self) -> bool:
        """Whether most dense layers multiply integers."""
        tensors = self._tensors()
        dtypes = [
            tensors[int(one["inputs"][1])]["dtype"]
            for one in self._originals()
            if one["op_name"] == "FULLY_CONNECTED"
        ]
        return bool(dtypes) and 2 * dtypes.count(np.int8) > len(dtypes)

    def _graph_index(self) -> int:
        return self._runner._subgraph_index if self._runner else 0

    def _tensors(self) -> dict:
        return {
            detail["index"]: detail
            for detail in self._interpreter.get_tensor_details(
                self._graph_index()
            )
        }

    def _originals(self) -> list[dict]:
        """The operations as they stand in the file."""
        model = schema.Model.GetRootAs(Path(self._path).read_bytes())
        graph = model.Subgraphs(self._graph_index())
        operators = map(graph.Operators, range(graph.OperatorsLength()))
        return [
            {
                "op_name": operation_name(
                    schema.OperatorCodeT.InitFromObj(
                        model.OperatorCodes(one.OpcodeIndex())
                    )
                ),
                "inputs": one.InputsAsNumpy(),
                "outputs": one.OutputsAsNumpy(),
            }
            for one in operators
        ]


def operation_name(code: schema.OperatorCodeT) -> str:
    """Names an operation; those of old files stand in an older field."""
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return code.customCode.decode()
    return _NAMES[number]


def _filled(path, detail: dict, index: int) -> np.ndarray:
    """Values for an input. Ones are ids and real tokens alike."""
    if not issubclass(detail["dtype"], np.number | np.bool_):
        raise ValueError(f"{path} takes text; only numbers can be filled in")
    is_index = detail["dtype"] in (np.int32, np.int64)
    return np.full(detail["shape"], index if is_index else 1, detail["dtype"])


def _columns(inputs) -> int | None:
    lengths = {array.shape[-1] for array in inputs if array.ndim > 1}
    return lengths.pop() if len(lengths) == 1 else None


def interleaved(
    runs: Mapping[object, Callable[[], None]], repeats: int
) -> dict[object, dict[str, float]]:
    """Times functions in turn, so that a busy moment hits all of them.

    Args:
        runs: what to time, by name.
        repeats: rounds, after `WARM_UP` untimed ones.

    Returns:
        By name, in milliseconds: `median_ms`, `low_ms` and `high_ms` (the
        quartiles), `min_ms`, and `cpu_ms`, the median of the processor time of
        all threads, which other processes disturb less.
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


def peak_megabytes(path, num_threads: int, length: int | None) -> float:
    """Peak memory of opening a file and running it, in this process.

    Above what the process had before: of use in one that did nothing else.
    """
    before = _memory("VmRSS")
    # From here on the peak is this file's.
    Path("/proc/self/clear_refs").write_text("5")
    measured = MeasuredFile(path, num_threads, length)
    for _ in range(WARM_UP):
        measured.run()
    return (_memory("VmHWM") - before) / _MEGABYTE


def _memory(field: str) -> int:
    """Bytes that a line of this process's status says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


def main(arguments: Sequence[str]) -> None:
    """Prints the peak memory of the file that the arguments name."""
    path, num_threads = arguments[0], int(arguments[1])
    length = int(arguments[2]) if len(arguments) > 2 else None
    print(peak_megabytes(path, num_threads, length))


if __name__ == "__main__":
    main(sys.argv[1:])
