"""The step by way of JAX is the loop's: same terms, same weights after it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilebert_tf.tools.tpu_steps import batch_spec, build_step
from mobilebert_tf.training.jax_step import JaxStep
from tests.training.jax_side import settings

REPOSITORY = Path(__file__).resolve().parents[2]


def batch_of(kind, rng):
    """Four sequences, the last half of each second one padded."""
    sizes = {"input_ids": 64, "masked_lm_ids": 64, "masked_lm_positions": 8}
    batch = {
        name: rng.integers(0, sizes.get(name, 2), spec.shape).astype(
            spec.dtype.as_numpy_dtype
        )
        for name, spec in batch_spec(kind, settings(), 4).items()
    }
    batch["input_mask"][:] = 1
    batch["input_mask"][::2, 8:] = 0
    return batch


def jax_step(kind, weights, batch, tmp_path):
    read, written = tmp_path / "read.npz", tmp_path / "written.npz"
    arrays = {f"weight_{index}": value for index, value in enumerate(weights)}
    arrays |= {f"batch_{name}": value for name, value in batch.items()}
    np.savez(read, **arrays)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.training.jax_side",
            *(kind, str(read), str(written)),
        ],
        check=True,
        capture_output=True,
        timeout=600,
        cwd=REPOSITORY,
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
    )
    with np.load(written) as arrays:
        return dict(arrays)


# Those without dropout: its masks are other numbers on another backend.
@pytest.mark.parametrize(
    "kind",
    ["transfer_block_01", pytest.param("distillation", marks=pytest.mark.slow)],
)
def test_a_step_is_the_loops(kind, rng, tmp_path):
    built = build_step(kind, settings())
    for variable in built.model.weights:
        noise = rng.normal(0.0, 0.1, variable.shape)
        variable.assign_add(noise.astype("float32"))
    weights = [variable.numpy() for variable in built.model.weights]
    before = [variable.numpy() for variable in built.variables]
    batch = batch_of(kind, rng)
    theirs = jax_step(kind, weights, batch, tmp_path)

    terms = built.train_step(batch)
    for name in set(terms) - {"gradient_norm", "learning_rate"}:
        ours = float(terms[name])
        assert float(theirs[f"term_{name}"]) == pytest.approx(ours, rel=1e-5)
    # The moments are the gradients, clipped.
    for index, variable in enumerate(built.optimizer.variables):
        ours = variable.numpy()
        np.testing.assert_allclose(
            theirs[f"state_{index}"], ours, atol=1e-4 * np.abs(ours).max()
        )
    changes = [
        variable.numpy() - value
        for variable, value in zip(built.variables, before, strict=True)
    ]
    assert max(np.abs(change).max() for change in changes) > 1e-6
    for index, change in enumerate(changes):
        # A step is small: weights that are near 1 round by 1e-7.
        np.testing.assert_allclose(
            theirs[f"trained_{index}"] - before[index],
            change,
            atol=1e-3 * np.abs(change).max() + 1.5e-7,
        )
    assert theirs["module"] > 10_000


def test_another_backend_is_refused():
    built = build_step("distillation", settings())
    with pytest.raises(RuntimeError, match="KERAS_BACKEND=jax"):
        JaxStep(
            built.model, built.compute_loss, built.variables, built.optimizer
        )
