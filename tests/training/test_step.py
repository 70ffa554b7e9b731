"""However a step is carried out, the weights are the same."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.losses import dividing_by, mean, weighted_mean
from mobilebert_tf.training.optimizers import AdamW
from mobilebert_tf.training.options import StepOptions
from mobilebert_tf.training.step import TrainStep, rematerialize
from tests.training import toy_pretraining as toy


@pytest.fixture(scope="module")
def plain():
    """Weights and values of one step after the other, without a graph."""
    model = toy.build_model()
    with toy.eagerly():
        rows = toy.train(toy.build_step(model))
    return toy.values(model.trainable_variables), rows


@pytest.mark.parametrize(
    "options",
    [
        StepOptions(accumulation_steps=3),
        StepOptions(steps_per_execution=4, jit_compile=True),
    ],
    ids=str,
)
def test_options_change_no_weight(plain, options):
    weights, rows = plain
    model = toy.build_model()
    np.testing.assert_allclose(
        toy.train(toy.build_step(model, options)), rows, rtol=5e-6
    )
    for variable, weight in zip(
        model.trainable_variables, weights, strict=True
    ):
        np.testing.assert_allclose(variable.numpy(), weight, atol=1e-6)


def test_rematerialized_blocks_compute_the_same():
    # Dropout: the second computation must drop what the first one did.
    plain, ours = toy.build_model(dropout=0.3), toy.build_model(dropout=0.3)
    with toy.eagerly():
        toy.train(toy.build_step(plain), num_steps=4)
    rematerialize(ours.encoder.blocks)
    toy.train(toy.build_step(ours), num_steps=4)
    for variable, expected in zip(ours.variables, plain.variables, strict=True):
        np.testing.assert_allclose(variable, expected, atol=1e-6)


def test_bfloat16_stays_close(plain):
    _, rows = plain
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = toy.build_model()
        with toy.eagerly():
            found = toy.train(toy.build_step(model))
    finally:
        keras.config.set_dtype_policy("float32")
    assert all(v.dtype == "float32" for v in model.trainable_variables)
    np.testing.assert_allclose(found[:, 0], rows[:, 0], rtol=0.02)
    assert np.abs(found[:, 0] - rows[:, 0]).max() > 1e-5


def test_parts_must_be_equal():
    step = toy.build_step(toy.build_model(), StepOptions(accumulation_steps=4))
    with pytest.raises(InputError, match="a divisor of the 6 examples"):
        step(toy.batch(0))


def test_parts_divide_by_the_counts_of_the_whole():
    values = np.array([1.0, 2.0, 6.0], "float32")
    weights = np.array([1.0, 0.0, 1.0], "float32")
    sums = np.zeros(2)
    for part in (slice(0, 1), slice(1, 3)):
        with dividing_by(3, lambda _: 2.0):
            sums += (
                float(mean(values[part])),
                float(weighted_mean(values[part], weights[part])),
            )
    np.testing.assert_allclose(sums, [3.0, 3.5])


def test_weights_from_elsewhere_are_refused():
    variable = keras.Variable(np.ones(2, "float32"), name="kernel")

    def loss(batch):
        values = batch["x"] * variable
        return {"loss": weighted_mean(values, batch["mask"] * 2.0)}

    step = TrainStep(loss, [variable], AdamW(0.1), StepOptions(2))
    ones = tf.ones((2, 2))
    with pytest.raises(ValueError, match="must be an entry of the batch"):
        step({"x": ones, "mask": ones})


@pytest.mark.parametrize("steps_per_execution", [1, 3])
def test_an_update_that_is_not_finite_is_left_out(steps_per_execution):
    first, second = (
        keras.Variable(np.ones(2, "float32"), name=name)
        for name in ("first", "second")
    )

    def loss(batch):
        # The root of 0 is finite, its gradient is not.
        root = tf.sqrt(tf.reduce_sum(second) - batch["x"][0])
        return {"loss": tf.reduce_sum(first) * 0.1 + root}

    optimizer = AdamW(0.1)
    step = TrainStep(
        loss,
        [first, second],
        optimizer,
        StepOptions(steps_per_execution=steps_per_execution),
    )
    before = second.numpy().sum()
    values, variables = step.run([{"x": np.full((1,), before, "float32")}])
    assert np.isfinite(values[0, 0]) and variables.numpy().tolist() == [1]
    np.testing.assert_array_equal(first.numpy(), np.ones(2))
    assert int(optimizer.iterations) == 0
    step.run([{"x": np.zeros((1,), "float32")}])
    assert (first.numpy() < 1).all() and int(optimizer.iterations) == 1
