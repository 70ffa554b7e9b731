"""The optimizers, step by step, against NumPy; the schedules by hand."""

import keras
import numpy as np
import pytest

from mobilebert_tf.training.optimization import (
    OPTIMIZERS,
    AdamW,
    Lamb,
    TransferStageSchedule,
    WarmupLinearDecay,
    describe_parameters,
)

SHAPES = {"kernel": (4, 3), "bias": (3,), "table": (5, 2)}


def numpy_step(name, state, gradient, *, step, rate, multiplier, correct):
    """One step, written from the papers (Loshchilov; You, algorithm 2)."""
    weight, first, second = state
    first = 0.9 * first + 0.1 * gradient
    second = 0.999 * second + 0.001 * gradient**2
    m, v = first, second
    if correct:
        m, v = first / (1 - 0.9**step), second / (1 - 0.999**step)
    update = m / (np.sqrt(v) + 1e-6)
    ratio = 1.0
    if weight.ndim > 1:
        update = update + 0.01 * weight
        if name == "lamb":
            norms = np.linalg.norm(weight), np.linalg.norm(update)
            ratio = norms[0] / norms[1] if min(norms) > 0 else 1.0
    return weight - rate * multiplier * ratio * update, first, second


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("correct", [False, True])
def test_ten_steps_equal_numpy(name, correct):
    rng = np.random.default_rng(0)
    start = {key: rng.normal(size=shape) for key, shape in SHAPES.items()}
    start["table"][:] = 0.0  # No trust ratio where the weight norm is zero.
    variables = [keras.Variable(start[key], name=key) for key in SHAPES]
    multipliers = {"kernel": 0.1, "bias": 1.0, "table": 3.0}
    optimizer = OPTIMIZERS[name](
        0.02,
        bias_correction=correct,
        multipliers=[(v, multipliers[v.name]) for v in variables],
    )
    optimizer.build(variables)
    expected = {key: (start[key], 0.0, 0.0) for key in SHAPES}
    for step in range(1, 11):
        gradients = {key: rng.normal(size=SHAPES[key]) for key in SHAPES}
        optimizer.apply(
            [
                keras.ops.convert_to_tensor(gradients[key], "float32")
                for key in SHAPES
            ],
            variables,
        )
        for key in SHAPES:
            expected[key] = numpy_step(
                name,
                expected[key],
                gradients[key],
                step=step,
                rate=0.02,
                multiplier=multipliers[key],
                correct=correct,
            )
    for variable in variables:
        np.testing.assert_allclose(
            variable.numpy(), expected[variable.name][0], rtol=2e-5, atol=1e-6
        )


def test_global_norm_is_clipped():
    variable = keras.Variable(np.zeros(4), name="bias")
    optimizer = AdamW(1.0, global_clipnorm=1.0)
    optimizer.build([variable])
    optimizer.apply([keras.ops.full((4,), 100.0)], [variable])
    # The clipped gradient is 0.5 everywhere, its moments 0.05 and 0.00025.
    np.testing.assert_allclose(
        variable.numpy(), -0.05 / (np.sqrt(0.00025) + 1e-6), rtol=1e-4
    )


def test_embedding_gradients_may_come_as_slices():
    import tensorflow as tf

    variable = keras.Variable(np.ones((4, 2)), name="table")
    dense = keras.Variable(np.ones((4, 2)), name="table")
    slices = tf.IndexedSlices(
        tf.ones((2, 2)), tf.constant([1, 3]), tf.constant([4, 2])
    )
    for target, gradient in (
        (variable, slices),
        (dense, tf.convert_to_tensor(slices)),
    ):
        optimizer = Lamb(0.1)
        optimizer.build([target])
        optimizer.apply([gradient], [target])
    np.testing.assert_array_equal(variable.numpy(), dense.numpy())
    assert (variable.numpy()[[1, 3]] != variable.numpy()[[0, 2]]).all()


@pytest.mark.parametrize(
    "step, rate",
    # Warm-up of 10 steps; the fall is counted from step 0, to 10 % at 100.
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 0.91), (50, 0.55), (100, 0.1)],
)
def test_warmup_then_linear_decay(step, rate):
    schedule = WarmupLinearDecay(2.0, 100, 10, end_factor=0.1)
    assert float(schedule(step)) == pytest.approx(2.0 * rate, rel=1e-6)


def test_transfer_stage_schedule():
    schedule = TransferStageSchedule(3.0, 1000)
    for step, factor in ((0, 0.01), (49, 0.5), (189, 0.99), (749, 0.95)):
        assert float(schedule(step)) == pytest.approx(3.0 * factor, rel=1e-5)


def test_decayed_parameters_are_counted():
    variables = [keras.Variable(np.ones(s), name=n) for n, s in SHAPES.items()]
    text = describe_parameters(variables)
    assert "22 parameters in 2 matrices" in text
    assert "3 in 1 norms and biases" in text
