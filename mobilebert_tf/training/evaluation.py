"""Evaluations while a phase trains: recorded, and the best one's weights kept.

Which is the best, and when it is no use going on, follows from the record
alone, so that a run that was killed decides as if it had not been.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mobilebert_tf.training.checkpoints import CHECKPOINTS
from mobilebert_tf.training.log import METRICS_FILE, MetricsLog, read_metrics

# Of a run's folder: the weights of its best evaluation.
BEST_FOLDER = f"{CHECKPOINTS}/best"
EVALUATION = "evaluation"

_NOT_METRICS = {"phase", "step", "global_step", "score"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a phase is judged while it trains.

    Attributes:
        every: steps from one evaluation to the next; the last step of the
            phase has one too.
        measure: returns metrics by name.
        score: of metrics, larger where they are better.
        keep: writes the weights into a folder; called with `BEST_FOLDER` when
            none before had so good a score.
        patience: evaluations without a better score before the phase ends;
            None: it goes to its end.
    """

    every: int
    measure: Callable[[], Mapping[str, float]]
    score: Callable[[Mapping[str, float]], float]
    keep: Callable[[Path], None]
    patience: int | None = None

    def is_due(self, step: int, num_steps: int) -> bool:
        """Whether there is one after `step` steps of a phase."""
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

        In this order: what is recorded has been kept.

        Args:
            folder: the run's.
            log: its record.
            phase: what is training, for the line that is printed.
            step: of the phase.
            global_step: of the run.
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
        """Whether patience has ended with the last of recorded evaluations."""
        if self.patience is None:
            return False
        best = best_of(lines)["step"]
        return sum(line["global_step"] > best for line in lines) >= (
            self.patience
        )


def recorded(folder: str | os.PathLike, global_step: int) -> list[dict]:
    """Returns the lines of a run's evaluations up to a step of the run."""
    path = Path(folder) / METRICS_FILE
    if not path.exists():
        return []
    return [
        line
        for line in read_metrics(path)
        if line["phase"] == EVALUATION and line["global_step"] <= global_step
    ]


def best_of(lines: Sequence[Mapping]) -> dict:
    """Returns `step`, `score` and `metrics` of the best; of equals the first.

    Args:
        lines: of `recorded`, at least one. `step` is that of the run.
    """
    best = max(lines, key=lambda line: _rank(line["score"]))
    return {
        "step": best["global_step"],
        "score": best["score"],
        "metrics": {n: v for n, v in best.items() if n not in _NOT_METRICS},
    }


def _rank(score: float) -> float:
    """The score; the worst if it is no number, a constant's correlation say."""
    return -math.inf if math.isnan(score) else score
