"""The record of a run: `metrics.jsonl`, TensorBoard, and lines to read."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_tf.atomic import atomic_file

METRICS_FILE = "metrics.jsonl"
RESULTS = "results"


class MetricsLog:
    """Appends a run's metrics to a JSON-lines file and to TensorBoard.

    Each line holds `phase`, `step` (within the phase), `global_step` and the
    values by name. A resumed run drops the lines behind its checkpoint, so
    that the record of an interrupted run is one unbroken sequence, and the
    results of an earlier end.

    Args:
        folder: the run's output folder.
        global_step: where the run goes on; later lines are dropped.
        is_chief: whether this process writes; others keep silent.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        global_step: int = 0,
        is_chief: bool = True,
    ):
        self._path = Path(folder) / METRICS_FILE
        self._is_chief = is_chief
        if is_chief:
            self._drop_after(global_step)
            self._writer = tf.summary.create_file_writer(
                str(Path(folder) / "tensorboard")
            )

    def write(
        self,
        phase: str,
        step: int,
        global_step: int,
        values: Mapping[str, float],
    ) -> None:
        """Records `values` under a phase and its step."""
        if not self._is_chief:
            return
        line = {"phase": phase, "step": step, "global_step": global_step}
        # Opened anew each time: a run may end without a chance to close.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | dict(values)) + "\n")
        with self._writer.as_default(step=global_step):
            for name, value in values.items():
                tf.summary.scalar(f"{phase}/{name}", value)

    def write_results(
        self, global_step: int, values: Mapping[str, float]
    ) -> None:
        """Records a finished run's results."""
        self.write(RESULTS, 0, global_step, dict(values))

    def write_image(
        self, name: str, image: np.ndarray, global_step: int, description: str
    ) -> None:
        """Shows an image in TensorBoard.

        Args:
            name: of the image.
            image: [height, width, channels], uint8.
            global_step: when it was made.
            description: what it shows.
        """
        if not self._is_chief:
            return
        with self._writer.as_default(step=global_step):
            tf.summary.image(name, image[None], description=description)

    def close(self) -> None:
        """Closes the TensorBoard writer."""
        if self._is_chief:
            self._writer.close()

    def _drop_after(self, global_step: int) -> None:
        if not self._path.exists():
            return
        kept = [
            line
            for line in read_metrics(self._path)
            if line["global_step"] <= global_step and line["phase"] != RESULTS
        ]
        with atomic_file(self._path) as temporary:
            temporary.write_text(
                "".join(json.dumps(line) + "\n" for line in kept)
            )


def read_metrics(path: str | os.PathLike) -> list[dict]:
    """Reads a `metrics.jsonl`; a last line cut short by a crash is dropped."""
    lines = Path(path).read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


class Progress:
    """Rates and time left, as lines that also read well in a log file.

    Args:
        phase: what is running.
        num_steps: the phase's length.
        step: where it starts.
        tokens_per_step: to turn steps into a rate people can compare.
        later_steps: steps of the phases after this one.
    """

    def __init__(
        self,
        phase: str,
        num_steps: int,
        step: int,
        tokens_per_step: int,
        later_steps: int = 0,
    ):
        self._phase = phase
        self._num_steps = num_steps
        self._tokens_per_step = tokens_per_step
        self._later_steps = later_steps
        self._start = self._last = time.monotonic()
        self._last_step = step

    def line(
        self, step: int, values: Mapping[str, float], examples_per_step: int
    ) -> str:
        """Returns the line for `step`; rates count from the previous one.

        The time left in all takes later phases to be as fast as this one.
        """
        now = time.monotonic()
        steps = max(step - self._last_step, 1)
        step_seconds = max(now - self._last, 1e-9) / steps
        self._last, self._last_step = now, step
        parts = [
            f"{self._phase}  {step:{len(str(self._num_steps))}d}/"
            f"{self._num_steps}",
            *(f"{name} {value:.4g}" for name, value in values.items()),
            f"{examples_per_step / step_seconds:,.1f} examples/s",
            f"{self._tokens_per_step / step_seconds:,.0f} tokens/s",
        ]
        left = self._num_steps - step
        time_left = f"{format_duration(left * step_seconds)} left"
        if self._later_steps:
            in_all = (left + self._later_steps) * step_seconds
            time_left += f" ({format_duration(in_all)} in all)"
        return "  ".join([*parts, time_left])

    def seconds(self) -> float:
        """Seconds since the phase began (or was resumed)."""
        return time.monotonic() - self._start


def format_duration(seconds: float) -> str:
    """Formats 3725.0 as 1:02:05 and 65.0 as 1:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{seconds:02d}"
    return f"{minutes}:{seconds:02d}"
