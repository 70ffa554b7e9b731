"""A small architecture with every part, and batches for it.

Nothing here imports a backend: the tests of this folder run on TensorFlow and,
with KERAS_BACKEND=jax, on JAX.
"""

import dataclasses

import pytest

from tests import tiny


@pytest.fixture
def small_config():
    return tiny.student_config(vocab_size=50)


@pytest.fixture
def batch(rng):
    """Three pairs of sentences, 10, 7 and 4 tokens long, padded to 10."""
    return tiny.batch(rng, vocab_size=50)


@pytest.fixture
def config(small_config):
    """One block of two unlike networks: all names, few tensors."""
    return dataclasses.replace(
        small_config, num_hidden_layers=1, classifier_activation=True
    )


@pytest.fixture
def folder(config, tmp_path):
    """A classifier's folder."""
    tiny.classifier(config=config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"
