"""Runs .tflite files with the LiteRT interpreter: predictions and latency.

The interpreter is LiteRT's own package, whose XNNPACK kernels are those of a
phone. `tf.lite.Interpreter` is being removed and, unlike this one, silently
ignores a zero point on the right side of a batch product. Nothing here needs
TensorFlow.
"""

import contextlib
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.errors import InputError

# A .tflite flatbuffer has this identifier at byte 4.
_IDENTIFIER = b"TFL3"

# The signature of the longest sequences.
SIGNATURE = "serving_default"

# TFLITE_XNNPACK_DELEGATE_FLAG_FORCE_FP16 of XNNPACK's delegate.
_FORCE_FLOAT16 = 4

# Untimed runs before the first timed one.
_WARM_UP = 3


class TFLiteModel:
    """A .tflite file, ready to predict.

    Args:
        path: a file that `export.export` wrote, or another with the same three
            inputs in each of its signatures.
        num_threads: threads of the interpreter.

    Attributes:
        lengths: the lengths of sequences that the file accepts, in rising
            order, one per signature.
        max_seq_length: the longest, S.
        output_names: the outputs of its signatures.

    Raises:
        InputError: if the file is missing, truncated or not a TFLite file, or
            its signatures do not have the three inputs.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        self.path = Path(path)
        self.interpreter = open_interpreter(self.path, num_threads)
        signatures = self.interpreter.get_signature_list()
        if not signatures or any(
            sorted(signature["inputs"]) != sorted(INPUT_NAMES)
            for signature in signatures.values()
        ):
            raise InputError(
                self.path,
                f"signatures of {', '.join(INPUT_NAMES)}",
                {name: s["inputs"] for name, s in signatures.items()},
            )
        runners = map(self.interpreter.get_signature_runner, signatures)
        by_length = {_length(runner): runner for runner in runners}
        self._runners = dict(sorted(by_length.items()))
        self.lengths = tuple(self._runners)
        self.max_seq_length = self.lengths[-1]
        self.output_names = tuple(
            sorted(next(iter(signatures.values()))["outputs"])
        )

    def predict(
        self,
        inputs: dict[str, np.ndarray] | Iterable[dict[str, np.ndarray]],
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Runs every example, one at a time, as a phone does.

        Args:
            inputs: arrays [N, S] by input name, in any order, or an iterable
                of such batches. Other entries (labels) are ignored. S is one
                of `lengths`.

        Returns:
            The output, [N, ...]; for a file with several outputs, a dict of
            them by name.

        Raises:
            ValueError: if there are no sequences, or inputs that are missing,
                of another shape, not whole numbers or outside the tables.
        """
        batches = [inputs] if isinstance(inputs, dict) else inputs
        outputs = [
            self._run(example)
            for batch in batches
            for example in self._checked(batch)
        ]
        if not outputs:
            raise ValueError("there is no example to predict")
        return _stack(outputs)

    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shapes of one example's outputs at the longest length."""
        details = self._runners[self.max_seq_length].get_output_details()
        return {name: tuple(found["shape"]) for name, found in details.items()}

    def _run(self, example: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        length = example["input_ids"].shape[1]
        try:
            return self._runners[length](**example)
        except RuntimeError as error:
            if "out of bounds" not in str(error):
                raise
            found = {
                name: int(values.max()) for name, values in example.items()
            }
            raise ValueError(
                "input_ids and segment_ids must be ids of the file's tables. "
                f"Received values up to {found}"
            ) from error

    def _checked(self, batch: dict) -> list[dict[str, np.ndarray]]:
        """Returns the examples of a batch, int32 [1, S] by name."""
        missing = [name for name in INPUT_NAMES if name not in batch]
        if missing:
            raise ValueError(
                f"inputs must hold {', '.join(INPUT_NAMES)}. "
                f"Missing: {', '.join(missing)}"
            )
        arrays = {name: np.asarray(batch[name]) for name in INPUT_NAMES}
        shape = arrays["input_ids"].shape
        for name, values in arrays.items():
            if values.ndim != 2 or values.shape[1] not in self._runners:
                known = " or ".join(map(str, self.lengths))
                raise ValueError(
                    f"{name} must be [N, S], S {known} long, as {self.path} "
                    f"was exported. Received: {list(values.shape)}"
                )
            if values.shape != shape:
                raise ValueError(
                    f"{name} must have the shape of input_ids, {list(shape)}. "
                    f"Received: {list(values.shape)}"
                )
            whole = values.astype(np.int32)
            if not np.array_equal(whole, values) or (whole < 0).any():
                raise ValueError(
                    f"{name} must be whole numbers from 0 to 2^31 - 1. "
                    f"Received: {values.min()} to {values.max()}, "
                    f"{values.dtype}"
                )
            arrays[name] = whole
        return [
            {name: values[row : row + 1] for name, values in arrays.items()}
            for row in range(shape[0])
        ]

    def latency_ms(self, repeats: int = 50, length: int | None = None) -> float:
        """Returns the median milliseconds of one inference, after warming up.

        The inputs are all real tokens; their values do not change the work.

        Args:
            repeats: number of timed runs.
            length: one of `lengths`; None: the longest.
        """
        length = length or self.max_seq_length
        runner = self._runners[length]
        ones = np.ones((1, length), np.int32)
        example = dict.fromkeys(INPUT_NAMES, ones)
        for _ in range(_WARM_UP):
            runner(**example)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            runner(**example)
            seconds.append(time.perf_counter() - start)
        return 1e3 * statistics.median(seconds)


def predict_in_float16(
    path: str | os.PathLike, inputs: dict[str, np.ndarray]
) -> np.ndarray | dict[str, np.ndarray]:
    """Runs a float file in float16 arithmetic, as GPUs of phones do.

    XNNPACK computes in float16, or emulates it where the processor cannot.

    Args:
        path: a file with float activations.
        inputs: as for `TFLiteModel.predict`, of the longest length.

    Returns:
        What `TFLiteModel.predict` returns. Values may be infinite or NaN.
    """
    # Only this function needs these libraries, which take a second to load.
    from ai_edge_litert.compiled_model import CompiledModel
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import Options

    shapes = TFLiteModel(path).output_shapes()
    options = Options(
        hardware_accelerators=HardwareAccelerator.CPU,
        cpu_options=CpuOptions(num_threads=1, xnnpack_flags=_FORCE_FLOAT16),
    )
    rows = []
    with muted(), CompiledModel.from_file(str(path), options=options) as model:
        index = model.get_signature_index(SIGNATURE)
        signature = model.get_signature_by_index(index)
        given = model.create_input_buffers(index)
        taken = model.create_output_buffers(index)
        for row in range(len(inputs["input_ids"])):
            for name, buffer in zip(signature["inputs"], given, strict=True):
                buffer.write(np.int32(inputs[name][row : row + 1]))
            model.run_by_index(index, given, taken)
            rows.append(
                {
                    name: buffer.read(
                        int(np.prod(shapes[name])), np.float32
                    ).reshape(shapes[name])
                    for name, buffer in zip(
                        signature["outputs"], taken, strict=True
                    )
                }
            )
    return _stack(rows)


def _stack(rows: list[dict[str, np.ndarray]]):
    stacked = {
        name: np.concatenate([row[name] for row in rows]) for name in rows[0]
    }
    return stacked if len(stacked) > 1 else stacked.popitem()[1]


def _length(runner) -> int:
    """Returns the length of the sequences that a signature takes."""
    return int(runner.get_input_details()["input_ids"]["shape"][1])


def open_interpreter(path: Path, num_threads: int) -> Interpreter:
    """Opens a .tflite file.

    Raises:
        InputError: if the file is missing, truncated or not a TFLite file, or
            needs kernels that the interpreter lacks.
    """
    content = read_tflite(path)
    try:
        interpreter = Interpreter(
            model_content=content, num_threads=num_threads
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        expected = "a whole .tflite file"
        if "custom op" in str(error):
            expected = "a .tflite file of LiteRT's own operations"
        raise InputError(path, expected, error) from error
    return interpreter


def read_tflite(path: Path) -> bytes:
    """Returns the content of a .tflite file.

    Raises:
        InputError: if the file is missing or another kind of file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(path, "a .tflite file", error.strerror) from error
    if content[4:8] != _IDENTIFIER:
        raise InputError(path, "a .tflite file", "another kind of file")
    return content


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Holds back stderr, C++ included, and shows it only after a failure."""
    sys.stderr.flush()
    kept = os.dup(2)
    has_failed = True
    with tempfile.TemporaryFile() as log, warnings.catch_warnings():
        # The converter calibrates with the interpreter that it warns against.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter")
        os.dup2(log.fileno(), 2)
        try:
            yield
            has_failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if has_failed:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))
