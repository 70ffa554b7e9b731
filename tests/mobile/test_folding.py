"""The folded network against the Keras model that it was folded from."""

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from benchmarks.real_parameters import real_parameter_model
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.folding import bounded, fold
from tests import tiny
from tests.tiny import relative_error

ARCHITECTURES = {
    "shared": {},
    "paper": {"key_query_shared_bottleneck": False},
    "tiny": {"use_bottleneck_attention": True},
    "no bottleneck": {"use_bottleneck": False, "intra_bottleneck_size": 32},
    "release mask": {
        "attention_mask_form": "multiply_add",
        "attention_mask_value": -6.0,
    },
    "layer norm": {"normalization_type": "layer_norm", "hidden_act": "gelu"},
    "layer norm, no bottleneck": {
        "normalization_type": "layer_norm",
        "hidden_act": "gelu_erf",
        "use_bottleneck": False,
        "intra_bottleneck_size": 32,
    },
    "pooler": {"classifier_activation": True},
    "relu6": {"hidden_act": "relu6"},
    "other trigrams": {
        "zero_pad_embedding": True,
        "trigram_order": "previous_current_next",
    },
    "no projection": {"trigram_input": False, "embedding_size": 32},
}


def random_classifier(rng, gammas=(0.7, 1.3), **changes):
    model = tiny.classifier(**changes)
    tiny.randomise(model, rng, gammas)
    return model


def scales(folded) -> list[str]:
    return [name for name in folded.arrays if name.endswith("/scale")]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logits_are_those_of_the_keras_model(name, rng):
    model = random_classifier(rng, **ARCHITECTURES[name])
    batch = tiny.batch(rng)
    folded = fold(model)
    assert relative_error(forward(folded, batch), model(batch)) < 1e-5
    assert not scales(folded)


def test_no_norm_is_left_and_biases_are_where_they_belong(rng):
    arrays = fold(random_classifier(rng)).arrays
    parts = {name.rsplit("/", 1)[1] for name in arrays}
    assert parts == {"kernel", "bias", "words", "segments", "positions"}
    for name, array in arrays.items():
        assert array.dtype == np.float32
        if name.endswith(("key/bias", "value/bias", "bottleneck/bias")):
            centred = "output_bottleneck" not in name
            assert bool(np.any(array)) != centred, name


def test_tokens_spans_and_features_fold_too(rng):
    config, batch = tiny.student_config(), tiny.batch(rng)
    spans = mb.MobileBertForQuestionAnswering(config)
    tagger = mb.MobileBertForTokenClassification(config, tiny.LABELS)
    encoder = mb.MobileBertEncoder(config)
    for model in (spans, tagger, encoder):
        tiny.randomise(model, rng)
    found, wanted = forward(fold(spans), batch), spans(batch)
    assert found.keys() == wanted.keys() == {"start_logits", "end_logits"}
    for name, logits in wanted.items():
        assert relative_error(found[name], logits) < 1e-5
    assert relative_error(forward(fold(tagger), batch), tagger(batch)) < 1e-5
    folded = fold(encoder)
    wanted = encoder(batch).sequence_output
    assert relative_error(forward(folded, batch), wanted) < 1e-5
    # The feature map itself is the output: its gain cannot stay implicit.
    assert scales(folded) == ["block_01/output_bottleneck/scale"]


@pytest.mark.parametrize("tiny_gamma", [0.0, 1e-30, 1e-5])
def test_a_vanishing_gamma_restarts_its_stream_exactly(tiny_gamma, rng):
    model = random_classifier(rng)
    block = model.encoder.blocks[0]
    for norm in (
        block.attention_norm,
        block.feed_forwards[0].norm,
        block.output_bottleneck.norm,
    ):
        gamma = norm.gamma.numpy()
        gamma[::7] = tiny_gamma
        norm.gamma.assign(gamma)
    batch = tiny.batch(rng)
    folded = fold(model)
    assert relative_error(forward(folded, batch), model(batch)) < 1e-5
    assert scales(folded) == [
        "block_00/attention_output/scale",
        "block_00/feed_forward_0/output/scale",
        "block_00/output_bottleneck/scale",
    ]


def test_all_gammas_zero_leave_the_betas(rng):
    model = random_classifier(rng, gammas=(0.0, 0.0))
    batch = tiny.batch(rng)
    assert relative_error(forward(fold(model), batch), model(batch)) < 1e-6


def test_models_without_a_deployment_graph_are_refused():
    with pytest.raises(ValueError, match="deployment needs one of"):
        fold(tiny.pretraining_model())


def test_masks_are_the_models_unless_bounded(rng):
    model = random_classifier(rng, attention_mask_value=-10000.0)
    # Logits far apart, some padded keys' above all real ones'.
    for block in model.encoder.blocks:
        for dense in (block.attention.query, block.attention.key):
            dense.kernel.assign(dense.kernel.numpy() * 60.0)
    batch, folded = tiny.batch(rng), fold(model)
    assert folded.mask_value == -10000.0
    assert relative_error(forward(folded, batch), model(batch)) < 1e-5
    cut = bounded(folded, -20.0)
    assert cut.mask_value == -20.0
    assert relative_error(forward(cut, batch), model(batch)) > 1e-2
    release = fold(tiny.classifier(**ARCHITECTURES["release mask"]))
    assert bounded(release, -9.0).mask_value == release.mask_value == -6.0
    with pytest.raises(ValueError, match="mask_value must be negative"):
        bounded(release, 0.0)


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
    model = random_classifier(rng, num_hidden_layers=24)
    batch, folded = tiny.batch(rng), fold(model)
    exact = in_float64(model)(batch)
    for candidate in (folded, equalize(folded, [batch])):
        found = forward(candidate, batch)
        assert relative_error(found, model(batch)) < 1e-5
        assert relative_error(found, exact) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 0.8])
def test_the_released_norms_fold_without_a_restart(scale, rng, shared_data):
    model = real_parameter_model(shared_data / "mobilebert_real", scale)
    size = model.config.vocab_size
    batch = tiny.batch(rng, (32, 9), vocab_size=size)
    folded = fold(model)
    assert relative_error(forward(folded, batch), model(batch)) < 1e-5
    # The channels' ranges are measured on other examples.
    other = tiny.batch(rng, (32, 20, 7), vocab_size=size)
    equalized = equalize(folded, [other])
    assert relative_error(forward(equalized, batch), model(batch)) < 1e-5
    assert not scales(equalized)
