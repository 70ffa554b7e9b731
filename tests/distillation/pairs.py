"""Students and teachers small enough to reason about (see `tests/tiny.py`)."""

import functools

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


@functools.cache
def _models():
    keras.utils.set_random_seed(3)
    models = student(), teacher()
    return *models, [[w.numpy() for w in model.weights] for model in models]


def pair() -> Distiller:
    """A pair that is the same for every test, whatever the last one did."""
    *models, weights = _models()
    for model, values in zip(models, weights, strict=True):
        for weight, value in zip(model.weights, values, strict=True):
            weight.assign(value)
    return Distiller(*models)


def copy_weights(ours, theirs) -> None:
    for weight, source in zip(ours.weights, theirs.weights, strict=True):
        weight.assign(source.value)
