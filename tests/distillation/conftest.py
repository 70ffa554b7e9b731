"""A pair of models and a batch for it."""

import pytest

from tests import tiny
from tests.distillation import pairs


@pytest.fixture
def pair():
    return pairs.pair()


@pytest.fixture
def batch():
    return tiny.pretraining_batch()
