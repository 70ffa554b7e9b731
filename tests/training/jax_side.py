"""The other half of `test_jax_step`: a process with Keras on JAX.

    python -m tests.training.jax_side KIND READ.npz WRITTEN.npz

Takes a step from the weights and the batch in READ; writes its terms, weights
and optimizer after it, and the size of the step as lowered for a TPU.
"""

import sys

import jax
import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.tools.tpu_steps import StepSettings, batch_spec, build_step
from mobilebert_tf.training.jax_step import JaxStep, lower_jax_step


def settings() -> StepSettings:
    """Returns a pair of two blocks each."""
    small = {"vocab_size": 64, "num_hidden_layers": 2}
    return StepSettings(
        MobileBertConfig.from_preset("ib_bert_small", **small),
        MobileBertConfig.from_preset("mobilebert_small", **small),
        max_seq_length=16,
        max_predictions_per_seq=3,
    )


def main(kind: str, read: str, written: str) -> None:
    """Takes the step."""
    built = build_step(kind, settings())
    with np.load(read) as arrays:
        for index, variable in enumerate(built.model.weights):
            variable.assign(arrays[f"weight_{index}"])
        batch = {
            name.removeprefix("batch_"): arrays[name]
            for name in arrays
            if name.startswith("batch_")
        }
    step = JaxStep(
        built.model, built.compute_loss, built.variables, built.optimizer
    )
    module = lower_jax_step(step, batch_spec(kind, settings(), 4))
    terms, trained, state, _ = jax.jit(step.__call__)(*step.values(), batch)
    results = {f"term_{name}": value for name, value in terms.items()}
    results |= {f"trained_{i}": value for i, value in enumerate(trained)}
    results |= {f"state_{i}": value for i, value in enumerate(state)}
    np.savez(written, module=len(module), **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
