"""Random networks with one outlier token, as published weights have it.

Position 0 is large along one random direction u of the residual stream, and no
kernel reads u (or a kernel reads it through 1 / amplitude), so that the answers
of the other tokens hardly depend on the amplitude.
"""

import keras
import numpy as np

import mobilebert_tf as mb
from tests import tiny

LENGTH = 32
LABELS = ("a", "b", "c")
VOCAB_SIZE = 500
_MARKER = 10.0


def config(num_blocks: int) -> mb.MobileBertConfig:
    return tiny.student_config(
        vocab_size=VOCAB_SIZE,
        embedding_size=32,
        hidden_size=128,
        intra_bottleneck_size=64,
        intermediate_size=128,
        num_hidden_layers=num_blocks,
        max_position_embeddings=LENGTH,
    )


def outlier_model(
    amplitude: float,
    num_blocks: int = 2,
    in_chain: bool = False,
    is_sink: bool = False,
    model_class: type = mb.MobileBertForQuestionAnswering,
    seed: int = 0,
) -> keras.Model:
    """Returns a model whose position 0 reaches about `amplitude`.

    Args:
        amplitude: of the outlier.
        num_blocks: number of blocks.
        in_chain: grow it in the first block from small weights, instead of
            putting it into the table of positions.
        is_sink: let keys and values read it through 1 / amplitude.
        model_class: question answering or sequence classification.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    labels = (
        () if model_class is mb.MobileBertForQuestionAnswering else (LABELS,)
    )
    model = model_class(config(num_blocks), *labels)
    tiny.randomise(model, rng, gammas=(1.0, 1.0), gain=0.7)
    layers = model.encoder.embeddings
    _scale(layers.word_embeddings, 8.0)
    u = _unit(rng, model.config.hidden_size)
    for index, block in enumerate(model.encoder.blocks):
        readers = [
            block.input_bottleneck.dense,
            block.shared_qk_bottleneck.dense,
            block.attention.value,
        ]
        for dense in readers:
            kernel = dense.kernel.numpy() - np.outer(
                u, u @ dense.kernel.numpy()
            )
            if is_sink and amplitude and dense is not readers[0]:
                read = rng.normal(0.0, 1.0, kernel.shape[1])
                kernel += np.outer(u, read) / amplitude
            dense.kernel.assign(kernel)
    head = model.head.dense.kernel
    head.assign(head.numpy() - np.outer(u, u @ head.numpy()))
    positions = layers.position_embeddings.numpy()
    positions -= np.outer(positions @ u, u)
    positions[0] += (_MARKER if in_chain else amplitude) * u
    layers.position_embeddings.assign(positions)
    if in_chain:
        _grow(model.encoder.blocks[0], amplitude / _MARKER, u, rng)
    # Answers that are as far apart as those of a trained model.
    kernel = model.head.dense.kernel
    _scale(kernel, 4.0 / spread(answers(model, examples(1)), examples(1)))
    return model


def examples(seed: int, size: int = 32) -> dict[str, np.ndarray]:
    lengths = np.random.default_rng(seed).integers(
        LENGTH // 2, LENGTH + 1, size
    )
    return tiny.batch(seed, lengths, LENGTH, VOCAB_SIZE)


def answers(network, batch) -> np.ndarray:
    """Start logits [B, S] or class logits [B, C]."""
    outputs = network(batch)
    if isinstance(outputs, dict):
        outputs = outputs["start_logits"]
    return np.asarray(outputs, np.float64)


def compared(wanted, found, batch) -> tuple[float, float]:
    """Returns error over spread, and the share of equal best answers.

    Of real tokens but the first, for start logits.
    """
    keep = _compared(wanted, batch)
    error = np.sqrt(np.mean((wanted - found)[keep] ** 2)) / spread(
        wanted, batch
    )
    best = [np.where(keep, a, -np.inf).argmax(1) for a in (wanted, found)]
    return error, float(np.mean(best[0] == best[1]))


def spread(logits, batch) -> float:
    return float(logits[_compared(logits, batch)].std())


def _compared(logits, batch):
    keep = np.ones(logits.shape, bool)
    if logits.shape == batch["input_mask"].shape:
        keep = batch["input_mask"] > 0
        keep[:, 0] = False
    return keep


def _grow(block, factor: float, u, rng) -> None:
    """Makes a block multiply what position 0 has along u."""
    v = _unit(rng, block.config.intra_bottleneck_size)
    kernel = block.input_bottleneck.dense.kernel
    kernel.assign(kernel.numpy() + np.outer(u, v - u @ kernel.numpy()))
    num = len(block.feed_forwards)
    for feed_forward in block.feed_forwards:
        # Sixteen neurons that recognise v. No other reads it.
        dense = feed_forward.intermediate_dense
        kernel, bias = dense.kernel.numpy(), dense.bias.numpy()
        kernel -= np.outer(v, v @ kernel)
        kernel[:, :16], bias[:16] = v[:, None], -_MARKER / 2
        dense.kernel.assign(kernel)
        dense.bias.assign(bias)
        kernel = feed_forward.output_dense.kernel.numpy()
        kernel[:16] = factor ** (1 / num) / 16 * v
        feed_forward.output_dense.kernel.assign(kernel)
    kernel = block.output_bottleneck.dense.kernel
    kernel.assign(kernel.numpy() + np.outer(v, u - v @ kernel.numpy()))


def _scale(variable, factor: float) -> None:
    variable.assign(factor * variable.numpy())


def _unit(rng, width: int) -> np.ndarray:
    direction = rng.normal(size=width)
    return direction / np.linalg.norm(direction)
