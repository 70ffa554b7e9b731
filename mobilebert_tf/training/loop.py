"""One phase of a run: what does not change while it trains, and what is due.

A run: phases of training that survive being stopped.

A run owns an output folder: `run.json` (the settings it was started with),
`metrics.jsonl`, `tensorboard/` and `checkpoints/`. Started again with the same
settings it goes on where it stopped; with other settings it refuses.

What a phase does besides its steps (logs, evaluations, images) is due at fixed
steps and disturbs neither data nor random numbers.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras

from mobilebert_tf.training.attention_images import AttentionImages
from mobilebert_tf.training.checkpoints import (
    CHECKPOINTS,
    Checkpoint,
    CheckpointFolder,
)
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.evaluation import Evaluation, best_of, recorded
from mobilebert_tf.training.log import (
    MetricsLog,
    Progress,
    Window,
    format_duration,
)
from mobilebert_tf.training.run_folder import check_settings, make_folder
from mobilebert_tf.training.step import TrainStep
from mobilebert_tf.training.stopping import SignalCatcher, Stopped


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


SETTINGS_FILE = "run.json"


class Run:
    """Trains phase after phase, saving and logging as it goes.

    Args:
        output_dir: the run's folder, created if need be.
        settings: what the run was asked to do, JSON values. A folder with
            other settings is refused.
        variables: the model's variables, the states of its random numbers
            among them, saved in every checkpoint and restored at once if
            there is one.
        log_every: steps between two log lines.
        save_every_seconds: time between two checkpoints.
        distribution: the devices; `variables` were made in its scope.
        num_steps: of all phases together, for the time that is left; None if
            it is not known.
        max_skipped: steps with losses or gradients that are not finite that
            are left out before the run stops for one.

    Raises:
        InputError: if the folder belongs to a run with other settings, or
            cannot be one.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        settings: Mapping,
        variables: Sequence[keras.Variable],
        log_every: int = 50,
        save_every_seconds: float = 120.0,
        distribution: Distribution | None = None,
        num_steps: int | None = None,
        max_skipped: int = 0,
    ):
        self.folder = Path(output_dir)
        self.distribution = distribution or Distribution()
        self._model_variables = list(variables)
        self._log_every = log_every
        self._save_every_seconds = save_every_seconds
        self._num_steps = num_steps
        self._max_skipped = max_skipped
        is_chief = self.distribution.is_chief
        if is_chief:
            make_folder(self.folder)
            check_settings(self.folder / SETTINGS_FILE, settings)
        self._checkpoints = CheckpointFolder(
            self.folder / CHECKPOINTS, is_chief
        )
        self._latest = self._agree_on_checkpoint()
        # Phases that are over, steps done in the one that is not, steps in
        # all, and what the log window has summed up so far.
        self._state = {"phase": 0, "step": 0, "global_step": 0, "window": {}}
        if self._latest:
            self._state = self._latest.state
            # The optimizer follows when its phase is built.
            self._checkpoints.restore(
                self._latest, {"model": self._model_variables}
            )
            print(f"Going on from {self._latest.prefix}", flush=True)
        self._saved_step, self._saved_at = self.global_step, time.monotonic()
        self.log = MetricsLog(self.folder, self.global_step, is_chief)
        self._phase_index = 0

    @property
    def global_step(self) -> int:
        """Steps taken in all phases so far."""
        return self._state["global_step"]

    def phase(
        self,
        name: str,
        num_steps: int,
        build: Callable[[], tuple[TrainStep, keras.optimizers.Optimizer]],
        dataset: Callable[[int], Iterable[dict]],
        tokens_per_step: int,
        shown: Sequence[str] = ("loss",),
        evaluation: Evaluation | None = None,
        images: AttentionImages | None = None,
    ) -> None:
        """Runs one phase, or what is left of it.

        Args:
            name: for logs.
            num_steps: the phase's length.
            build: makes the train step and its optimizer; not called for a
                phase that is already over.
            dataset: from a start step to endless batches from there on.
            tokens_per_step: for the rate.
            shown: the terms that the progress line shows.
            evaluation: how the phase is judged while it trains.
            images: what is shown in TensorBoard now and then.

        Raises:
            Stopped: after saving, when a signal asked for it.
            NonFiniteLoss: if a loss or gradient is not finite; the
                checkpoint before it stays.
            CannotSave: if a checkpoint cannot be written.
        """
        index, self._phase_index = self._phase_index, self._phase_index + 1
        if index < self._state["phase"]:
            return
        # Its last evaluation was of a state that had been saved before.
        if self.distribution.any(bool(self._verdict(evaluation, num_steps))):
            self._end_phase()
            return
        with SignalCatcher(self._may_stop_now) as signals:
            with self.distribution.scope():
                train_step, optimizer = build()
            phase = Phase(
                name,
                num_steps,
                shown,
                evaluation,
                images,
                train_step,
                {
                    "model": self._model_variables,
                    "optimizer": optimizer.variables,
                },
                *self._counters(name, num_steps, train_step, tokens_per_step),
            )
            step = self._state["step"]
            if step:
                self._checkpoints.restore(self._latest, phase.variables)
            stopped = self._train(phase, iter(dataset(step)), signals)
        if stopped:
            # Another process may have been asked rather than this one.
            cause = signals.received or "SIGTERM"
            raise Stopped(
                f"{cause} received: stopped at step {self.global_step}, in "
                f"{name}, and saved. The same command goes on from here.",
                cause,
            )
        duration = format_duration(phase.progress.seconds())
        print(f"{name}: {num_steps} steps in {duration}", flush=True)

    def best(self) -> dict | None:
        """Returns `step`, `score` and `metrics` of the best evaluation.

        Its weights are in the folder's `BEST_FOLDER`. None if there was none.
        """
        lines = recorded(self.folder, self.global_step)
        return best_of(lines) if lines else None

    def finish(self, results: Mapping[str, float]) -> None:
        """Logs and prints final results, and closes the record."""
        self.log.write_results(self.global_step, results)
        self.log.close()
        for name, value in results.items():
            print(f"{name}: {value:.4f}", flush=True)

    def _agree_on_checkpoint(self) -> Checkpoint | None:
        """Finds where to go on; the chief does, and the others follow."""
        if self.distribution.is_chief:
            self._checkpoints.remove_leftovers()
            newest = self._checkpoints.newest()
            self.distribution.from_chief(newest.step if newest else -1)
            return newest
        step = self.distribution.from_chief(-1)
        return self._checkpoints.read(step) if step >= 0 else None

    def _verdict(
        self, evaluation: Evaluation | None, num_steps: int
    ) -> bool | None:
        """Whether the phase is over by the evaluation of this step.

        None if there is none in the record.
        """
        step = self._state["step"]
        if not (evaluation and evaluation.is_due(step, num_steps)):
            return None
        lines = recorded(self.folder, self.global_step)
        if not lines or lines[-1]["global_step"] < self.global_step:
            return None
        return step == num_steps or evaluation.is_hopeless(lines)

    def _counters(self, name, num_steps, train_step, tokens_per_step):
        """Returns the window and the progress of a phase."""
        step, window = self._state["step"], self._state["window"]
        return (
            Window(name, train_step, step, self._max_skipped, window),
            Progress(
                name,
                num_steps,
                step,
                tokens_per_step,
                self._steps_after(num_steps - step),
            ),
        )

    def _train(self, phase, batches, signals) -> bool:
        """Takes steps and saves; returns whether a signal cut them short."""
        state, self._saved_at = self._state, time.monotonic()
        # A stop may have come between a step and its evaluation.
        over, stopping = self._evaluate(phase), False
        while not (over or stopping):
            number = phase.steps_in_a_call(
                state["step"], self.global_step, self._log_every
            )
            some = [next(batches) for _ in range(number)]
            phase.window.add(*phase.train_step.run(some))
            state["step"] += number
            state["global_step"] += number
            logs = phase.is_log_due(state["step"], self._log_every)
            if logs:
                examples = len(next(iter(some[0].values())))
                self._log_window(phase, examples)
            self._show_images(phase)
            if logs or not self.distribution.spans_processes:
                # Several processes must stop at the same step; they ask each
                # other now and then only.
                stopping = self.distribution.any(bool(signals.received))
            over = self._evaluate(phase, stopping)
            since = time.monotonic() - self._saved_at
            if since > self._save_every_seconds and not (over or stopping):
                self._save(phase)
        if over:
            self._end_phase()
        self._save(phase)
        return stopping

    def _end_phase(self) -> None:
        self._state["phase"], self._state["step"] = self._phase_index, 0

    def _show_images(self, phase) -> None:
        if phase.images and self.global_step % phase.images.every == 0:
            if self.distribution.is_chief:
                phase.images.write(self.log, self.global_step)

    def _evaluate(self, phase, stopping: bool = False) -> bool:
        """Evaluates where it is time to; returns whether the phase is over.

        Saves before, so that nothing is lost by a stop meanwhile. If asked to
        stop already, the next process evaluates.
        """
        step = self._state["step"]
        if not phase.is_evaluation_due(step):
            return step == phase.num_steps
        if stopping:
            return False
        self._save(phase)
        verdict = None
        if self.distribution.is_chief:
            verdict = self._verdict(phase.evaluation, phase.num_steps)
            if verdict is None:
                where = phase.name, step, self.global_step
                phase.evaluation.evaluate(self.folder, self.log, *where)
                verdict = self._verdict(phase.evaluation, phase.num_steps)
            if verdict and step < phase.num_steps:
                number = phase.evaluation.patience
                print(
                    f"no better score in {number} evaluations: stopped at "
                    f"step {step}",
                    flush=True,
                )
        return self.distribution.any(bool(verdict))

    def _log_window(self, phase, examples: int) -> None:
        phase.window.read(self._last_good())
        values = phase.window.averages()
        step = self._state["step"]
        self.log.write(phase.name, step, self.global_step, values)
        if self.distribution.is_chief:
            shown = {key: values[key] for key in phase.shown if key in values}
            line = phase.progress.line(step, shown, examples)
            print(line, flush=True)

    def _save(self, phase) -> None:
        if self._saved_step == self.global_step:
            return
        # Nothing is saved that has not been looked at.
        phase.window.read(self._last_good())
        self._state["window"] = phase.window.state()
        self._checkpoints.save(self.global_step, self._state, phase.variables)
        self._saved_step, self._saved_at = self.global_step, time.monotonic()

    def _last_good(self) -> str:
        if not self._saved_step:
            return "there is no checkpoint before it"
        path = self._checkpoints.prefix(self._saved_step)
        return f"the last good checkpoint is {path}"

    def _may_stop_now(self) -> bool:
        saved = self._saved_step == self.global_step
        return saved and not self.distribution.spans_processes

    def _steps_after(self, left: int) -> int:
        """Steps of the phases after one of which `left` steps are left."""
        if self._num_steps is None:
            return 0
        return self._num_steps - self.global_step - left
