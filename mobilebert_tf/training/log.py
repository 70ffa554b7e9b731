"""The record of a run: `metrics.jsonl`, TensorBoard and progress lines.

A line averages the steps since the one before, each of which is checked for
NaN and infinite values.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_tf.errors import InputError, RunError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.training.run_folder import (
    METRICS_FILE,
    RESULTS,
    TENSORBOARD,
    read_metrics,
)
from mobilebert_tf.training.step import NO_VARIABLE, TrainStep


class NonFiniteLoss(RunError):
    """A loss term or a gradient became NaN or infinite."""


class Window:
    """Averages the values of steps, without waiting for them as they come.

    Args:
        phase: name of the phase, for messages.
        train_step: the step that computes the values.
        step: steps of the phase taken before.
        max_skipped: number of steps with NaN or infinite values that a run
            tolerates in total. Their updates have not been made.
        state: the `state` of an earlier process, or {}.
    """

    def __init__(
        self,
        phase: str,
        train_step: TrainStep,
        step: int,
        max_skipped: int,
        state: dict,
    ):
        self._phase = phase
        self._train_step = train_step
        self._step = step
        self._max_skipped = max_skipped
        self._pending = []
        # JSON values, with which a later process continues.
        self.state = {"skipped": 0, "number": 0, "sums": []} | state

    def add(self, values: tf.Tensor, variables: tf.Tensor) -> None:
        """Takes the results of `TrainStep.run`."""
        # Reading them now would wait for the steps.
        self._pending.append((values, variables))

    def read(self, last_good: str) -> None:
        """Waits for all steps so far and checks their values.

        Raises:
            NonFiniteLoss: a value is NaN or infinite, and as many steps as
                tolerated have been left out. It names `last_good`, the last
                good checkpoint.
        """
        pending, self._pending = self._pending, []
        for values, variables in pending:
            rows = values.numpy().tolist()
            indices = variables.numpy().tolist()
            for row, variable in zip(rows, indices, strict=True):
                self._step += 1
                # The last value, the learning rate, is not computed from data.
                if all(map(math.isfinite, row[:-1])):
                    self._sum(row)
                else:
                    self._skip(row, variable, last_good)

    def averages(self) -> dict[str, float]:
        """Returns the means since the last call, and starts anew.

        The learning rate is that of the last step. Empty if every step was
        left out.
        """
        state = self.state
        means = [value / state["number"] for value in state["sums"]]
        averages = dict(zip(self._train_step.names, means, strict=False))
        if averages:
            averages["learning_rate"] = state["learning_rate"]
        state["number"], state["sums"] = 0, []
        return averages

    def _sum(self, row: Sequence[float]) -> None:
        # One by one, so that an interrupted window sums to the same bits.
        sums = self.state["sums"] or [0.0] * len(row)
        sums = [old + new for old, new in zip(sums, row, strict=True)]
        self.state["sums"], self.state["learning_rate"] = sums, row[-1]
        self.state["number"] += 1

    def _skip(self, row, variable: int, last_good: str) -> None:
        culprit = self._culprit(row, variable)
        where = f"{culprit} at step {self._step} of {self._phase}"
        most = self._max_skipped
        if self.state["skipped"] == most:
            raise NonFiniteLoss(f"{where}; {last_good}")
        number = self.state["skipped"] = self.state["skipped"] + 1
        print(
            f"{where}: update left out ({number} of at most {most})", flush=True
        )

    def _culprit(self, row, variable: int) -> str:
        *terms, norm, _ = zip(self._train_step.names, row, strict=True)
        # The total comes last: one of its terms tells more.
        for name, value in [*terms[1:], terms[0]]:
            if not math.isfinite(value):
                return f"{name} is {value}"
        if variable == NO_VARIABLE:
            return f"{norm[0]} is {norm[1]}"
        path = self._train_step.variable_names[variable]
        return f"the gradient of {path} is not finite"


class MetricsLog:
    """Appends a run's metrics to a JSON-lines file and to TensorBoard.

    Each line holds `phase`, `step` (within the phase), `global_step` and the
    values by name. A resumed run drops the lines after its checkpoint and
    earlier results, so that the record is one unbroken sequence.

    Args:
        folder: the run's output folder.
        global_step: step from which the run continues.
        is_chief: whether this process writes; others stay silent.
    """

    def __init__(
        self, folder: Path, global_step: int = 0, is_chief: bool = True
    ):
        self._path = folder / METRICS_FILE
        self._is_chief = is_chief
        if is_chief:
            self._drop_after(global_step)
            place = folder / TENSORBOARD
            try:
                self._writer = tf.summary.create_file_writer(str(place))
            except tf.errors.OpError as error:
                expected = "a folder to write into"
                raise InputError(place, expected, error.message) from error

    def write(
        self,
        phase: str,
        step: int,
        global_step: int,
        values: Mapping[str, float],
    ) -> None:
        if not self._is_chief:
            return
        line = {"phase": phase, "step": step, "global_step": global_step}
        # Reopened each time: a run may be killed before it can close.
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line | dict(values)) + "\n")
        with self._writer.as_default(step=global_step):
            for name, value in values.items():
                tf.summary.scalar(f"{phase}/{name}", value)

    def write_image(
        self, name: str, image: np.ndarray, global_step: int, description: str
    ) -> None:
        """Shows an image, uint8 [height, width, channels], in TensorBoard."""
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


class Progress:
    """Rates and time left, as lines that also read well in a log file.

    `step` counts the phase's steps taken before, `later_steps` those of the
    phases after it.
    """

    def __init__(
        self, phase: str, num_steps: int, step: int, later_steps: int = 0
    ):
        self._phase = phase
        self._num_steps = num_steps
        self._later_steps = later_steps
        self._start = self._last = time.monotonic()
        self._last_step = step
        self._num_examples = self._num_tokens = 0

    def add(self, batches: Sequence[Mapping]) -> None:
        """Counts the examples of batches and their tokens, with padding."""
        for batch in batches:
            self._num_examples += len(next(iter(batch.values())))
            if "input_ids" in batch:
                self._num_tokens += math.prod(batch["input_ids"].shape)

    def line(self, step: int, values: Mapping[str, float]) -> str:
        """Returns the line for `step`; rates count from the previous line.

        The time left in all assumes later phases to be as fast as this one.
        """
        now = time.monotonic()
        steps = max(step - self._last_step, 1)
        seconds = max(now - self._last, 1e-9)
        self._last, self._last_step = now, step
        parts = [
            f"{self._phase}  {step:{len(str(self._num_steps))}d}/"
            f"{self._num_steps}",
            *(f"{name} {value:.4g}" for name, value in values.items()),
            f"{self._num_examples / seconds:,.1f} examples/s",
        ]
        if self._num_tokens:
            parts.append(f"{self._num_tokens / seconds:,.0f} tokens/s")
        self._num_examples = self._num_tokens = 0
        left = self._num_steps - step
        step_seconds = seconds / steps
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
