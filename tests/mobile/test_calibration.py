"""Ranges by each method against NumPy, SciPy and worked values."""

import numpy as np
import pytest
from scipy import optimize

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import (
    METHODS,
    CalibratedRange,
    mse_range,
    percentile_range,
    write_ranges,
)
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.export import export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from tests.mobile.networks import (
    classifier,
    random_batch,
    randomise,
    small_config,
)


def histogram(values):
    limits = np.array([values.min(), values.max()])
    return np.histogram(values, 2048, range=tuple(limits))[0], limits


def rounding_error(limits, values) -> float:
    """Mean squared error of rounding to 256 steps, computed as said."""
    low, high = limits
    step = (high - low) / 255.0
    zero = np.round(-low / step)
    rounded = np.clip(np.round(values / step) + zero, 0, 255) - zero
    return float(np.mean((rounded * step - values) ** 2))


def test_percentiles_are_those_of_numpy(rng):
    values = rng.standard_t(3, 100_000)
    counts, limits = histogram(values)
    found = percentile_range(counts, limits, 99.0)
    wanted = np.percentile(values, [0.5, 99.5])
    bin_width = (limits[1] - limits[0]) / 2048
    np.testing.assert_allclose(found, wanted, atol=bin_width)
    np.testing.assert_allclose(percentile_range(counts, limits, 100.0), limits)


@pytest.mark.parametrize("shape", ["heavy", "one-sided", "uniform"])
def test_mse_is_near_the_best_of_a_search(shape, rng):
    values = {
        "heavy": rng.standard_t(3, 40_000),
        "one-sided": rng.exponential(1.0, 40_000),
        "uniform": rng.uniform(-1.0, 2.0, 40_000),
    }[shape]
    counts, limits = histogram(values)
    found = mse_range(counts, limits)
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    best = optimize.brute(
        lambda shares: rounding_error(
            (shares[0] * low - 1e-12, shares[1] * high), values
        ),
        [(0.05, 1.0), (0.05, 1.0)],
        Ns=25,
        finish=None,
        full_output=True,
    )[1]
    assert rounding_error(found, values) < 1.1 * best
    if shape == "uniform":
        np.testing.assert_allclose(found, limits, rtol=0.03)
    if shape == "heavy":
        assert rounding_error(found, values) < rounding_error(limits, values)


def test_methods_give_ranges_that_hold_zero(rng):
    config = small_config(num_hidden_layers=1)
    batches = [random_batch(config, rng, size=16) for _ in range(2)]
    quantized = QuantizationAwareModel(
        deployment_model(classifier(config, rng))
    )
    widths = {}
    for method in METHODS:
        rows = quantized.calibrate(
            iter(batches), method=method, percentile=99.0
        )
        assert [row.name for row in rows] == list(quantized._names)
        assert {row.method for row in rows} == {method}
        found = np.array([(row.range_low, row.range_high) for row in rows])
        np.testing.assert_array_equal(found, quantized.ranges.numpy())
        assert (found[:, 0] <= 0.0).all() and (found[:, 1] >= 0.0).all()
        for row, (low, high) in zip(rows, found, strict=True):
            if row.name in ("block_00/attention/value", "embeddings/words"):
                # Symmetric ranges, and tables, whose rows all matter.
                continue
            widths.setdefault(row.name, {})[method] = high - low
        index = list(quantized._names).index("block_00/attention/value")
        low, high = quantized.ranges.numpy()[index]
        assert -low / high == pytest.approx(128.0 / 127.0)
        words = quantized._names.index("embeddings/words")
        assert rows[words].low == pytest.approx(found[words][0])
    for name, width in widths.items():
        # Their ends lie on a grid of the extremes.
        assert width["percentile"] <= width["min_max"] * 1.0001, name
        assert width["mse"] <= width["min_max"] * 1.0001, name
    ratios = [
        width["percentile"] / width["min_max"] for width in widths.values()
    ]
    assert np.median(ratios) < 0.95


