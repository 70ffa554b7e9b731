"""Students and teachers small enough to reason about (see `tests/tiny.py`)."""

import keras

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.distillation.distiller import Distiller
from tests import tiny

# Weights large enough that random models are far from each other.
_SIZES = {"num_hidden_layers": 3, "initializer_range": 0.2}
# What `preset` does not take from the preset.
_SHARED = (
    "vocab_size",
    "embedding_size",
    "hidden_size",
    "intra_bottleneck_size",
    "intermediate_size",
    "num_attention_heads",
    "max_position_embeddings",
)


def student(**changes):
    return tiny.pretraining_model(tiny.student_config(**_SIZES | changes))


def teacher(**changes):
    return tiny.pretraining_model(tiny.teacher_config(**_SIZES | changes))


def preset_config(preset: str, **changes) -> MobileBertConfig:
    """An architecture by name, with the widths of `tests/tiny.py`."""
    config = tiny.student_config()
    sizes = {name: getattr(config, name) for name in _SHARED}
    return MobileBertConfig.from_preset(preset, **sizes | _SIZES | changes)


def pair() -> Distiller:
    keras.utils.set_random_seed(3)
    return Distiller(student(), teacher())


def copy_weights(ours, theirs) -> None:
    for weight, source in zip(ours.weights, theirs.weights, strict=True):
        weight.assign(source.value)
