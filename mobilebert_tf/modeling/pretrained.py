"""Opening a model folder as the class that was saved."""

import os
from pathlib import Path

import keras

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.model_folder import CONFIG_FILE, load_weights
from mobilebert_tf.modeling.models import (
    MobileBertForMultipleChoice,
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
        MobileBertForSequenceClassification,
        MobileBertForTokenClassification,
        MobileBertForQuestionAnswering,
        MobileBertForMultipleChoice,
    )
}


def load(folder: str | os.PathLike) -> keras.Model:
    """Returns the model a folder holds, as the class that was saved.

    Raises:
        InputError: if a file is missing, unreadable, or does not hold exactly
            the tensors that its config asks for.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(folder, "a model folder", "no such folder")
    config_file = folder / CONFIG_FILE
    config = MobileBertConfig.from_json(config_file)
    values = read_json_object(config_file)
    architecture = _architecture(config_file, values)
    model_class = MODEL_CLASSES[architecture]
    arguments = {}
    if model_class.has_label_names:
        arguments["label_names"] = label_names_of(config_file, values)
    model = model_class(config, **arguments)
    load_weights(model, folder)
    return model


def load_encoder_weights(
    encoder: MobileBertEncoder, folder: str | os.PathLike
) -> None:
    """Assigns an encoder's variables from a folder of any class.

    Raises:
        InputError: if the folder does not hold exactly this encoder's tensors
            (those of its head are left behind).
    """
    load_weights(encoder, folder, heads_may_follow=True)


def _architecture(config_file: Path, values: dict) -> str:
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
