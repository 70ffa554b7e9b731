"""Writes .tflite files and proves each before it takes its place.

The converter reads a SavedModel in a temporary folder, the one way that keeps
named signatures. A file that the interpreter cannot run, or that disagrees
with its graph, is never published.

Does a .tflite file answer like the graph it was made from?

Asked of every file before it takes its place. Kernels and graph round ties
apart, so that equality to the last bit is not to be had; wrong files are off
by the size of the output.
"""

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.files import atomic_file
from mobilebert_tf.mobile.deployment import (
    INPUT_NAMES,
    DeploymentModel,
    bounded,
    deployment_model,
)
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.rounding import (
    DynamicRounding,
    Exact,
    Rounding,
    WeightRounding,
)
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.signatures import (
    SIGNATURE,
    InferenceGraph,
    arrange,
    input_specs,
    packed,
    signature_names,
    unpacked,
)
from mobilebert_tf.mobile.text_input import (
    TextGraph,
    TextInput,
    TextTFLiteModel,
)
from mobilebert_tf.mobile.tflite_file import (
    TextMetadata,
    add_metadata,
    check_metadata,
    with_files,
)

KINDS = ("float32", "float16", "dynamic", "int8", "int8_qat", "int16x8")

# Integers throughout; the writer is one, what differs is whether the graph was
# calibrated only or trained under quantisation as well.
INTEGER_KINDS = ("int8", "int8_qat")

# The converter rounds masked logits too, in 2^16 steps from here.
_INT16_MASK = -100.0

# Examples of calibration that an int16x8 file is probed with.
_PROBES = 4

_INT16 = (
    tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
)


