"""Fine-tuning runs that are compared: which are made, and which is the best.

A single run lives in the output folder, several in its `runs/`, one after the
other. Each run is resumable, and a finished run is not repeated: a killed grid
continues where it was, and a grid may be given more points later.
"""

import dataclasses
import gc
import itertools
import json
import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import keras

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file, read_json_object
from mobilebert_tf.modeling.folder import WEIGHTS_FILE, load_weights
from mobilebert_tf.ownership import Identity
from mobilebert_tf.tasks.task import (
    CONFIG_FILE,
    Hyperparameters,
    Task,
    hyperparameters_for,
)
from mobilebert_tf.training.fine_tuning import FineTuningRun, Point
from mobilebert_tf.training.log import NonFiniteLoss
from mobilebert_tf.training.loop import Run
from mobilebert_tf.training.options import FineTuningOptions
from mobilebert_tf.training.run_folder import (
    BEST_FOLDER,
    RESULT_FILE,
    RUNS_FOLDER,
    TABLE_FILE,
    delete_run,
    delete_weights,
)


def grid_points(
    options: FineTuningOptions, defaults: Hyperparameters = Hyperparameters()
) -> list[Point]:
    """Lists all combinations, without repetitions; seeds vary fastest.

    `defaults` stands in for what the options leave open.
    """
    combinations = itertools.product(
        options.learning_rate or [defaults.learning_rate],
        options.train_batch_size or [defaults.batch_size],
        options.num_train_epochs or [defaults.num_epochs],
        range(options.seed, options.seed + options.num_seeds),
    )
    return [Point(*values) for values in dict.fromkeys(combinations)]


def points_to_train(
    options: FineTuningOptions, task: Task, folder: str | os.PathLike
) -> list[Point]:
    """Lists the runs of a task; options that are left open have its defaults.

    If the task has none of its own and no rate is named, the number of
    examples and the width of the model in `folder` decide.
    """
    defaults = task.hyperparameters
    if options.learning_rate is None and defaults == Hyperparameters():
        config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
        defaults = hyperparameters_for(config, task.num_train_examples)
    return grid_points(options, defaults)


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What became of a run.

    Attributes:
        step: the one whose weights were kept.
        score: ranks runs; None if it diverged, and without dev examples.
        metrics: on dev, at that step.
        diverged: why it stopped, if it diverged.
    """

    point: Point
    folder: Path
    step: int
    score: float | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    diverged: str | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command continues with after training, or without any.

    Attributes:
        run: the command's, which its results will finish.
        best: the run that the model's weights are from; None without training.
    """

    model: keras.Model
    run: Run
    best: RunResult | None = None
    results: Sequence[RunResult] = ()

    def notes(self) -> dict[str, str]:
        """Returns lines for the model card."""
        if self.best is None:
            return {}
        trained = f"{self.best.point}, until step {self.best.step}"
        notes = {"Trained with": trained}
        if len(self.results) > 1:
            table = "\n".join(f"      {line}" for line in summary(self.results))
            notes["Chosen on dev"] = (
                f"the best of {len(self.results)} runs, so its dev results "
                f"flatter it; all of them:\n\n{table}\n"
            )
        return notes


def run_grid(
    points: Sequence[Point],
    output_dir: str | os.PathLike,
    start: Callable[[Point, Path], FineTuningRun],
    identity: Identity,
) -> Outcome:
    """Trains every point that is not done yet.

    Of several runs only the best keeps its weights. If it has lost them, or
    has become the best because fewer are compared, it is trained again.

    Args:
        points: hyper-parameters and seeds.
        output_dir: the command's folder.
        start: makes the run of a point in a folder.
        identity: what all runs have in common (see `Run`).

    Returns:
        The outcome with the best run's model. In a process other than the
        chief, which has one run at most, the model as it was trained last.

    Raises:
        NonFiniteLoss: the only run, or every run, diverged.
    """
    output_dir = Path(output_dir)
    if len(points) == 1:
        run = _start(start, points[0], output_dir)
        result = _result(run, output_dir, points[0], may_diverge=False)
        return _outcome(run, run.run, result, [result])
    record = Run(output_dir, (), identity=identity)
    results, best = [], None
    for number, point in enumerate(points, start=1):
        folder = output_dir / RUNS_FOLDER / point.name
        print(f"Run {number} of {len(points)}: {point}", flush=True)
        results.append(_result_in_grid(start, folder, point))
        worse = results[-1]
        if worse.score is not None and (
            best is None or worse.score > best.score
        ):
            best, worse = worse, best
        if worse is not None:
            delete_weights(worse.folder)
        _write_table(output_dir / TABLE_FILE, results)
    print("\n".join(summary(results)), flush=True)
    if best is None:
        raise NonFiniteLoss(f"every run diverged: {results[0].diverged}")
    print(f"The best is {best.folder.name}, step {best.step}", flush=True)
    run = _start(start, best.point, best.folder)
    best = _result(run, best.folder, best.point, may_diverge=False)
    return _outcome(run, record, best, results)


