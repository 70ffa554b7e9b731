"""What files make of weights that resemble the published ones.

    MOBILEBERT_TF_DATA=FOLDER python -m benchmarks.published_like

These are not the published weights: a full-size question answerer gets real
NoNorm vectors and biases, random matrices at a share of the published scale,
and an outlier token of the published size in position 0, along a random
direction that no kernel reads. It is saved, loaded and fine-tuned to find the
second of two segments, all but the weights that read or scale the outlier.
Printed are where the outlier is found, the second singular value of its rows as
a share of the first, and for each kind of file, run by LiteRT, how its start
logits of the other tokens compare with the Keras model's: correlation, root
mean square difference over their spread, share of equal best positions. 6 GB.

With --model, the weights of a question answerer's folder are measured instead.
"""

import dataclasses
import itertools
import tempfile
from pathlib import Path

import keras
import numpy as np

import mobilebert_tf as mb
from benchmarks.instruments import DATA, print_header, print_row, start
from benchmarks.real_parameters import random_examples, real_parameter_model
from mobilebert_tf.config import inputs_of
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.options import (
    KINDS,
    TRAINED_KIND,
    QuantizationOptions,
)
from mobilebert_tf.mobile.outliers import find_outliers
from mobilebert_tf.mobile.quantization import train_quantized
from mobilebert_tf.mobile.runtime import TFLiteModel, predict_in_float16
from mobilebert_tf.mobile.stages import Networks
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.question_answering import QuestionAnsweringTask

# Channel 0 of the published model's [CLS], whose neighbours are of order 1.
PUBLISHED_SIZE = 2.47e7

_LENGTH = 64


@dataclasses.dataclass(frozen=True)
class PublishedLikeOptions(Options):
    """What is measured."""

    model: str | None = option(
        None, "Folder of a question answerer to measure."
    )
    scale: float = option(0.7, "Share of the matrices' published scale.")
    amplitude: float = option(PUBLISHED_SIZE, "Size of the outlier token.")
    num_blocks: int = option(24, "Number of blocks.", min=1)
    num_steps: int = option(
        50, "Steps of fine-tuning and of quantised training.", min=0
    )
    learning_rate: float = option(1e-4, "Rate of fine-tuning.")
    kinds: tuple[str, ...] = option(KINDS, "Kinds of files.", choices=KINDS)
    num_examples: int = option(64, "Examples to compare on.", min=2)


def add_outlier(model, amplitude: float, seed: int = 0) -> None:
    """Makes position 0 large along a direction that no kernel reads.

    NoNorms scale channels, so the direction that reaches a block is another at
    each; kernels are made blind to all of them.
    """
    encoder = model.encoder
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=model.config.hidden_size)
    direction /= np.linalg.norm(direction)
    positions = encoder.embeddings.position_embeddings
    table = positions.numpy()
    table[0] += amplitude * direction
    positions.assign(table)
    direction = direction * encoder.embeddings.norm.gamma.numpy()
    for block in encoder.blocks:
        for dense in readers(block):
            blind(dense, direction)
        direction = direction * block.output_bottleneck.norm.gamma.numpy()
    blind(model.head.dense, direction)


def freeze(model) -> None:
    """Keeps what reads or scales the outlier's stream out of training.

    Adam moves each weight by the rate, whatever its gradient: a kernel is then
    no longer blind, and token 0 reads 2.47e7 times that.
    """
    frozen = [model.encoder.embeddings.norm, model.head.dense]
    for block in model.encoder.blocks:
        frozen += [*readers(block), block.output_bottleneck.norm]
    for layer in frozen:
        layer.trainable = False


def readers(block) -> tuple[keras.layers.Dense, ...]:
    """Returns the layers that read the stream between blocks."""
    return (
        block.input_bottleneck.dense,
        block.shared_qk_bottleneck.dense,
        block.attention.value,
    )


def blind(dense, direction: np.ndarray) -> None:
    """Takes what a kernel reads along a direction out of it."""
    unit = direction / np.linalg.norm(direction)
    kernel = dense.kernel.numpy().astype(np.float64)
    dense.kernel.assign(kernel - np.outer(unit, unit @ kernel))


