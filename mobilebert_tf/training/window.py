"""The steps between two log lines: averaged, and checked one by one."""

import math
from collections.abc import Sequence

import tensorflow as tf

from mobilebert_tf.training.step import NO_VARIABLE, TrainStep


class NonFiniteLoss(ArithmeticError):
    """A loss term or a gradient became NaN or infinite."""


class Window:
    """Averages the values of steps, without waiting for them as they come.

    Args:
        phase: for messages.
        train_step: whose values these are.
        step: the steps of the phase that are done.
        max_skipped: steps with values that are not finite that a run may
            leave out, in all. Their updates have not been made.
        state: of the window that an earlier process had begun.
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
        self._skipped = state.get("skipped", 0)
        self._number = state.get("number", 0)
        self._sums = list(state.get("sums", ()))
        self._rate = state.get("learning_rate", 0.0)
        self._pending = []

    def add(self, values: tf.Tensor, variables: tf.Tensor) -> None:
        """Takes what `TrainStep.run` returned."""
        # Not read yet: that would wait for the steps.
        self._pending.append((values, variables))

    def read(self, last_good: str) -> None:
        """Waits for all steps so far and checks them.

        Args:
            last_good: what to name if a value is not finite.

        Raises:
            NonFiniteLoss: if one is not, and no more may be left out.
        """
        pending, self._pending = self._pending, []
        for values, variables in pending:
            rows = values.numpy().tolist()
            indices = variables.numpy().tolist()
            for row, variable in zip(rows, indices, strict=True):
                self._step += 1
                # The rate is a schedule's, the rest was computed.
                if all(map(math.isfinite, row[:-1])):
                    self._sum(row)
                else:
                    self._skip(row, variable, last_good)

    def averages(self) -> dict[str, float]:
        """Returns the means since the last call, and begins anew.

        The learning rate is the last step's. Nothing if every step was left
        out.
        """
        means = [value / self._number for value in self._sums]
        averages = dict(zip(self._train_step.names, means, strict=False))
        if averages:
            averages["learning_rate"] = self._rate
        self._number, self._sums = 0, []
        return averages

    def state(self) -> dict:
        """Returns what a later process needs to go on, as JSON values."""
        return {
            "skipped": self._skipped,
            "number": self._number,
            "sums": self._sums,
            "learning_rate": self._rate,
        }

    def _sum(self, row: Sequence[float]) -> None:
        # One after the other, so that a window that was interrupted adds up
        # to the same bits.
        sums = self._sums or [0.0] * len(row)
        self._sums = [old + new for old, new in zip(sums, row, strict=True)]
        self._number += 1
        self._rate = row[-1]

    def _skip(self, row, variable: int, last_good: str) -> None:
        culprit = self._culprit(row, variable)
        where = f"{culprit} at step {self._step} of {self._phase}"
        if self._skipped == self._max_skipped:
            raise NonFiniteLoss(f"{where}; {last_good}")
        self._skipped += 1
        print(
            f"{where}: its update is left out ({self._skipped} of at most "
            f"{self._max_skipped})",
            flush=True,
        )

    def _culprit(self, row, variable: int) -> str:
        *terms, norm, _ = zip(self._train_step.names, row, strict=True)
        # The total last: what it was summed from says more.
        for name, value in [*terms[1:], terms[0]]:
            if not math.isfinite(value):
                return f"{name} is {value}"
        if variable == NO_VARIABLE:
            return f"{norm[0]} is {norm[1]}"
        path = self._train_step.variable_names[variable]
        return f"the gradient of {path} is not finite"
