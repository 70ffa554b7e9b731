"""A run: phases of training that survive being stopped.

A run owns an output folder: `run.json` (the settings it was started with),
`metrics.jsonl`, `tensorboard/` and `checkpoints/`. Started again with the same
settings it goes on where it stopped; with other settings it refuses.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import keras

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.checkpoints import Checkpoint, CheckpointFolder
from mobilebert_tf.training.metrics_log import (
    MetricsLog,
    Progress,
    format_duration,
)
from mobilebert_tf.training.step import TrainStep
from mobilebert_tf.training.stopping import SignalCatcher, Stopped
from mobilebert_tf.training.strategies import Distribution
from mobilebert_tf.training.window import Window

SETTINGS_FILE = "run.json"
CHECKPOINTS = "checkpoints"


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
            _make_folder(self.folder)
            _check_settings(self.folder / SETTINGS_FILE, dict(settings))
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
        self._saved_step = self.global_step
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

        Raises:
            Stopped: after saving, when a signal asked for it.
            NonFiniteLoss: if a loss or gradient is not finite; the
                checkpoint before it stays.
            CannotSave: if a checkpoint cannot be written.
        """
        index, self._phase_index = self._phase_index, self._phase_index + 1
        state = self._state
        if index < state["phase"]:
            return
        with SignalCatcher(self._may_stop_now) as signals:
            with self.distribution.scope():
                train_step, optimizer = build()
            phase = _Phase(
                name,
                num_steps,
                shown,
                train_step,
                {
                    "model": self._model_variables,
                    "optimizer": optimizer.variables,
                },
                Window(
                    name,
                    train_step,
                    state["step"],
                    self._max_skipped,
                    state["window"],
                ),
                Progress(
                    name,
                    num_steps,
                    state["step"],
                    tokens_per_step,
                    self._steps_after(num_steps - state["step"]),
                ),
            )
            if state["step"]:
                self._checkpoints.restore(self._latest, phase.variables)
            batches = iter(dataset(state["step"]))
            stopped = self._train(phase, batches, signals)
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

    def _train(self, phase, batches, signals) -> bool:
        """Takes steps and saves; returns whether a signal cut them short."""
        state, saved = self._state, time.monotonic()
        stopping = False
        while state["step"] < phase.num_steps and not stopping:
            number = min(
                phase.train_step.options.steps_per_execution,
                phase.num_steps - state["step"],
                self._log_every - state["step"] % self._log_every,
            )
            some = [next(batches) for _ in range(number)]
            phase.window.add(*phase.train_step.run(some))
            state["step"] += number
            state["global_step"] += number
            at_end = state["step"] == phase.num_steps
            logs = state["step"] % self._log_every == 0 or at_end
            if logs:
                examples = len(next(iter(some[0].values())))
                self._log_window(phase, examples)
            if logs or not self.distribution.spans_processes:
                # Several processes must stop at the same step; they ask each
                # other now and then only.
                stopping = self.distribution.any(bool(signals.received))
            if time.monotonic() - saved > self._save_every_seconds:
                if not at_end and not stopping:
                    self._save(phase)
                    saved = time.monotonic()
        if state["step"] == phase.num_steps:
            state["phase"], state["step"] = self._phase_index, 0
        self._save(phase)
        return stopping

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
        self._saved_step = self.global_step

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


@dataclasses.dataclass(frozen=True)
class _Phase:
    """What stays the same from a phase's first step to its last."""

    name: str
    num_steps: int
    shown: Sequence[str]
    train_step: TrainStep
    variables: dict[str, Sequence]
    window: Window
    progress: Progress


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            folder, "a folder to write into", error.strerror
        ) from error


def _check_settings(path: Path, settings: dict) -> None:
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n")
        return
    previous = read_json_object(path)
    different = [
        f"{key}={previous.get(key)!r} then, {settings.get(key)!r} now"
        for key in sorted(previous | settings)
        if previous.get(key) != settings.get(key)
    ]
    if different:
        raise InputError(
            path,
            "the settings this folder's run was started with (use another "
            "output folder, or delete this one)",
            "; ".join(different),
        )
