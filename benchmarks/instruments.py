"""What the benchmarks share: fair times, peaks of memory, rows of a table.

Importing this module needs NumPy only, so that a process can measure memory
without TensorFlow's, or run in an environment without this package.
"""

import dataclasses
import importlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("MOBILEBERT_TF_DATA", "data"))
VOCABULARY = DATA / "vocab" / "bert-base-uncased-vocab.txt"
MEGABYTE = 1e6


def interleaved(
    runs: Mapping[object, Callable[[], object]],
    repeats: int,
    warm_up: int = 3,
) -> dict[object, dict[str, float]]:
    """Times functions in turn, so that a busy moment affects all of them.

    Args:
        runs: functions to time, by name.
        repeats: timed rounds.
        warm_up: untimed calls of each function before the first round.

    Returns:
        By name, in milliseconds: `median_ms`, `mean_ms`, `low_ms` and `high_ms`
        (the quartiles), `min_ms`, and `cpu_ms`, the median processor time of
        all threads, which is less sensitive to other processes.
    """
    for run in runs.values():
        for _ in range(warm_up):
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
            "mean_ms": statistics.fmean(values),
            "low_ms": float(np.percentile(values, 25)),
            "high_ms": float(np.percentile(values, 75)),
            "min_ms": min(values),
            "cpu_ms": statistics.median(processors[name]),
        }
        for name, values in walls.items()
    }


class PeakMemory:
    """This process's peak of memory above that of the object's creation."""

    def __init__(self):
        self._baseline = _status("VmRSS")
        self.restart()

    def restart(self) -> None:
        """Resets the kernel's record to the memory in use now."""
        Path("/proc/self/clear_refs").write_text("5")

    def megabytes(self) -> float:
        """Returns the peak since the last restart."""
        return (_status("VmHWM") - self._baseline) / MEGABYTE


def _status(field: str) -> int:
    """Returns the bytes in a field of this process's status."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(rf"{field}:\s+(\d+) kB", status)[1]) * 1024


def apart(function: Callable | str, *arguments, python: str = sys.executable):
    """Calls a function in a process of its own.

    Args:
        function: of a module that can be imported, or its "module:name".
        *arguments: passed as JSON, like the function's result.
        python: the interpreter that runs it.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    if not isinstance(function, str):
        module = sys.modules[function.__module__]
        # A script's own module is called __main__.
        name = module.__spec__.name if module.__spec__ else module.__name__
        function = f"{name}:{function.__name__}"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [python, "-m", __spec__.name, function, json.dumps(arguments)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def start(main: Callable, options: type, description: str) -> None:
    """Runs a benchmark with the flags of a dataclass of options."""
    from mobilebert_tf.commands.command import Command

    Command(main, (options,), description=description, resumes=False)()


def settings(options) -> dict:
    """Returns an options dataclass as arguments for `apart`, without lists."""
    values = dataclasses.asdict(options)
    return {k: v for k, v in values.items() if not isinstance(v, tuple)}


def print_row(name: str, values: Mapping[str, float], digits: int = 2) -> None:
    """Prints a row of a table."""
    numbers = "".join(f"{value:15.{digits}f}" for value in values.values())
    print(f"{name:<36}{numbers}", flush=True)


def print_header(name: str, keys) -> None:
    """Prints the names of a table's columns."""
    print(f"\n{name:<36}{''.join(f'{key:>15}' for key in keys)}")


def random_batch(
    vocab_size: int, batch_size: int, length: int, predictions: int
) -> dict[str, np.ndarray]:
    """Returns a pre-training batch without padding, the same at each call."""
    rng = np.random.default_rng(0)
    shape, masked = (batch_size, length), (batch_size, predictions)
    return {
        "input_ids": rng.integers(0, vocab_size, shape, np.int32),
        "input_mask": np.ones(shape, np.int32),
        "segment_ids": np.zeros(shape, np.int32),
        "masked_lm_positions": rng.integers(0, length, masked, np.int32),
        "masked_lm_ids": rng.integers(0, vocab_size, masked, np.int32),
        "masked_lm_weights": np.ones(masked, np.float32),
        "next_sentence_labels": np.zeros((batch_size, 1), np.int32),
    }


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    measure = getattr(importlib.import_module(module), name)
    print(json.dumps(measure(*json.loads(sys.argv[2]))))
