"""When ranges follow, what the rate is, and which model stays."""

import numpy as np
import pytest

from mobilebert_tf.mobile.quantization import (
    build_optimizer,
    following_ranges,
    keep_better,
    snapshot,
    typical_sizes,
)
from tests.mobile.conftest import take


def batches_of(arrays, num):
    return [
        take(arrays, slice(16 * begin, 16 * begin + 16)) for begin in range(num)
    ]


def test_ranges_follow_in_the_first_half_and_then_freeze(
    calibrated, monkeypatch
):
    quantized = calibrated()
    calls = []
    monkeypatch.setattr(
        type(quantized), "follow_ranges", lambda _: calls.append(True)
    )

    def steps_measured(start):
        steps = []
        for step in following_ranges(quantized, range(start, 60), start, 60):
            if calls:
                steps.append(step)
                calls.clear()
        return steps

    assert steps_measured(0) == [10, 20]
    # Going on at step 15 measures what is left.
    assert steps_measured(15) == [20]


def test_the_rate_rises_for_a_tenth_and_falls_to_nothing(calibrated):
    quantized = calibrated()
    sizes = typical_sizes(quantized.deployment.weights)
    schedule = build_optimizer(quantized, sizes, 1e-3, 100)._learning_rate
    rates = np.array([float(schedule(step)) for step in range(101)])
    assert rates.argmax() in (9, 10)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[50] == pytest.approx(5e-4)
    assert rates[100] == 0.0


def test_a_training_that_made_things_worse_is_taken_back(
    calibrated, train_arrays
):
    quantized = calibrated()
    before = snapshot(quantized)
    batches = batches_of(train_arrays, 4)
    assert keep_better(quantized, before, batches)
    head = quantized.deployment.weights["head/kernel"]
    good = head.numpy()
    for bad in (-good, np.full_like(good, np.nan)):
        head.assign(bad)
        assert not keep_better(quantized, before, batches)
        np.testing.assert_array_equal(head, good)
    # From a worse one it is kept.
    head.assign(-good)
    worse = snapshot(quantized)
    head.assign(good)
    assert keep_better(quantized, worse, batches)
    np.testing.assert_array_equal(head, good)
