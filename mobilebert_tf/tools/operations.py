"""Operations of a .tflite file by type, before and after the rewrite.

    python -m mobilebert_tf.tools.operations --preset=mobilebert,ib_bert_large

converts each architecture twice, the Keras model as it is and its deployment
graph, and counts what LiteRT is given to run. Numbers of operations do not
depend on widths, so networks of a quarter of the width and a vocabulary of 100
stand for full ones, all their blocks included: half a minute a preset.
"""

import collections
import dataclasses
import tempfile

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from ai_edge_litert.interpreter import Interpreter

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.config import PRESETS, MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.deployment import INPUT_NAMES, deployment_model
from mobilebert_tf.mobile.signatures import input_specs
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification

FLAGS = flags.FLAGS

Counts = dict[str, int]

# What LiteRT adds when it hands operations to a delegate.
_DELEGATE = "DELEGATE"
_NARROWED = (
    "embedding_size",
    "hidden_size",
    "intra_bottleneck_size",
    "intermediate_size",
)


def narrowed(config: MobileBertConfig) -> MobileBertConfig:
    """Returns the architecture at a quarter of its widths."""
    widths = {name: getattr(config, name) // 4 for name in _NARROWED}
    return dataclasses.replace(config, vocab_size=100, **widths)


def random_classifier(
    config: MobileBertConfig, seed: int = 0
) -> MobileBertForSequenceClassification:
    """Returns a model none of whose weights the converter can leave out.

    A gamma of 1 and a beta of 0 would vanish, and with them the operations.
    """
    rng = np.random.default_rng(seed)
    model = MobileBertForSequenceClassification(config, ["no", "yes"])
    for variable in model.weights:
        variable.assign(rng.uniform(0.1, 0.2, variable.shape))
    return model


def count_operations(content: bytes) -> Counts:
    """Counts the operations of a .tflite file by type."""
    details = Interpreter(model_content=content)._get_ops_details()
    names = (operation["op_name"] for operation in details)
    counts = collections.Counter(names)
    del counts[_DELEGATE]
    return dict(counts)


def before_and_after(
    config: MobileBertConfig, max_seq_length: int
) -> tuple[Counts, Counts]:
    """Counts a naive float32 conversion's operations, and the graph's.

    Args:
        config: the encoder's config, for a classifier.
        max_seq_length: of the files.
    """
    model = random_classifier(config)
    graphs = KerasGraph(model), deployment_model(model)
    before, after = (converted(graph, max_seq_length) for graph in graphs)
    return count_operations(before), count_operations(after)


def norm_operations(config: MobileBertConfig, counts: Counts) -> int:
    """Returns how many MUL and ADD are left that only a norm explains.

    Without any, a graph multiplies for the mask alone, and adds for segments
    and positions, and in each block for the mask and every residual.
    """
    residuals = 1 + config.num_feedforward_networks + config.use_bottleneck
    adds = 2 + config.num_hidden_layers * (residuals + 1)
    muls = 1
    if config.attention_mask_form == "multiply_add":
        muls += config.num_hidden_layers
    return counts.get("ADD", 0) + counts.get("MUL", 0) - adds - muls


def table(preset: str, before: Counts, after: Counts) -> list[str]:
    """Sets the counts of one preset side by side, the most frequent first."""
    rows = sorted(
        before.keys() | after.keys(),
        key=lambda name: (-before.get(name, 0), name),
    )
    lines = [f"{preset:<22}{'Keras model':>12}{'deployment':>12}"]
    for name in rows:
        counts = before.get(name, 0), after.get(name, 0)
        lines.append(f"  {name.lower():<20}{counts[0]:>12}{counts[1]:>12}")
    totals = sum(before.values()), sum(after.values())
    return [*lines, f"  {'all':<20}{totals[0]:>12}{totals[1]:>12}"]


class KerasGraph(tf.Module):
    """A Keras model as whoever knows no rewrite would export it."""

    def __init__(self, model: keras.Model):
        super().__init__(name="naive")
        self._model = model
        # What is not kept here would stay a variable in the file.
        self._kept = [variable.value for variable in model.weights]

    def __call__(self, input_ids, input_mask, segment_ids):
        inputs = (input_ids, input_mask, segment_ids)
        return self._model(dict(zip(INPUT_NAMES, inputs, strict=True)))


def converted(graph: tf.Module, max_seq_length: int) -> bytes:
    """Returns a float32 .tflite file of a graph, converted as it is."""
    function = tf.function(graph.__call__, autograph=False)
    function = function.get_concrete_function(**input_specs(max_seq_length))
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(graph, folder, signatures=function)
        return tf.lite.TFLiteConverter.from_saved_model(folder).convert()


def main(_) -> None:
    """Prints a table for each preset."""
    for preset in FLAGS.preset:
        if preset not in PRESETS:
            raise InputError(
                "--preset", f"presets among {', '.join(PRESETS)}", repr(preset)
            )
    for preset in FLAGS.preset:
        config = narrowed(MobileBertConfig.from_preset(preset))
        length = min(FLAGS.max_seq_length, config.max_position_embeddings)
        counts = before_and_after(config, length)
        print("\n".join(table(preset, *counts)), flush=True)
        if config.normalization_type == "no_norm":
            left = norm_operations(config, counts[1])
            print(f"  of norms, left        {left:>24}")
        print()
        keras.backend.clear_session()


def define_flags() -> None:
    """Defines the tool's flags, when it is run and not when imported."""
    flags.DEFINE_list(
        "preset", ["mobilebert"], f"Presets among {', '.join(PRESETS)}."
    )
    flags.DEFINE_integer("max_seq_length", 128, "Length of the files.", 1)


if __name__ == "__main__":
    define_flags()
    shared.run_script(main, goes_on=False)