def answerer(scale: float, num_blocks: int):
    """Returns a question answerer with real vectors and a random head."""
    drawn = real_parameter_model(
        DATA / "mobilebert_real", scale, num_blocks=num_blocks
    )
    model = mb.MobileBertForQuestionAnswering(drawn.config)
    model.encoder.set_weights(drawn.encoder.get_weights())
    rng = np.random.default_rng(0)
    kernel = model.head.dense.kernel
    kernel.assign(rng.normal(0.0, 0.02, kernel.shape))
    return model


class SecondSegment(QuestionAnsweringTask):
    """Where does the second segment begin, and where does it end?"""

    def __init__(self, batches):
        self.batches = [
            batch
            | {
                "start_positions": batch["segment_ids"].argmax(1),
                "end_positions": batch["input_mask"].sum(1) - 1,
            }
            for batch in batches
        ]
        self.splits = {}


def prepared(options: PublishedLikeOptions, task: SecondSegment):
    """Returns the model to measure."""
    if options.model:
        return mb.load(options.model)
    model = answerer(options.scale, options.num_blocks)
    if options.amplitude:
        add_outlier(model, options.amplitude)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model = mb.load(folder)
    if options.num_steps:
        freeze(model)
        fine_tune(model, task, options)
    return model


def fine_tune(model, task, options: PublishedLikeOptions) -> None:
    """Trains a model with Keras and prints its first and last loss."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.AdamW(options.learning_rate, global_clipnorm=1.0),
        {"start_logits": loss, "end_logits": loss},
    )
    losses = []
    for batch in itertools.islice(
        itertools.cycle(task.batches), options.num_steps
    ):
        labels = {
            f"{end}_logits": batch[f"{end}_positions"]
            for end in ("start", "end")
        }
        found = model.train_on_batch(inputs_of(batch), labels)
        losses.append(float(found[0]))
    print(f"fine-tuned, loss: {losses[0]:.3f} to {losses[-1]:.3f}", flush=True)


def main(options: PublishedLikeOptions) -> None:
    """Prints the outlier and a row for each kind of file."""
    task = SecondSegment([random_examples(n, 32, _LENGTH) for n in range(4)])
    model, batches = prepared(options, task), task.batches
    test = random_examples(100, options.num_examples, _LENGTH)
    folded = fold(model)
    print_header("sum of the stream", ("ratio", "position", "s2 / s1"))
    for outlier in find_outliers(folded, batches[:1])[:5]:
        second = (*outlier.singular_values, 0.0)[1]
        values = outlier.ratio, outlier.position, second
        print_row(outlier.tensor, dict(enumerate(values)), 4)
    is_other = test["input_mask"] > 0
    is_other[:, 0] = False

    def show(name: str, found: dict) -> None:
        found = np.asarray(found["start_logits"], np.float64)
        print_row(name, compared(wanted, found, is_other), 4)

    wanted = np.asarray(model(test)["start_logits"], np.float64)
    networks = Networks(folded, batches, _LENGTH)
    print_header("start logits", ("correlation", "error", "same best"))
    show("deployment graph", forward(networks.floats, test))
    with tempfile.TemporaryDirectory() as name:
        for kind in options.kinds:
            path = Path(name) / f"{kind}.tflite"
            network = networks.of_kind(kind)
            if kind == TRAINED_KIND:
                train_quantized(
                    network,
                    task,
                    model,
                    batches,
                    lambda start: itertools.cycle(batches),
                    Path(name) / "training",
                    QuantizationOptions(num_steps=max(1, options.num_steps)),
                )
            export(network, path, _LENGTH, kind, calibration=batches)
            show(kind, TFLiteModel(path, 2).predict(test))
            if kind.startswith("float"):
                found = predict_in_float16(path, test)
                show(f"{kind}, in float16 arithmetic", found)


def compared(wanted, found, is_other) -> dict[str, float]:
    """Compares logits [N, S] where `is_other`."""
    best = [np.where(is_other, a, -np.inf).argmax(1) for a in (wanted, found)]
    same = float(np.mean(best[0] == best[1]))
    wanted, found = wanted[is_other], found[is_other]
    error = np.sqrt(np.mean((wanted - found) ** 2)) / wanted.std()
    correlation = float(np.corrcoef(wanted, found)[0, 1])
    return {"correlation": correlation, "error": error, "same best": same}


if __name__ == "__main__":
    start(main, PublishedLikeOptions, __doc__)
