"""Recognising other people's weights and matching them with a model of ours.

Tensors stay on disk until they are written (see `writing`).
"""

import dataclasses
import fnmatch
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.conversion import model_garden, names, tf1
from mobilebert_tf.conversion.tensors import (
    SAME,
    Match,
    Matched,
    blank_model,
    in_our_layout,
    left_behind,
    match,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import PUBLISHED, source_folder, unpickling_command
from mobilebert_tf.modeling.folder import (
    CONFIG_FILE,
    INDEX_FILE,
    KERAS_FILE,
    WEIGHTS_FILE,
    match_folder,
    stored_tensors,
    unread_tensors,
    weights_path,
)
from mobilebert_tf.modeling.load import NO_POOLER, check_depth, saved_model
from mobilebert_tf.modeling.weight_names import variables_by_path
from mobilebert_tf.presets import PRESETS

TF1 = "TensorFlow 1 checkpoint"
SAVED_MODEL = "TensorFlow 1 SavedModel"
MODEL_GARDEN = "Model Garden checkpoint"
HUGGING_FACE = "Hugging Face folder"

CONFIG_FILES = (CONFIG_FILE, "bert_config.json")
_WEIGHTS_FILES = (WEIGHTS_FILE, INDEX_FILE, KERAS_FILE)
_INDEX = ".index"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclasses.dataclass(frozen=True)
class Source:
    """Weights that were found but not read.

    Attributes:
        kind: one of the kinds above.
        path: a folder for Hugging Face, else the prefix of a checkpoint.
        folder: folder of its config and vocabulary.
        preset: architecture of published weights, in case they have no config.
    """

    kind: str
    path: Path
    folder: Path
    preset: str | None = None

    def files(self) -> list[Path]:
        """Returns the files with the weights, for their digests."""
        if self.kind == HUGGING_FACE:
            found = sorted(self.path.glob("model*.safetensors"))
            return found or [weights_path(self.path)]
        return sorted(
            file
            for file in self.path.parent.glob(f"{self.path.name}.*")
            if file.suffix == _INDEX or ".data-" in file.name
        )

    def config_file(self) -> Path | None:
        """Returns the config beside the weights, or None."""
        for name in CONFIG_FILES:
            if (self.folder / name).is_file():
                return self.folder / name
        return None


def find_source(path: str | os.PathLike) -> Source:
    """Recognises the weights at `path`.

    Args:
        path: a folder, the prefix of a checkpoint, one of its files, or the
            name of a model on the hub. A relative prefix may look like the
            latter; local files win.

    Raises:
        InputError: there are no weights, several checkpoints, or a pickle, or
            they may not be read.
    """
    try:
        return _recognised(path)
    except PermissionError as error:
        raise InputError(
            path, "what may be read", f"{error.filename}: {error.strerror}"
        ) from error


def _recognised(path: str | os.PathLike) -> Source:
    name, path = os.fspath(path), Path(path)
    if path.is_dir():
        return _in_folder(path)
    if path.name in _WEIGHTS_FILES and path.is_file():
        return Source(HUGGING_FACE, path.parent, path.parent)
    prefix = _prefix(path)
    if prefix is not None:
        return _checkpoint(prefix)
    if path.is_file() and path.suffix in _PICKLES:
        raise _pickle(path)
    folder = None if path.exists() else source_folder(name)
    if folder is not None:
        source, published = _in_folder(folder), PUBLISHED.get(name)
        preset = published.preset if published else None
        return dataclasses.replace(source, preset=preset)
    found = "another file" if path.exists() else "no such file or folder"
    raise InputError(
        path,
        "a checkpoint's prefix, its .index file, a folder, or one of "
        f"{', '.join(PUBLISHED)}",
        found,
    )


def _in_folder(folder: Path) -> Source:
    if any((folder / name).exists() for name in _WEIGHTS_FILES):
        return Source(HUGGING_FACE, folder, folder)
    if (folder / "variables" / f"variables{_INDEX}").is_file():
        return _checkpoint(folder / "variables" / "variables", folder)
    if (folder / f"variables{_INDEX}").is_file():
        return _checkpoint(folder / "variables", folder.parent)
    latest = tf1.latest_checkpoint(folder)
    if latest is not None:
        return _checkpoint(latest)
    prefixes = [_prefix(file) for file in sorted(folder.glob(f"*{_INDEX}"))]
    if len(prefixes) == 1:
        return _checkpoint(prefixes[0])
    if prefixes:
        raise InputError(
            folder,
            "one checkpoint (or the prefix of one)",
            ", ".join(prefix.name for prefix in prefixes),
        )
    pickles = [file for file in folder.iterdir() if file.suffix in _PICKLES]
    if pickles:
        raise _pickle(sorted(pickles)[0])
    raise InputError(
        folder,
        f"{WEIGHTS_FILE}, {KERAS_FILE}, a checkpoint's .index, or variables/",
        _listing(folder),
    )


def _checkpoint(prefix: Path, saved_model: Path | None = None) -> Source:
    if model_garden.is_object_checkpoint(tf1.open_checkpoint(prefix)):
        return Source(MODEL_GARDEN, prefix, prefix.parent)
    if saved_model is not None:
        return Source(SAVED_MODEL, prefix, saved_model)
    return Source(TF1, prefix, prefix.parent)


def _prefix(path: Path) -> Path | None:
    """Returns the prefix of the checkpoint that `path` belongs to, or None."""
    name = path.name
    for end in (_INDEX, ".meta"):
        name = name.removesuffix(end)
    name = name.split(".data-")[0]
    prefix = path.with_name(name)
    return prefix if Path(f"{prefix}{_INDEX}").is_file() else None


def _pickle(path: Path) -> InputError:
    return InputError(
        path,
        f"{WEIGHTS_FILE} (a pickle may run code and is never opened; "
        f"{unpickling_command(path.parent)})",
        "a PyTorch pickle",
    )


def _listing(folder: Path) -> str:
    files = sorted(file.name for file in folder.iterdir())
    shown = ", ".join(files[:5])
    return f"{shown}, ..." if len(files) > 5 else shown or "an empty folder"


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A source matched with one of our models.

    Attributes:
        notes: what was resolved, changed or left behind, for the model card.
    """

    source: Source
    match: Match
    notes: dict[str, str]


@dataclasses.dataclass(frozen=True)
class _Dialect:
    """How checkpoints of one kind are read.

    Attributes:
        read: takes a prefix and a scope, returns tensors by name.
        names: takes config and architecture, yields the rows of its table.
        heads: the rows outside the encoder, by architecture.
        dropped: (pattern, reason) of tensors that are left behind.
        normalization_type: takes a prefix and a scope, returns the kind of
            norm if names do not tell it.
    """

    read: Callable
    names: Callable
    heads: Mapping
    dropped: tuple
    normalization_type: Callable = lambda prefix, scope: None


_TF1 = _Dialect(
    tf1.read_checkpoint, names.tf1_names, names.TF1_HEADS, names.TF1_DROPPED
)
_DIALECTS = {
    TF1: _TF1,
    SAVED_MODEL: _TF1,
    MODEL_GARDEN: _Dialect(
        model_garden.read_model_garden,
        names.model_garden_names,
        names.MODEL_GARDEN_HEADS,
        names.MODEL_GARDEN_DROPPED,
        model_garden.normalization_type,
    ),
}


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What a user may say about the weights.

    Attributes:
        config: the model's config; by default the one beside the weights.
        scope: `teacher` for the teacher in a distillation checkpoint.
        architecture: the class, a key of `MODEL_CLASSES`; by default the one
            whose heads the source has.
        label_names: names of a classifier's classes.
        leave_behind: patterns (`*`, `?`) of tensors to ignore.
    """

    config: MobileBertConfig | None = None
    scope: str | None = None
    architecture: str | None = None
    label_names: Sequence[str] | None = None
    leave_behind: Sequence[str] = ()


def read_source(path: str | os.PathLike, **wishes) -> Conversion:
    """Reads the weights at `path` as one of our models.

    Args:
        path: see `find_source`.
        **wishes: see `Wishes`.

    Raises:
        InputError: the source is not recognised, its config is not known, its
            tensors are not exactly those of the config, or it has no classes
            to name.
    """
    source, wishes = find_source(path), Wishes(**wishes)
    if source.kind != HUGGING_FACE:
        found = _read_checkpoint(source, wishes)
    elif wishes.scope is None:
        found = _read_hugging_face(source, wishes)
    else:
        raise InputError(path, "no --scope for a folder", wishes.scope)
    if wishes.label_names is not None:
        _check_label_names(wishes.label_names, found.model)
    notes = _notes(found, wishes.scope)
    activation = found.model.config.hidden_act
    if source.kind == MODEL_GARDEN and activation.startswith("gelu"):
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


def _read_hugging_face(source: Source, wishes: Wishes) -> Match:
    saved = saved_model(source.path, wishes.architecture)
    config = wishes.config or saved.config
    check_depth(source.path, config, len(stored_tensors(source.path)[0]))
    model = blank_model(
        config,
        saved.architecture,
        wishes.label_names or saved.label_names,
    )
    entries, changes = match_folder(
        model, source.path, leave_behind=wishes.leave_behind
    )
    paths = {id(found): at for at, found in variables_by_path(model).items()}
    unsound, variables = [], {}
    for entry in entries:
        shape = tuple(entry.variable.shape)
        values = in_our_layout(entry.name, entry, SAME, shape, unsound)
        variables[paths[id(entry.variable)]] = Matched(
            entry.name, entry.transposed, values
        )
    return Match(model, variables, {}, [*saved.changes, *changes], unsound)


def _read_checkpoint(source: Source, wishes: Wishes) -> Match:
    dialect = _DIALECTS[source.kind]
    tensors = dialect.read(source.path, wishes.scope)
    architecture = wishes.architecture or _architecture_of(
        tensors, dialect.heads
    )
    if architecture not in dialect.heads:
        raise InputError(
            source.path,
            f"--architecture among {', '.join(dialect.heads)}",
            architecture,
        )
    norm = dialect.normalization_type(source.path, wishes.scope)
    label_names = wishes.label_names
    if label_names is None:
        count = _num_labels_of(tensors, dialect.heads[architecture])
        label_names = [f"LABEL_{index}" for index in range(count)]
    asked = [
        (fnmatch.translate(pattern), "as asked for")
        for pattern in wishes.leave_behind
    ]

    def match_with(config):
        if norm not in (None, config.normalization_type):
            raise InputError(
                source.path,
                f"norms of its config, {config.normalization_type}",
                norm,
            )
        model = blank_model(config, architecture, label_names)
        dropped = (*asked, *dialect.dropped, *unread_tensors(model))
        table = dialect.names(config, architecture)
        return match(source.path, model, tensors, table, dropped)

    def may_fit(config):
        rows = list(dialect.names(config, architecture))
        last_block = f"encoder/block_{config.num_hidden_layers - 1:02d}/"
        _, surplus = left_behind(
            tensors, {theirs for theirs, _, _ in rows}, dialect.dropped
        )
        return not surplus and any(
            theirs in tensors and ours.startswith(last_block)
            for theirs, ours, _ in rows
        )

    config = wishes.config or _config_beside(source, may_fit, match_with)
    check_depth(source.path, config, len(tensors))
    if architecture == "MobileBertModel" and config.classifier_activation:
        rows = dialect.names(config, architecture)
        poolers = {theirs for theirs, ours, _ in rows if "/pooler/" in ours}
        if not poolers & set(tensors):
            config = dataclasses.replace(config, classifier_activation=False)
            found = match_with(config)
            return dataclasses.replace(
                found, changes=[*found.changes, NO_POOLER]
            )
    return match_with(config)


def _architecture_of(tensors: Mapping, heads: Mapping) -> str:
    """Returns the class whose head a checkpoint has.

    In TensorFlow 1, classifiers of sequences and of tokens look alike; the
    former, which come first, are assumed.
    """
    present = [
        architecture
        for architecture, table in heads.items()
        if all(theirs in tensors for theirs, _, _ in table[:1] + table[-1:])
    ]
    # Pre-training before its two halves.
    return max(present, key=lambda architecture: len(heads[architecture]))


def _num_labels_of(tensors: Mapping, table) -> int:
    """Returns the number of classes in a checkpoint's head, at least 1."""
    for theirs, ours, _ in table:
        shape = tensors[theirs].shape if theirs in tensors else ()
        if ours == "head/dense/bias" and len(shape) == 1:
            return max(shape[0], 1)
    return 1


def _config_beside(source: Source, may_fit, match_with) -> MobileBertConfig:
    config_file = source.config_file()
    if config_file is not None:
        return MobileBertConfig.from_json(config_file)
    if source.preset is not None:
        return MobileBertConfig.from_preset(source.preset)
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
        f"a config: {' or '.join(CONFIG_FILES)} beside the weights, "
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
    notes = {}
    if match.dropped:
        notes["Left behind"] = "; ".join(
            f"{reason} ({count:,})" for reason, count in match.dropped.items()
        )
    if match.changes:
        notes["Changed"] = "; ".join(match.changes)
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
