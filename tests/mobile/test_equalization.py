"""Equalised networks answer as before and lose less to rounding."""

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.equalization import channel_ranges, equalize
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from tests.mobile.networks import (
    classifier,
    random_batch,
    randomise,
    relative_error,
    small_config,
)
from tests.mobile.test_folding import ARCHITECTURES


def uneven_classifier(config, rng):
    """A network with a few large channels and means far from zero.

    As the published parameters have them: biases beyond what varies, gammas
    that single out channels.
    """
    model = classifier(config, rng)
    for variable in model.weights:
        part = variable.path.split("/")[-1]
        if part in ("beta", "bias"):
            variable.assign(rng.normal(0.0, 1.5, variable.shape))
        if part == "gamma":
            gamma = rng.uniform(0.6, 1.2, variable.shape)
            gamma[::11] *= 4.0
            variable.assign(gamma)
    return model


def spread(deployment, batches) -> dict[str, float]:
    """Whole range over the mean range of a channel, by tensor."""
    found = {}
    for name, (low, high) in channel_ranges(deployment, batches).items():
        whole = max(high.max(), 0.0) - min(low.min(), 0.0)
        found[name] = whole / max(np.mean(high - low), 1e-9)
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_answers_stay_the_same(name, rng):
    config = small_config(**ARCHITECTURES[name])
    model = uneven_classifier(config, rng)
    batches = [random_batch(config, rng) for _ in range(2)]
    deployment = deployment_model(model)
    equalized = equalize(deployment, batches)
    other = random_batch(config, rng)
    assert relative_error(equalized(**other), model(other)) < 1e-5
    assert equalized.weights.keys() == deployment.weights.keys()
    changed = {
        name
        for name, weight in equalized.weights.items()
        if not np.array_equal(weight, deployment.weights[name])
    }
    # Query, key and value are free in every architecture.
    for part in ("query", "key", "value"):
        assert f"block_01/attention/{part}/kernel" in changed


def test_spans_and_features_stay_the_same(rng):
    config = small_config()
    spans = mb.MobileBertForQuestionAnswering(config)
    encoder = mb.MobileBertEncoder(config)
    batch = random_batch(config, rng)
    for model in (spans, encoder):
        randomise(model, rng)
        deployment = deployment_model(model)
        wanted = deployment(**batch)
        found = equalize(deployment, [batch])(**batch)
        assert relative_error(found, wanted) < 1e-5


def test_a_restarted_stream_stays_the_same(rng):
    config = small_config()
    model = uneven_classifier(config, rng)
    block = model.encoder.blocks[1]
    for norm in (block.attention_norm, block.output_bottleneck.norm):
        gamma = norm.gamma.numpy()
        norm.gamma.assign(gamma * (np.arange(gamma.size) % 3))
    batch = random_batch(config, rng)
    deployment = deployment_model(model)
    assert "block_01/output_bottleneck/scale" in deployment.weights
    equalized = equalize(deployment, [batch])
    assert relative_error(equalized(**batch), model(batch)) < 1e-5


def test_channels_become_alike_and_centred(rng):
    config = small_config()
    deployment = deployment_model(uneven_classifier(config, rng))
    batches = [random_batch(config, rng, size=16) for _ in range(2)]
    equalized = equalize(deployment, batches)
    before, after = spread(deployment, batches), spread(equalized, batches)
    # A tensor of a stream of its own spans no more than its channels do.
    for part in ("attention/value", "shared_qk_bottleneck"):
        assert after[f"block_01/{part}"] == pytest.approx(1.0, abs=0.05)
    for name in ("block_01/output_bottleneck/sum", "embeddings/with_positions"):
        assert after[name] < 0.5 * before[name]
    ranges = channel_ranges(equalized, batches)
    for index in range(3):
        low, high = ranges[f"block_{index:02d}/output_bottleneck/sum"]
        np.testing.assert_allclose(low, -high, rtol=1e-3)
    query, key = (
        np.abs(ranges[f"block_00/attention/{part}"]).max(0)
        for part in ("query", "key")
    )
    np.testing.assert_allclose(query, key, rtol=1e-3)


def test_int8_loses_less_than_half(rng):
    config = small_config()
    model = uneven_classifier(config, rng)
    batches = [random_batch(config, rng, size=16) for _ in range(4)]
    test = random_batch(config, rng, size=64)
    wanted = model(test).numpy()
    errors = []
    deployment = deployment_model(model)
    for candidate in (deployment, equalize(deployment, batches)):
        quantized = QuantizationAwareModel(candidate)
        quantized.calibrate(batches)
        errors.append(np.sqrt(np.mean((quantized(**test) - wanted) ** 2)))
    assert errors[1] < 0.5 * errors[0]


def test_silent_channels_and_bad_batches(rng):
    config = small_config(num_hidden_layers=1)
    model = classifier(config, rng)
    dense = model.encoder.blocks[0].feed_forwards[0].intermediate_dense
    bias = dense.bias.numpy()
    bias[:5] = -100.0
    dense.bias.assign(bias)
    batch = random_batch(config, rng)
    deployment = deployment_model(model)
    equalized = equalize(deployment, [batch])
    part = "block_00/feed_forward_0"
    gain = equalized.weights[f"{part}/output/kernel"][:, 0].numpy()
    gain /= deployment.weights[f"{part}/output/kernel"][:, 0].numpy()
    reach = channel_ranges(deployment, [batch])[f"{part}/intermediate"][1]
    assert not reach[:5].any()
    # The silent ones as if they reached a tenth of the average.
    wanted = np.maximum(reach, 0.1 * reach.mean())
    np.testing.assert_allclose(gain / gain[0], wanted / wanted[0], rtol=1e-4)
    with pytest.raises(ValueError, match="at least one batch"):
        equalize(deployment, [])
    model.encoder.blocks[0].attention.query.bias.assign(np.full(32, np.nan))
    with pytest.raises(ValueError, match="attention/query is not finite"):
        equalize(deployment_model(model), [batch])
