"""Runs .tflite files with the LiteRT interpreter: predictions and latency.

The interpreter is LiteRT's own package, whose XNNPACK kernels are those of a
phone; `tf.lite.Interpreter` is on its way out and, unlike this one, silently
ignores a zero point on the right side of a batch product.
"""

import os
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.deployment import INPUT_NAMES

SIGNATURE = "serving_default"

# A flatbuffer says so at byte 4.
_IDENTIFIER = b"TFL3"


class TFLiteModel:
    """A .tflite file, ready to predict.

    Args:
        path: a file that `export.export_tflite` wrote.
        num_threads: threads of the interpreter.

    Attributes:
        max_seq_length: S, the only length the file accepts.
        output_names: the outputs of its signature.

    Raises:
        InputError: if the file is missing, is no (or half a) TFLite file, or
            has not the three inputs under the expected signature.
    """

    def __init__(self, path: str | os.PathLike, num_threads: int = 1):
        self.path = Path(path)
        self.interpreter = _open_interpreter(self.path, num_threads)
        signatures = self.interpreter.get_signature_list()
        found = signatures.get(SIGNATURE, {"inputs": [], "outputs": []})
        if sorted(found["inputs"]) != sorted(INPUT_NAMES):
            raise InputError(
                self.path,
                f"a signature {SIGNATURE} of {', '.join(INPUT_NAMES)}",
                {name: s["inputs"] for name, s in signatures.items()},
            )
        self.output_names = tuple(sorted(found["outputs"]))
        self._runner = self.interpreter.get_signature_runner(SIGNATURE)
        details = self._runner.get_input_details()
        self.max_seq_length = int(details["input_ids"]["shape"][1])

    def predict(
        self,
        inputs: dict[str, np.ndarray] | Iterable[dict[str, np.ndarray]],
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Runs every example, one at a time, as a phone does.

        Args:
            inputs: arrays [num, S] by input name, or an iterable of such
                batches. Other entries (labels) are ignored.

        Returns:
            The output, [num, ...]; for a file with several outputs, a dict of
            them by name.

        Raises:
            ValueError: if the sequences are not `max_seq_length` long, or
                there are none.
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
        for name in INPUT_NAMES:
            values = np.asarray(batch[name])[row : row + 1].astype(np.int32)
            if values.shape != (1, self.max_seq_length):
                raise ValueError(
                    f"{name} must be {self.max_seq_length} long, as "
                    f"{self.path} was exported. Received: {values.shape[1:]}"
                )
            example[name] = values
        return self._runner(**example)

    def latency_ms(self, repeats: int = 50) -> float:
        """Returns the median milliseconds of one inference, after warming up.

        The inputs are all real tokens; what they are does not change the work.
        """
        ones = np.ones((1, self.max_seq_length), np.int32)
        example = dict.fromkeys(INPUT_NAMES, ones)
        for _ in range(3):
            self._runner(**example)
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            self._runner(**example)
            times.append(time.perf_counter() - begin)
        return 1000.0 * statistics.median(times)


def _open_interpreter(path: Path, num_threads: int) -> Interpreter:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(path, "a .tflite file", error.strerror) from error
    if content[4:8] != _IDENTIFIER:
        raise InputError(path, "a .tflite file", "another kind of file")
    try:
        interpreter = Interpreter(
            model_content=content, num_threads=num_threads
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise InputError(path, "a whole .tflite file", error) from error
    return interpreter
