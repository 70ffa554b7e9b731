"""Writes .tflite files and checks each against its graph before publishing it.

The converter reads a SavedModel in a temporary folder, the only way that keeps
named signatures. A file that the interpreter cannot run, or that disagrees with
its graph, is never published. Kernels and graph round ties to different sides,
so the outputs cannot be equal to the last bit; wrong files are off by the size
of the output.
"""

import dataclasses
import functools
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_tf.compat import muted, quantize_per_tensor
from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.files import atomic_file
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.folding import (
    FEATURES,
    SEQUENCES,
    SPANS,
    TOKENS,
    Folded,
    bounded,
)
from mobilebert_tf.mobile.gpu_graph import suit_gpus
from mobilebert_tf.mobile.options import INTEGER_KINDS, KINDS
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.mobile.rounding import (
    DynamicRounding,
    Exact,
    HalfWeights,
    WeightRounding,
)
from mobilebert_tf.mobile.runtime import SIGNATURE, TFLiteModel
from mobilebert_tf.mobile.tflite_file import (
    TextMetadata,
    add_metadata,
    arrange,
    check_metadata,
    pack,
    unpack,
)

# What a file can return, by head; the first is the default.
OUTPUTS = {
    SEQUENCES: ("logits", "probabilities", "independent_probabilities"),
    TOKENS: ("logits", "probabilities"),
    SPANS: ("logits",),
    FEATURES: ("sequence_output", "first_token", "mean"),
}

# The converter rounds masked logits too, in 2^16 steps from here.
_INT16_MASK = -100.0
_INT16 = (
    tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
)

# A file may differ from the rounded graph by this share of the largest output,
# plus this many times what rounding does to that graph. One tie that is rounded
# to the other side early travels through all blocks: after twelve of them
# integer files were seen at half of what rounding does. Dynamic files, whose
# rounding is only estimated, were seen at all of it.
FLOAT_TOLERANCE = 1e-2
ROUNDING_TOLERANCE = 3.0

# Examples of calibration that an int16x8 file is checked with.
_NUM_PROBES = 4


def export(
    network: Folded | Quantized,
    path: str | os.PathLike,
    lengths: int | Sequence[int],
    kind: str | None = None,
    *,
    calibration: Iterable[Mapping] = (),
    output: str | None = None,
    mlperf_order: bool = False,
    metadata: TextMetadata | None = None,
    per_tensor: bool = False,
) -> Path:
    """Writes one .tflite file, atomically, and checks it against its graph.

    The file takes int32 `input_ids`, `input_mask` and `segment_ids`, each
    [1, S], in this order, under the signature `serving_default`, and returns
    float32 `logits` (`start_logits` and `end_logits` for question answering,
    `sequence_output` for an encoder). Further lengths have signatures of their
    own, `serving_<length>`, with the same weights.

    Args:
        network: a `Quantized` network for int8 and int8_qat, else `Folded`.
        path: the file to write.
        lengths: S, or several lengths.
        kind: one of `options.KINDS`, which `ExportOptions` explains. Default:
            `float32` of a `Folded` network, `int8` of a `Quantized` one.
        calibration: batches of inputs [B, S] for int16x8, whose ranges the
            converter measures itself. Other entries are ignored.
        output: what the file returns, one of `OUTPUTS` of the head.
        mlperf_order: put `end_logits` before `start_logits`, the order in which
            MLPerf Mobile reads the outputs of question answering.
        metadata: vocabulary and labels for the text tasks of phones, which
            tokenize the text themselves.
        per_tensor: give each kernel of a `dynamic` file one scale instead of
            one per output channel, which TensorFlow Lite before 2.17 lacks.

    Returns:
        The path.

    Raises:
        ValueError: for an unknown kind or output, a kind that the network does
            not fit, int16x8 without batches, a length beyond the position
            table, or a combination that no program could open.
        RuntimeError: if the interpreter's outputs for probes are not the
            graph's. Nothing is written then, nor if the converter fails, whose
            log and error appear as they are.
    """
    kind = kind or ("int8" if isinstance(network, Quantized) else "float32")
    folded, converted, rounding = _roundings(network, kind, per_tensor)
    signatures = signature_lengths(lengths)
    outputs = _output_names(folded, output, mlperf_order)
    _check_request(folded, kind, list(signatures.values()), output, metadata)
    examples = _single_examples(calibration) if kind == "int16x8" else []
    graph = _ConvertedGraph(folded, converted, output)
    model = unpack(_convert(graph, signatures, kind, examples, per_tensor))
    suit_gpus(model)
    arrange(model, INPUT_NAMES, outputs)
    if metadata is not None:
        add_metadata(model, metadata, folded.head, INPUT_NAMES, outputs)
    content = pack(model, metadata.files() if metadata else {})
    with atomic_file(path) as file:
        file.write_bytes(content)
        exact = functools.partial(infer, folded, output=output)
        rounded = functools.partial(exact, rounding=rounding)
        vocab_size = folded.config.vocab_size
        check_outputs(file, path, exact, rounded, vocab_size, examples)
    return Path(path)


