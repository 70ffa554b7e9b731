"""Any source as one of our models, with its tensors still on disk."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.conversion import (
    hugging_face,
    model_garden,
    model_garden_names,
    sources,
    tf1,
    tf1_names,
)
from mobilebert_tf.conversion.sources import Source
from mobilebert_tf.conversion.tensors import (
    Match,
    blank_model,
    match,
    surplus,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.modeling.pretrained import architecture_of, label_names_of
from mobilebert_tf.modeling.weight_names import variables_by_path
from mobilebert_tf.presets import PRESETS

_UNREAD_POOLER = (r"(.*[/.])?pooler[/.].*", "a pooler that this head ignores")


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A source, read as one of our models; its tensors are still on disk.

    Attributes:
        source: where it came from.
        match: which tensor is what.
        notes: what was resolved or left behind, for people.
    """

    source: Source
    match: Match
    notes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Dialect:
    """How checkpoints of one kind are read.

    Attributes:
        read: from a prefix and a scope to tensors by name.
        names: from config and architecture to the rows of its table.
        heads: the rows outside the encoder, by architecture.
        dropped: (pattern, reason) of what is left behind.
        normalization_type: from a prefix and a scope to the kind of norm, where
            names do not tell.
    """

    read: Callable
    names: Callable
    heads: Mapping
    dropped: tuple
    normalization_type: Callable = lambda prefix, scope: None


_TF1 = _Dialect(
    tf1.read_checkpoint,
    tf1_names.tf1_names,
    tf1_names.HEADS,
    tf1_names.DROPPED,
)
_DIALECTS = {
    sources.TF1: _TF1,
    sources.SAVED_MODEL: _TF1,
    sources.MODEL_GARDEN: _Dialect(
        model_garden.read_model_garden,
        model_garden_names.model_garden_names,
        model_garden_names.HEADS,
        model_garden_names.DROPPED,
        model_garden.normalization_type,
    ),
}


def read_source(
    path: str | os.PathLike,
    *,
    config: MobileBertConfig | None = None,
    scope: str | None = None,
    architecture: str | None = None,
    label_names: Sequence[str] | None = None,
) -> Conversion:
    """Reads what a path holds as one of our models.

    Args:
        path: a folder, a checkpoint's prefix, or one of its files.
        config: the model's; the one beside the weights if not given.
        scope: `teacher` for the teacher of a distillation checkpoint.
        architecture: the class, a key of `MODEL_CLASSES`; by default the one
            whose heads the source has.
        label_names: names of a classifier's classes.

    Raises:
        InputError: if the source is not recognised, its config is not known,
            its tensors are not exactly those of the config, all listed, or the
            names are no classes' of it.
    """
    source = sources.find_source(path)
    if source.kind == sources.HUGGING_FACE:
        if scope is not None:
            raise InputError(path, "no --scope for a folder", scope)
        found = _read_hugging_face(source, config, architecture, label_names)
    else:
        found = _read_checkpoint(
            source, config, scope, architecture, label_names
        )
    if label_names is not None:
        _check_label_names(label_names, found.model)
    notes = _notes(found, scope)
    activation = found.model.config.hidden_act
    if source.kind == sources.MODEL_GARDEN and activation.startswith("gelu"):
        notes["GELU"] = (
            f"`{activation}`, from the config: checkpoints do not say. Model "
            "Garden computes `gelu_erf` where a config asks for gelu, and "
            "`gelu` in what it converted from TensorFlow 1"
        )
    return Conversion(source, found, notes)


def _check_label_names(label_names: Sequence[str], model) -> None:
    if not model.has_label_names:
        raise InputError(
            "--label_names", "a model that has classes", model.architecture
        )
    if len(set(label_names)) < len(label_names) or "" in label_names:
        raise InputError(
            "--label_names", "different names", ", ".join(label_names)
        )


def _read_hugging_face(source, config, architecture, label_names) -> Match:
    config_file = source.path / CONFIG_FILE
    values = read_json_object(config_file)
    config = config or MobileBertConfig.from_json(config_file)
    architecture = architecture or architecture_of(config_file, values)
    label_names = label_names or label_names_of(config_file, values)
    return _match(
        source,
        blank_model(config, architecture, label_names),
        hugging_face.read_folder(source.path),
        hugging_face.hugging_face_names(config, architecture),
        hugging_face.DROPPED,
    )


