"""Ranges against what the Keras model's tensors reach, and worked values."""

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import (
    Range,
    calibrate,
    usable_ranges,
    write_ranges,
)
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.measurement import activations, measure, readings
from mobilebert_tf.mobile.quantization import Quantized
from tests import tiny
from tests.mobile.test_folding import random_classifier


def test_ranges_are_the_extremes_over_all_batches(rng):
    model = random_classifier(rng, num_hidden_layers=1)
    folded = fold(model)
    batches = [tiny.batch(rng) for _ in range(3)]
    ranges = calibrate(folded, batches)
    assert list(ranges) == list(activations(folded))
    logits = np.concatenate([model(batch) for batch in batches])
    head = ranges["head"]
    reached = head.lowest, head.highest
    np.testing.assert_allclose(reached, [logits.min(), logits.max()], rtol=1e-4)
    wanted = [min(logits.min(), 0.0), max(logits.max(), 0.0)]
    np.testing.assert_allclose([head.low, head.high], wanted, rtol=1e-4)
    # Tables, of which every row may be asked for.
    table = model.encoder.embeddings.word_embeddings.numpy()
    words = ranges["embeddings/words"]
    assert [words.low, words.high] == [table.min(), table.max()]
    for found in ranges.values():
        assert found.low <= 0.0 <= found.high
    for name in ("key", "value"):
        low, high = ranges[f"block_00/attention/{name}"][:2]
        assert -low / high == pytest.approx(128.0 / 127.0)
    assert {
        name for name, symmetric in activations(folded).items() if symmetric
    } == {
        "block_00/attention/key",
        "block_00/attention/value",
    }


@pytest.mark.parametrize(
    ("limits", "symmetric", "wanted"),
    [
        ((-1.0, 3.0), False, (-1.0, 3.0)),
        ((2.0, 3.0), False, (0.0, 3.0)),
        ((-3.0, -2.0), False, (-3.0, 0.0)),
        ((0.0, 0.0), False, (0.0, 1.0)),
        ((-1.0, 2.0), True, (-2.0 * 128 / 127, 2.0)),
        ((-4.0, -1.0), True, (-4.0 * 128 / 127, 4.0)),
    ],
)
def test_ranges_hold_zero_and_have_a_width(limits, symmetric, wanted):
    found = usable_ranges(np.array([limits]), [symmetric])
    np.testing.assert_allclose(found, [wanted], rtol=1e-6)


@pytest.mark.parametrize("part", ["input_bottleneck", "attention/query"])
def test_what_hardly_moves_has_a_range_that_kernels_accept(rng, tmp_path, part):
    folded = fold(random_classifier(rng, num_hidden_layers=1))
    summands, inputs = readings(folded)
    assert summands["block_00/attention_output/sum"] == [
        "block_00/input_bottleneck",
        "block_00/attention_output",
    ]
    assert inputs["block_00/attention/query"] == [
        "block_00/shared_qk_bottleneck"
    ]
    # The first token's row, the same in all examples, cancels: equalisation
    # moves such rows into biases.
    batch = {name: array[:1] for name, array in tiny.batch(rng).items()}
    name = f"block_00/{part}"
    row = measure(folded, [batch])[name].ranges[0]
    folded.arrays[f"{name}/bias"] = folded.arrays[f"{name}/bias"] - row
    ranges = calibrate(folded, [batch])
    assert ranges[name].highest < 1e-6 < ranges[name].high
    # Opens the file, which XNNPACK refuses without that width.
    export(Quantized(folded, ranges), tmp_path / "int8.tflite", 16)


def test_sure_answers_keep_their_steps(rng):
    model = mb.MobileBertForQuestionAnswering(
        tiny.student_config(num_hidden_layers=1)
    )
    tiny.randomise(model, rng)
    # What is no answer is far below what may be one.
    model.head.dense.kernel.assign(2000.0 * model.head.dense.kernel)
    model.head.dense.bias.assign([-400.0, -400.0])
    batches = [tiny.batch(rng, rng.integers(3, 21, 8)) for _ in range(2)]
    bests = [
        values[mask > 0].max()
        for batch in batches
        for logits in model(batch).values()
        for values, mask in zip(
            logits.numpy(), batch["input_mask"], strict=True
        )
    ]
    head = calibrate(fold(model), batches)["head"]
    assert head.lowest < min(bests) - 20.0 < 0.0
    assert head.low == pytest.approx(min(bests) - 16.0, abs=0.05)
    assert head.high == pytest.approx(max(head.highest, 0.0))


def test_no_batches_and_nan_are_refused(rng):
    model = random_classifier(rng, num_hidden_layers=1)
    with pytest.raises(ValueError, match="at least one batch"):
        calibrate(fold(model), [])
    query = model.encoder.blocks[0].attention.query
    query.bias.assign(np.full(query.bias.shape, np.nan))
    with pytest.raises(ValueError, match="attention/query is not finite"):
        calibrate(fold(model), [tiny.batch(rng)])


def test_ranges_are_written_as_a_table(tmp_path):
    ranges = {"a/b": Range(-0.9, 1234567.0, -1.0, 2.5)}
    write_ranges(tmp_path / "ranges.tsv", ranges)
    assert (tmp_path / "ranges.tsv").read_text() == (
        "name\tlow\thigh\trange_low\trange_high\n"
        "a/b\t-1\t2.5\t-0.9\t1.23457e+06\n"
    )
