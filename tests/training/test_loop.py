"""A run that is stopped continues as if it had not been."""

import contextlib
import multiprocessing
import random
import signal
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.ownership import Identity
from mobilebert_tf.training.checkpoints import CheckpointFolder
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.log import NonFiniteLoss
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.options import RunOptions, StepOptions
from mobilebert_tf.training.run_folder import BEST_FOLDER, read_metrics
from mobilebert_tf.training.step import TrainStep
from mobilebert_tf.training.stopping import Stopped
from tests.training import toy_pretraining as toy
from tests.training import toy_run


class Task:
    """A linear regression in two phases, whose data are known by number."""

    def __init__(self, folder, on_step=lambda step: None, **options):
        number = options.pop("steps_per_execution", 1)
        self.step_options = StepOptions(steps_per_execution=number)
        self.context = toy.eagerly if number == 1 else contextlib.nullcontext
        self.weight = keras.Variable(np.zeros((3, 1), "float32"), name="kernel")
        self.on_step = on_step
        self.every = options.pop("every", ())
        self.evaluation = self.evaluation_of(
            options.pop("scores", None), options.pop("patience", None)
        )
        self.run = Run(
            folder,
            [self.weight],
            RunOptions(log_every=2, save_every_seconds=1000, **options),
            identity=Identity({"rate": 0.1}),
        )

    def loss(self, batch):
        error = tf.matmul(batch["x"], self.weight) - batch["y"]
        return {"loss": tf.reduce_mean(error**2)}

    def build(self):
        optimizer = AdamW(WarmupPolynomialDecay(0.1, 8, 2))
        return TrainStep(self.loss, [self.weight], optimizer, self.step_options)

    def evaluation_of(self, scores, patience):
        """Gives scores by step of the run, and counts evaluations."""
        self.evaluated = []

        def measure():
            self.evaluated.append(self.run.global_step)
            return {"accuracy": scores(self.run.global_step)}

        def keep(folder):
            folder.mkdir(exist_ok=True)
            np.save(folder / "kernel.npy", self.weight.numpy())

        return scores and Evaluation(
            3, measure, lambda metrics: metrics["accuracy"], keep, patience
        )

    def dataset(self, start_step):
        def batches():
            step = start_step
            while True:
                self.on_step(step)
                rng = np.random.default_rng(step)
                x = rng.normal(size=(4, 3)).astype("float32")
                yield {"x": x, "y": x.sum(1, keepdims=True)}
                step += 1

        return batches()

    def train(self):
        for name in ("first", "second"):
            phase = Phase(
                name,
                7,
                self.build,
                self.dataset,
                evaluation=self.evaluation,
                every=self.every,
            )
            with self.context():
                self.run.train(phase)
        self.run.finish({"accuracy": 0.5})
        return self.weight.numpy()


def stop_at(number, signal_number=signal.SIGINT):
    """Sends a signal when batch `number` is asked for the first time."""
    seen = []

    def on_step(step):
        seen.append(step)
        if len(seen) == number:
            signal.raise_signal(signal_number)

    return on_step


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return Task(folder).train(), read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("number", [1, 3, 7, 8, 14])
def test_an_interrupted_run_ends_like_an_unbroken_one(
    tmp_path, unbroken, number
):
    weights, metrics = unbroken
    with pytest.raises(Stopped, match="SIGINT"):
        Task(tmp_path, on_step=stop_at(number)).train()
    batches = []
    resumed = Task(tmp_path, on_step=batches.append)
    np.testing.assert_array_equal(resumed.train(), weights)
    # No step is taken twice, at a phase's last step neither. With nothing to
    # save, at a phase's start, the run stops before its step.
    assert len(batches) == 14 - number + (number in (1, 8))
    # The window that the stop cut averages all its steps.
    assert read_metrics(tmp_path / "metrics.jsonl") == metrics


