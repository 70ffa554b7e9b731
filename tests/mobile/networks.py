"""Small networks with every weight at work, and inputs for them."""

import keras
import numpy as np

import mobilebert_tf as mb

LABELS = ("a", "b", "c")


def small_config(**changes) -> mb.MobileBertConfig:
    """A student of three narrow blocks."""
    return mb.MobileBertConfig.from_preset(
        "mobilebert_small",
        **{
            "vocab_size": 101,
            "embedding_size": 32,
            "hidden_size": 64,
            "intra_bottleneck_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "max_position_embeddings": 40,
        }
        | changes,
    )


def classifier(config, rng, **ranges):
    model = mb.MobileBertForSequenceClassification(config, LABELS)
    randomise(model, rng, **ranges)
    return model


def randomise(model: keras.Model, rng, gammas=(0.7, 1.3), gain=0.6) -> None:
    """Draws all weights so that no term of the network is trivial."""
    for variable in model.weights:
        part, shape = variable.path.split("/")[-1], variable.shape
        if part == "gamma":
            values = rng.uniform(*gammas, shape)
        elif part == "kernel":
            values = rng.normal(0.0, gain / np.sqrt(shape[0]), shape)
        else:
            values = rng.normal(0.0, 0.1, shape)
        variable.assign(values)


def random_batch(config, rng, size=4, length=20) -> dict[str, np.ndarray]:
    """Examples of several lengths, one of them full, with both segments."""
    lengths = rng.integers(3, length, size)
    lengths[0] = length
    mask = (np.arange(length) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(1, config.vocab_size, (size, length))
    segments = rng.integers(0, 2, (size, length))
    return {
        "input_ids": (ids * mask).astype(np.int32),
        "input_mask": mask,
        "segment_ids": (segments * mask).astype(np.int32),
    }


def relative_error(found, wanted) -> float:
    """The largest difference, relative to the largest value."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())
