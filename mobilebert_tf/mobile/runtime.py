"""Runs .tflite files with the LiteRT interpreter: predictions and latency.

The interpreter is LiteRT's own package, whose XNNPACK kernels are those of a
phone. `tf.lite.Interpreter` is being removed and, unlike this one, silently
ignores a zero point on the right side of a batch product. Nothing here needs
TensorFlow.
"""

import os
import statistics
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from mobilebert_tf.compat import muted
from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.inputs import read_inputs

# A .tflite flatbuffer has this identifier at byte 4.
_IDENTIFIER = b"TFL3"

# In the ZIP archive behind a model with metadata.
VOCAB_FILE, LABELS_FILE = "vocab.txt", "labels.txt"

# The signature of the longest sequences.
SIGNATURE = "serving_default"

# What the inputs must be below; the file does not name its tables' sizes.
_BOUNDS = {"input_ids": 2**31, "input_mask": 2, "segment_ids": 2**31}

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
        inputs: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]],
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Runs every example, one at a time, as a phone does.

        Args:
            inputs: arrays [N, S] by input name, ours or Hugging Face's, or
                an iterable of such batches. S is one of `lengths`.

        Returns:
            The output, [N, ...]; for a file with several outputs, a dict of
            them by name.

        Raises:
            ValueError: if there are no sequences, or inputs that are missing,
                unknown, of another shape, not whole numbers or outside the
                tables.
        """
        batches = [inputs] if isinstance(inputs, Mapping) else inputs
        outputs = [
            self._run(example)
            for batch in batches
            for example in self._checked(batch)
        ]
        if not outputs:
            raise ValueError("there is no example to predict")
        return _stack(outputs)

    def packed_lines(self) -> dict[str, list[str]]:
        """Returns the lines of the text files in the file's metadata, by name.

        Raises:
            InputError: the metadata is damaged.
        """
        if not zipfile.is_zipfile(self.path):
            return {}
        try:
            with zipfile.ZipFile(self.path) as archive:
                return {
                    name: archive.read(name).decode().split("\n")[:-1]
                    for name in (VOCAB_FILE, LABELS_FILE)
                    if name in archive.namelist()
                }
        except (zipfile.BadZipFile, UnicodeDecodeError, zlib.error) as error:
            raise InputError(self.path, "whole metadata", error) from error

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

    def _checked(self, batch: Mapping) -> list[dict[str, np.ndarray]]:
        """Returns the examples of a batch, int32 [1, S] by name."""
        read = read_inputs(batch, _BOUNDS, required=INPUT_NAMES)
        arrays = {name: np.asarray(read[name], np.int32) for name in read}
        number, length = arrays["input_ids"].shape
        if length not in self._runners:
            known = " or ".join(map(str, self.lengths))
            raise ValueError(
                f"sequences must be {known} long, as {self.path} was exported. "
                f"Received: {length}"
            )
        return [
            {name: values[row : row + 1] for name, values in arrays.items()}
            for row in range(number)
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
    from ai_edge_litert.cpu_options import CpuOptions
    from ai_edge_litert.hardware_accelerator import HardwareAccelerator
    from ai_edge_litert.options import Options

    options = Options(
        hardware_accelerators=HardwareAccelerator.CPU,
        cpu_options=CpuOptions(num_threads=1, xnnpack_flags=_FORCE_FLOAT16),
    )
    return predict_compiled(path, inputs, options)[0]


def predict_compiled(path: str | os.PathLike, inputs: dict, options):
    """Runs a file through LiteRT's `CompiledModel`, on any accelerator.

    Args:
        path: the file.
        inputs: as for `TFLiteModel.predict`, of the longest length.
        options: `ai_edge_litert.options.Options`.

    Returns:
        What `TFLiteModel.predict` returns, and whether the accelerator ran all
        operations.
    """
    from ai_edge_litert.compiled_model import CompiledModel

    shapes = TFLiteModel(path).output_shapes()
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
        return _stack(rows), model.is_fully_accelerated()


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
    # LiteRT names its delegate, and repeats its errors.
    with muted():
        try:
            interpreter = Interpreter(
                model_content=content, num_threads=num_threads
            )
            interpreter.allocate_tensors()
            return interpreter
        except (ValueError, RuntimeError) as error:
            problem = error
    expected = "a whole .tflite file"
    if "custom op" in str(problem):
        expected = "a .tflite file of LiteRT's own operations"
    raise InputError(path, expected, problem) from problem


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
