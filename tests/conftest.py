"""What every test gets: fixed seeds, and real material where it exists.

The comparisons with PyTorch and Model Garden import packages that a default
installation lacks, so `tests/peers` is not even collected unless asked for.
"""

import os
import random
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"
SEED = 20200406


def pytest_ignore_collect(collection_path: Path, config: pytest.Config):
    """Leaves the peers' tests alone while `-m` excludes them."""
    if collection_path == PEERS and "not peers" in config.option.markexpr:
        return True
    return None


@pytest.fixture(autouse=True)
def fixed_seeds():
    """Starts each test from the same random state, in whatever order."""
    random.seed(SEED)
    np.random.seed(SEED)
    # Importing Keras takes seconds, so only tests that use it pay for it.
    if "keras" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(SEED)


@pytest.fixture
def rng() -> np.random.Generator:
    """A NumPy generator that starts the same in every test."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real material that is not part of the project.

    Texts, vocabularies and weights whose licences or sizes keep them out. A
    test that asks for it is skipped where the folder is absent, and fails if
    MOBILEBERT_TF_DATA names a folder that does not exist.
    """
    named = os.environ.get("MOBILEBERT_TF_DATA")
    folder = Path(named or REPOSITORY.parent / "shared" / "data")
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"MOBILEBERT_TF_DATA: no folder {named}")
    pytest.skip("needs real material that is not part of the project")
