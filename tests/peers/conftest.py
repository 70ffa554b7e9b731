"""What every comparison with a peer gets: a batch, and a table at the end.

The table lists the largest difference of each comparison, so that a run shows
how far below its limit it stays.
"""

import gc

import numpy as np
import pytest

# Largest differences by (peer, preset) and by what was compared.
_FOUND: dict[tuple[str, str], dict[str, float]] = {}


@pytest.fixture
def differences():
    """Notes the difference of one tensor, for the table at the end.

    Called with the peer, the preset, what is compared and the two arrays;
    returns the largest difference, `relative` to the peer's largest value.
    """

    def note(peer, preset, what, ours, theirs, relative=True):
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        assert ours.shape == theirs.shape, (what, ours.shape, theirs.shape)
        assert np.isfinite(ours).all(), what
        difference = float(np.abs(ours - theirs).max())
        if relative:
            difference /= float(np.abs(theirs).max())
        row = _FOUND.setdefault((peer, preset), {})
        row[what] = max(row.get(what, 0.0), difference)
        return difference

    return note


@pytest.fixture(autouse=True)
def freed_memory():
    """Frees a test's models: a teacher takes 1.2 GB in each project."""
    yield
    gc.collect()


@pytest.fixture
def padded_batch(rng):
    """Returns a function: vocabulary size to a padded batch of pairs."""

    def draw(vocab_size, lengths=(32, 21, 9)):
        shape = (len(lengths), max(lengths))
        positions = np.arange(shape[1])
        ids = rng.integers(1, vocab_size, shape)
        mask = positions < np.array(lengths)[:, None]
        segments = positions >= np.array(lengths)[:, None] // 2
        return {
            "input_ids": (ids * mask).astype("int32"),
            "input_mask": mask.astype("int32"),
            "segment_ids": (segments & mask).astype("int32"),
        }

    return draw


def pytest_terminal_summary(terminalreporter):
    if not _FOUND:
        return
    terminalreporter.section("largest differences from the peers")
    for (peer, preset), row in _FOUND.items():
        listed = "  ".join(f"{what} {value:.1e}" for what, value in row.items())
        terminalreporter.line(f"{peer}, {preset}: {listed}")