def _read_checkpoint(source, config, scope, architecture, label_names) -> Match:
    dialect = _DIALECTS[source.kind]
    tensors = dialect.read(source.path, scope)
    architecture = architecture or _architecture_of(tensors, dialect.heads)
    if architecture not in dialect.heads:
        raise InputError(
            source.path,
            f"--architecture among {', '.join(dialect.heads)}",
            architecture,
        )
    norm = dialect.normalization_type(source.path, scope)
    if label_names is None:
        count = _num_labels_of(tensors, dialect.heads[architecture])
        label_names = [f"LABEL_{index}" for index in range(count)]

    def match_with(config):
        if norm not in (None, config.normalization_type):
            raise InputError(
                source.path,
                f"norms of its config, {config.normalization_type}",
                norm,
            )
        model = blank_model(config, architecture, label_names)
        names = dialect.names(config, architecture)
        return _match(source, model, tensors, names, dialect.dropped)

    def may_fit(config):
        rows = list(dialect.names(config, architecture))
        last_block = f"encoder/block_{config.num_hidden_layers - 1:02d}/"
        return not surplus(
            {theirs for theirs, _, _ in rows}, tensors, dialect.dropped
        ) and any(
            theirs in tensors and ours.startswith(last_block)
            for theirs, ours, _ in rows
        )

    if config is None:
        config = _config_beside(source, may_fit, match_with)
    return match_with(config)


def _architecture_of(tensors: Mapping, heads: Mapping) -> str:
    """Names the class whose head a checkpoint has.

    A classifier of sequences and one of tokens look alike in TensorFlow 1;
    there the former, which stands first, is meant.
    """
    present = [
        architecture
        for architecture, table in heads.items()
        if all(theirs in tensors for theirs, _, _ in table[:1] + table[-1:])
    ]
    # Pre-training before its two halves.
    return max(present, key=lambda architecture: len(heads[architecture]))


def _num_labels_of(tensors: Mapping, table) -> int:
    """Returns the number of classes of a checkpoint's head, at least one."""
    for theirs, ours, _ in table:
        shape = tensors[theirs].shape if theirs in tensors else ()
        if ours == "head/dense/bias" and len(shape) == 1:
            return max(shape[0], 1)
    return 1


def _match(source, model, tensors, table, dropped) -> Match:
    has_pooler = "encoder/pooler/kernel" in variables_by_path(model)
    if model.config.classifier_activation and not has_pooler:
        dropped = (*dropped, _UNREAD_POOLER)
    return match(source.path, model, tensors, table, dropped)


def _config_beside(source: Source, may_fit, match_with) -> MobileBertConfig:
    config_file = source.config_file()
    if config_file is not None:
        return MobileBertConfig.from_json(config_file)
    fitting = []
    for preset in PRESETS:
        config = MobileBertConfig.from_preset(preset)
        # The names are checked first: a model to check shapes takes seconds.
        if may_fit(config) and _fits(match_with, config):
            fitting.append(preset)
    found = "none"
    if fitting:
        found += f" (its tensors fit --preset={' or '.join(fitting)})"
    raise InputError(
        source.folder,
        f"a config: {' or '.join(sources.CONFIG_FILES)} beside the weights, "
        "--config_file or --preset",
        found,
    )


def _fits(match_with: Callable, config: MobileBertConfig) -> bool:
    try:
        match_with(config)
    except InputError:
        return False
    return True


def _notes(match: Match, scope: str | None) -> dict[str, str]:
    """Says what was resolved or left behind."""
    notes = {}
    if match.dropped:
        notes["Left behind"] = "; ".join(
            f"{reason} ({count:,})" for reason, count in match.dropped.items()
        )
    if scope is not None:
        notes["Scope"] = f"`{scope}/` only"
    config = match.model.config
    notes["Padded keys"] = (
        f"`{config.attention_mask_form}` mask of "
        f"{config.attention_mask_value:g}, from the config: checkpoints do not "
        "say. The published weights were trained with `additive`, -10000; the "
        "released code has `multiply_add`, -6, since mid-2020"
    )
    words = match.variables["encoder/embeddings/word_embeddings"].tensor
    pad_row = "zero, as in Hugging Face's copy of the published weights"
    if words.read()[0].any():
        pad_row = "not zero, as in the published TensorFlow 1 checkpoint"
    notes["Word embedding of [PAD]"] = pad_row
    return notes