@pytest.mark.parametrize(
    "number, code",
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_the_signal_is_remembered_for_the_exit_code(tmp_path, number, code):
    # The tests themselves may run under nohup.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(Stopped) as stopped:
        Task(tmp_path, on_step=stop_at(3, number)).train()
    signal.signal(signal.SIGHUP, before)
    assert stopped.value.exit_code == code
    assert Task(tmp_path).run.global_step == 3


def test_a_run_under_nohup_ignores_the_end_of_its_terminal(tmp_path, unbroken):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        task = Task(tmp_path, on_step=stop_at(3, signal.SIGHUP))
        np.testing.assert_array_equal(task.train(), unbroken[0])
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_checkpoint_without_a_run_s_state_is_refused(tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    folder.save(5, {"phase": 0}, {"model": [tf.Variable(np.zeros((3, 1)))]})
    (tmp_path / "run.json").write_text('{"rate": 0.1}')
    with pytest.raises(InputError, match="ckpt-5: expected the state of a run"):
        Task(tmp_path)


def test_several_steps_a_call_log_and_end_the_same(tmp_path, unbroken):
    weights, metrics = unbroken
    task = Task(tmp_path, steps_per_execution=3)
    np.testing.assert_allclose(task.train(), weights, rtol=1e-6)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    for line, expected in zip(lines, metrics, strict=True):
        assert line.pop("phase") == expected["phase"]
        numbers = {key: expected[key] for key in line}
        assert line == pytest.approx(numbers, rel=1e-5)


# By step of the run; two phases of 7 steps, evaluated every third.
SCORES = {3: 0.5, 6: 0.25, 7: 0.75, 10: 0.75, 13: 0.25, 14: 0.5}


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    task = Task(folder, scores=SCORES.get)
    return task, task.train(), folder


def evaluations(folder):
    lines = read_metrics(folder / "metrics.jsonl")
    return [line for line in lines if line["phase"] == "evaluation"]


def test_a_phase_is_evaluated_and_its_best_weights_kept(
    evaluated, unbroken, tmp_path
):
    task, weights, folder = evaluated
    np.testing.assert_array_equal(weights, unbroken[0])
    assert task.evaluated == list(SCORES)
    assert [
        (line["global_step"], line["step"], line["score"])
        for line in evaluations(folder)
    ] == [(n, n - 7 * (n > 7), score) for n, score in SCORES.items()]
    best = {"step": 7, "score": 0.75, "metrics": {"accuracy": 0.75}}
    assert task.run.best() == best
    # Of equals the first, as a run that ends there has it.
    with pytest.raises(Stopped):
        Task(tmp_path, on_step=stop_at(7)).train()
    kept = np.load(folder / BEST_FOLDER / "kernel.npy")
    np.testing.assert_array_equal(Task(tmp_path).weight.numpy(), kept)


@pytest.mark.parametrize("number", [3, 5, 7, 14])
def test_an_evaluated_run_that_is_stopped_evaluates_once(
    tmp_path, evaluated, number
):
    task, weights, folder = evaluated
    with pytest.raises(Stopped):
        Task(tmp_path, on_step=stop_at(number), scores=SCORES.get).train()
    resumed = Task(tmp_path, scores=SCORES.get)
    np.testing.assert_array_equal(resumed.train(), weights)
    assert resumed.evaluated == [n for n in SCORES if n >= number]
    for name in ("metrics.jsonl", f"{BEST_FOLDER}/kernel.npy"):
        ours, theirs = (run / name for run in (tmp_path, folder))
        assert ours.read_bytes() == theirs.read_bytes()


def test_a_finished_run_is_neither_trained_nor_evaluated(tmp_path, evaluated):
    weights = Task(tmp_path, scores=SCORES.get).train()
    again = Task(tmp_path, lambda _: pytest.fail("trained"), scores=pytest.fail)
    np.testing.assert_array_equal(again.train(), weights)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["phase"] for line in lines].count("results") == 1


@pytest.mark.parametrize("number", [7, 14])
def test_a_stop_during_an_evaluation_loses_no_step(tmp_path, evaluated, number):
    _, weights, folder = evaluated

    def scores(step):
        if step == number:
            signal.raise_signal(signal.SIGTERM)
        return SCORES[step]

    with pytest.raises(Stopped, match="nothing new to save"):
        Task(tmp_path, scores=scores).train()
    batches = []
    resumed = Task(tmp_path, on_step=batches.append, scores=SCORES.get)
    np.testing.assert_array_equal(resumed.train(), weights)
    assert len(batches) == 14 - number
    assert resumed.evaluated[:1] == [number]
    ours, theirs = (run / "metrics.jsonl" for run in (tmp_path, folder))
    assert ours.read_text() == theirs.read_text()


def test_patience_ends_a_phase_also_when_asked_again(tmp_path, capsys):
    scores = {3: 0.5, 6: 0.25, 9: 0.75, 12: 0.8, 13: 0.5}.get
    for _ in range(2):
        task = Task(tmp_path, scores=scores, patience=1)
        task.train()
        # Six steps of the first phase, all of the second.
        assert task.run.global_step == 13
    assert "no better score in 1 evaluations: stopped at step 6" in (
        capsys.readouterr().out
    )


class Spoilt(Task):
    """A task whose batches 3 and 5 of a phase hold no number."""

    def dataset(self, start_step):
        for step, batch in enumerate(super().dataset(start_step), start_step):
            if step in (3, 5):
                batch["x"] = batch["x"] * np.float32(np.nan)
            yield batch


def test_a_non_finite_loss_stops_the_run(tmp_path):
    with pytest.raises(NonFiniteLoss) as error:
        Spoilt(tmp_path).train()
    assert str(error.value) == (
        "loss is nan at step 4 of first; there is no checkpoint before it"
    )
    # The record ends before it.
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2]


