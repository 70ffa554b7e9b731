"""Opening a model folder as the class that was saved."""

import dataclasses
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import keras

from mobilebert_tf import compat
from mobilebert_tf.config import (
    MobileBertConfig,
    label_names_of,
    read_json_object,
    unnamed_labels,
)
from mobilebert_tf.errors import InputError, shortened
from mobilebert_tf.hub import model_folder
from mobilebert_tf.modeling import models
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.modeling.folder import (
    CONFIG_FILE,
    PretrainedModel,
    read_weights,
    stored_tensors,
)
from mobilebert_tf.modeling.weight_names import HEADS, WITH_MASKED_LM

# A model of so many is built although the weights have fewer tensors, and those
# that are missing are listed.
_FEW_NETWORKS = 200
NO_POOLER = "no pooler in the weights: pooled_output is the raw [CLS] vector"

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


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """What the config of a folder describes.

    Attributes:
        config: the config.
        architecture: the class, a key of `MODEL_CLASSES`.
        label_names: names of the classes; those of a folder without classes
            are never used.
        changes: what the weights make different, for the user.
    """

    config: MobileBertConfig
    architecture: str
    label_names: Sequence[str]
    changes: Sequence[str] = ()

    def build(self) -> PretrainedModel:
        """Returns a new model."""
        model_class = MODEL_CLASSES[self.architecture]
        if model_class.has_label_names:
            return model_class(self.config, label_names=self.label_names)
        return model_class(self.config)


def saved_model(folder: Path, architecture: str | None = None) -> SavedModel:
    """Reads the config of a folder and compares it with the weights' names.

    Args:
        folder: a model folder.
        architecture: the class, if it is not to be the one of the config.

    Raises:
        InputError: a file is missing or malformed, the config names no class
            of ours, or it has more blocks or networks than the weights.
    """
    config_file = folder / CONFIG_FILE
    config = MobileBertConfig.from_json(config_file)
    values = read_json_object(config_file)
    tensors, _ = stored_tensors(folder)
    check_depth(config_file, config, len(tensors))
    if architecture is None:
        architecture = architecture_of(config_file, values, tensors)
    changes = []
    has_pooler = any(name.startswith("mobilebert.pooler") for name in tensors)
    only_encoder = architecture == MobileBertEncoder.architecture
    if only_encoder and config.classifier_activation and not has_pooler:
        config = dataclasses.replace(config, classifier_activation=False)
        changes.append(NO_POOLER)
    label_names = ["LABEL_0"]
    if MODEL_CLASSES[architecture].has_label_names:
        label_names = label_names_of(config_file, values)
    return SavedModel(config, architecture, label_names, changes)


def check_depth(
    source: Path, config: MobileBertConfig, num_tensors: int
) -> None:
    """Refuses a config whose model would take ages to build.

    Raises:
        InputError: it has more feed-forward networks than the weights, or
            their source, have tensors.
    """
    blocks, networks = config.num_hidden_layers, config.num_feedforward_networks
    if blocks * networks > max(_FEW_NETWORKS, num_tensors):
        raise InputError(
            source,
            "num_hidden_layers and num_feedforward_networks that fit its "
            f"{num_tensors:,} tensors",
            f"{blocks:,} and {networks:,}",
        )


def load(
    name_or_path: str | os.PathLike,
    dtype_of: Callable[[keras.Variable], str] | None = None,
    **unknown,
) -> PretrainedModel:
    """Returns the model of a folder, as the class that was saved.

    Args:
        name_or_path: a folder or a name on the hub (see `hub.model_folder`).
        dtype_of: returns the dtype to hold a variable in, to which it is
            rounded as it is read; by default the dtype policy decides.
        **unknown: refused, with the function that takes labels.

    Raises:
        InputError: there is no such model, a file is missing or unreadable,
            or it does not hold exactly the tensors of its config.
    """
    if unknown:
        raise TypeError(
            "load returns the model that was saved and takes no "
            f"{', '.join(unknown)}. For a new head: MobileBertForSequence"
            f"Classification.from_pretrained({os.fspath(name_or_path)!r}, "
            "num_labels=2), or label_names=[...]"
        )
    folder = model_folder(name_or_path)
    saved = saved_model(folder)
    if saved.changes:
        print(f"{folder}: {'; '.join(saved.changes)}", flush=True)
    return _build_with_weights(saved.build, folder, dtype_of)


