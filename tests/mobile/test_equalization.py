"""Equalised networks give the same outputs and lose less to rounding."""

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.equalization import common_gain, equalize
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.measurement import measure
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.mobile.streams import Stream, Write
from tests import tiny
from tests.mobile.test_folding import ARCHITECTURES, random_classifier
from tests.tiny import relative_error


def uneven_classifier(rng, **changes):
    """A network with a few large channels and means far from zero.

    As the published parameters have them: biases beyond what varies, gammas
    that single out channels.
    """
    model = random_classifier(rng, **changes)
    for variable in model.weights:
        part = variable.path.split("/")[-1]
        if part in ("beta", "bias"):
            variable.assign(rng.normal(0.0, 1.5, variable.shape))
        if part == "gamma":
            gamma = rng.uniform(0.6, 1.2, variable.shape)
            gamma[::11] *= 4.0
            variable.assign(gamma)
    return model


def channel_ranges(folded, batches):
    return {
        name: found.ranges for name, found in measure(folded, batches).items()
    }


def spread(folded, batches) -> dict[str, float]:
    """Whole range over the mean range of a channel, by tensor."""
    found = {}
    for name, (low, high) in channel_ranges(folded, batches).items():
        whole = max(high.max(), 0.0) - min(low.min(), 0.0)
        found[name] = whole / max(np.mean(high - low), 1e-9)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_outputs_stay_the_same(name, rng):
    model = uneven_classifier(rng, **ARCHITECTURES[name])
    batches = [tiny.batch(rng) for _ in range(2)]
    folded = fold(model)
    before = {key: array.copy() for key, array in folded.arrays.items()}
    equalized = equalize(folded, batches)
    other = tiny.batch(rng)
    assert relative_error(forward(equalized, other), model(other)) < 1e-5
    assert equalized.arrays.keys() == folded.arrays.keys()
    changed = {
        key
        for key, array in equalized.arrays.items()
        if not np.array_equal(array, folded.arrays[key])
    }
    # Query, key and value are free in every architecture.
    for part in ("query", "key", "value"):
        assert f"block_01/attention/{part}/kernel" in changed
    # What was given is left as it is.
    for key, array in before.items():
        np.testing.assert_array_equal(folded.arrays[key], array)


def test_spans_and_features_stay_the_same(rng):
    config, batch = tiny.student_config(), tiny.batch(rng)
    spans = mb.MobileBertForQuestionAnswering(config)
    encoder = mb.MobileBertEncoder(config)
    for model in (spans, encoder):
        tiny.randomise(model, rng)
    found = forward(equalize(fold(spans), [batch]), batch)
    for name, logits in spans(batch).items():
        assert relative_error(found[name], logits) < 1e-5
    found = forward(equalize(fold(encoder), [batch]), batch)
    assert relative_error(found, encoder(batch).sequence_output) < 1e-5


def test_a_restarted_stream_stays_the_same(rng):
    model = uneven_classifier(rng)
    block = model.encoder.blocks[1]
    for norm in (block.attention_norm, block.output_bottleneck.norm):
        gamma = norm.gamma.numpy()
        norm.gamma.assign(gamma * (np.arange(gamma.size) % 3))
    batch = tiny.batch(rng)
    folded = fold(model)
    assert "block_01/output_bottleneck/scale" in folded.arrays
    equalized = equalize(folded, [batch])
    assert relative_error(forward(equalized, batch), model(batch)) < 1e-5


def test_channels_become_alike_and_centred(rng):
    folded = fold(uneven_classifier(rng))
    lengths = rng.integers(3, 21, 16)
    batches = [tiny.batch(rng, lengths) for _ in range(2)]
    equalized = equalize(folded, batches)
    before, after = spread(folded, batches), spread(equalized, batches)
    # A tensor of a stream of its own spans no more than its channels do.
    for part in ("attention/value", "shared_qk_bottleneck"):
        assert after[f"block_01/{part}"] == pytest.approx(1.0, abs=0.05)
    for name in ("block_00/output_bottleneck/sum", "embeddings/with_positions"):
        assert after[name] < 0.5 * before[name]
    ranges = channel_ranges(equalized, batches)
    for index in range(2):
        low, high = ranges[f"block_{index:02d}/output_bottleneck/sum"]
        np.testing.assert_allclose(low, -high, rtol=1e-3, atol=1e-5)
    query, key = (
        np.abs(ranges[f"block_00/attention/{part}"]).max(0)
        for part in ("query", "key")
    )
    # A channel far below the others is raised no further than to a tenth.
    assert np.mean(np.abs(query - key) < 1e-3 * key) > 0.9


def test_int8_loses_less_than_half(rng):
    model = uneven_classifier(rng)
    batches = [tiny.batch(rng, rng.integers(3, 21, 16)) for _ in range(4)]
    test = tiny.batch(rng, rng.integers(3, 21, 64))
    wanted = model(test).numpy()
    errors, folded = [], fold(model)
    for candidate in (folded, equalize(folded, batches)):
        quantized = Quantized(candidate, calibrate(candidate, batches))
        errors.append(np.sqrt(np.mean((quantized(test) - wanted) ** 2)))
    assert errors[1] < 0.5 * errors[0]


def test_silent_channels_and_bad_batches(rng):
    model = random_classifier(rng, num_hidden_layers=1)
    dense = model.encoder.blocks[0].feed_forwards[0].intermediate_dense
    bias = dense.bias.numpy()
    bias[:5] = -100.0
    dense.bias.assign(bias)
    batch = tiny.batch(rng, (20, 12, 5, 9))
    folded = fold(model)
    equalized = equalize(folded, [batch])
    part = "block_00/feed_forward_0"
    gain = equalized.arrays[f"{part}/output/kernel"][:, 0].copy()
    gain /= folded.arrays[f"{part}/output/kernel"][:, 0]
    reach = channel_ranges(folded, [batch])[f"{part}/intermediate"][1]
    assert not reach[:5].any()
    # The silent ones as if they reached a tenth of the others' median.
    wanted = np.maximum(reach, 0.1 * np.median(reach[reach > 0]))
    np.testing.assert_allclose(gain / gain[0], wanted / wanted[0], rtol=1e-4)
    with pytest.raises(ValueError, match="at least one batch"):
        equalize(folded, [])
    query = model.encoder.blocks[0].attention.query
    query.bias.assign(np.full(query.bias.shape, np.nan))
    with pytest.raises(ValueError, match="attention/query is not finite"):
        equalize(fold(model), [batch])


def test_a_channel_that_is_large_in_one_tensor_takes_little_from_others():
    reaches = np.ones((2, 8))
    reaches[0, 3] = 100.0
    stream = Stream(Write("one"), Write("two", "sum"), can_shift=False)
    ranges = dict(zip(("one", "sum"), np.stack([-reaches, reaches], 1)))
    ranges["two"] = ranges["sum"]
    gain, _ = common_gain(stream, ranges, power=4.0)
    after = reaches / gain
    assert np.all(after.max(1) < 1.5 * np.median(after, 1))