def infer(
    folded: Folded,
    inputs: Mapping,
    rounding: Exact = Exact(),
    output: str | None = None,
) -> dict[str, tf.Tensor]:
    """Computes the named outputs of a file.

    Args:
        folded: the network.
        inputs: int32 [B, S] by name.
        rounding: what happens where an integer kernel would round.
        output: one of `OUTPUTS` of the head. `probabilities` add up to one,
            `independent_probabilities` are those of a model for several labels
            at once; `first_token` and `mean` (over real tokens) are embeddings
            of a text.

    Returns:
        float32 tensors: `logits` or `probabilities`, [B, C] for sequences,
        [B, S, C] for tokens; `start_logits` and `end_logits` [B, S] for
        question answering; `sequence_output` [B, S, D] or `embedding` [B, D]
        for an encoder.
    """
    output = output or OUTPUTS[folded.head][0]
    outputs = forward(folded, inputs, rounding, output == "first_token")
    mask = inputs["input_mask"]
    if folded.head == SPANS:
        return outputs
    if output == "probabilities":
        return {"probabilities": _float_softmax(outputs, mask)}
    if output == "independent_probabilities":
        # The logistic function, written without its integer kernel.
        return {"probabilities": 0.5 + 0.5 * tf.tanh(0.5 * outputs)}
    if output == "first_token":
        return {"embedding": outputs}
    if output == "mean":
        return {"embedding": _mean(outputs, mask)}
    return {output: outputs}


def _float_softmax(logits, input_mask):
    """Softmax over the last axis that stays in float in an integer file.

    The converter knows the range of a softmax and makes it integer, with steps
    of 1/256, unless its input is float. Adding the first token's mask to all
    logits alike makes the input float, and vanishes in the softmax.
    """
    keep = tf.cast(input_mask, tf.float32)
    # A slice that keeps its axis, because GPUs take no other.
    first = tf.reshape(keep[:, :1], (-1, *[1] * (len(logits.shape) - 1)))
    return tf.nn.softmax(logits + first)


def _mean(rows, input_mask):
    """Mean of the real tokens' rows: [B, S, D] to [B, D], or zeros."""
    keep = tf.cast(input_mask, tf.float32)
    count = tf.maximum(tf.reduce_sum(keep, axis=1, keepdims=True), 1.0)
    # Divided first, since a sum over tokens may overflow in float16.
    return tf.reduce_sum(rows * tf.expand_dims(keep / count, -1), axis=1)


def signature_lengths(lengths: int | Sequence[int]) -> dict[str, int]:
    """Returns the length of each signature, the longest first.

    Raises:
        ValueError: if there is no length, one is there twice or below 1.
    """
    if isinstance(lengths, int | np.integer):
        lengths = [lengths]
    ordered = sorted(lengths, reverse=True)
    if not ordered or ordered[-1] < 1 or len(set(ordered)) < len(ordered):
        raise ValueError(
            "lengths must be a positive length or several different ones. "
            f"Received: {list(lengths)}"
        )
    names = {SIGNATURE: ordered[0]}
    return names | {f"serving_{length}": length for length in ordered[1:]}


def input_specs(length: int) -> dict[str, tf.TensorSpec]:
    """Returns the three inputs, int32 [1, length], by name."""
    return {
        name: tf.TensorSpec((1, length), tf.int32, name=name)
        for name in INPUT_NAMES
    }