def from_pretrained(
    model_class: type[PretrainedModel], name_or_path, **kwargs
) -> PretrainedModel:
    """See `PretrainedModel.from_pretrained`."""
    if model_class.has_label_names and "num_labels" in kwargs:
        kwargs["label_names"] = unnamed_labels(kwargs.pop("num_labels"))
    folder = model_folder(name_or_path)
    saved = saved_model(folder)
    fits = saved.architecture == model_class.architecture
    if fits and model_class.has_label_names:
        names = kwargs.setdefault("label_names", saved.label_names)
        fits = list(names) == saved.label_names
    config = saved.config
    if not fits:
        # A new head may read a pooler that the folder lacks.
        config = MobileBertConfig.from_json(folder / CONFIG_FILE)
    return _build_with_weights(
        lambda: model_class(config, **kwargs), folder, encoder_only=not fits
    )


def architecture_of(
    config_file: Path, values: dict, tensors: Collection[str] = ()
) -> str:
    """Returns the class of a folder.

    Args:
        config_file: for messages.
        values: those of `config.json`.
        tensors: names of the weights, whose heads tell the class where the
            config does not: early releases of Hugging Face did not write it.

    Raises:
        InputError: there is no such class, or the heads fit several.
    """
    found = values.get("architectures")
    if isinstance(found, list):
        found = found[0] if found else None
    if found is None and tensors:
        found = _architecture_with_heads(tensors)
    if not isinstance(found, str) or found not in MODEL_CLASSES:
        known = ", ".join(MODEL_CLASSES)
        raise InputError(
            config_file,
            f"one of {known}",
            shortened(found) if found else "none",
            "architectures",
        )
    return found


def _architecture_with_heads(tensors: Collection[str]) -> str | None:
    heads = {
        name.removesuffix(".weight").removesuffix(".bias")
        for name in tensors
        if not name.startswith(("mobilebert.", "cls.predictions."))
    }
    with_masked_lm = any(
        name.startswith("cls.predictions.") for name in tensors
    )
    fitting = [
        architecture
        for architecture, head in HEADS.items()
        if heads == ({head[1]} if head else set())
        and with_masked_lm == (architecture in WITH_MASKED_LM)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _build_with_weights(
    build: Callable[[], PretrainedModel],
    folder: Path,
    dtype_of: Callable[[keras.Variable], str] | None = None,
    encoder_only: bool = False,
) -> PretrainedModel:
    """Builds a model whose variables start with the weights of a folder.

    Drawing random weights first would take seconds and more than twice their
    memory. Here the weights are read before any variable has a value; those
    that the folder does not have are drawn when the scope ends.
    """
    # Keras gives variables made in this scope their values when it ends.
    with keras.StatelessScope():
        model = build()
        own = {}
        for variable in model.weights:
            # Costs nothing if the folder is refused.
            own[id(variable)] = compat.set_initializer(variable, _scalar_zero)
            if dtype_of:
                compat.set_dtype(variable, dtype_of(variable))
        part = getattr(model, "encoder", model) if encoder_only else model
        for variable, array in read_weights(part, folder, encoder_only):
            # A copy: TensorFlow's own tensor of an array keeps the array.
            tensor = keras.ops.cast(keras.ops.copy(array), variable.dtype)
            compat.set_initializer(variable, _Once(tensor))
            del own[id(variable)]
        for variable in model.weights:
            if id(variable) in own:
                compat.set_initializer(variable, own[id(variable)])
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
