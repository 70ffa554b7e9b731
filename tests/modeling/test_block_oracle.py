"""The whole arithmetic against its re-derivation in NumPy.

Weights are drawn under the published checkpoint's names, which are mapped to
ours here, independently of the tables in the package.
"""

import dataclasses
import re

import numpy as np
import pytest

import mobilebert_tf as mb
from tests.modeling import numpy_block
from tests.tiny import numpy

LIMIT = 5e-6  # of the tensor's largest value

# Checkpoint name and our path; `layer_N/` and `block_N/` stand before those of
# a block, `dense` names have a kernel and a bias, `norm` names gamma and beta.
TABLES = {
    "bert/embeddings/word_embeddings": "embeddings/word_embeddings",
    "bert/embeddings/token_type_embeddings": "embeddings/segment_embeddings",
    "bert/embeddings/position_embeddings": "embeddings/position_embeddings",
    "cls/predictions/extra_output_weights": "masked_lm/extra_output_weights",
    "cls/predictions/output_bias": "masked_lm/bias",
}
DENSE = {
    "bert/embeddings/embedding_transformation": "embeddings/projection",
    "cls/predictions/transform/dense": "masked_lm/transform",
}
NORM = {
    "bert/embeddings": "embeddings/norm",
    "cls/predictions/transform": "masked_lm/norm",
}
BLOCK_DENSE = {
    "bottleneck/input/dense": "input_bottleneck/dense",
    "bottleneck/attention/dense": "shared_qk_bottleneck/dense",
    "attention/self/query": "attention/query",
    "attention/self/key": "attention/key",
    "attention/self/value": "attention/value",
    "attention/output/dense": "attention/output_dense",
    "output/bottleneck/dense": "output_bottleneck/dense",
}
BLOCK_NORM = {
    "bottleneck/input": "input_bottleneck/norm",
    "bottleneck/attention": "shared_qk_bottleneck/norm",
    "attention/output": "attention_norm",
    "output/bottleneck": "output_bottleneck/norm",
}

CASES = {
    "released student": {},
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


def our_paths(num_blocks, num_feedforward_networks) -> dict[str, str]:
    """Our path for each name that a checkpoint may have."""
    dense, norm = dict(DENSE), dict(NORM)
    for block in range(num_blocks):
        theirs, ours = f"bert/encoder/layer_{block}", f"block_{block:02d}"
        dense |= {
            f"{theirs}/{a}": f"{ours}/{b}" for a, b in BLOCK_DENSE.items()
        }
        norm |= {f"{theirs}/{a}": f"{ours}/{b}" for a, b in BLOCK_NORM.items()}
        for ffn in range(num_feedforward_networks):
            # The last network has the names that BERT's only one has.
            is_last = ffn == num_feedforward_networks - 1
            scope = theirs if is_last else f"{theirs}/ffn_layer_{ffn}"
            name = f"{ours}/feed_forward_{ffn}"
            dense[f"{scope}/intermediate/dense"] = f"{name}/intermediate_dense"
            dense[f"{scope}/output/dense"] = f"{name}/output_dense"
            norm[f"{scope}/output"] = f"{name}/norm"
    paths = dict(TABLES)
    for theirs, ours in dense.items():
        paths |= {f"{theirs}/{x}": f"{ours}/{x}" for x in ("kernel", "bias")}
    for theirs, ours in norm.items():
        for kind in ("LayerNorm", "FakeLayerNorm"):
            for leaf in ("gamma", "beta"):
                paths[f"{theirs}/{kind}/{leaf}"] = f"{ours}/{leaf}"
    return paths


def model_with(weights, config):
    """A model that holds every one of `weights`, and no other but NSP's."""
    model = mb.MobileBertForPretraining(config)
    variables = {
        re.sub("^(encoder|pretraining)/", "", variable.path): variable
        for variable in model.weights
    }
    names = our_paths(config.num_hidden_layers, config.num_feedforward_networks)
    for name, value in weights.items():
        variable = variables.pop(names[name])
        assert tuple(variable.shape) == value.shape, name
        variable.assign(value)
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
    config = dataclasses.replace(small_config, **changes)
    settings = config.to_dict()
    weights = numpy_block.draw_weights(settings, 2, rng)
    model = model_with(weights, config)
    output = model.encoder(batch)

    expected = numpy_block.embeddings(
        settings, weights, batch["input_ids"], batch["segment_ids"]
    )
    assert_close(output.feature_maps[0], expected)
    keep = batch["input_mask"].astype(bool)
    for layer in range(2):
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