def summary(results: Sequence[RunResult]) -> list[str]:
    """Returns a table: median and spread over the seeds of each setting."""
    lines = [
        "learning rate  batch  epochs  seeds  median  lowest  highest",
        "------------------------------------------------------------",
    ]
    by_setting = {}
    for result in results:
        setting = dataclasses.replace(result.point, seed=0)
        by_setting.setdefault(setting, []).append(result)
    for setting, runs in by_setting.items():
        scores = [run.score for run in runs if run.score is not None]
        line = f"{setting.learning_rate:>13g}  {setting.batch_size:>5}  "
        line += f"{setting.num_epochs:>6}  {len(runs):>5}"
        if scores:
            line += f"  {statistics.median(scores):6.4f}"
            line += f"  {min(scores):6.4f}  {max(scores):7.4f}"
        diverged = len(runs) - len(scores)
        lines.append(line + (f"  {diverged} diverged" if diverged else ""))
    return lines


def _start(
    start: Callable[[Point, Path], FineTuningRun], point: Point, folder: Path
) -> FineTuningRun:
    """Starts a run; from the beginning, if its weights have been lost."""
    run = start(point, folder)
    devices = run.run.devices
    weights = folder / BEST_FOLDER / WEIGHTS_FILE
    lost = (folder / RESULT_FILE).exists() and not weights.exists()
    if devices.total(int(devices.is_chief and lost)):
        if devices.is_chief:
            print(f"{weights} is gone: training again", flush=True)
            run.run.log.close()
            delete_run(folder)
        run = start(point, folder)
    return run


def _result_in_grid(
    start: Callable[[Point, Path], FineTuningRun], folder: Path, point: Point
) -> RunResult:
    result = _read_result(folder, point)
    if result is not None:
        print(f"done before: score {result.score}", flush=True)
        return result
    run = start(point, folder)
    result = _result(run, folder, point, may_diverge=True)
    run.run.log.close()
    del run
    # Graphs and variables of a model are in cycles of references.
    policy = keras.config.dtype_policy()
    keras.backend.clear_session()
    # Cleared as well: the next run would compute in float32.
    keras.config.set_dtype_policy(policy)
    gc.collect()
    return result


def _result(
    run: FineTuningRun, folder: Path, point: Point, may_diverge: bool
) -> RunResult:
    """Trains, unless that is done, and records the result."""
    devices = run.run.devices
    result = _read_result(folder, point) if devices.is_chief else None
    if devices.total(int(result is not None)):
        return result or RunResult(point, folder, 0)
    try:
        values = run.train()
    except NonFiniteLoss as error:
        if not may_diverge:
            raise
        print(f"diverged: {error}", flush=True)
        values = {"diverged": str(error), "step": 0}
    result = RunResult(point, folder, **values)
    if devices.is_chief:
        record = vars(result).copy()
        del record["point"], record["folder"]
        with atomic_file(folder / RESULT_FILE) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")
    return result


def _read_result(folder: Path, point: Point) -> RunResult | None:
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    values = read_json_object(path)
    types = {
        "step": int,
        "score": int | float | None,
        "metrics": dict,
        "diverged": str | None,
    }
    fits = values.keys() == types.keys() and all(
        isinstance(values[name], types[name]) for name in types
    )
    if not fits or not all(
        isinstance(value, int | float) for value in values["metrics"].values()
    ):
        found = ", ".join(list(values)[:8])
        raise InputError(path, f"{', '.join(types)} of a run", found or "{}")
    return RunResult(point, folder, **values)


def _outcome(
    run: FineTuningRun,
    record: Run,
    best: RunResult,
    results: Sequence[RunResult],
) -> Outcome:
    if run.run.devices.is_chief:
        load_weights(run.model, best.folder / BEST_FOLDER)
    return Outcome(run.model, record, best, results)


def _write_table(path: Path, results: Sequence[RunResult]) -> None:
    """Writes a row for every run, with the metrics of all runs as columns."""
    names = list(dict.fromkeys(n for run in results for n in run.metrics))
    columns = [field.name for field in dataclasses.fields(Point)]
    lines = ["\t".join([*columns, "step", "score", *names])]
    for result in results:
        score = "diverged" if result.score is None else f"{result.score:.6f}"
        values = [*dataclasses.astuple(result.point), result.step, score]
        values += [f"{result.metrics.get(name, 0.0):.6f}" for name in names]
        lines.append("\t".join(map(str, values)))
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
