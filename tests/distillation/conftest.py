"""A pair of models and a batch for it."""

import pytest

from tests.distillation.pairs import tiny_batch, tiny_pair


@pytest.fixture
def pair():
    return tiny_pair()


@pytest.fixture
def batch():
    return tiny_batch()
