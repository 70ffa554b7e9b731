"""The whole arithmetic against its re-derivation in NumPy.

Weights are drawn under the published checkpoint's names, by which NumPy uses
them. A wrong name in the package's table is a wrong result here.
"""

import dataclasses

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.conversion.names import tf1_names
from mobilebert_tf.modeling.weight_names import variables_by_path
from tests.modeling import numpy_block
from tests.tiny import numpy

LIMIT = 5e-6  # of the tensor's largest value

CASES = {
    "released student": {"num_hidden_layers": 2},
    "relu6": {"hidden_act": "relu6"},
    "value as wide as query and key": {"use_bottleneck_attention": True},
    "no shared bottleneck": {"key_query_shared_bottleneck": False},
    "tiny": {
        "use_bottleneck_attention": True,
        "key_query_shared_bottleneck": False,
        "num_feedforward_networks": 1,
    },
    "without OPT": {"normalization_type": "layer_norm", "hidden_act": "gelu"},
    "exact gelu": {
        "normalization_type": "layer_norm",
        "hidden_act": "gelu_erf",
    },
    "tanh": {"hidden_act": "tanh"},
    "linear": {"hidden_act": "linear"},
    "large epsilon": {
        "normalization_type": "layer_norm",
        "layer_norm_eps": 0.1,
    },
    "release mask": {
        "attention_mask_form": "multiply_add",
        "attention_mask_value": -6.0,
    },
    "mild additive mask": {"attention_mask_value": -2.0},
    "trigram reversed": {"trigram_order": "previous_current_next"},
    "no trigram": {"trigram_input": False},
    "zeroed pad row": {"zero_pad_embedding": True},
    "teacher": {
        "intra_bottleneck_size": 48,
        "intermediate_size": 64,
        "num_feedforward_networks": 1,
        "key_query_shared_bottleneck": False,
        "normalization_type": "layer_norm",
        "hidden_act": "gelu",
    },
    "plain BERT": {
        "use_bottleneck": False,
        "intra_bottleneck_size": 32,
        "embedding_size": 32,
        "trigram_input": False,
        "num_feedforward_networks": 1,
        "normalization_type": "layer_norm",
        "hidden_act": "gelu",
    },
    "plain BERT with narrow words": {
        "use_bottleneck": False,
        "intra_bottleneck_size": 32,
    },
}


def model_with(weights, config):
    """A model that holds every one of `weights`, and no other but NSP's."""
    model = mb.MobileBertForPretraining(config)
    variables = variables_by_path(model)
    for name, ours, _ in tf1_names(config, model.architecture):
        if name in weights:
            variables.pop(ours).assign(weights[name])
    assert variables.keys() == {
        "next_sentence/dense/kernel",
        "next_sentence/dense/bias",
    }
    return model


def assert_close(found, expected):
    found = numpy(found)
    assert found.shape == expected.shape
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert difference <= LIMIT


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_everything_agrees(changes, small_config, batch, rng):
    config = dataclasses.replace(
        small_config, **{"num_hidden_layers": 1} | changes
    )
    settings = config.to_dict()
    weights = numpy_block.draw_weights(settings, config.num_hidden_layers, rng)
    model = model_with(weights, config)
    output = model.encoder(batch)

    expected = numpy_block.embeddings(
        settings, weights, batch["input_ids"], batch["segment_ids"]
    )
    assert_close(output.feature_maps[0], expected)
    keep = batch["input_mask"].astype(bool)
    for layer in range(config.num_hidden_layers):
        expected, logits, probs = numpy_block.block(
            settings, weights, layer, expected, batch["input_mask"]
        )
        assert_close(output.feature_maps[layer + 1], expected)
        assert_close(output.attention_probs[layer], probs)
        # Apart, for beside -10000 any difference of the others is small.
        visible = np.broadcast_to(keep[:, None, None, :], logits.shape)
        found = numpy(output.attention_logits[layer])
        assert_close(found[visible], logits[visible])
        assert_close(found[~visible], logits[~visible])
    expected = numpy_block.masked_lm_logits(settings, weights, expected)
    assert_close(model.heads(output)["masked_lm_logits"], expected)


def test_cases_differ(small_config, batch, rng):
    """Each case computes something of its own; no switch is without effect."""
    results = []
    for changes in CASES.values():
        settings = dataclasses.replace(small_config, **changes).to_dict()
        weights = numpy_block.draw_weights(
            settings, 1, np.random.default_rng(5)
        )
        features = numpy_block.embeddings(
            settings, weights, batch["input_ids"], batch["segment_ids"]
        )
        features, _, _ = numpy_block.block(
            settings, weights, 0, features, batch["input_mask"]
        )
        results.append(features)
    for index, one in enumerate(results):
        for other in results[:index]:
            assert np.abs(one - other).max() > 1e-4
