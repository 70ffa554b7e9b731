"""A run of two phases that takes seconds and saves after every step.

It is evaluated as it goes, and dropout would spoil an evaluation.
"""

import itertools

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.files import atomic_file
from mobilebert_tf.ownership import Identity
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import AdamW, WarmupPolynomialDecay
from mobilebert_tf.training.options import RunOptions
from mobilebert_tf.training.step import TrainStep

NUM_STEPS = 20


def main(folder):
    """Trains, or goes on, and writes `weights.npy`."""
    keras.utils.set_random_seed(3)
    dense = keras.layers.Dense(1, name="dense")
    # Its random state is part of what has to be resumed.
    dropout = keras.layers.Dropout(0.5, name="dropout")
    dense.build((None, 3))
    run = Run(
        folder,
        [*dense.variables, *dropout.variables],
        RunOptions(log_every=3, save_every_seconds=0.0),
        identity=Identity({"rate": 0.1}),
        num_steps=2 * NUM_STEPS,
    )

    def loss(batch, training=True):
        error = dense(dropout(batch["x"], training=training)) - batch["y"]
        return {"loss": tf.reduce_mean(error**2)}

    def build():
        optimizer = AdamW(WarmupPolynomialDecay(0.1, NUM_STEPS, 4))
        return TrainStep(loss, dense.trainable_variables, optimizer)

    def dataset(start_step):
        for step in itertools.count(start_step):
            x = np.random.default_rng(step).normal(size=(4, 3))
            x = x.astype("float32")
            yield {"x": x, "y": x.sum(1, keepdims=True)}

    def keep(folder):
        folder.mkdir(exist_ok=True)
        with atomic_file(folder / "weights.npy") as temporary:
            with temporary.open("wb") as file:
                np.save(file, dense.kernel.numpy())

    batch = next(dataset(1000))
    evaluation = Evaluation(
        7,
        lambda: {"error": float(loss(batch, training=False)["loss"])},
        lambda metrics: -metrics["error"],
        keep,
    )
    for phase in ("first", "second"):
        run.train(
            Phase(phase, NUM_STEPS, build, dataset, evaluation=evaluation)
        )
    run.finish({"accuracy": 0.5})
    np.save(run.folder / "weights.npy", dense.kernel.numpy())
