"""The optimizers, step by step, against NumPy; the schedules by hand."""

import keras
import numpy as np
import pytest

from mobilebert_tf.training import optimizers
from mobilebert_tf.training.optimizers import (
    OPTIMIZERS,
    AdamW,
    Lamb,
    TransferStageSchedule,
    WarmupPolynomialDecay,
    describe_parameters,
)
from tests import tiny

SHAPES = {"kernel": (4, 3), "bias": (3,), "table": (5, 2)}


def numpy_step(name, state, gradient, *, step, rate, correct):
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
    return weight - rate * ratio * update, first, second


def numpy_rate(step, peak, num_steps, num_warmup_steps, end_factor, power):
    """Linear rise, then BERT's polynomial fall, counted from step 0."""
    if step < num_warmup_steps:
        return peak * (step + 1) / num_warmup_steps
    left = 1 - min(step / num_steps, 1.0)
    return peak * (end_factor + (1 - end_factor) * left**power)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("correct", [False, True])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_twelve_steps_equal_numpy_at_each(name, correct, power):
    rng = np.random.default_rng(0)
    start = {key: rng.normal(size=shape) for key, shape in SHAPES.items()}
    start["table"][:] = 0.0  # No trust ratio where the weight norm is zero.
    variables = [keras.Variable(start[key], name=key) for key in SHAPES]
    multipliers = {"kernel": 0.1, "bias": 1.0, "table": 3.0}
    # The last two of the steps are beyond the schedule's end.
    schedule = (0.02, 10, 4, 0.1, power)
    optimizer = OPTIMIZERS[name](
        WarmupPolynomialDecay(*schedule),
        bias_correction=correct,
        multipliers=[(v, multipliers[v.name]) for v in variables],
    )
    optimizer.build(variables)
    expected = {key: (start[key], 0.0, 0.0) for key in SHAPES}
    for step in range(12):
        gradients = {
            key: rng.normal(step, 10.0**-step, size=SHAPES[key])
            for key in SHAPES
        }
        optimizer.apply(
            [keras.ops.cast(gradients[key], "float32") for key in SHAPES],
            variables,
        )
        for variable in variables:
            key = variable.name
            rate = numpy_rate(step, *schedule) * multipliers[key]
            expected[key] = numpy_step(
                name,
                expected[key],
                gradients[key],
                step=step + 1,
                rate=rate,
                correct=correct,
            )
            np.testing.assert_allclose(
                variable.numpy(), expected[key][0], rtol=2e-6, atol=2e-7
            )


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_bfloat16_is_trained_with_float32_moments(name):
    """The same gradients, as bfloat16, leave the float32 moments."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(10, 4, 3)).astype("float32")
    gradients = keras.ops.cast(gradients, "bfloat16")
    start = keras.ops.cast(np.full((4, 3), 2.0), "bfloat16")
    moments, values = [], []
    for dtype in ("float32", "bfloat16"):
        variable = keras.Variable(start, dtype=dtype, name="kernel")
        optimizer = OPTIMIZERS[name](0.02)
        optimizer.build([variable])
        for gradient in gradients:
            optimizer.apply([keras.ops.cast(gradient, dtype)], [variable])
        assert variable.dtype == dtype
        moments.append(optimizer._velocities[0])
        values.append(keras.ops.cast(variable.value, "float32"))
    assert [moment.dtype for moment in moments] == ["float32"] * 2
    np.testing.assert_allclose(*(m.numpy() for m in moments), rtol=1e-6)
    # Ten steps of 0.02 and more, each rounded to 8 bits: 2 ** -8 near 1.
    np.testing.assert_allclose(*values, atol=10 * 2.0**-8)
    assert np.abs(values[1] - 2.0).max() > 0.02


@pytest.mark.parametrize("name", ["adamw", "lamb"])
@pytest.mark.parametrize("largest", [8, 1000])
def test_variables_of_a_kind_do_not_see_each_other(name, largest, monkeypatch):
    """Stacked, cut stacks and members without a gradient: as NumPy one by one.

    Of four kernels in two halves, the first has a gradient every other step
    only, another trains at its own rate.
    """
    monkeypatch.setattr(optimizers, "LARGEST_STACK", largest)
    rng = np.random.default_rng(0)
    start = [10.0**index * rng.normal(size=(2, 2)) for index in range(4)]
    variables = [keras.Variable(value, name="kernel") for value in start]
    rates = [0.02, 0.02, 0.002, 0.02]
    optimizer = OPTIMIZERS[name](0.02, multipliers=[(variables[2], 0.1)])
    optimizer.build(variables)
    # With room for two, or for all; the one with its own rate is alone.
    assert len(optimizer._momentums) == (3 if largest == 8 else 2)
    expected = [(value, 0.0, 0.0) for value in start]
    for step in range(5):
        members = range(step % 2, 4)
        gradients = rng.normal(size=(4, 2, 2))
        optimizer.apply(
            [keras.ops.cast(gradients[m], "float32") for m in members],
            [variables[m] for m in members],
        )
        for m in members:
            expected[m] = numpy_step(
                name,
                expected[m],
                gradients[m],
                step=step + 1,
                rate=rates[m],
                correct=False,
            )
        for variable, state in zip(variables, expected, strict=True):
            np.testing.assert_allclose(
                variable.numpy(), state[0], rtol=2e-6, atol=2e-7
            )


def test_the_clipped_norm_is_that_of_all_kinds():
    shapes = {"kernel": (2, 2), "other": (2, 2), "bias": (3,)}
    paths = []
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=shape) for shape in shapes.values()]
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
    for clip, factor in ((0.5, 1.0), (None, 0.5 / norm)):
        variables = [
            keras.Variable(np.ones(shape), name=name)
            for name, shape in shapes.items()
        ]
        optimizer = AdamW(0.1, global_clipnorm=clip)
        optimizer.build(variables)
        optimizer.apply(
            [keras.ops.cast(factor * g, "float32") for g in gradients],
            variables,
        )
        paths.append([moment.numpy() for moment in optimizer._velocities])
    for clipped, scaled in zip(*paths, strict=True):
        np.testing.assert_allclose(clipped, scaled, rtol=1e-5)


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


def test_the_fall_is_keras_polynomial_decay():
    theirs = keras.optimizers.schedules.PolynomialDecay(
        2.0, 100, end_learning_rate=0.002, power=1.7
    )
    ours = WarmupPolynomialDecay(2.0, 100, end_factor=1e-3, power=1.7)
    for step in (0, 1, 37, 99, 100, 150):
        assert float(ours(step)) == pytest.approx(float(theirs(step)), rel=1e-5)


def release_multiplier(step, block, num_steps):
    """The factor of a block's rate, as the release's code has it.

    `distill_util`: a piecewise constant over the global step (0, then 1, then
    0.1; the boundaries belong to the left), times 3, times a background.
    """
    if step <= block * num_steps:
        gate = 0.0
    elif step <= (block + 1) * num_steps:
        gate = 1.0
    else:
        gate = 0.1
    done = step % num_steps / num_steps
    return 3.0 * gate * min(0.9 + 0.1 * np.sqrt(1.0 - done), 10.0 * done)


@pytest.mark.parametrize("block", [0, 1])
def test_transfer_stages_have_the_releases_rates(block):
    num_steps, base = 10_000, 0.0015
    schedule = TransferStageSchedule(3.0 * base, num_steps)
    active, lower = [], []
    steps = (0, 1, 48, 993, 994, 995, 5000, 9998)
    for step in steps:
        # Our steps of a stage begin at 0, the release's at 1.
        theirs = block * num_steps + step + 1
        active.append(base * release_multiplier(theirs, block, num_steps))
        lower.append(base * release_multiplier(theirs, block - 1, num_steps))
        assert release_multiplier(theirs, block + 1, num_steps) == 0.0
    ours = np.array([float(schedule(step)) for step in steps])
    np.testing.assert_allclose(ours, active, rtol=1e-6)
    if block:
        np.testing.assert_allclose(0.1 * ours, lower, rtol=1e-6)
    # Peak at t = 995: 2.985 times the base rate.
    assert ours.max() == pytest.approx(base * 2.985, rel=5e-4)
    # The release loses each stage's last step; ours goes on.
    last = (block + 1) * num_steps
    assert release_multiplier(last, block, num_steps) == 0.0
    assert float(schedule(num_steps - 1)) == pytest.approx(3.0 * base * 0.9)


def test_parameters_are_counted_by_what_happens_to_them():
    model = tiny.pretraining_model(tiny.student_config(num_hidden_layers=3))
    decayed, excluded = describe_parameters(model.weights).split("\n")
    sizes = {
        is_vector: [
            np.prod(v.shape)
            for v in model.weights
            if (len(v.shape) == 1) == is_vector
        ]
        for is_vector in (False, True)
    }
    for line, found in ((decayed, sizes[False]), (excluded, sizes[True])):
        assert line.startswith(f"{sum(found):,} parameters in {len(found)} ")
