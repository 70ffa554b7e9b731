"""A run that is stopped goes on as if it had not been."""

import json
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.training.metrics_log import (
    MetricsLog,
    format_duration,
    read_metrics,
)
from mobilebert_tf.training.optimization import AdamW, WarmupLinearDecay
from mobilebert_tf.training.run import NonFiniteLoss, Run, Stopped
from mobilebert_tf.training.step import build_train_step


class Task:
    """A linear regression in two phases, whose data are known by number."""

    def __init__(self, folder, settings=None, on_step=lambda step: None):
        self.weight = keras.Variable(np.zeros((3, 1), "float32"), name="kernel")
        self.on_step = on_step
        self.run = Run(
            folder,
            settings or {"rate": 0.1},
            [self.weight],
            log_every=2,
            save_every_seconds=1000,
        )

    def loss(self, batch):
        error = tf.matmul(batch["x"], self.weight) - batch["y"]
        return {"loss": tf.reduce_mean(error**2)}

    def build(self):
        optimizer = AdamW(WarmupLinearDecay(0.1, 8, 2))
        return build_train_step(self.loss, [self.weight], optimizer), optimizer

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
            self.run.phase(name, 7, self.build, self.dataset, 4)
        self.run.finish({"accuracy": 0.5})
        return self.weight.numpy()


def stop_at(number):
    """Sends SIGINT when batch `number` is asked for the first time."""
    seen = []

    def on_step(step):
        seen.append(step)
        if len(seen) == number:
            signal.raise_signal(signal.SIGINT)

    return on_step


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    return Task(folder).train(), read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("number", [1, 3, 6, 7, 8, 13, 14])
def test_an_interrupted_run_ends_like_an_unbroken_one(
    tmp_path, unbroken, number
):
    weights, metrics = unbroken
    with pytest.raises(Stopped, match="SIGINT"):
        Task(tmp_path, on_step=stop_at(number)).train()
    batches = []
    resumed = Task(tmp_path, on_step=batches.append)
    np.testing.assert_array_equal(resumed.train(), weights)
    # No step is taken twice, at a phase's last step neither.
    assert len(batches) == 14 - number
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(m["phase"], m["step"]) for m in lines] == [
        (m["phase"], m["step"]) for m in metrics
    ]
    # The window that was cut by the stop averages fewer steps.
    phase, step = divmod(number - 1, 7)
    cut = (("first", "second")[phase], step + 1 + (step + 1) % 2)
    for line, expected in zip(lines, metrics, strict=True):
        if (line["phase"], line["step"]) != cut:
            assert line == expected


def test_a_finished_run_trains_no_more(tmp_path, unbroken):
    weights, _ = unbroken
    Task(tmp_path).train()
    again = Task(tmp_path, on_step=lambda step: pytest.fail("trained again"))
    np.testing.assert_array_equal(again.train(), weights)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["phase"] for line in lines].count("results") == 1


def test_other_settings_are_refused_with_the_difference(tmp_path):
    Task(tmp_path, {"rate": 0.1, "seed": 1})
    with pytest.raises(InputError) as error:
        Task(tmp_path, {"rate": 0.2, "seed": 1})
    assert "rate=0.1 then, 0.2 now" in str(error.value)
    assert "seed" not in str(error.value)


def test_a_non_finite_loss_stops_the_run(tmp_path):
    task = Task(tmp_path)
    task.weight.assign(np.full((3, 1), np.inf))
    with pytest.raises(NonFiniteLoss, match="loss is (nan|inf) in first"):
        task.train()


def test_metrics_drop_what_a_crash_left_behind(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [{"phase": "a", "step": n, "global_step": n} for n in (2, 4, 6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text + '{"phase": "a", "st')
    log = MetricsLog(tmp_path, global_step=4)
    log.write("a", 6, 6, {"loss": 1.0})
    log.close()
    assert read_metrics(path) == rows[:2] + [rows[2] | {"loss": 1.0}]


@pytest.mark.parametrize(
    "seconds, text", [(4.6, "0:05"), (65, "1:05"), (3725.2, "1:02:05")]
)
def test_format_duration(seconds, text):
    assert format_duration(seconds) == text
