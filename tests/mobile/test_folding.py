"""The folded network against the Keras model that it was folded from."""

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from benchmarks.real_parameters import real_parameter_model
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.equalization import equalize
from tests.mobile.networks import (
    LABELS,
    classifier,
    random_batch,
    randomise,
    relative_error,
    small_config,
)

ARCHITECTURES = {
    "shared": {},
    "paper": {"key_query_shared_bottleneck": False},
    "tiny": {"use_bottleneck_attention": True},
    "no bottleneck": {"use_bottleneck": False, "intra_bottleneck_size": 64},
    "release mask": {
        "attention_mask_form": "multiply_add",
        "attention_mask_value": -6.0,
    },
    "layer norm": {"normalization_type": "layer_norm", "hidden_act": "gelu"},
    "layer norm, no bottleneck": {
        "normalization_type": "layer_norm",
        "hidden_act": "gelu_erf",
        "use_bottleneck": False,
        "intra_bottleneck_size": 64,
    },
    "pooler": {"classifier_activation": True},
    "other trigrams": {
        "zero_pad_embedding": True,
        "trigram_order": "previous_current_next",
    },
    "no projection": {"trigram_input": False, "embedding_size": 64},
}


def scales(deployment) -> list[str]:
    return [name for name in deployment.weights if name.endswith("/scale")]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_the_keras_model(name, rng):
    config = small_config(**ARCHITECTURES[name])
    model = classifier(config, rng)
    batch = random_batch(config, rng)
    deployment = deployment_model(model)
    assert relative_error(deployment(**batch), model(batch)) < 1e-5
    assert not scales(deployment)


def test_no_norm_is_left_and_biases_are_where_they_belong(rng):
    deployment = deployment_model(classifier(small_config(), rng))
    parts = {name.rsplit("/", 1)[1] for name in deployment.weights}
    assert parts == {"kernel", "bias", "words", "segments", "positions"}
    for name, weight in deployment.weights.items():
        if name.endswith(("key/bias", "value/bias", "bottleneck/bias")):
            centred = "output_bottleneck" not in name
            assert bool(np.any(weight.numpy())) != centred, name


def test_tokens_spans_and_features_fold_too(rng):
    config = small_config()
    batch = random_batch(config, rng)
    spans = mb.MobileBertForQuestionAnswering(config)
    tagger = mb.MobileBertForTokenClassification(config, LABELS)
    encoder = mb.MobileBertEncoder(config)
    for model in (spans, tagger, encoder):
        randomise(model, rng)
    wanted = spans(batch)
    wanted = np.stack([wanted["start_logits"], wanted["end_logits"]], -1)
    assert relative_error(deployment_model(spans)(**batch), wanted) < 1e-5
    assert relative_error(deployment_model(tagger)(**batch), tagger(batch)) < (
        1e-5
    )
    deployment = deployment_model(encoder)
    wanted = encoder(batch).sequence_output
    assert relative_error(deployment(**batch), wanted) < 1e-5
    # The feature map itself is the answer: its gain cannot stay implicit.
    assert scales(deployment) == ["block_02/output_bottleneck/scale"]


@pytest.mark.parametrize("tiny", [0.0, 1e-30, 1e-5])
def test_a_vanishing_gamma_restarts_its_stream_exactly(tiny, rng):
    config = small_config()
    model = classifier(config, rng)
    block = model.encoder.blocks[1]
    for norm in (
        block.attention_norm,
        block.feed_forwards[0].norm,
        block.output_bottleneck.norm,
    ):
        gamma = norm.gamma.numpy()
        gamma[::7] = tiny
        norm.gamma.assign(gamma)
    batch = random_batch(config, rng)
    deployment = deployment_model(model)
    assert relative_error(deployment(**batch), model(batch)) < 1e-5
    assert scales(deployment) == [
        "block_01/attention_output/scale",
        "block_01/feed_forward_0/output/scale",
        "block_01/output_bottleneck/scale",
    ]


def test_all_gammas_zero_leave_the_betas(rng):
    config = small_config()
    model = classifier(config, rng, gammas=(0.0, 0.0))
    batch = random_batch(config, rng)
    deployment = deployment_model(model)
    assert relative_error(deployment(**batch), model(batch)) < 1e-6


def in_float64(model):
    """The same classifier, computing in float64."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        double = type(model)(model.config, model.label_names)
    finally:
        keras.config.set_dtype_policy(before)
    for ours, theirs in zip(double.weights, model.weights, strict=True):
        ours.assign(theirs.numpy().astype(np.float64))
    return double


@pytest.mark.slow
def test_24_blocks_of_random_gammas(rng):
    config = small_config(num_hidden_layers=24)
    model = classifier(config, rng)
    batch = random_batch(config, rng)
    deployment = deployment_model(model)
    exact = in_float64(model)(batch)
    for candidate in (deployment, equalize(deployment, [batch])):
        found = candidate(**batch)
        assert relative_error(found, model(batch)) < 1e-5
        assert relative_error(found, exact) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_the_released_norms_fold_without_a_restart(scale, rng, shared_data):
    model = real_parameter_model(shared_data / "mobilebert_real", scale)
    config = model.config
    batch = random_batch(config, rng, size=2, length=32)
    deployment = deployment_model(model)
    assert relative_error(deployment(**batch), model(batch)) < 1e-5
    # The channels' ranges are measured on other examples.
    equalized = equalize(deployment, [random_batch(config, rng, length=32)])
    assert relative_error(equalized(**batch), model(batch)) < 1e-5
    assert not scales(equalized)
