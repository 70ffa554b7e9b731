"""Steps without graphs: most tests take too few of them for a compilation."""

import pytest

from tests.training import toy_pretraining


@pytest.fixture
def eagerly():
    with toy_pretraining.eagerly():
        yield
