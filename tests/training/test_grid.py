"""Grids of runs: which are made, which is chosen and kept, none made twice.

Runs are stand-ins that only know their score; `test_fine_tuning.py` tests what
a run does.
"""

import json

import keras
import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.folder import WEIGHTS_FILE
from mobilebert_tf.ownership import Identity
from mobilebert_tf.tasks.task import Hyperparameters
from mobilebert_tf.training import grid
from mobilebert_tf.training.fine_tuning import Point
from mobilebert_tf.training.grid import (
    RESULT_FILE,
    TABLE_FILE,
    RunResult,
    grid_points,
    run_grid,
    summary,
)
from mobilebert_tf.training.log import NonFiniteLoss
from mobilebert_tf.training.loop import Run
from mobilebert_tf.training.options import FineTuningOptions
from mobilebert_tf.training.run_folder import BEST_FOLDER
from tests import tiny

# Scores by learning rate; None diverges.
SCORES = {0.01: 0.5, 0.02: 0.75, 0.03: 0.6, 1e30: None}
IDENTITY = Identity({"task": "tiny"})


class Model:
    """Its weights are a number."""

    def __init__(self, weights=None):
        self.weights = weights

    def save_pretrained(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / WEIGHTS_FILE).write_text(str(self.weights))

    def load_weights(self, folder):
        self.weights = int((folder / WEIGHTS_FILE).read_text())


class StandIn:
    """A run whose score is known, and whose weights become its seed's."""

    trained = []

    def __init__(self, point, folder):
        self.model = Model()
        self.run = Run(folder, (), identity=IDENTITY)
        self._point = point

    def train(self):
        self.trained.append(self._point)
        self.model.weights = self._point.seed
        self.model.save_pretrained(self.run.folder / BEST_FOLDER)
        score = SCORES[self._point.learning_rate]
        if score is None:
            raise NonFiniteLoss("loss is nan")
        return {"step": 9, "score": score, "metrics": {"dev_accuracy": score}}


@pytest.fixture(autouse=True)
def trained(monkeypatch):
    monkeypatch.setattr(grid, "load_weights", Model.load_weights)
    monkeypatch.setattr(StandIn, "trained", [])
    return StandIn.trained


def points_of(*rates):
    return [Point(rate, 8, 1, index) for index, rate in enumerate(rates)]


def test_points_are_all_combinations():
    options = FineTuningOptions(
        learning_rate=(1e-5, 2e-5), num_train_epochs=(3, 4), seed=7, num_seeds=2
    )
    points = grid_points(options, Hyperparameters(batch_size=16))
    assert len(points) == len({point.name for point in points}) == 8
    assert points[0] == Point(1e-5, 16, 3, 7)
    assert points[1] == Point(1e-5, 16, 3, 8)
    assert points[-1] == Point(2e-5, 16, 4, 8)
    with pytest.raises(InputError, match="--learning_rate: expected positive"):
        FineTuningOptions(learning_rate=(1e-5, 0.0))


def test_the_best_is_kept_and_nothing_is_done_twice(tmp_path, capsys, trained):
    points = points_of(0.01, 1e30, 0.02)
    outcome = run_grid(points, tmp_path, StandIn, IDENTITY)
    assert trained == points
    assert outcome.best.point == points[2]
    assert [run.score for run in outcome.results] == [0.5, None, 0.75]
    assert "diverged: loss is nan" in capsys.readouterr().out
    assert "best of 3 runs" in outcome.notes()["Chosen on dev"]
    kept = [
        (tmp_path / "runs" / point.name / BEST_FOLDER).exists()
        for point in points
    ]
    assert kept == [False, False, True]
    table = (tmp_path / TABLE_FILE).read_text().splitlines()
    assert len(table) == 4 and "diverged" in table[2]
    assert outcome.model.weights == 2
    # Once more, and with one point more: only that is trained.
    points += [Point(0.03, 8, 1, 3)]
    outcome = run_grid(points, tmp_path, StandIn, IDENTITY)
    assert trained == points
    assert outcome.best.point == points[2]
    assert outcome.model.weights == 2


def test_a_killed_grid_goes_on(tmp_path, monkeypatch, trained):
    points = points_of(0.02, 0.01, 0.03)
    train = StandIn.train

    def killed(run):
        if run._point == points[1]:
            raise KeyboardInterrupt
        return train(run)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(StandIn, "train", killed)
        run_grid(points, tmp_path, StandIn, IDENTITY)
    outcome = run_grid(points, tmp_path, StandIn, IDENTITY)
    assert trained == points
    assert outcome.best.point == points[0]


