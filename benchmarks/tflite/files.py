r"""Files to measure: ours, a plain conversion of the Keras model, dense layers.

    python benchmarks/tflite/files.py --preset=mobilebert,ib_bert_large

counts the operations of each architecture by type, converted from the Keras
model as it is and exported by this package. Counts do not depend on widths, so
networks of a quarter of the width with a vocabulary of 100, with all their
blocks, stand for the full ones: half a minute a preset.
"""

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import argparse  # noqa: E402
import dataclasses  # noqa: E402
import tempfile  # noqa: E402
from collections import Counter  # noqa: E402

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import mobilebert_tf as mb  # noqa: E402
from benchmarks.tflite.measurement import MeasuredFile  # noqa: E402
from mobilebert_tf.config import INPUT_NAMES, PRESETS  # noqa: E402
from mobilebert_tf.mobile.calibration import calibrate  # noqa: E402
from mobilebert_tf.mobile.export import (  # noqa: E402
    export,
    input_specs,
    muted,
)
from mobilebert_tf.mobile.folding import fold  # noqa: E402
from mobilebert_tf.mobile.quantization import Quantized  # noqa: E402

KINDS = ("float32", "float16", "dynamic", "int8")
_LABELS = ("a", "b", "c")
_WIDTHS = (
    "embedding_size",
    "hidden_size",
    "intra_bottleneck_size",
    "intermediate_size",
)
# Large enough that only the products count, and in a core's cache.
_ROWS, _WIDTH, _LAYERS = 512, 1024, 4


class KerasGraph(tf.Module):
    """A Keras model as one would export it without knowing our rewrite."""

    def __init__(self, model: keras.Model):
        super().__init__(name="naive")
        self._model = model
        # Values that are not tracked here would stay variables in the file.
        self._kept = [variable.value for variable in model.weights]

    def __call__(self, input_ids, input_mask, segment_ids):
        inputs = (input_ids, input_mask, segment_ids)
        return self._model(dict(zip(INPUT_NAMES, inputs, strict=True)))


class DenseLayers(tf.Module):
    """Large dense layers in sequence: the most this machine's kernels reach.

    Args:
        is_integer: whether all tensors are quantised to int8.
    """

    def __init__(self, is_integer: bool):
        super().__init__(name="layers")
        rng = np.random.default_rng(0)
        self._is_integer = is_integer
        self.kernels = [
            tf.Variable(rng.uniform(-1.0, 1.0, (_WIDTH, _WIDTH)), dtype="float")
            for _ in range(_LAYERS)
        ]

    def __call__(self, rows):
        rows = self._rounded(rows)
        for kernel in self.kernels:
            rows = self._rounded(tf.nn.relu(rows @ kernel / _WIDTH))
        return {"rows": rows}

    def _rounded(self, rows):
        if not self._is_integer:
            return rows
        return tf.quantization.fake_quant_with_min_max_args(rows, -1.0, 1.0)


def write_dense_layers(folder: Path) -> list[Path]:
    """Writes rate_float32.tflite and rate_int8.tflite: large dense layers."""
    paths = [folder / f"rate_{name}.tflite" for name in ("float32", "int8")]
    spec = tf.TensorSpec((_ROWS, _WIDTH), tf.float32, name="rows")
    for path, is_integer in zip(paths, (False, True), strict=True):
        if not path.exists():
            convert(path, DenseLayers(is_integer), {"rows": spec}, is_integer)
    return paths


def write_naive(path: Path, model: keras.Model, length: int) -> None:
    """Writes the float32 file that the converter makes of a Keras model."""
    convert(path, KerasGraph(model), input_specs(length))


def convert(
    path: Path,
    graph: tf.Module,
    specs: dict[str, tf.TensorSpec],
    is_integer: bool = False,
) -> None:
    """Converts a module that is called with tensors of `specs`, by name."""
    function = tf.function(graph.__call__, autograph=False)
    function = function.get_concrete_function(**specs)
    with tempfile.TemporaryDirectory() as folder, muted():
        tf.saved_model.save(graph, folder, signatures=function)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if is_integer:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        path.write_bytes(converter.convert())


