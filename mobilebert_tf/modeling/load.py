"""Opening a model folder as the class that was saved."""

import os
from collections.abc import Callable
from pathlib import Path

import keras

from mobilebert_tf import compat
from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import model_folder
from mobilebert_tf.modeling import models
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.folder import (
    CONFIG_FILE,
    PretrainedModel,
    load_weights,
    read_weights,
)

MODEL_CLASSES: dict[str, type[PretrainedModel]] = {
    model_class.architecture: model_class
    for model_class in (
        MobileBertEncoder,
        models.MobileBertForPretraining,
        models.MobileBertForMaskedLM,
        models.MobileBertForNextSentencePrediction,
        models.MobileBertForSequenceClassification,
        models.MobileBertForTokenClassification,
        models.MobileBertForQuestionAnswering,
        models.MobileBertForMultipleChoice,
    )
}


def load(
    name_or_path: str | os.PathLike,
    dtype_of: Callable[[keras.Variable], str] | None = None,
) -> PretrainedModel:
    """Returns the model of a folder, as the class that was saved.

    Args:
        name_or_path: a folder or a name on the hub (see `hub.model_folder`).
        dtype_of: returns the dtype to hold a variable in, to which it is
            rounded as it is read; by default the dtype policy decides.

    Raises:
        InputError: there is no such model, a file is missing or unreadable,
            or it does not hold exactly the tensors of its config.
    """
    folder = model_folder(name_or_path)
    config_file = folder / CONFIG_FILE
    config = MobileBertConfig.from_json(config_file)
    values = read_json_object(config_file)
    model_class = MODEL_CLASSES[architecture_of(config_file, values)]
    arguments = {}
    if model_class.has_label_names:
        arguments["label_names"] = label_names_of(config_file, values)
    return _build_with_weights(
        lambda: model_class(config, **arguments), folder, dtype_of
    )


def from_pretrained(
    model_class: type[PretrainedModel], name_or_path, **kwargs
) -> PretrainedModel:
    """See `PretrainedModel.from_pretrained`."""
    folder = model_folder(name_or_path)
    config_file = folder / CONFIG_FILE
    values = read_json_object(config_file)
    fits = values.get("architectures") == [model_class.architecture]
    if fits and model_class.has_label_names:
        saved = label_names_of(config_file, values)
        fits = list(kwargs.setdefault("label_names", saved)) == saved
    config = MobileBertConfig.from_json(config_file)
    if fits:
        return _build_with_weights(
            lambda: model_class(config, **kwargs), folder
        )
    model = model_class(config, **kwargs)
    load_encoder_weights(getattr(model, "encoder", model), folder)
    return model


def load_encoder_weights(
    encoder: MobileBertEncoder, folder: str | os.PathLike
) -> None:
    """Assigns the variables of an encoder from a folder of any class.

    Raises:
        InputError: the folder does not hold exactly this encoder's tensors;
            those of a head are ignored.
    """
    load_weights(encoder, folder, allow_heads=True)


def architecture_of(config_file: Path, values: dict) -> str:
    """Returns the class that the values of a folder's `config.json` name.

    Raises:
        InputError: there is no such class.
    """
    found = values.get("architectures") or ["(none)"]
    if found[0] not in MODEL_CLASSES:
        known = ", ".join(MODEL_CLASSES)
        raise InputError(
            config_file, f"one of {known}", found[0], place="architectures"
        )
    return found[0]


def label_names_of(config_file: Path, values: dict) -> list[str]:
    """Returns the class names in the values of a folder's `config.json`.

    Raises:
        InputError: they are missing or not numbered 0, 1, ...
    """
    names = values.get("id2label")
    if names is None:
        # Hugging Face does not write its default, two unnamed classes.
        return ["LABEL_0", "LABEL_1"]
    if not isinstance(names, dict) or not names:
        raise InputError(
            config_file, "the names of the classes", names, place="id2label"
        )
    wanted = [str(index) for index in range(len(names))]
    if sorted(names) != sorted(wanted):
        raise InputError(
            config_file, "keys 0, 1, ...", sorted(names), place="id2label"
        )
    return [str(names[index]) for index in wanted]


def _build_with_weights(
    build: Callable[[], PretrainedModel],
    folder: Path,
    dtype_of: Callable[[keras.Variable], str] | None = None,
) -> PretrainedModel:
    """Builds a model whose variables start with the weights of a folder.

    Drawing random weights first would take seconds and more than twice their
    memory. Here the weights are read before any variable has a value.
    """
    # Keras gives variables made in this scope their values when it ends.
    with keras.StatelessScope():
        model = build()
        for variable in model.weights:
            # Costs nothing if the folder is refused.
            compat.set_initializer(variable, _scalar_zero)
            if dtype_of:
                compat.set_dtype(variable, dtype_of(variable))
        for variable, array in read_weights(model, folder):
            # A copy: TensorFlow's own tensor of an array keeps the array.
            tensor = keras.ops.cast(keras.ops.copy(array), variable.dtype)
            compat.set_initializer(variable, _Once(tensor))
    return model


class _Once:
    """An initializer that hands over a tensor without keeping it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __call__(self, shape, dtype=None):
        tensor, self.tensor = self.tensor, None
        return tensor


def _scalar_zero(shape, dtype=None):
    return keras.ops.zeros((), dtype)
