"""Progress lines, and a record that a crash cannot confuse."""

import json

import numpy as np
import pytest

from mobilebert_tf.training.log import MetricsLog, Progress, format_duration
from mobilebert_tf.training.run_folder import read_metrics


def test_progress_shows_rates_and_the_time_left(monkeypatch):
    clock = iter([0.0, 10.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress("pkt", 100, 0, later_steps=300)
    progress.add([{"input_ids": np.zeros((4, 128))}] * 20)
    assert progress.line(20, {"loss": 1.5}) == (
        "pkt   20/100  loss 1.5  8.0 examples/s  1,024 tokens/s  "
        "0:40 left (3:10 in all)"
    )
    # Rates count from the line before; not all batches hold tokens.
    progress.add([{"x": np.zeros((4, 2))}] * 10)
    assert progress.line(30, {}) == (
        "pkt   30/100  4.0 examples/s  1:10 left (6:10 in all)"
    )


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
