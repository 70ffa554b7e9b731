"""Writes .tflite files and proves each before it takes its place.

The converter reads a SavedModel in a temporary folder, the one way that keeps
a named signature. A file that the interpreter cannot run, or that disagrees
with its graph, is never published.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.mobile.deployment import (
    INPUT_NAMES,
    DeploymentModel,
    deployment_model,
)
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.rounding import DynamicRounding, Exact, Rounding
from mobilebert_tf.mobile.runtime import SIGNATURE, TFLiteModel

KINDS = ("float32", "dynamic", "int8")

# A file may be this much off, relative to the largest output, and this many
# times what rounding does to the graph. Kernels and graph round ties apart,
# and one early difference travels through all blocks; what dynamic files do
# is estimated only. Wrong files are off by the size of the output.
FLOAT_TOLERANCE = 1e-2
ROUNDING_TOLERANCE = 10.0


def export_tflite(
    model: keras.Model | DeploymentModel,
    kind: str,
    path: str | os.PathLike,
    *,
    max_seq_length: int,
    quantized: QuantizationAwareModel | None = None,
) -> None:
    """Writes one .tflite file, atomically, and checks it against its graph.

    The file takes int32 `input_ids`, `input_mask` and `segment_ids`, each
    [1, `max_seq_length`], under the signature `serving_default`, and returns
    float32 `logits` (`start_logits` and `end_logits` for question answering,
    `sequence_output` for an encoder).

    Args:
        model: a fine-tuned Keras model, or its `DeploymentModel`. Unused for
            int8, whose weights are those of `quantized`.
        kind: `float32`; `dynamic`, int8 weights and float activations; or
            `int8`, integers throughout.
        path: the file to write.
        max_seq_length: S.
        quantized: the model after quantisation-aware training, for int8.

    Raises:
        ValueError: for an unknown kind, or int8 without a calibrated model.
        RuntimeError: if the interpreter's answer to probes is not the graph's.
            Nothing is written then, nor if the converter fails, whose log and
            error appear as they are.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}. Received: {kind!r}")
    if kind == "int8":
        if quantized is None or not quantized.is_calibrated:
            raise ValueError(
                "int8 needs `quantized`, a calibrated QuantizationAwareModel"
            )
        model = quantized.deployment
    elif not isinstance(model, DeploymentModel):
        model = deployment_model(model)
    # What the converter reads, and what the file will compute.
    spelled = rounded = Exact()
    if kind == "dynamic":
        rounded = DynamicRounding()
    elif kind == "int8":
        spelled, rounded = quantized.export_rounding(), quantized.rounding()
    content = _convert(_ExportGraph(model, spelled), kind, max_seq_length)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content)
        _check_against_graph(
            temporary,
            path,
            _ExportGraph(model, Exact()),
            _ExportGraph(model, rounded),
        )


class _ExportGraph(tf.Module):
    """One inference with named outputs."""

    def __init__(self, deployment: DeploymentModel, rounding: Rounding):
        super().__init__(name="export")
        self.deployment = deployment
        self._rounding = rounding

    def __call__(self, input_ids, input_mask, segment_ids):
        logits = self.deployment(
            input_ids, input_mask, segment_ids, rounding=self._rounding
        )
        if self.deployment.task == "question_answering":
            start, end = tf.unstack(logits, axis=-1)
            return {"start_logits": start, "end_logits": end}
        if self.deployment.task == "features":
            return {"sequence_output": logits}
        return {"logits": logits}


def _convert(graph: _ExportGraph, kind: str, max_seq_length: int) -> bytes:
    spec = {
        name: tf.TensorSpec((1, max_seq_length), tf.int32, name=name)
        for name in INPUT_NAMES
    }
    function = tf.function(graph.__call__).get_concrete_function(**spec)
    with tempfile.TemporaryDirectory() as folder, _muted():
        tf.saved_model.save(graph, folder, signatures={SIGNATURE: function})
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=[SIGNATURE]
        )
        if kind != "float32":
            # With fake quantisation in the graph this means int8, without it
            # dynamic ranges.
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        return converter.convert()


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Holds back stderr, C++ included, and shows it only after a failure."""
    sys.stderr.flush()
    kept = os.dup(2)
    has_failed = True
    with tempfile.TemporaryFile() as log:
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


def _check_against_graph(
    written: Path, path, exact: _ExportGraph, rounded: _ExportGraph
) -> None:
    """Raises RuntimeError unless file and graph answer probes alike.

    Args:
        written: the file to check.
        path: the name it is to get.
        exact: the float graph.
        rounded: the graph with what the file rounds, rounded.
    """
    runtime = TFLiteModel(written)
    vocab_size = exact.deployment.config.vocab_size
    probes = _probes(vocab_size, runtime.max_seq_length)
    answers = runtime.predict(probes)
    if not isinstance(answers, dict):
        answers = {runtime.output_names[0]: answers}
    constants = {name: tf.constant(rows) for name, rows in probes.items()}
    after_rounding = rounded(**constants)
    for name, wanted in exact(**constants).items():
        noise = tf.reduce_max(tf.abs(after_rounding[name] - wanted)).numpy()
        difference = np.abs(answers[name] - wanted.numpy()).max()
        allowed = ROUNDING_TOLERANCE * noise
        allowed += FLOAT_TOLERANCE * np.abs(wanted.numpy()).max()
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
