"""Every feature map and attention map against Model Garden's encoder.

Model Garden is Google's own TensorFlow 2 port, on Keras 2 (`tf_keras`), and the
only peer that runs the teacher. Its masked logits are the likes of -1e9 where
ours are -10000; both vanish in the softmax, so that padded positions agree too.
"""

import functools

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from tests.peers.weights import randomise, to_model_garden

pytestmark = pytest.mark.peers

FEATURE_LIMIT = 1e-5  # of the tensor's largest value
PROBABILITY_LIMIT = 2e-6

PRESETS = [
    "mobilebert",
    "mobilebert_paper",
    "mobilebert_without_opt",
    "mobilebert_tiny",
    "mobilebert_edgetpu_xxs",
    "ib_bert_large",
]


def activation(config):
    # By its name, "gelu" would be the exact form, which the release is not.
    import tensorflow as tf

    gelu = functools.partial(tf.nn.gelu, approximate=True)
    return {"relu": tf.nn.relu, "gelu": gelu}[config.hidden_act]


def build_peer(config):
    from official.nlp.modeling.networks import mobile_bert_encoder

    return mobile_bert_encoder.MobileBERTEncoder(
        word_vocab_size=config.vocab_size,
        word_embed_size=config.embedding_size,
        type_vocab_size=config.type_vocab_size,
        max_sequence_length=config.max_position_embeddings,
        num_blocks=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        intermediate_act_fn=activation(config),
        intra_bottleneck_size=config.intra_bottleneck_size,
        use_bottleneck_attention=config.use_bottleneck_attention,
        key_query_shared_bottleneck=config.key_query_shared_bottleneck,
        num_feedforward_networks=config.num_feedforward_networks,
        normalization_type=config.normalization_type,
        classifier_activation=config.classifier_activation,
    )


def call_peer(peer, batch):
    names = ("input_ids", "input_mask", "segment_ids")
    return peer([batch[name] for name in names], training=False)


def build_peer_head(peer, config, head, features):
    """The peer's MLM head with our head's weights."""
    from official.nlp.modeling import layers

    masked_lm = layers.MobileBertMaskedLM(
        embedding_table=peer.get_embedding_table(),
        activation=activation(config),
    )
    masked_lm.build(features.shape)
    # Its inner layers see one row a masked position.
    masked_lm.dense.build((None, config.hidden_size))
    masked_lm.layer_norm.build((None, config.hidden_size))
    for theirs, ours in (
        (masked_lm.dense.kernel, head.transform.kernel),
        (masked_lm.dense.bias, head.transform.bias),
        (masked_lm.layer_norm.gamma, head.norm.gamma),
        (masked_lm.layer_norm.beta, head.norm.beta),
        (masked_lm.extra_output_weights, head.extra_output_weights),
        (masked_lm.bias, head.bias),
    ):
        theirs.assign(keras.ops.convert_to_numpy(ours.value))
    return masked_lm


@pytest.mark.parametrize("preset", PRESETS)
def test_agrees_throughout(preset, rng, padded_batch, differences):
    config = mb.MobileBertConfig.from_preset(preset)
    model = mb.MobileBertForPretraining(config)
    randomise(model, rng)
    peer = build_peer(config)
    to_model_garden(model.encoder, peer)
    batch = padded_batch(config.vocab_size)
    ours, theirs = model.encoder(batch), call_peer(peer, batch)
    note = functools.partial(differences, "Model Garden", preset)

    assert len(ours.feature_maps) == config.num_hidden_layers + 1
    maps = zip(ours.feature_maps, theirs["encoder_outputs"], strict=True)
    for block, (our_map, their_map) in enumerate(maps):
        found = note("feature maps", our_map, their_map)
        assert found <= FEATURE_LIMIT, f"feature map {block}"
    probs = zip(ours.attention_probs, theirs["attention_scores"], strict=True)
    for block, (our_probs, their_probs) in enumerate(probs):
        found = note("probabilities", our_probs, their_probs, relative=False)
        assert found <= PROBABILITY_LIMIT, f"block {block}"
    found = note("pooled", ours.pooled_output, theirs["pooled_output"])
    assert found <= FEATURE_LIMIT

    positions = np.array([[1, 5, 30], [20, 0, 7], [8, 2, 2]], "int32")
    logits = model.heads(ours, positions)["masked_lm_logits"]
    features = theirs["sequence_output"]
    head = build_peer_head(peer, config, model.masked_lm, features)
    their_logits = head(features, keras.ops.convert_to_tensor(positions))
    assert note("MLM logits", logits, their_logits) <= FEATURE_LIMIT
