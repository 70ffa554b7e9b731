"""Our optimizers against PyTorch's AdamW and Model Garden's LAMB.

With bias correction all four put epsilon in the same place: beside the root
of the corrected second moment.
"""

import keras
import pytest

from mobilebert_tf.training.optimizers import AdamW, Lamb

pytestmark = pytest.mark.peers

NUM_STEPS, DECAY = 20, 0.01
SHAPES = {"kernel": (6, 4), "bias": (4,), "gamma": (5,), "table": (7, 3)}


@pytest.fixture
def start(rng):
    return {
        name: rng.normal(size=shape).astype("float32")
        for name, shape in SHAPES.items()
    }


@pytest.fixture
def gradients(rng):
    """Of every step, growing a hundredfold, some of them exactly zero."""
    steps = []
    for step in range(NUM_STEPS):
        scale = 10.0 ** (2 * step / NUM_STEPS - 2)
        steps.append(
            {
                name: (scale * rng.normal(0.3, 1.0, shape)).astype("float32")
                for name, shape in SHAPES.items()
            }
        )
        steps[-1]["table"][step % 7] = 0.0
    return steps


def rate(step):
    return 0.02 * (1.0 - step / NUM_STEPS)


def our_path(optimizer_class, start, gradients):
    """The variables after each step."""
    variables = [keras.Variable(v, name=name) for name, v in start.items()]
    optimizer = optimizer_class(
        keras.optimizers.schedules.PolynomialDecay(
            0.02, NUM_STEPS, end_learning_rate=0.0
        ),
        decay_rate=DECAY,
        bias_correction=True,
    )
    optimizer.build(variables)
    path = []
    for step in gradients:
        optimizer.apply(
            [keras.ops.convert_to_tensor(step[v.name]) for v in variables],
            variables,
        )
        path.append({v.name: v.numpy() for v in variables})
    return path


def compare(peer, ours, theirs, differences):
    for step, (our_values, their_values) in enumerate(
        zip(ours, theirs, strict=True)
    ):
        for name in SHAPES:
            found = differences(
                peer, "20 steps", name, our_values[name], their_values[name]
            )
            assert found < 2e-6, (name, step)


def test_adamw_is_pytorchs(start, gradients, differences):
    torch = pytest.importorskip("torch")
    tensors = {
        name: torch.nn.Parameter(torch.tensor(value))
        for name, value in start.items()
    }
    matrices = [t for t in tensors.values() if t.ndim > 1]
    others = [t for t in tensors.values() if t.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.999),
        eps=1e-6,
    )
    theirs = []
    for step, values in enumerate(gradients):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(values[name])
        optimizer.step()
        theirs.append(
            {name: t.detach().numpy().copy() for name, t in tensors.items()}
        )
    compare(
        "PyTorch, AdamW",
        our_path(AdamW, start, gradients),
        theirs,
        differences,
    )


def test_lamb_is_model_gardens(start, gradients, differences):
    lamb = pytest.importorskip("official.modeling.optimization.lamb")
    import tensorflow as tf
    import tf_keras

    variables = [tf.Variable(v, name=name) for name, v in start.items()]
    # By name there, by rank here.
    excluded = ["bias", "gamma"]
    optimizer = lamb.LAMB(
        tf_keras.optimizers.schedules.PolynomialDecay(
            0.02, NUM_STEPS, end_learning_rate=0.0
        ),
        epsilon=1e-6,
        weight_decay_rate=DECAY,
        exclude_from_weight_decay=excluded,
        exclude_from_layer_adaptation=excluded,
    )
    theirs = []
    for values in gradients:
        optimizer.apply_gradients(
            (tf.constant(values[name]), variable)
            for name, variable in zip(start, variables, strict=True)
        )
        theirs.append(
            {name: v.numpy() for name, v in zip(start, variables, strict=True)}
        )
    compare(
        "Model Garden, LAMB",
        our_path(Lamb, start, gradients),
        theirs,
        differences,
    )
