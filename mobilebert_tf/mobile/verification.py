"""Does a .tflite file answer like the graph it was made from?

Asked of every file before it takes its place. Kernels and graph round ties
apart, so that equality to the last bit is not to be had; wrong files are off
by the size of the output.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.signatures import InferenceGraph
from mobilebert_tf.mobile.text_input import TextInput, TextTFLiteModel

# A file may be this much off the rounded graph, relative to the largest output,
# and this many times what rounding does to that graph. One tie that is rounded
# apart early travels through all blocks: after twelve of them integer files
# were seen at half of what rounding does. Dynamic files, whose rounding is
# estimated only, were seen at all of it.
FLOAT_TOLERANCE = 1e-2
ROUNDING_TOLERANCE = 3.0


def check_answers(
    written: Path,
    path,
    exact: InferenceGraph,
    rounded: InferenceGraph,
    examples: Sequence[dict] = (),
) -> None:
    """Checks a file at each of its lengths.

    Args:
        written: the file to check.
        path: the name it is to get.
        exact: the float graph.
        rounded: the graph with what the file rounds, rounded.
        examples: what the file is probed with at their length, inputs [1, S]
            each, where the graph does not know what the file cuts off.
            Otherwise random pieces.

    Raises:
        RuntimeError: if file and graph do not answer probes alike.
    """
    runtime = TFLiteModel(written)
    for length in runtime.lengths:
        probes = _probes(exact.deployment.config.vocab_size, length)
        if examples and examples[0]["input_ids"].shape[1] == length:
            probes = {
                name: np.concatenate([one[name] for one in examples])
                for name in probes
            }
        answers = runtime.predict(probes)
        if not isinstance(answers, dict):
            answers = {runtime.output_names[0]: answers}
        tensors = {name: tf.constant(rows) for name, rows in probes.items()}
        _compare(path, answers, exact(**tensors), rounded(**tensors))


def check_text_answers(
    written: Path,
    path,
    text_input: TextInput,
    length: int,
    exact: InferenceGraph,
    rounded: InferenceGraph,
) -> None:
    """Checks a file that takes text; arguments as `check_answers`.

    Args:
        written: the file to check.
        path: the name it is to get.
        text_input: its tokenizer.
        length: of its sequences.
        exact: the float graph behind the tokenizer.
        rounded: the same, rounded.

    Raises:
        RuntimeError: if file and graph do not answer probes alike.
    """
    texts = _TEXT_PROBES[: len(text_input.names)]
    answers = TextTFLiteModel(written).predict(*texts)
    rows = [
        text_input(length, *(tf.constant([text]) for text in row))
        for row in zip(*texts, strict=True)
    ]
    tensors = [tf.concat(column, axis=0) for column in zip(*rows, strict=True)]
    _compare(path, answers, exact(*tensors), rounded(*tensors))


# A word, punctuation and a foreign letter, more than most lengths hold.
_TEXT_PROBES = (
    ["the", "Is it, or is it not? Åse!", "of the to and a in " * 100],
    ["a", "It is (I think).", "and of the " * 100],
)


def _compare(path, answers: dict, wanted: dict, after_rounding: dict) -> None:
    for name, tensor in wanted.items():
        rounded = after_rounding[name].numpy()
        # What is cut off on purpose is no noise.
        limits = rounded.min(), rounded.max()
        noise = np.abs(rounded - np.clip(tensor.numpy(), *limits)).max()
        difference = np.abs(answers[name] - rounded).max()
        allowed = ROUNDING_TOLERANCE * noise
        allowed += FLOAT_TOLERANCE * np.abs(rounded).max()
        # Negated, so that NaN fails.
        if not difference <= allowed:
            raise RuntimeError(
                f"{path}: the interpreter's {name} differ from the graph's by "
                f"{difference:.3g}; at most {allowed:.3g} is rounding"
            )


def _probes(vocab_size: int, length: int) -> dict[str, np.ndarray]:
    """Four examples of different lengths with padding and both segments."""
    position = np.arange(length, dtype=np.int32)[None]
    lengths = np.array([[1], [length // 4], [length // 2], [length]])
    input_mask = (position < np.maximum(lengths, 1)).astype(np.int32)
    # A stride prime to most vocabularies: the pieces look drawn at random.
    pieces = (position * 7919 + lengths * 104729) % vocab_size
    return {
        "input_ids": (pieces * input_mask).astype(np.int32),
        "input_mask": input_mask,
        "segment_ids": (2 * position > lengths) * input_mask,
    }