@pytest.mark.parametrize("rates", [(0.02,), (0.02, 0.01)])
def test_a_run_that_lost_its_weights_is_trained_again(
    tmp_path, capsys, trained, rates
):
    points = points_of(*rates)
    outcome = run_grid(points, tmp_path, StandIn, IDENTITY)
    (outcome.best.folder / BEST_FOLDER / WEIGHTS_FILE).unlink()
    (outcome.best.folder / "notes.txt").write_text("mine")
    again = run_grid(points, tmp_path, StandIn, IDENTITY)
    assert trained == [*points, points[0]]
    assert again.best == outcome.best
    assert again.model.weights == outcome.model.weights
    assert "is gone: training again" in capsys.readouterr().out
    assert (outcome.best.folder / "notes.txt").exists()


def test_fewer_points_train_a_best_whose_weights_were_dropped(
    tmp_path, trained
):
    points = points_of(0.01, 0.02, 0.03)
    run_grid(points, tmp_path, StandIn, IDENTITY)
    outcome = run_grid(points[::2], tmp_path, StandIn, IDENTITY)
    assert outcome.best.point == points[2]
    assert trained == [*points, points[2]]
    assert outcome.model.weights == points[2].seed


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"accuracy": 0.9, "epoch": 3}',
        '{"step": "9", "score": 1, "metrics": {}, "diverged": null}',
        '{"step": 9, "score": 1, "metrics": {"a": []}, "diverged": null}',
        "9" * 5000,
        "not JSON",
        "\xff",
    ],
)
def test_a_result_of_another_program_is_refused(tmp_path, content):
    points = points_of(0.02)
    run_grid(points, tmp_path, StandIn, IDENTITY)
    (tmp_path / RESULT_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="result.json"):
        run_grid(points, tmp_path, StandIn, IDENTITY)


def test_every_run_computes_in_the_precision_of_the_first(tmp_path):
    policies = []

    def start(point, folder):
        policies.append(keras.config.dtype_policy().name)
        return StandIn(point, folder)

    with tiny.policy("mixed_bfloat16"):
        run_grid(points_of(0.01, 0.02), tmp_path, start, IDENTITY)
    # Twice to train, and once more to go on with the best.
    assert policies == ["mixed_bfloat16"] * 3


def test_a_grid_with_other_settings_is_refused(tmp_path):
    points = points_of(0.01, 0.02)
    run_grid(points, tmp_path, StandIn, IDENTITY)
    with pytest.raises(InputError, match="task='tiny' then, 'other' now"):
        run_grid(points, tmp_path, StandIn, Identity({"task": "other"}))


def test_runs_that_all_diverge_say_so(tmp_path):
    with pytest.raises(NonFiniteLoss, match="every run diverged: loss is nan"):
        run_grid(points_of(1e30, 1e30), tmp_path, StandIn, IDENTITY)
    with pytest.raises(NonFiniteLoss, match="^loss is nan"):
        run_grid(points_of(1e30), tmp_path / "one", StandIn, IDENTITY)
    assert not (tmp_path / "one" / RESULT_FILE).exists()


def test_a_single_run_lives_in_the_folder_itself(tmp_path, trained):
    (point,) = points_of(0.02)
    outcome = run_grid([point], tmp_path, StandIn, IDENTITY)
    assert json.loads((tmp_path / RESULT_FILE).read_text()) == {
        "step": 9,
        "score": 0.75,
        "metrics": {"dev_accuracy": 0.75},
        "diverged": None,
    }
    again = run_grid([point], tmp_path, StandIn, IDENTITY)
    assert again.best == outcome.best
    assert trained == [point]


def test_a_summary_has_median_and_spread_by_hand(tmp_path):
    def results(rate, scores):
        return [
            RunResult(Point(rate, 32, 3, seed), tmp_path, 9, score)
            for seed, score in enumerate(scores)
        ]

    lines = summary(results(1e-5, [0.5, 0.9, 0.6]) + results(2e-5, [0.7, None]))
    assert lines[2].split() == "1e-05 32 3 3 0.6000 0.5000 0.9000".split()
    assert lines[3].split() == (
        "2e-05 32 3 2 0.7000 0.7000 0.7000 1 diverged".split()
    )
