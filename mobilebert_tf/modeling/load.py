"""Opening a model folder as the class that was saved."""

import os
from collections.abc import Callable
from pathlib import Path

import keras

from mobilebert_tf import compat
from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import model_folder
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.folder import (
    CONFIG_FILE,
    load_weights,
    read_weights,
)
from mobilebert_tf.modeling.models import (
    MobileBertForMaskedLM,
    MobileBertForMultipleChoice,
    MobileBertForNextSentencePrediction,
    MobileBertForPretraining,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)

MODEL_CLASSES = {
    model_class.architecture: model_class
    for model_class in (
        MobileBertEncoder,
        MobileBertForPretraining,
        MobileBertForMaskedLM,
        MobileBertForNextSentencePrediction,
        MobileBertForSequenceClassification,
        MobileBertForTokenClassification,
        MobileBertForQuestionAnswering,
        MobileBertForMultipleChoice,
    )
}


def load(
    name_or_path: str | os.PathLike,
    dtype_of: Callable[[keras.Variable], str] | None = None,
) -> keras.Model:
    """Returns the model of a folder or of the hub, as the class it was saved.

    Args:
        name_or_path: see `hub.model_folder`.
        dtype_of: what a variable is to be held in, rounded as it is read; the
            dtype policy decides if not given.

    Raises:
        InputError: if there is no such model, a file is missing, unreadable,
            or does not hold exactly the tensors that its config asks for.
    """
    folder = model_folder(name_or_path)
    config_file = folder / CONFIG_FILE
    config = MobileBertConfig.from_json(config_file)
    values = read_json_object(config_file)
    architecture = architecture_of(config_file, values)
    model_class = MODEL_CLASSES[architecture]
    arguments = {}
    if model_class.has_label_names:
        arguments["label_names"] = label_names_of(config_file, values)
    return _build_with_weights(
        lambda: model_class(config, **arguments), folder, dtype_of
    )


def load_encoder_weights(
    encoder: MobileBertEncoder, folder: str | os.PathLike
) -> None:
    """Assigns an encoder's variables from a folder of any class.

    Raises:
        InputError: if the folder does not hold exactly this encoder's tensors
            (those of its head are left behind).
    """
    load_weights(encoder, folder, heads_may_follow=True)


def architecture_of(config_file: Path, values: dict) -> str:
    """Returns the class that a folder's `config.json` values name.

    Raises:
        InputError: if there is no such class.
    """
    found = values.get("architectures") or ["(none)"]
    if found[0] not in MODEL_CLASSES:
        known = ", ".join(MODEL_CLASSES)
        raise InputError(
            config_file, f"one of {known}", found[0], place="architectures"
        )
    return found[0]


def label_names_of(config_file: Path, values: dict) -> list[str]:
    """Returns the names of the classes in a folder's `config.json` values.

    Raises:
        InputError: if they are missing or not numbered 0, 1, ...
    """
    names = values.get("id2label")
    if names is None:
        # Hugging Face leaves its default, two unnamed classes, unsaid.
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
    build: Callable[[], keras.Model],
    folder: Path,
    dtype_of: Callable[[keras.Variable], str] | None,
) -> keras.Model:
    """Builds a model whose variables begin with a folder's weights.

    Drawing random weights first would take seconds and, for a moment, more
    than twice their memory. Here they are read before there are variables,
    which then take them over without a copy.
    """
    # Keras gives variables made in this scope their values when it ends.
    with keras.StatelessScope():
        model = build()
        for variable in model.weights:
            # Costs nothing, should the folder be refused.
            compat.set_initializer(variable, _nothing)
            if dtype_of:
                compat.set_dtype(variable, dtype_of(variable))
        for variable, array in read_weights(model, folder):
            # A copy: TensorFlow's own tensor of an array keeps the array.
            tensor = keras.ops.cast(keras.ops.copy(array), variable.dtype)
            compat.set_initializer(variable, _Once(tensor))
    return model


class _Once:
    """An initializer that hands over a tensor, and does not keep it."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __call__(self, shape, dtype=None):
        tensor, self.tensor = self.tensor, None
        return tensor


def _nothing(shape, dtype=None):
    return keras.ops.zeros((), dtype)