def test_a_checkpoint_before_it_is_named_and_good(tmp_path):
    with pytest.raises(Stopped):
        Spoilt(tmp_path, on_step=stop_at(3)).train()
    with pytest.raises(NonFiniteLoss, match="checkpoint is .*ckpt-3$"):
        Spoilt(tmp_path).train()
    resumed = Spoilt(tmp_path)
    assert resumed.run.global_step == 3
    assert np.isfinite(resumed.weight.numpy()).all()


def test_non_finite_steps_can_be_left_out(tmp_path, capsys):
    weights = Spoilt(tmp_path / "all", skip_nonfinite=4).train()
    assert np.isfinite(weights).all()
    lines = read_metrics(tmp_path / "all" / "metrics.jsonl")
    assert len(lines) == 9 and all(np.isfinite(m["loss"]) for m in lines[:-1])
    out = capsys.readouterr().out
    assert "loss is nan at step 6 of second: update left out" in out
    assert "(4 of at most 4)" in out
    # The number counts over phases, and over a stop.
    with pytest.raises(Stopped):
        task = Spoilt(tmp_path / "some", on_step=stop_at(9), skip_nonfinite=3)
        task.train()
    with pytest.raises(NonFiniteLoss, match="step 6 of second"):
        Spoilt(tmp_path / "some", skip_nonfinite=3).train()


def test_functions_are_called_every_so_many_steps(tmp_path, unbroken):
    """Counted over phases, and not again by a run that resumes."""
    weights, metrics = unbroken
    called = []
    every = [(4, lambda run: called.append(run.global_step))]
    with pytest.raises(Stopped):
        Task(tmp_path, on_step=stop_at(6), every=every).train()
    resumed = Task(tmp_path, every=every, steps_per_execution=3)
    np.testing.assert_allclose(resumed.train(), weights, rtol=1e-6)
    assert called == [4, 8, 12]
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == len(metrics)


# Forked from a process that has imported TensorFlow but not used it.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.training.toy_run"])


def train(folder, seconds=None):
    """Trains in a process of its own, killed after `seconds`."""
    process = processes.Process(target=toy_run.main, args=(folder,))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    assert process.exitcode == 0
    return True


@pytest.fixture(scope="module")
def unbroken_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder)  # The first process also waits for the imports.
    started = time.monotonic()
    again = tmp_path_factory.mktemp("again")
    train(again)
    assert_equal(again, folder)
    return folder, time.monotonic() - started


def assert_equal(folder, expected):
    for path in ("weights.npy", f"{BEST_FOLDER}/weights.npy", "metrics.jsonl"):
        ours, theirs = (run / path for run in (folder, expected))
        assert ours.read_bytes() == theirs.read_bytes(), path


def kill_and_go_on(tmp_path, unbroken_process, num_kills, seed):
    expected, seconds = unbroken_process
    rng, kills, attempt, places = random.Random(seed), 0, 0, set()
    while kills < num_kills:
        folder = tmp_path / str(attempt)
        attempt += 1
        # Later and later, so that the run gets somewhere.
        while not train(folder, rng.uniform(0.3, 1.0) * seconds):
            kills += 1
            places.add(tuple(CheckpointFolder(folder / "checkpoints").steps()))
        assert_equal(folder, expected)
        left = [path.name for path in (folder / "checkpoints").iterdir()]
        assert len(left) == 5 and "best" in left, left
    return places


def test_a_killed_run_ends_like_an_unbroken_one(tmp_path, unbroken_process):
    kill_and_go_on(tmp_path, unbroken_process, 2, seed=0)


@pytest.mark.slow
def test_twenty_kills(tmp_path, unbroken_process):
    places = kill_and_go_on(tmp_path, unbroken_process, 20, seed=1)
    # Otherwise the moments were not random.
    assert len(places) > 5, places
