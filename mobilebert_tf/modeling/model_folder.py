"""What a model folder holds: `config.json` and `model.safetensors`.

A folder is what every command reads and writes. It is a Hugging Face folder
too: same keys, same names, same layouts.
"""

import dataclasses
import os
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.weight_names import match_weights

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"

# What Hugging Face's files may hold beyond our variables: the tied copies of
# tensors that are read under another name, and the constant 0, 1, 2, ...
_REDUNDANT = {
    "cls.predictions.decoder.weight",
    "cls.predictions.decoder.bias",
    "mobilebert.embeddings.position_ids",
}
_ENCODER_PREFIX = "mobilebert."


class ModelFolderMixin:
    """Gives a model class its name in a folder and the way to write one.

    Attributes:
        architecture: Hugging Face's name of the class.
        has_label_names: whether the class is constructed with names of
            classes, which then travel in `config.json`.
    """

    architecture: str
    has_label_names = False

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Writes this model's files into `folder`, each atomically."""
        folder = Path(folder)
        _write_weights(self, folder / WEIGHTS_FILE)
        extra = {"architectures": [self.architecture]}
        if self.has_label_names:
            names = self.label_names
            extra["id2label"] = {str(i): name for i, name in enumerate(names)}
            extra["label2id"] = {name: i for i, name in enumerate(names)}
        self.config.to_json(folder / CONFIG_FILE, **extra)


def load_weights(
    model: keras.Model, folder: str | os.PathLike, heads_may_follow=False
) -> None:
    """Assigns every variable of `model` from the folder's weights file.

    Args:
        model: a model of the folder's config.
        folder: a model folder.
        heads_may_follow: whether the file may also hold tensors outside the
            encoder (an encoder is taken from a task model).

    Raises:
        InputError: naming all missing, surplus, misshapen, mistyped or
            non-finite tensors; nothing is assigned then.
    """
    path = Path(folder) / WEIGHTS_FILE
    pairs = match_weights(model, model.config, model.architecture)
    arrays = _read_arrays(path, pairs, heads_may_follow)
    for (variable, _, _), array in zip(pairs, arrays, strict=True):
        variable.assign(array)


def _write_weights(model: keras.Model, path: Path) -> None:
    tensors = {}
    for variable, name, transposed in match_weights(
        model, model.config, model.architecture
    ):
        array = keras.ops.convert_to_numpy(variable.value)
        tensors[name] = np.ascontiguousarray(array.T if transposed else array)
    with atomic_file(path) as temporary:
        # Hugging Face refuses a file that does not say it is PyTorch-shaped.
        save_file(tensors, temporary, metadata={"format": "pt"})


@dataclasses.dataclass
class _Problems:
    """All that is wrong with a weights file, reported at once."""

    path: Path
    found: list[str] = dataclasses.field(default_factory=list)

    def raise_if_any(self):
        if self.found:
            shown = "; ".join(self.found[:8])
            more = len(self.found) - 8
            if more > 0:
                shown += f"; and {more} more"
            raise InputError(self.path, "the tensors of its config", shown)


def _read_arrays(path: Path, pairs, heads_may_follow) -> list[np.ndarray]:
    if path.with_name("pytorch_model.bin").exists() and not path.exists():
        raise InputError(
            path.with_name("pytorch_model.bin"),
            f"{WEIGHTS_FILE} (a pickle may run code and is never opened; "
            "convert it with safetensors' convert script)",
            "a PyTorch pickle",
        )
    try:
        with safe_open(path, framework="numpy") as file:
            return _read_open_file(path, file, pairs, heads_may_follow)
    except FileNotFoundError as error:
        raise InputError(path, "a weights file", "no such file") from error
    except (SafetensorError, OSError) as error:
        raise InputError(path, "a safetensors file", error) from error


def _read_open_file(path: Path, file, pairs, heads_may_follow):
    problems = _Problems(path)
    in_file = _full_names(file.keys())
    present = set(in_file)
    arrays = []
    for variable, name, transposed in pairs:
        if name not in present:
            problems.found.append(f"{name} missing")
            continue
        present.discard(name)
        array = file.get_tensor(in_file[name])
        array = array.T if transposed else array
        if array.shape != tuple(variable.shape):
            problems.found.append(
                f"{name} of shape {array.shape}, not {tuple(variable.shape)}"
            )
        elif array.dtype != np.float32:
            problems.found.append(f"{name} of type {array.dtype}, not float32")
        elif not np.isfinite(array).all():
            problems.found.append(f"{name} with non-finite values")
        arrays.append(array)
    present -= _REDUNDANT
    if heads_may_follow:
        present = {
            name for name in present if name.startswith("mobilebert.encoder.")
        }
    problems.found.extend(f"{name} surplus" for name in sorted(present))
    problems.raise_if_any()
    return arrays


def _full_names(names) -> dict[str, str]:
    """Maps full tensor names to those in the file.

    Hugging Face writes an encoder alone without the prefix that the encoder
    of a task model has.
    """
    names = list(names)
    if any(name.startswith(_ENCODER_PREFIX) for name in names):
        return {name: name for name in names}
    return {_ENCODER_PREFIX + name: name for name in names}