def _roundings(
    network: Folded | Quantized, kind: str, per_tensor: bool
) -> tuple[Folded, Exact, Exact]:
    """Returns the network, the rounding to convert, and that of the file."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}. Received: {kind!r}")
    if isinstance(network, Quantized) != (kind in INTEGER_KINDS):
        needed = "Quantized" if kind in INTEGER_KINDS else "Folded"
        raise ValueError(
            f"{kind} needs a {needed} network. Received: "
            f"{type(network).__name__}"
        )
    if kind in INTEGER_KINDS:
        return network.folded, network.export_rounding(), network.rounding()
    if kind == "dynamic":
        return network, Exact(), DynamicRounding(per_tensor)
    if kind == "int16x8":
        warnings.warn(
            "no accelerated delegate runs int16x8 files; the reference kernels "
            "take some thirty times as long as int8",
            stacklevel=3,
        )
        return bounded(network, _INT16_MASK), Exact(), WeightRounding()
    return network, Exact(), HalfWeights() if kind == "float16" else Exact()


def _output_names(
    folded: Folded, output: str | None, mlperf_order: bool
) -> list[str]:
    """Returns the names of the outputs in the order of the file."""
    known = OUTPUTS[folded.head]
    if output is not None and output not in known:
        raise ValueError(
            f"output must be one of {known} for {folded.head}. "
            f"Received: {output!r}"
        )
    if folded.head == SPANS:
        names = ["start_logits", "end_logits"]
        return names[::-1] if mlperf_order else names
    if mlperf_order:
        raise ValueError("mlperf_order is for question answering")
    output = output or known[0]
    if output in ("first_token", "mean"):
        return ["embedding"]
    return [output.removeprefix("independent_")]


def _check_request(
    folded: Folded,
    kind: str,
    lengths: list[int],
    output: str | None,
    metadata: TextMetadata | None,
) -> None:
    """Raises ValueError for a combination that cannot be, or be opened."""
    longest = folded.config.max_position_embeddings
    if lengths[0] > longest:
        raise ValueError(
            f"lengths must be at most {longest} (max_position_embeddings). "
            f"Received: {lengths[0]}"
        )
    if kind == "int16x8" and len(lengths) > 1:
        raise ValueError(f"int16x8 takes one length. Received: {lengths}")
    if metadata is not None:
        output = output or OUTPUTS[folded.head][0]
        check_metadata(metadata, folded, lengths, output)


def _single_examples(batches: Iterable[Mapping]) -> list[dict[str, np.ndarray]]:
    """Splits batches into examples of shape [1, S]."""
    examples = [
        {
            name: np.asarray(batch[name])[row : row + 1].astype(np.int32)
            for name in INPUT_NAMES
        }
        for batch in batches
        for row in range(len(batch["input_ids"]))
    ]
    if not examples:
        raise ValueError("int16x8 needs `calibration`, at least one batch")
    return examples


class _ConvertedGraph(tf.Module):
    """What the converter reads: one inference, its weights in variables."""

    def __init__(self, folded: Folded, rounding: Exact, output: str | None):
        super().__init__(name="export")
        self.weights = {
            name: tf.Variable(array, name=name)
            for name, array in folded.arrays.items()
        }
        self._infer = functools.partial(
            infer,
            dataclasses.replace(folded, arrays=self.weights),
            rounding=rounding,
            output=output,
        )

    def __call__(self, **inputs):
        return self._infer(inputs)


def _convert(
    graph: _ConvertedGraph,
    signatures: Mapping[str, int],
    kind: str,
    examples: Sequence[Mapping],
    per_tensor: bool,
) -> bytes:
    """Returns the converter's result; signatures are lengths by name."""
    functions = {
        name: tf.function(graph.__call__).get_concrete_function(
            **input_specs(length)
        )
        for name, length in signatures.items()
    }
    with tempfile.TemporaryDirectory() as folder, muted():
        tf.saved_model.save(graph, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(functions)
        )
        if kind != "float32":
            # With fake quantisation in the graph this means int8, without it
            # dynamic ranges.
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "dynamic" and per_tensor:
            quantize_per_tensor(converter)
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int16x8":
            converter.representative_dataset = lambda: iter(examples)
            converter.target_spec.supported_ops = [
                _INT16,
                # The mask begins as a cast from int32, which has no such form.
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
        return converter.convert()


def check_outputs(
    written: Path,
    path: str | os.PathLike,
    exact: Callable[[Mapping], Mapping],
    rounded: Callable[[Mapping], Mapping],
    vocab_size: int,
    examples: Sequence[Mapping] = (),
) -> None:
    """Compares a file with its graph at each of its lengths.

    Args:
        written: the file to check.
        path: the name it is to get.
        exact: computes the float graph's outputs by name.
        rounded: computes the same, with rounding where the file rounds.
        vocab_size: of the network; the inputs are random pieces,
        examples: or these, inputs [1, S], at their length. For files whose
            ranges the converter chose: the graph does not know what they cut.

    Raises:
        RuntimeError: if the file's outputs are not the graph's.
    """
    runtime = TFLiteModel(written)
    for length in runtime.lengths:
        probes = probe_inputs(vocab_size, length)
        if examples and examples[0]["input_ids"].shape[1] == length:
            chosen = examples[:_NUM_PROBES]
            probes = {
                name: np.concatenate([example[name] for example in chosen])
                for name in probes
            }
        found = runtime.predict(probes)
        if not isinstance(found, dict):
            found = {runtime.output_names[0]: found}
        after_rounding = rounded(probes)
        for name, tensor in exact(probes).items():
            wanted = after_rounding[name].numpy()
            # What is cut off on purpose is no noise.
            clipped = np.clip(tensor.numpy(), wanted.min(), wanted.max())
            noise = np.abs(wanted - clipped).max()
            difference = np.abs(found[name] - wanted).max()
            allowed = ROUNDING_TOLERANCE * noise
            allowed += FLOAT_TOLERANCE * np.abs(wanted).max()
            # Negated, so that NaN fails.
            if not difference <= allowed:
                raise RuntimeError(
                    f"{path}: the interpreter's {name} differ from the graph's "
                    f"by {difference:.3g}; rounding explains at most "
                    f"{allowed:.3g}"
                )


def probe_inputs(vocab_size: int, length: int) -> dict[str, np.ndarray]:
    """Returns four examples of different lengths, with both segments."""
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
