"""A run: phases of training that survive being stopped.

A run owns a folder with `run.json` (its settings and the fingerprints of its
inputs), `metrics.jsonl`, `tensorboard/` and `checkpoints/`. Started again with
the same of both it continues where it stopped; with others it refuses.

The loop knows neither a task nor a teacher: besides steps it only logs, saves,
evaluates and calls the functions of `Phase.every`, each at fixed steps, so none
of them disturbs the order of data or random numbers.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import keras

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import remove_leftovers
from mobilebert_tf.ownership import Identity, claim_folder
from mobilebert_tf.training.checkpoints import Checkpoint, CheckpointFolder
from mobilebert_tf.training.devices import Distribution
from mobilebert_tf.training.evaluation import Evaluation, best_of, recorded
from mobilebert_tf.training.log import (
    MetricsLog,
    Progress,
    Window,
    format_duration,
)
from mobilebert_tf.training.options import RunOptions
from mobilebert_tf.training.run_folder import (
    BEST_FOLDER,
    CHECKPOINTS,
    RESULTS,
    SETTINGS_FILE,
)
from mobilebert_tf.training.step import TrainStep
from mobilebert_tf.training.stopping import SignalCatcher, Stopped


@dataclasses.dataclass(frozen=True)
class Phase:
    """A stretch of training with one loss and one optimizer.

    Attributes:
        name: shown in logs.
        num_steps: its length.
        build: makes the train step with a fresh optimizer; called in the scope
            of the run's devices, and not at all if the phase is already over.
        batches: maps the number of a step to endless batches from there on.
            A batch holds arrays [B, ...] by name.
        shown: names of the terms that the progress line shows.
        evaluation: measures the model while the phase trains, and may end it.
        every: pairs (n, function): after each n-th step of the run its chief
            calls `function(run)`.
    """

    name: str
    num_steps: int
    build: Callable[[], TrainStep]
    batches: Callable[[int], Iterable[dict]]
    shown: Sequence[str] = ("loss",)
    evaluation: Evaluation | None = None
    every: Sequence[tuple[int, Callable[["Run"], None]]] = ()

    def is_evaluation_due(self, step: int) -> bool:
        """Whether the phase is evaluated after `step` of its steps."""
        return bool(
            self.evaluation and self.evaluation.is_due(step, self.num_steps)
        )

    def steps_until_due(
        self, step: int, global_step: int, log_every: int
    ) -> int:
        """Number of steps until something besides a step is due."""
        limits = [self.num_steps - step, log_every - step % log_every]
        if self.evaluation:
            limits.append(self.evaluation.every - step % self.evaluation.every)
        limits += [number - global_step % number for number, _ in self.every]
        return min(limits)


@dataclasses.dataclass(frozen=True)
class _Active:
    """What exists only while a phase trains."""

    phase: Phase
    train_step: TrainStep
    variables: dict[str, Sequence]
    window: Window
    progress: Progress


class Run:
    """Trains phase after phase, saving and logging as it goes.

    Args:
        folder: made if it is missing; this process keeps it for itself until
            `ownership.release_folders`, or its end.
        variables: the model's variables, states of random numbers included:
            saved in every checkpoint, and restored at once if there is one.
        options: when to log, save and give up.
        identity: what determines the result. A folder of another run is
            refused.
        devices: where `variables` were made; one device when None.
        num_steps: of all phases together, to show the time left.

    Raises:
        InputError: the folder cannot be written to, or is not this run's (see
            `ownership.check_folder`); its record or checkpoint is malformed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        variables: Sequence[keras.Variable],
        options: RunOptions = RunOptions(),
        identity: Identity = Identity(),
        devices: Distribution | None = None,
        num_steps: int | None = None,
    ):
        self.folder = Path(folder)
        self.options = options
        self.devices = devices or Distribution()
        self._model_variables = list(variables)
        self._num_steps = num_steps
        is_chief = self.devices.is_chief
        if is_chief:
            claim_folder(self.folder / SETTINGS_FILE, identity)
        self._checkpoints = CheckpointFolder(self.folder / CHECKPOINTS)
        self._latest = self._agree_on_checkpoint()
        # Number of finished phases, steps taken in the current one and in all,
        # and the sums of its log window.
        self._state = {"phase": 0, "step": 0, "global_step": 0, "window": {}}
        if self._latest:
            missing = self._state.keys() - set(self._latest.state)
            if missing:
                place, expected = self._latest.prefix, "the state of a run"
                found = f"no {', '.join(sorted(missing))}"
                raise InputError(place, expected, found)
            self._state = self._latest.state
            # The optimizer follows when its phase is built.
            self._checkpoints.restore(
                self._latest, {"model": self._model_variables}
            )
            print(f"Resuming from {self._latest.prefix}", flush=True)
        self._saved_step, self._saved_at = self.global_step, time.monotonic()
        self.log = MetricsLog(self.folder, self.global_step, is_chief)
        self._phase_index = 0

    @property
    def global_step(self) -> int:
        """Steps taken in all phases so far."""
        return self._state["global_step"]

    def train(self, phase: Phase) -> None:
        """Trains a phase, or what is left of it.

        Raises:
            Stopped: a signal asked for it; the state has been saved.
            NonFiniteLoss: a loss or gradient is NaN or infinite; the
                checkpoint before it stays.
            CannotSave: a checkpoint cannot be written.
        """
        index, self._phase_index = self._phase_index, self._phase_index + 1
        if index < self._state["phase"]:
            return
        # The state of the phase's last evaluation was saved before it.
        if self.devices.total(bool(self._verdict(phase))):
            self._end_phase()
            return
        with SignalCatcher(self._may_stop_now) as signals:
            active = self._activate(phase)
            if self._state["step"]:
                self._checkpoints.restore(self._latest, active.variables)
            batches = iter(phase.batches(self._state["step"]))
            stopped = self._take_steps(active, batches, signals)
        if stopped:
            # Another process may have received the signal.
            cause = signals.received or "SIGTERM"
            message = (
                f"{cause} received: stopped at step {self.global_step}, in "
                f"{phase.name}, and saved. Run the same command to resume."
            )
            raise Stopped(message, cause)
        took = format_duration(active.progress.seconds())
        print(f"{phase.name}: {phase.num_steps} steps in {took}", flush=True)

    def best(self) -> dict | None:
        """Returns `step`, `score` and `metrics` of the best evaluation so far.

        Its weights are in the folder's `BEST_FOLDER`.
        """
        lines = recorded(self.folder, self.global_step)
        return best_of(lines) if lines else None

    def finish(
        self,
        results: Mapping[str, float],
        floors: Mapping[str, float] | None = None,
    ) -> None:
        """Logs and prints final results, and closes the record.

        Args:
            results: by name.
            floors: what needs no model scores, by the same names; recorded as
                `NAME_floor`.
        """
        floors = floors or {}
        below = {f"{name}_floor": value for name, value in floors.items()}
        self.log.write(RESULTS, 0, self.global_step, dict(results) | below)
        self.log.close()
        for name, value in results.items():
            note = f" (floor {floors[name]:.4f})" if name in floors else ""
            print(f"{name}: {value:.4f}{note}", flush=True)

    def _agree_on_checkpoint(self) -> Checkpoint | None:
        """The chief chooses the checkpoint to resume from; others follow."""
        if self.devices.is_chief:
            self._checkpoints.remove_leftovers()
            remove_leftovers(self.folder / BEST_FOLDER)
            newest = self._checkpoints.newest()
            self.devices.total(newest.step if newest else 0)
            return newest
        # No checkpoint is written before the first step.
        step = self.devices.total(0)
        return self._checkpoints.read(step) if step else None

    def _activate(self, phase: Phase) -> _Active:
        """Builds the step of a phase, and the counters of its logs."""
        with self.devices.scope():
            train_step = phase.build()
        step = self._state["step"]
        later_steps = 0
        if self._num_steps is not None:
            end = self.global_step - step + phase.num_steps
            later_steps = self._num_steps - end
        variables = {
            "model": self._model_variables,
            "optimizer": train_step.optimizer.variables,
        }
        window = Window(
            phase.name,
            train_step,
            step,
            self.options.skip_nonfinite,
            self._state["window"],
        )
        progress = Progress(phase.name, phase.num_steps, step, later_steps)
        return _Active(phase, train_step, variables, window, progress)

    def _take_steps(
        self, active: _Active, batches: Iterator[dict], signals: SignalCatcher
    ) -> bool:
        """Takes steps and saves; returns whether a signal cut them short."""
        state, phase = self._state, active.phase
        log_every = self.options.log_every
        self._saved_at = time.monotonic()
        # A stop may have come between a step and its evaluation.
        over, stopping = self._evaluate(active), False
        while not (over or stopping):
            number = min(
                active.train_step.options.steps_per_execution,
                phase.steps_until_due(
                    state["step"], self.global_step, log_every
                ),
            )
            several = [next(batches) for _ in range(number)]
            active.window.add(*active.train_step.run(several))
            active.progress.add(several)
            state["step"] += number
            state["global_step"] += number
            is_logged = (
                state["step"] == phase.num_steps
                or state["step"] % log_every == 0
                or phase.is_evaluation_due(state["step"])
            )
            if is_logged:
                self._log_window(active)
            for every, function in phase.every:
                if self.global_step % every == 0 and self.devices.is_chief:
                    function(self)
            if is_logged or not self.devices.spans_processes:
                # Several processes must stop at the same step; they ask each
                # other only now and then.
                stopping = bool(self.devices.total(bool(signals.received)))
            over = self._evaluate(active, stopping)
            since = time.monotonic() - self._saved_at
            is_due = since > self.options.save_every_seconds
            if is_due and not (over or stopping):
                self._save(active)
        if over:
            self._end_phase()
        self._save(active)
        return stopping

    def _end_phase(self) -> None:
        self._state["phase"], self._state["step"] = self._phase_index, 0

    def _verdict(self, phase: Phase) -> bool | None:
        """Whether the current step's evaluation ends the phase.

        None if the record holds no such evaluation.
        """
        step = self._state["step"]
        if not phase.is_evaluation_due(step):
            return None
        lines = recorded(self.folder, self.global_step)
        if not lines or lines[-1]["global_step"] < self.global_step:
            return None
        return step == phase.num_steps or phase.evaluation.is_hopeless(lines)

    def _evaluate(self, active: _Active, stopping: bool = False) -> bool:
        """Evaluates if it is due; returns whether the phase is over.

        Saves first, so that a stop during the evaluation loses nothing. A run
        that is about to stop leaves the evaluation to the process that
        resumes.
        """
        phase, step = active.phase, self._state["step"]
        if not phase.is_evaluation_due(step):
            return step == phase.num_steps
        if stopping:
            return False
        self._save(active)
        verdict = None
        if self.devices.is_chief:
            verdict = self._verdict(phase)
            if verdict is None:
                where = phase.name, step, self.global_step
                phase.evaluation.evaluate(self.folder, self.log, *where)
                verdict = self._verdict(phase)
            if verdict and step < phase.num_steps:
                print(
                    f"no better score in {phase.evaluation.patience} "
                    f"evaluations: stopped at step {step}",
                    flush=True,
                )
        return bool(self.devices.total(bool(verdict)))

    def _log_window(self, active: _Active) -> None:
        active.window.read(self._last_good())
        values = active.window.averages()
        phase, step = active.phase, self._state["step"]
        self.log.write(phase.name, step, self.global_step, values)
        if self.devices.is_chief:
            shown = {
                name: values[name] for name in phase.shown if name in values
            }
            print(active.progress.line(step, shown), flush=True)

    def _save(self, active: _Active) -> None:
        if self._saved_step == self.global_step:
            return
        # Only checked values are saved.
        active.window.read(self._last_good())
        self._state["window"] = active.window.state
        if self.devices.is_chief:
            self._checkpoints.save(
                self.global_step, self._state, active.variables
            )
        self._saved_step, self._saved_at = self.global_step, time.monotonic()

    def _last_good(self) -> str:
        if not self._saved_step:
            return "there is no checkpoint before it"
        path = self._checkpoints.prefix(self._saved_step)
        return f"the last good checkpoint is {path}"

    def _may_stop_now(self) -> bool:
        saved = self._saved_step == self.global_step
        return saved and not self.devices.spans_processes
