"""A run: phases of training that survive being stopped.

A run owns an output folder: `run.json` (the settings it was started with),
`metrics.jsonl`, `tensorboard/` and `checkpoints/`. Started again with the same
settings it goes on where it stopped; with other settings it refuses.
"""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import tensorflow as tf

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.metrics_log import (
    MetricsLog,
    Progress,
    format_duration,
)

SETTINGS_FILE = "run.json"
CHECKPOINTS = "checkpoints"


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved its state."""


class NonFiniteLoss(ArithmeticError):
    """A loss term became NaN or infinite."""


class Run:
    """Trains phase after phase, saving and logging as it goes.

    Args:
        output_dir: the run's folder, created if need be.
        settings: what the run was asked to do, JSON values. A folder with
            other settings is refused.
        variables: the model's variables, saved in every checkpoint and
            restored at once if there is one.
        log_every: steps between two log lines.
        save_every_seconds: time between two checkpoints.

    Raises:
        InputError: if the folder belongs to a run with other settings.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        settings: Mapping,
        variables: Sequence[keras.Variable],
        log_every: int = 50,
        save_every_seconds: float = 120.0,
    ):
        self.folder = Path(output_dir)
        self.folder.mkdir(parents=True, exist_ok=True)
        _check_settings(self.folder / SETTINGS_FILE, dict(settings))
        self._model_variables = _tf_variables(variables)
        self._log_every = log_every
        self._save_every_seconds = save_every_seconds
        self._prefix = str(self.folder / CHECKPOINTS / "ckpt")
        self._latest = tf.train.latest_checkpoint(
            str(self.folder / CHECKPOINTS)
        )
        # Phases that are over, and steps done in the one that is not.
        self._position = tf.Variable([0, 0], dtype=tf.int64)
        self._global_step = tf.Variable(0, dtype=tf.int64)
        if self._latest:
            self._position.assign(_read_variable(self._latest, "position"))
            self._global_step.assign(
                _read_variable(self._latest, "global_step")
            )
            # The optimizer follows when its phase is built.
            tf.train.Checkpoint(model=self._model_variables).restore(
                self._latest
            ).expect_partial()
            print(f"Going on from {self._latest}", flush=True)
        self.log = MetricsLog(self.folder, int(self._global_step))
        self._phase_index = 0

    @property
    def global_step(self) -> int:
        """Steps taken in all phases so far."""
        return int(self._global_step)

    def phase(
        self,
        name: str,
        num_steps: int,
        build: Callable[[], tuple[Callable, keras.optimizers.Optimizer]],
        dataset: Callable[[int], tf.data.Dataset],
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
            NonFiniteLoss: if a term is not finite; the checkpoint before it
                stays.
        """
        index, self._phase_index = self._phase_index, self._phase_index + 1
        phases_done, step = (int(value) for value in self._position)
        if index < phases_done:
            return
        train_step, optimizer = build()
        checkpoint = self._checkpoint(optimizer)
        if step:
            checkpoint.restore(self._latest).assert_consumed()
        manager = tf.train.CheckpointManager(
            checkpoint,
            str(self.folder / CHECKPOINTS),
            max_to_keep=2,
            step_counter=self._global_step,
        )

        def save(phases_done, step):
            self._position.assign([phases_done, step])
            manager.save(checkpoint_number=self._global_step)

        progress = Progress(name, num_steps, step, tokens_per_step)
        window = _Window(name, shown, self.log, progress)
        batches, saved = iter(dataset(step)), time.monotonic()
        with _SignalCatcher() as signals:
            while step < num_steps and not signals.received:
                window.add(train_step(next(batches)))
                step += 1
                self._global_step.assign_add(1)
                if step % self._log_every == 0 or step == num_steps:
                    window.flush(step, self.global_step)
                if time.monotonic() - saved > self._save_every_seconds:
                    save(index, step)
                    saved = time.monotonic()
            save(*((index + 1, 0) if step == num_steps else (index, step)))
        if signals.received:
            raise Stopped(
                f"{signals.received} received: stopped at step {step} of "
                f"{name} and saved. The same command goes on from here."
            )
        duration = format_duration(progress.seconds())
        print(f"{name}: {num_steps} steps in {duration}", flush=True)

    def finish(self, results: Mapping[str, float]) -> None:
        """Logs and prints final results, and closes the record."""
        self.log.write_results(self.global_step, results)
        self.log.close()
        for name, value in results.items():
            print(f"{name}: {value:.4f}", flush=True)

    def _checkpoint(self, optimizer) -> tf.train.Checkpoint:
        return tf.train.Checkpoint(
            model=self._model_variables,
            optimizer=_tf_variables(optimizer.variables),
            position=self._position,
            global_step=self._global_step,
        )


class _Window:
    """Averages the terms of the steps between two log lines."""

    def __init__(
        self,
        phase: str,
        shown: Sequence[str],
        log: MetricsLog,
        progress: Progress,
    ):
        self._phase = phase
        self._shown = shown
        self._log = log
        self._progress = progress
        self._terms = []

    def add(self, terms: dict) -> None:
        # Tensors, not floats: reading a value would wait for its step.
        self._terms.append(terms)

    def flush(self, step: int, global_step: int) -> None:
        values = {
            key: sum(float(terms[key]) for terms in self._terms)
            / len(self._terms)
            for key in self._terms[0]
        }
        values["learning_rate"] = float(self._terms[-1]["learning_rate"])
        self._terms = []
        for key, value in values.items():
            if not math.isfinite(value):
                raise NonFiniteLoss(
                    f"{key} is {value} in {self._phase}, by step {step}; the "
                    "last checkpoint before it is in the run's checkpoints/"
                )
        self._log.write(self._phase, step, global_step, values)
        shown = {key: values[key] for key in self._shown if key in values}
        print(self._progress.line(step, shown), flush=True)


class _SignalCatcher:
    """Turns SIGINT and SIGTERM into a flag for the time of a phase."""

    def __init__(self):
        self.received = None
        self._previous = {}

    def __enter__(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *unused):
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _catch(self, number, frame):
        if self.received:
            # A second signal means now.
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        print(f"\n{self.received}: saving, then stopping ...", flush=True)


def _tf_variables(variables) -> dict[str, tf.Variable]:
    return {
        f"{index:05d}": variable.value
        if isinstance(variable, keras.Variable)
        else variable
        for index, variable in enumerate(variables)
    }


def _read_variable(checkpoint: str, name: str):
    return tf.train.load_variable(
        checkpoint, f"{name}/.ATTRIBUTES/VARIABLE_VALUE"
    )


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
