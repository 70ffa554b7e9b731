"""What a model folder holds: `config.json` and `model.safetensors`.

A folder is what every command reads and writes. It is a Hugging Face folder
too: same keys, same names, same layouts. Weights go in and out a few rows at a
time, so that a model needs little more memory than itself.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.safetensors_file import (
    StoredTensor,
    write_tensors,
)
from mobilebert_tf.modeling.stored_weights import (
    WEIGHTS_FILE,
    read_arrays,
    read_rows,
    stored_tensors,
    tensor_problem,
    weights_path,
)
from mobilebert_tf.modeling.weight_names import (
    REDUNDANT,
    WITH_MASKED_LM,
    match_weights,
)

CONFIG_FILE = "config.json"

# Hugging Face has this tensor, empty, even where the word table is so wide
# that the head needs none.
_EXTRA_OUTPUT_WEIGHTS = "cls.predictions.dense.weight"
_MOST_PROBLEMS_SHOWN = 8


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
        self.save_config(folder)

    def save_config(self, folder: str | os.PathLike) -> None:
        """Writes the config alone, atomically, with the names of classes."""
        extra = {"architectures": [self.architecture]}
        if self.has_label_names:
            names = self.label_names
            extra["id2label"] = {str(i): name for i, name in enumerate(names)}
            extra["label2id"] = {name: i for i, name in enumerate(names)}
        self.config.to_json(Path(folder) / CONFIG_FILE, **extra)


def load_weights(
    model: keras.Model, folder: str | os.PathLike, heads_may_follow=False
) -> None:
    """Assigns every variable of `model` from the folder's weights.

    Names, shapes and types are checked in the header, values in a first pass
    over the file; only a second pass assigns. For a moment, a variable is in
    memory three times.

    Args:
        model: a model of the folder's config.
        folder: a model folder.
        heads_may_follow: whether the file may also hold tensors outside the
            encoder (an encoder is taken from a task model).

    Raises:
        InputError: naming all missing, surplus, misshapen, mistyped or
            non-finite tensors; nothing is assigned then.
    """
    for variable, array in read_weights(model, folder, heads_may_follow):
        variable.assign(array)


def read_weights(
    model: keras.Model, folder: str | os.PathLike, heads_may_follow=False
) -> Iterator[tuple[keras.Variable, np.ndarray]]:
    """Yields each variable of `model` with its array, the largest first.

    The largest first, so that nothing else is in memory yet while it is there
    twice. Args and errors as in `load_weights`: nothing is yielded from a
    folder that will be refused.
    """
    folder = Path(folder)
    tensors = stored_tensors(folder)
    pairs = match_weights(model, model.config, model.architecture)
    _check(weights_path(folder), tensors, pairs, heads_may_follow)
    pairs.sort(key=lambda pair: math.prod(pair[0].shape), reverse=True)
    wanted = {tensors[name]: transposed for _, name, transposed in pairs}
    arrays = read_arrays(wanted)
    for (variable, _, _), (_, array) in zip(pairs, arrays, strict=True):
        yield variable, array


def _check(path: Path, tensors, pairs, heads_may_follow: bool) -> None:
    """Refuses a file that does not hold exactly the tensors asked for."""
    dtypes = {tensors[name].dtype for _, name, _ in pairs if name in tensors}
    if len(dtypes) == 1 and dtypes != {"float32"}:
        raise InputError(path, "float32 weights", f"only {dtypes.pop()}")
    problems, readable, surplus = [], {}, dict(tensors)
    for variable, name, transposed in pairs:
        tensor = surplus.pop(name, None)
        problem = tensor_problem(tensor, _file_shape(variable, transposed))
        if problem:
            problems.append(f"{name} {problem}")
        else:
            readable[tensor] = name
    non_finite = {
        readable[tensor]: None
        for tensor, _, rows in read_rows(readable)
        if not np.isfinite(rows).all()
    }
    problems += [f"{name} with non-finite values" for name in non_finite]
    problems += [
        f"{name} surplus"
        for name in sorted(surplus)
        if not _may_be_left(name, surplus[name], heads_may_follow)
    ]
    if problems:
        shown = "; ".join(problems[:_MOST_PROBLEMS_SHOWN])
        more = len(problems) - _MOST_PROBLEMS_SHOWN
        if more > 0:
            shown += f"; and {more} more"
        raise InputError(path, "the tensors of its config", shown)


def _may_be_left(name: str, tensor: StoredTensor, heads_may_follow: bool):
    if name in REDUNDANT:
        return True
    if heads_may_follow and not name.startswith("mobilebert.encoder."):
        return True
    return name == _EXTRA_OUTPUT_WEIGHTS and 0 in tensor.shape


def _file_shape(variable: keras.Variable, transposed: bool) -> tuple[int, ...]:
    shape = tuple(variable.shape)
    return shape[::-1] if transposed else shape


def file_shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every tensor of a model's file, by name."""
    shapes = {
        name: _file_shape(variable, transposed)
        for variable, name, transposed in match_weights(
            model, model.config, model.architecture
        )
    }
    if model.architecture in WITH_MASKED_LM:
        shapes.setdefault(_EXTRA_OUTPUT_WEIGHTS, (0, model.config.vocab_size))
    return shapes


def _write_weights(model: keras.Model, path: Path) -> None:
    entries = {
        name: (variable, transposed)
        for variable, name, transposed in match_weights(
            model, model.config, model.architecture
        )
    }
    shapes = file_shapes(model)

    def read(name: str) -> np.ndarray:
        if name not in entries:
            return np.zeros(shapes[name], "float32")
        variable, transposed = entries[name]
        # Not `convert_to_numpy`, which copies.
        array = np.asarray(variable.value)
        return array.T if transposed else array

    write_tensors(path, shapes, read)
