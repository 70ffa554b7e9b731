"""Runs .tflite files with the LiteRT interpreter: predictions and latency.

The interpreter is LiteRT's own package, whose XNNPACK kernels are those of a
phone. `tf.lite.Interpreter` is being removed and, unlike this one, silently
ignores a zero point on the right side of a batch product. Nothing here needs
TensorFlow.
"""

import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.errors import InputError

# A .tflite flatbuffer has this identifier at byte 4.
_IDENTIFIER = b"TFL3"

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
            ValueError: if there are no sequences, or of another length.
        """
        batches = [inputs] if isinstance(inputs, dict) else inputs
        outputs = [
            self._run(batch, row)
            for batch in batches
            for row in range(len(batch["input_ids"]))
        ]
        if not outputs:
            raise ValueError("there is no example to predict")
        stacked = {
            name: np.concatenate([output[name] for output in outputs])
            for name in self.output_names
        }
        if len(stacked) == 1:
            return stacked[self.output_names[0]]
        return stacked

    def _run(self, batch, row: int) -> dict[str, np.ndarray]:
        example = {}
        length = np.shape(batch["input_ids"])[1]
        for name in INPUT_NAMES:
            values = np.asarray(batch[name])[row : row + 1].astype(np.int32)
            if values.shape != (1, length) or length not in self._runners:
                known = " or ".join(map(str, self.lengths))
                raise ValueError(
                    f"{name} must be {known} long, as {self.path} was "
                    f"exported. Received: {values.shape[1:]}"
                )
            example[name] = values
        return self._runners[length](**example)

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
