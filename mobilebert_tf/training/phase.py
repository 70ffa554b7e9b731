"""One phase of a run: what does not change while it trains, and what is due."""

import dataclasses
from collections.abc import Sequence

from mobilebert_tf.training.attention_images import AttentionImages
from mobilebert_tf.training.evaluations import Evaluation
from mobilebert_tf.training.metrics_log import Progress
from mobilebert_tf.training.step import TrainStep
from mobilebert_tf.training.window import Window


@dataclasses.dataclass(frozen=True)
class Phase:
    """What stays the same from a phase's first step to its last.

    Attributes:
        name: for logs.
        num_steps: its length.
        shown: the terms that the progress line shows.
        evaluation: how it is judged, if it is.
        images: what is shown in TensorBoard, if anything.
        train_step: takes its steps.
        variables: by part, what a checkpoint holds.
        window: the values since the last log line.
        progress: rates and time left.
    """

    name: str
    num_steps: int
    shown: Sequence[str]
    evaluation: Evaluation | None
    images: AttentionImages | None
    train_step: TrainStep
    variables: dict[str, Sequence]
    window: Window
    progress: Progress

    def steps_in_a_call(
        self, step: int, global_step: int, log_every: int
    ) -> int:
        """As many as a call may take, until something else is due.

        Args:
            step: steps of the phase that are done.
            global_step: those of the run.
            log_every: steps between two log lines.
        """
        limits = [
            self.train_step.options.steps_per_execution,
            self.num_steps - step,
            log_every - step % log_every,
        ]
        if self.evaluation:
            limits.append(self.evaluation.every - step % self.evaluation.every)
        if self.images:
            limits.append(self.images.every - global_step % self.images.every)
        return min(limits)

    def is_log_due(self, step: int, log_every: int) -> bool:
        """Whether a line is logged after `step` steps."""
        at_end = step == self.num_steps
        return at_end or step % log_every == 0 or self.is_evaluation_due(step)

    def is_evaluation_due(self, step: int) -> bool:
        """Whether the phase is evaluated after `step` steps."""
        return bool(
            self.evaluation and self.evaluation.is_due(step, self.num_steps)
        )