def export_tflite(
    model: keras.Model | DeploymentModel,
    kind: str,
    path: str | os.PathLike,
    *,
    max_seq_length: int | Sequence[int],
    quantized: QuantizationAwareModel | None = None,
    calibration: Iterable[dict] = (),
    output: str | None = None,
    mlperf_order: bool = False,
    metadata: TextMetadata | None = None,
    text_input: TextInput | None = None,
) -> None:
    """Writes one .tflite file, atomically, and checks it against its graph.

    The file takes int32 `input_ids`, `input_mask` and `segment_ids`, each
    [1, S], in this order, under the signature `serving_default`, and returns
    float32 `logits` (`start_logits` and `end_logits` for question answering,
    `sequence_output` for an encoder). Further lengths have signatures of their
    own, `serving_<length>`, with the same weights.

    Args:
        model: a fine-tuned Keras model, or its `DeploymentModel`. Unused for
            int8 and int8_qat, whose weights are those of `quantized`.
        kind: `float32`; `float16`, weights of half the size; `dynamic`, int8
            weights and float activations; `int8`, integers throughout, and
            `int8_qat`, the same after quantisation-aware training; `int16x8`,
            int8 weights and 16-bit activations, which no delegate runs.
        path: the file to write.
        max_seq_length: S, or several lengths.
        quantized: the calibrated model for int8, the one after
            quantisation-aware training for int8_qat.
        calibration: batches of inputs [num, S] for int16x8, whose ranges the
            converter measures itself. Other entries are ignored.
        output: what the file returns, one of `signatures.OUTPUTS` of the task;
            None: logits, or the whole sequence.
        mlperf_order: `end_logits` before `start_logits`, as MLPerf Mobile
            reads the outputs of question answering.
        metadata: vocabulary and labels for the text tasks of phones, which
            tokenize by themselves.
        text_input: a tokenizer to put inside: the file then takes `text`
            (and `text_b`), string [1], in place of ids.

    Raises:
        InputError: if the ranges of `quantized` were never measured.
        ValueError: for an unknown kind or output, int8 without `quantized`,
            int16x8 without batches, a length beyond the position table, or a
            combination that no program could open.
        RuntimeError: if the interpreter's answer to probes is not the graph's.
            Nothing is written then, nor if the converter fails, whose log and
            error appear as they are.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}. Received: {kind!r}")
    lengths = _lengths(max_seq_length)
    model, spelled, rounded = _graphs(model, kind, quantized)
    graph = InferenceGraph(model, spelled, output)
    _check_request(graph, kind, lengths, mlperf_order, metadata, text_input)
    examples = _single_examples(calibration) if kind == "int16x8" else []
    inputs, order = INPUT_NAMES, _output_order(graph, mlperf_order)
    specs = {
        name: input_specs(length)
        for name, length in signature_names(lengths).items()
    }
    if text_input is not None:
        graph = TextGraph(text_input, graph, lengths[0])
        inputs, specs = text_input.names, {SIGNATURE: graph.input_specs()}
    changed = unpacked(_convert(graph, specs, kind, examples))
    arrange(changed, inputs, order)
    content = _packed(changed, metadata, model.task, inputs, order)
    exact = InferenceGraph(model, Exact(), output)
    rounded = InferenceGraph(model, rounded, output)
    with atomic_file(path) as file:
        file.write_bytes(content)
        if text_input is None:
            check_answers(file, path, exact, rounded, examples[:_PROBES])
        else:
            check_text_answers(
                file, path, text_input, lengths[0], exact, rounded
            )


def _packed(
    model, metadata: TextMetadata | None, task: str, inputs, outputs
) -> bytes:
    """Returns the content of the file, with metadata if there is any."""
    if metadata is None:
        return packed(model)
    add_metadata(model, metadata, task, inputs, outputs)
    return with_files(packed(model), metadata.files())


def _lengths(max_seq_length: int | Sequence[int]) -> list[int]:
    """Returns all lengths, the longest first."""
    if isinstance(max_seq_length, int | np.integer):
        max_seq_length = [max_seq_length]
    return list(signature_names(max_seq_length).values())


def _graphs(
    model, kind: str, quantized: QuantizationAwareModel | None
) -> tuple[DeploymentModel, Rounding, Rounding]:
    """Returns the network, what the converter reads, what the file computes."""
    if kind in INTEGER_KINDS:
        if quantized is None:
            raise ValueError(
                f"{kind} needs `quantized`, a calibrated QuantizationAwareModel"
            )
        spelled, rounded = quantized.export_rounding(), quantized.rounding()
        return quantized.deployment, spelled, rounded
    if not isinstance(model, DeploymentModel):
        model = deployment_model(model)
    rounded = Exact()
    if kind == "dynamic":
        rounded = DynamicRounding()
    elif kind == "int16x8":
        rounded = WeightRounding()
        model = bounded(model, _INT16_MASK)
        warnings.warn(
            "no accelerated delegate runs int16x8 files; the reference kernels "
            "take some thirty times as long as int8",
            stacklevel=3,
        )
    return model, Exact(), rounded


def _check_request(
    graph: InferenceGraph,
    kind: str,
    lengths: list[int],
    mlperf_order: bool,
    metadata: TextMetadata | None,
    text_input: TextInput | None,
) -> None:
    """Raises ValueError for a combination that cannot be, or be opened."""
    deployment = graph.deployment
    longest = deployment.config.max_position_embeddings
    if lengths[0] > longest:
        raise ValueError(
            f"max_seq_length must be at most {longest} "
            f"(max_position_embeddings). Received: {lengths[0]}"
        )
    if mlperf_order and deployment.task != "question_answering":
        raise ValueError("mlperf_order is for question answering")
    if kind == "int16x8" and (len(lengths) > 1 or text_input is not None):
        raise ValueError("int16x8 takes one length, and ids instead of text")
    if text_input is not None and (len(lengths) > 1 or metadata is not None):
        raise ValueError("text_input takes one length, and no metadata")
    if metadata is not None:
        check_metadata(metadata, deployment, lengths, graph.output)


def _output_order(graph: InferenceGraph, mlperf_order: bool) -> list[str]:
    """Returns the names of the outputs in the order of the file."""
    if graph.deployment.task != "question_answering":
        pooled = graph.output in ("first_token", "mean")
        name = graph.output.removeprefix("independent_")
        return ["embedding" if pooled else name]
    names = ["start_logits", "end_logits"]
    return names[::-1] if mlperf_order else names


def _single_examples(batches: Iterable[dict]) -> list[dict[str, np.ndarray]]:
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


def _convert(
    graph: tf.Module, specs: dict, kind: str, examples: list[dict]
) -> bytes:
    """Returns what the converter makes of a graph; specs are by signature."""
    functions = {
        name: tf.function(graph.__call__).get_concrete_function(**inputs)
        for name, inputs in specs.items()
    }
    with tempfile.TemporaryDirectory() as folder, muted():
        tf.saved_model.save(graph, folder, signatures=functions)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(functions)
        )
        # The kernels of a tokenizer are nobody's but TensorFlow Text's.
        converter.allow_custom_ops = isinstance(graph, TextGraph)
        if kind != "float32":
            # With fake quantisation in the graph this means int8, without it
            # dynamic ranges.
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
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


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Holds back stderr, C++ included, and shows it only after a failure."""
    sys.stderr.flush()
    kept = os.dup(2)
    has_failed = True
    with tempfile.TemporaryFile() as log, warnings.catch_warnings():
        # The converter calibrates with the interpreter it advises against.
        warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter")
        os.dup2(log.fileno(), 2)
        try:
            yield
            has_failed = False
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            if has_failed:
                log.seek(0)
                sys.stderr.write(log.read().decode(errors="replace"))


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