def random_classifier(
    config: mb.MobileBertConfig,
) -> mb.MobileBertForSequenceClassification:
    """Returns a model whose norms and biases all do something.

    Converters drop a multiplication by one and an addition of zero, which a
    trained model does not have.
    """
    keras.utils.set_random_seed(1)
    model = mb.MobileBertForSequenceClassification(config, _LABELS)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if variable.name in ("gamma", "beta", "bias"):
            noise = rng.normal(0, 0.1, variable.shape)
            variable.assign_add(noise.astype(np.float32))
    return model


def write_ours(folder: Path, preset: str, length: int) -> None:
    """Writes a full-size classifier's files that are not there yet.

    Args:
        folder: gets `naive_float32_LENGTH.tflite`, `ours_KIND_LENGTH.tflite`
            and `model/`, the model folder that other converters read.
        preset: the architecture.
        length: the sequence length.
    """
    paths = {kind: folder / f"ours_{kind}_{length}.tflite" for kind in KINDS}
    naive = folder / f"naive_float32_{length}.tflite"
    if all(path.exists() for path in (naive, *paths.values())):
        return
    config = mb.MobileBertConfig.from_preset(preset)
    model = random_classifier(config)
    if not (folder / "model").exists():
        model.save_pretrained(folder / "model")
    write_naive(naive, model, length)
    ids = np.random.default_rng(0).integers(0, config.vocab_size, (2, length))
    batch = {
        "input_ids": ids.astype(np.int32),
        "input_mask": np.ones_like(ids, np.int32),
        "segment_ids": np.zeros_like(ids, np.int32),
    }
    folded = fold(model)
    quantized = Quantized(folded, calibrate(folded, [batch]))
    for kind, path in paths.items():
        print(path, flush=True)
        network = quantized if kind == "int8" else folded
        export(network, path, length, kind)


def narrowed(config: mb.MobileBertConfig) -> mb.MobileBertConfig:
    """Returns the architecture at a quarter of its widths."""
    widths = {name: getattr(config, name) // 4 for name in _WIDTHS}
    return dataclasses.replace(config, vocab_size=100, **widths)


def before_and_after(
    config: mb.MobileBertConfig, length: int
) -> tuple[Counter, Counter]:
    """Counts a classifier's operations, converted as it is and by us."""
    model = random_classifier(config)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder, "naive.tflite"), Path(folder, "our.tflite")
        write_naive(paths[0], model, length)
        export(fold(model), paths[1], length)
        before, after = (MeasuredFile(path).operations() for path in paths)
    return before, after


def norm_operations(config: mb.MobileBertConfig, counts: Counter) -> int:
    """Returns how many MUL and ADD only a norm explains.

    A graph without norms multiplies for the mask alone, and adds for segments
    and positions, and in each block for the mask and every residual.
    """
    residuals = 1 + config.num_feedforward_networks + config.use_bottleneck
    adds = 2 + config.num_hidden_layers * (residuals + 1)
    muls = 1
    if config.attention_mask_form == "multiply_add":
        muls += config.num_hidden_layers
    return counts["ADD"] + counts["MUL"] - adds - muls


def operations_table(preset: str, before: Counter, after: Counter) -> str:
    """Formats the counts of a preset, the most frequent type first."""
    names = sorted(before | after, key=lambda name: (-before[name], name))
    lines = [f"{preset:<22}{'Keras model':>12}{'exported':>12}"]
    for name in names:
        lines.append(f"  {name.lower():<20}{before[name]:>12}{after[name]:>12}")
    totals = f"{before.total():>12}{after.total():>12}"
    return "\n".join([*lines, f"  {'all':<20}{totals}"])


def main() -> None:
    """Prints a table for each preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mobilebert", help="Presets.")
    parser.add_argument(
        "--max_seq_length", type=int, default=128, help="Length of the files."
    )
    options = parser.parse_args()
    presets = options.preset.split(",")
    if unknown := set(presets) - set(PRESETS):
        parser.error(f"--preset: {', '.join(PRESETS)}; found {unknown}")
    for preset in presets:
        config = narrowed(mb.MobileBertConfig.from_preset(preset))
        length = min(options.max_seq_length, config.max_position_embeddings)
        counts = before_and_after(config, length)
        print(operations_table(preset, *counts))
        if config.normalization_type == "no_norm":
            left = norm_operations(config, counts[1])
            print(f"  left of norms{left:>32}")
        print(flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
