"""Random weights for comparisons with peers, and their way to Model Garden.

Kernels are drawn at 0.02 to 0.03: at 0.05, activations of 24 NoNorm blocks
reach 1e4, attention saturates, and no two implementations agree any more.
Gammas, betas and biases are random too, so that none can be left out or
swapped without a difference.
"""

import re

import keras

KERNEL_STDDEV = 0.025
GAMMA_STDDEV = 0.1
SHIFT_STDDEV = 0.05


def randomise(model: keras.Model, rng) -> None:
    """Draws every variable of `model` anew."""
    for variable in model.weights:
        leaf = variable.path.split("/")[-1]
        drawn = rng.standard_normal(variable.shape).astype("float32")
        if leaf == "gamma":
            variable.assign(1.0 + GAMMA_STDDEV * drawn)
        elif leaf in ("beta", "bias"):
            variable.assign(SHIFT_STDDEV * drawn)
        else:
            variable.assign(KERNEL_STDDEV * drawn)


# Our path, as a pattern, and Model Garden's. Their attention kernels have the
# heads on an axis of their own; the order of the numbers is the same.
MODEL_GARDEN_NAMES = (
    (r"embeddings/word_embeddings", "word_embedding/embeddings"),
    (r"embeddings/segment_embeddings", "type_embedding/embeddings"),
    (r"embeddings/position_embeddings", "position_embedding/embeddings"),
    (r"embeddings/projection/", "embedding_projection/"),
    (r"embeddings/norm/", "embedding_norm/"),
    (r"block_0*(\d+)/", r"transformer_layer_\1/"),
    (r"input_bottleneck/", "bottleneck_input/"),
    (r"shared_qk_bottleneck/", "kq_shared_bottleneck/"),
    (r"output_bottleneck/", "bottleneck_output/"),
    (r"attention_norm/", "attention/norm/"),
    (r"attention/output_dense/", "attention/attention_output/"),
    (r"feed_forward_(\d+)/", r"ffn_layer_\1/"),
)


def to_model_garden(encoder: keras.Model, peer) -> None:
    """Assigns every variable of our encoder to Model Garden's, once each."""
    theirs = {}
    for variable in peer.variables:
        # Keras numbers the embedding layers of one process.
        name = re.sub(r"mobile_bert_embedding(_\d+)?/", "", variable.name)
        theirs[name.removesuffix(":0")] = variable
    assert len(theirs) == len(peer.variables)
    for variable in encoder.weights:
        path = variable.path.removeprefix("encoder/")
        for ours, name in MODEL_GARDEN_NAMES:
            path = re.sub(f"(?:^|(?<=/)){ours}", name, path)
        other = theirs.pop(path)
        value = keras.ops.convert_to_numpy(variable.value)
        other.assign(value.reshape(other.shape))
    assert not theirs, f"not assigned: {sorted(theirs)}"