@pytest.mark.parametrize("method", METHODS)
def test_sure_answers_keep_their_steps(method, rng):
    config = small_config(num_hidden_layers=1)
    model = mb.MobileBertForQuestionAnswering(config)
    randomise(model, rng)
    # What is no answer is far below what may be one.
    model.head.dense.kernel.assign(400.0 * model.head.dense.kernel)
    batches = [random_batch(config, rng, size=8) for _ in range(2)]
    quantized = QuantizationAwareModel(deployment_model(model))
    row = quantized.calibrate(iter(batches), method=method)[-1]
    bests = []
    for batch in batches:
        logits = model(batch)
        for name in ("start_logits", "end_logits"):
            for values, mask in zip(
                logits[name].numpy(), batch["input_mask"], strict=True
            ):
                bests.append(values[mask > 0].max())
    assert row.name == "head" and row.low < min(bests) - 50.0
    assert row.range_low >= min(bests) - 16.0 - 1e-3
    if method == "min_max":
        assert row.range_low == pytest.approx(min(bests) - 16.0, rel=1e-4)
        assert row.range_high == pytest.approx(row.high)


def test_ranges_are_written_as_a_table(tmp_path):
    rows = [CalibratedRange("a/b", -1.0, 2.5, "mse", -0.9, 1234567.0)]
    write_ranges(tmp_path / "ranges.tsv", rows)
    assert (tmp_path / "ranges.tsv").read_text() == (
        "name\tlow\thigh\tmethod\trange_low\trange_high\n"
        "a/b\t-1\t2.5\tmse\t-0.9\t1.23457e+06\n"
    )


def test_unknown_methods_and_percentiles_are_refused(rng):
    config = small_config(num_hidden_layers=1)
    quantized = QuantizationAwareModel(
        deployment_model(classifier(config, rng))
    )
    batch = random_batch(config, rng)
    with pytest.raises(ValueError, match="method must be one of"):
        quantized.calibrate([batch], method="median")
    with pytest.raises(ValueError, match="percentile must be above 50"):
        quantized.calibrate([batch], method="percentile", percentile=0.5)
    assert not quantized.is_calibrated


def test_ranges_that_were_never_measured_are_one_line(rng, tmp_path):
    config = small_config(num_hidden_layers=1)
    model = classifier(config, rng)
    quantized = QuantizationAwareModel(deployment_model(model))
    with pytest.raises(InputError) as error:
        export_tflite(
            model,
            "int8",
            tmp_path / "x.tflite",
            max_seq_length=8,
            quantized=quantized,
        )
    assert str(error.value) == (
        "int8 export, embeddings/words: expected ranges calibrated on real "
        f"examples, found none for {len(quantized._names)} of "
        f"{len(quantized._names)} activations"
    )
    assert not list(tmp_path.iterdir())


def test_ranges_follow_what_the_weights_do(rng):
    config = small_config(num_hidden_layers=1)
    quantized = QuantizationAwareModel(
        deployment_model(classifier(config, rng))
    )
    with pytest.raises(ValueError, match="only after calibrate"):
        quantized.follow_ranges()
    batches = [random_batch(config, rng) for _ in range(3)]
    quantized.calibrate(batches, method="percentile", percentile=99.0)
    begin = quantized.ranges.numpy()
    # Weights that stay leave the ranges where they are.
    quantized.follow_ranges()
    np.testing.assert_allclose(quantized.ranges.numpy(), begin, rtol=1e-6)
    for part in ("kernel", "bias"):
        weight = quantized.deployment.weights[f"head/{part}"]
        weight.assign(1.5 * weight)
    quantized.follow_ranges(rate=0.5)
    wanted = begin.copy()
    wanted[quantized._names.index("head")] *= 1.25
    np.testing.assert_allclose(quantized.ranges.numpy(), wanted, rtol=1e-5)
    # What is not finite moves nothing, not even back.
    followed = quantized.ranges.numpy()
    weight.assign(np.full(3, np.nan))
    quantized.follow_ranges(rate=1.0)
    np.testing.assert_allclose(quantized.ranges.numpy(), followed, rtol=1e-5)
