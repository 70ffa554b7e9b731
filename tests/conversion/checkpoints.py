"""Small TensorFlow 1 checkpoints, written without the code under test."""

import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig
from tests import tiny
from tests.modeling import numpy_block

VOCAB = list(tiny.PIECES)
STUDENT = tiny.student_config(num_feedforward_networks=3)
TEACHER = tiny.teacher_config()


def encoder_shapes(config: MobileBertConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of an encoder's variables in the original code."""
    shapes = numpy_block.shapes(config.to_dict(), config.num_hidden_layers)
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith("cls/")
    }
    if config.classifier_activation:
        wide = config.hidden_size
        shapes["bert/pooler/dense/kernel"] = (wide, wide)
        shapes["bert/pooler/dense/bias"] = (wide,)
    return shapes


def head_shapes(config: MobileBertConfig, head: str) -> dict:
    """Names and shapes of a head: pretraining, masked_lm, squad, classes."""
    wide = config.hidden_size
    shapes = numpy_block.shapes(config.to_dict(), 0)
    masked_lm = {
        name: shape for name, shape in shapes.items() if name.startswith("cls/")
    }

    def output(scope, size):
        return {
            f"{scope}output_weights": (size, wide),
            f"{scope}output_bias": (size,),
        }

    next_sentence = output("cls/seq_relationship/", 2)
    return {
        "none": {},
        "pretraining": masked_lm | next_sentence,
        "masked_lm": masked_lm,
        "next_sentence": next_sentence,
        "squad": output("cls/squad/", 2),
        "classes": output("", 3),
    }[head]


def draw(shapes: dict, rng) -> dict:
    """Draws float32 values for every name."""
    return {
        name: rng.standard_normal(shape).astype("float32")
        for name, shape in shapes.items()
    }


def write(prefix, values: dict) -> None:
    """Writes a TensorFlow 1 checkpoint."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )


def read(prefix) -> dict:
    """Reads a TensorFlow 1 checkpoint whole."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
    }
