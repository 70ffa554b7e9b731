"""Runs that are stopped, resumed, and cut short by their scores."""

import keras
import numpy as np
import pytest

from mobilebert_tf.tasks.classification import (
    ClassificationTask,
    Predictor,
    fine_tuning_loss,
)
from mobilebert_tf.training import fine_tuning as fine_tuning_run
from mobilebert_tf.training.fine_tuning import (
    BEST_FOLDER,
    FineTuningOptions,
    FineTuningRun,
    Point,
)
from mobilebert_tf.training.log import read_metrics
from mobilebert_tf.training.options import RunOptions
from tests.training.classifiers import LABELS, toy_arrays, toy_classifier

POINT = Point(0.01, 8, 2, 3)


@pytest.fixture(scope="module")
def task():
    return ClassificationTask(
        LABELS, {"train": toy_arrays(44, 1), "dev": toy_arrays(20, 2)}
    )


def start(task, folder, every_step=False, **options):
    keras.utils.set_random_seed(POINT.seed)
    model = toy_classifier()
    return FineTuningRun(
        model,
        task,
        POINT,
        FineTuningOptions(
            optimizer_settings={"bias_correction": True},
            **{"eval_batch_size": 8, "bucket_lengths": ()} | options,
        ),
        folder,
        {"task": "toy"},
        {"options": RunOptions(2, -1.0 if every_step else 1000.0)},
        fine_tuning_loss(model),
        Predictor,
    )


def weights(model):
    return [variable.numpy() for variable in model.weights]


def evaluations(folder):
    return [
        line
        for line in read_metrics(folder / "metrics.jsonl")
        if line["phase"] == "evaluation"
    ]


class Killed(BaseException):
    """Stands for the end of a process."""


def kill_after(monkeypatch, number):
    """Makes the input end the process after so many batches."""
    whole = fine_tuning_run.training_batches
    left = iter(range(number))

    def dataset(*args, **kwargs):
        for batch in whole(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            yield batch

    monkeypatch.setattr(fine_tuning_run, "training_batches", dataset)


def test_a_run_goes_on_to_the_same_weights_and_evaluations(
    task, tmp_path, monkeypatch
):
    options = {"eval_every": 4, "bucket_lengths": (12,)}
    whole = start(task, tmp_path / "whole", **options)
    values = whole.train()
    lines = evaluations(tmp_path / "whole")
    # 44 // 8 steps an epoch, two epochs; the last stretch is shorter.
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert values["score"] == max(line["score"] for line in lines)
    for batches in (2, 4):  # Within a stretch, and again after its end.
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, batches)
            start(task, tmp_path / "killed", every_step=True, **options).train()
    again = start(task, tmp_path / "killed", **options)
    assert 0 < again.run.global_step < 10
    assert again.train() == values
    for ours, theirs in zip(
        weights(again.model), weights(whole.model), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert evaluations(tmp_path / "killed") == lines
    for name in ("model.safetensors", "config.json"):
        ours, theirs = (
            (tmp_path / folder / BEST_FOLDER / name).read_bytes()
            for folder in ("killed", "whole")
        )
        assert ours == theirs


def with_scores(monkeypatch, scores):
    """Makes evaluations give these scores, one after the other."""
    left = iter(scores)
    monkeypatch.setattr(
        ClassificationTask,
        "metrics",
        lambda self, predict, prefix: {"dev_accuracy": next(left)},
    )


def test_the_best_of_equal_evaluations_is_the_first(
    task, tmp_path, monkeypatch
):
    with_scores(monkeypatch, [0.25, 0.75, 0.75, 0.5, 0.5])
    run = start(task, tmp_path, eval_every=2)
    kept = []
    save = type(run.model).save_pretrained
    monkeypatch.setattr(
        type(run.model),
        "save_pretrained",
        lambda model, folder: (
            kept.append(run.run.global_step),
            save(model, folder),
        ),
    )
    assert run.train() == {
        "step": 4,
        "score": 0.75,
        "metrics": {"dev_accuracy": 0.75},
    }
    assert kept == [2, 4]


def test_patience_ends_a_run(task, tmp_path, monkeypatch, capsys):
    with_scores(monkeypatch, [0.25, 0.75, 0.75, 0.5, 0.9])
    run = start(task, tmp_path, eval_every=2, patience=2)
    assert run.train()["step"] == 4
    assert run.run.global_step == 8
    assert "stopped at step 8" in capsys.readouterr().out
    # Asked again, it knows without training on.
    assert start(task, tmp_path, eval_every=2, patience=2).train()["step"] == 4


def test_the_schedule_ends_where_the_options_say(task, tmp_path):
    train_only = ClassificationTask(LABELS, {"train": task.splits["train"]})
    options = {"warmup_proportion": 0.0, "end_factor": 0.5, "decay_power": 2.0}
    start(train_only, tmp_path, **options).train()
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    # The tenth of ten steps: a tenth is left, squared.
    expected = POINT.learning_rate * (0.5 + 0.5 * 0.1**2)
    assert last["learning_rate"] == pytest.approx(expected, rel=1e-6)


def test_without_dev_the_last_weights_are_kept(task, tmp_path):
    train_only = ClassificationTask(LABELS, {"train": task.splits["train"]})
    assert start(train_only, tmp_path).train() == {"step": 10}
    assert (tmp_path / BEST_FOLDER / "model.safetensors").exists()


def test_a_score_that_is_no_number_is_never_the_best(
    task, tmp_path, monkeypatch
):
    with_scores(monkeypatch, [float("nan"), 0.25, float("nan"), 0.2, 0.1])
    run = start(task, tmp_path, eval_every=2)
    kept = []
    monkeypatch.setattr(
        type(run.model),
        "save_pretrained",
        lambda model, folder: kept.append(run.run.global_step),
    )
    assert run.train()["step"] == 4
    assert kept == [2, 4]
