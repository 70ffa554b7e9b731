"""What a path holds: which kind of weights, and which config beside them."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import tensorflow as tf

from mobilebert_tf.conversion.model_garden import is_object_checkpoint
from mobilebert_tf.conversion.tf1 import open_checkpoint
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import is_hub_name, model_folder
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.modeling.stored_weights import INDEX_FILE, WEIGHTS_FILE

TF1 = "TensorFlow 1 checkpoint"
SAVED_MODEL = "TensorFlow 1 SavedModel"
MODEL_GARDEN = "Model Garden checkpoint"
HUGGING_FACE = "Hugging Face folder"

CONFIG_FILES = (CONFIG_FILE, "bert_config.json")
_INDEX = ".index"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@dataclasses.dataclass(frozen=True)
class Source:
    """Somebody's weights, found but not read.

    Attributes:
        kind: one of the kinds above.
        path: the folder, for Hugging Face; a checkpoint's prefix otherwise.
        folder: where its config and vocabulary would be.
    """

    kind: str
    path: Path
    folder: Path

    def files(self) -> list[Path]:
        """Returns the files that hold the weights, for their hashes."""
        if self.kind == HUGGING_FACE:
            return sorted(self.path.glob("model*.safetensors"))
        return sorted(
            file
            for file in self.path.parent.glob(f"{self.path.name}.*")
            if file.suffix == _INDEX or ".data-" in file.name
        )

    def config_file(self) -> Path | None:
        """Returns the config beside the weights, if there is one."""
        for name in CONFIG_FILES:
            if (self.folder / name).is_file():
                return self.folder / name
        return None


def find_source(path: str | os.PathLike) -> Source:
    """Recognises what `path` holds.

    Args:
        path: a folder, a checkpoint's prefix, one of its files, or the name of
            a model on the hub, as which a relative prefix may read: what lies
            here comes first.

    Raises:
        InputError: if it holds no weights, several checkpoints, or a pickle,
            or there is nothing of that name, or nothing that may be read.
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
    if path.name in (WEIGHTS_FILE, INDEX_FILE) and path.is_file():
        return Source(HUGGING_FACE, path.parent, path.parent)
    prefix = _prefix(path)
    if prefix is not None:
        return _checkpoint(prefix)
    if path.is_file() and path.suffix in _PICKLES:
        raise _pickle(path)
    if not path.exists() and is_hub_name(name):
        return _in_folder(model_folder(name))
    found = "another file" if path.exists() else "no such file or folder"
    raise InputError(
        path, "a checkpoint's prefix, its .index file, or a folder", found
    )


def _in_folder(folder: Path) -> Source:
    if (folder / WEIGHTS_FILE).is_file() or (folder / INDEX_FILE).is_file():
        return Source(HUGGING_FACE, folder, folder)
    if (folder / "variables" / f"variables{_INDEX}").is_file():
        return _checkpoint(folder / "variables" / "variables", folder)
    if (folder / f"variables{_INDEX}").is_file():
        return _checkpoint(folder / "variables", folder.parent)
    try:
        latest = tf.train.latest_checkpoint(os.fspath(folder))
    except UnicodeDecodeError as error:
        raise InputError(
            folder / "checkpoint", "a list of checkpoints", error
        ) from error
    if latest is not None:
        return _checkpoint(Path(latest))
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
        f"{WEIGHTS_FILE}, a checkpoint's .index, or variables/",
        _listing(folder),
    )


def _checkpoint(prefix: Path, saved_model: Path | None = None) -> Source:
    if is_object_checkpoint(open_checkpoint(prefix)):
        return Source(MODEL_GARDEN, prefix, prefix.parent)
    if saved_model is not None:
        return Source(SAVED_MODEL, prefix, saved_model)
    return Source(TF1, prefix, prefix.parent)


def _prefix(path: Path) -> Path | None:
    """Returns the prefix of the checkpoint that `path` names, or None."""
    name = path.name
    for end in (_INDEX, ".meta"):
        name = name.removesuffix(end)
    name = name.split(".data-")[0]
    prefix = path.with_name(name)
    return prefix if Path(f"{prefix}{_INDEX}").is_file() else None


def _pickle(path: Path) -> InputError:
    return InputError(
        path,
        f"{WEIGHTS_FILE} (a pickle may run code and is never opened; convert "
        "it with transformers: AutoModel.from_pretrained(FOLDER)"
        ".save_pretrained(NEW_FOLDER))",
        "a PyTorch pickle",
    )


def _listing(folder: Path) -> str:
    names: Sequence[str] = sorted(file.name for file in folder.iterdir())
    shown = ", ".join(names[:5])
    return f"{shown}, ..." if len(names) > 5 else shown or "an empty folder"
