"""A small architecture with every part, and batches for it.

Nothing here imports a backend: the tests of this folder run on TensorFlow and,
with KERAS_BACKEND=jax, on JAX.
"""

import dataclasses

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.config import MobileBertConfig


def numpy(tensor) -> np.ndarray:
    """Returns a tensor of whatever backend as an array."""
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.fixture
def small_config() -> MobileBertConfig:
    return MobileBertConfig(
        vocab_size=50,
        embedding_size=12,
        hidden_size=32,
        intra_bottleneck_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_feedforward_networks=2,
        max_position_embeddings=24,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
    )


@pytest.fixture
def batch(rng) -> dict[str, np.ndarray]:
    """Three pairs of sentences, 10, 7 and 4 tokens long, padded to 10."""
    positions = np.arange(10)
    lengths = np.array([10, 7, 4])[:, None]
    mask = (positions < lengths).astype("int32")
    segments = (positions >= lengths // 2).astype("int32")
    ids = rng.integers(1, 50, (3, 10)).astype("int32")
    return {
        "input_ids": ids * mask,
        "input_mask": mask,
        "segment_ids": segments * mask,
    }


@pytest.fixture
def config(small_config):
    """One block of two unlike networks: all names, few tensors."""
    return dataclasses.replace(
        small_config, num_hidden_layers=1, classifier_activation=True
    )


@pytest.fixture
def folder(config, tmp_path):
    """A classifier's folder."""
    model = mb.MobileBertForSequenceClassification(
        config, ["no", "maybe", "yes"]
    )
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"
