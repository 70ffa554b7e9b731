r"""Files to measure: ours, a plain conversion of the Keras model, dense layers.

    python -m benchmarks.tflite.files --preset=mobilebert,ib_bert_large

counts the operations of each architecture by type, converted from the Keras
model as it is and exported by this package. Counts do not depend on widths, so
networks of a quarter of the width with a vocabulary of 100, with all their
blocks, stand for the full ones: half a minute a preset.
"""

import dataclasses
import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import mobilebert_tf as mb
from benchmarks.instruments import start
from benchmarks.tflite.measurement import MeasuredFile
from mobilebert_tf.compat import muted
from mobilebert_tf.config import INPUT_NAMES
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.export import export, input_specs
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.options import Options, option
from mobilebert_tf.presets import PRESETS

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


@dataclasses.dataclass(frozen=True)
class CountOptions(Options):
    """Which architectures to count."""

    preset: tuple[str, ...] = option(
        ("mobilebert",), "Presets.", choices=list(PRESETS)
    )
    max_seq_length: int = option(128, "Length of the files.", min=1)


def write_dense_layers(folder: Path) -> list[Path]:
    """Writes rate_float32.tflite and rate_int8.tflite: large dense layers.

    In sequence, they reach the most that this machine's kernels can.
    """
    rng = np.random.default_rng(0)
    kernels = [
        tf.Variable(rng.uniform(-1.0, 1.0, (_WIDTH, _WIDTH)), dtype=tf.float32)
        for _ in range(_LAYERS)
    ]
    paths = []
    for name in ("float32", "int8"):

        def quantize(rows, is_integer=name == "int8"):
            if not is_integer:
                return rows
            return tf.quantization.fake_quant_with_min_max_args(rows, -1.0, 1.0)

        def layers(rows, quantize=quantize):
            rows = quantize(rows)
            for kernel in kernels:
                rows = quantize(tf.nn.relu(rows @ kernel / _WIDTH))
            return {"rows": rows}

        path = folder / f"rate_{name}.tflite"
        spec = tf.TensorSpec((_ROWS, _WIDTH), tf.float32, name="rows")
        if not path.exists():
            convert(path, layers, {"rows": spec}, kernels, name == "int8")
        paths.append(path)
    return paths


def write_naive(path: Path, model: keras.Model, length: int) -> None:
    """Writes the float32 file that the converter makes of a Keras model."""

    def call(input_ids, input_mask, segment_ids):
        inputs = (input_ids, input_mask, segment_ids)
        return model(dict(zip(INPUT_NAMES, inputs, strict=True)))

    variables = [variable.value for variable in model.weights]
    convert(path, call, input_specs(length), variables)


def convert(path: Path, call, specs, variables, is_integer=False) -> None:
    """Converts a function without any rewrite of ours.

    Args:
        path: the file to write.
        call: is called with tensors of `specs`, by name.
        specs: `tf.TensorSpec` by name.
        variables: all that the function reads; others would stay variables in
            the file.
        is_integer: whether the function quantises all its tensors to int8.
    """
    module = tf.Module()
    module.variables_read = variables
    function = tf.function(call, autograph=False)
    function = function.get_concrete_function(**specs)
    with tempfile.TemporaryDirectory() as folder, muted():
        tf.saved_model.save(module, folder, signatures=function)
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


def main(options: CountOptions) -> None:
    """Prints a table for each preset."""
    for preset in options.preset:
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
    start(main, CountOptions, __doc__)
