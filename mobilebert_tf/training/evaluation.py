"""Evaluations while a phase trains: recorded, and the best one's weights kept.

Which is the best, and when patience ends, follows from the record alone, so a
run that was killed decides as if it had not been.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mobilebert_tf.training.log import MetricsLog
from mobilebert_tf.training.run_folder import (
    BEST_FOLDER,
    EVALUATION,
    METRICS_FILE,
    read_metrics,
)

_NOT_METRICS = {"phase", "step", "global_step", "score"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Measures a model while a phase trains it.

    Attributes:
        every: steps between evaluations; there is one at the phase's end, too.
        measure: returns metrics by name.
        score: maps metrics to a number, larger if they are better.
        keep: writes the weights into a folder; called with `BEST_FOLDER` for a
            better score than all before.
        patience: evaluations without a better score after which the phase
            ends; None trains it to its end.
    """

    every: int
    measure: Callable[[], Mapping[str, float]]
    score: Callable[[Mapping[str, float]], float]
    keep: Callable[[Path], None]
    patience: int | None = None

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether there is one after `step` of a phase's `num_steps`."""
        return step > 0 and (step % self.every == 0 or step == num_steps)

    def evaluate(
        self,
        folder: Path,
        log: MetricsLog,
        phase: str,
        step: int,
        global_step: int,
    ) -> None:
        """Evaluates, keeps the weights if they are the best so far, records.

        In this order: whatever is recorded has been kept.
        """
        before = recorded(folder, global_step)
        metrics = self.measure()
        score = self.score(metrics)
        is_best = all(_rank(score) > _rank(line["score"]) for line in before)
        if is_best:
            self.keep(folder / BEST_FOLDER)
        values = {"score": score} | dict(metrics)
        log.write(EVALUATION, step, global_step, values)
        shown = "  ".join(f"{name} {metrics[name]:.4f}" for name in metrics)
        best = "  (best so far)" if is_best and before else ""
        print(f"{phase}  step {step}  {shown}{best}", flush=True)

    def is_hopeless(self, lines: Sequence[Mapping]) -> bool:
        """Whether patience has ended with the last of `recorded` lines."""
        if self.patience is None:
            return False
        best = best_of(lines)["step"]
        since = sum(line["global_step"] > best for line in lines)
        return since >= self.patience


def recorded(folder: Path, global_step: int) -> list[dict]:
    """Returns the lines of a run's evaluations up to a step of the run."""
    path = folder / METRICS_FILE
    if not path.exists():
        return []
    return [
        line
        for line in read_metrics(path)
        if line["phase"] == EVALUATION and line["global_step"] <= global_step
    ]


def best_of(lines: Sequence[Mapping]) -> dict:
    """Returns the first among the best of `recorded` lines.

    As its `step` (of the run), `score` and `metrics`.
    """
    best = max(lines, key=lambda line: _rank(line["score"]))
    return {
        "step": best["global_step"],
        "score": best["score"],
        "metrics": {n: v for n, v in best.items() if n not in _NOT_METRICS},
    }


def _rank(score: float) -> float:
    """The score, or -inf for NaN (e.g. the correlation of a constant)."""
    return -math.inf if math.isnan(score) else score
