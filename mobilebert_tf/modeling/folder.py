"""Model folders: `config.json` and `model.safetensors`.

A folder is what every command reads and writes. It is a Hugging Face folder
too: same keys, same names, same layouts. As Hugging Face splits large models,
the weights may also be in several files with an index.

Tensors are read and written one at a time, so that a model needs little more
memory than its own.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self

import keras
import numpy as np
from safetensors import SafetensorError, safe_open

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.weight_names import (
    REDUNDANT,
    WITH_MASKED_LM,
    match_weights,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLE_FILE = "pytorch_model.bin"

_ENCODER_PREFIX = "mobilebert."
# Hugging Face has this tensor, empty, even where the word table is so wide
# that the head needs none.
_EXTRA_OUTPUT_WEIGHTS = "cls.predictions.dense.weight"
_MAX_PROBLEMS_SHOWN = 8

# The format's names of types are short for NumPy's, for example BF16.
_TYPES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}
_BYTES_PER_FLOAT = 4
_ALIGNMENT = 8
_VALUES_PER_WRITE = 2**18
# Pages of a mapped file count as memory while it is open. It is reopened after
# every so many bytes, which frees them.
_BYTES_PER_OPENING = 2**24


class PretrainedModel(keras.Model):
    """A Keras model with a config, which is read from and written to folders.

    Attributes:
        architecture: Hugging Face's name of the class.
        has_label_names: whether the class is constructed with `label_names`,
            the names of its classes, which `config.json` then holds.
    """

    architecture: str
    has_label_names = False

    def __init__(self, config: MobileBertConfig, **kwargs):
        # Autocasting would round ids that arrive as floats to bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.config = config

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs) -> Self:
        """Returns a model of this class that starts from a folder's weights.

        If the folder is of this class, with the same `label_names` where there
        are any, its head is kept. From any other folder only the encoder is
        read, and the head is new.

        Args:
            name_or_path: see `hub.model_folder`.
            **kwargs: arguments of the class besides its config.

        Raises:
            InputError: see `load`.
        """
        from mobilebert_tf.modeling.load import from_pretrained

        return from_pretrained(cls, name_or_path, **kwargs)

    def save_pretrained(self, folder: str | os.PathLike, tokenizer=None):
        """Writes config and weights into `folder`, each file atomically.

        Args:
            folder: made if it does not exist; its other files stay.
            tokenizer: a `WordpieceTokenizer` to write as well.
        """
        folder = Path(folder)
        _write_weights(self, folder / WEIGHTS_FILE)
        self.save_config(folder)
        if tokenizer is not None:
            tokenizer.write(folder, self.config.max_position_embeddings)

    def save_config(self, folder: str | os.PathLike) -> None:
        """Writes `config.json` alone, with the names of the classes."""
        extra = {"architectures": [self.architecture]}
        if self.has_label_names:
            names = self.label_names
            extra["id2label"] = {str(i): name for i, name in enumerate(names)}
            extra["label2id"] = {name: i for i, name in enumerate(names)}
        self.config.to_json(Path(folder) / CONFIG_FILE, **extra)

    def get_config(self):
        return super().get_config() | {
            "config": self.config.to_dict(),
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config["config"] = MobileBertConfig(**config["config"])
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: its name there.
        dtype: NumPy's name of its type, or "bfloat16".
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a safetensors file by name, from its header.

    Raises:
        InputError: the file is missing, or its header is damaged.
    """
    tensors = {}
    with _opened(path) as file:
        for name in file.keys():
            entry = file.get_slice(name)
            kind = entry.get_dtype().rstrip("0123456789")
            dtype = entry.get_dtype().replace(kind, _TYPES.get(kind, kind))
            shape = tuple(entry.get_shape())
            tensors[name] = StoredTensor(path, name, shape, dtype)
    return tensors


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a folder by the names that a task model's have.

    Hugging Face writes an encoder alone without the prefix that the encoder
    of a task model has; it is added here.

    Raises:
        InputError: there are no weights, a header is damaged, or the index
            and its files contradict each other.
    """
    path = weights_path(folder)
    listed = _tensors_of_index if path.name == INDEX_FILE else tensors_of_file
    tensors = listed(path)
    if any(name.startswith(_ENCODER_PREFIX) for name in tensors):
        return tensors
    return {_ENCODER_PREFIX + name: tensor for name, tensor in tensors.items()}


def weights_path(folder: Path) -> Path:
    """Returns the file that lists the tensors of a folder.

    Raises:
        InputError: there is none.
    """
    for name in (WEIGHTS_FILE, INDEX_FILE):
        if (folder / name).exists():
            return folder / name
    pickle = folder / _PICKLE_FILE
    raise InputError(
        folder / WEIGHTS_FILE,
        f"a weights file (a {_PICKLE_FILE} is a pickle, which may run code, "
        "and is never opened: convert it with safetensors' convert script)",
        _PICKLE_FILE if pickle.exists() else "no such file",
    )


def read_arrays(
    tensors: Iterable[StoredTensor],
) -> Iterator[tuple[StoredTensor, np.ndarray]]:
    """Reads float32 tensors in their order, one at a time.

    Raises:
        InputError: a file has changed since it was listed.
    """
    for path, group in _openings(tensors):
        with _opened(path) as file:
            for tensor in group:
                try:
                    array = file.get_tensor(tensor.name)
                except (SafetensorError, OSError) as error:
                    raise _not_safetensors(path, error) from error
                yield tensor, array


def write_tensors(
    path: str | os.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes a safetensors file of float32 tensors, atomically.

    The bytes are those that the library would write, which takes all tensors
    at once.

    Args:
        path: the file.
        shapes: shape of each tensor by name, of one dimension or more.
        read: returns a tensor by its name; called once for each.

    Raises:
        ValueError: a tensor has another shape or type than was announced.
    """
    # Hugging Face refuses a file that is not marked as PyTorch's.
    header = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, shape = end, list(shapes[name])
        end = start + math.prod(shape) * _BYTES_PER_FLOAT
        offsets = [start, end]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    encoded = encoded.encode("utf-8")
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in sorted(shapes):
            array = read(name)
            if array.shape != tuple(shapes[name]) or array.dtype != np.float32:
                raise ValueError(
                    f"{name} was announced as float32 {shapes[name]}. "
                    f"Received: {array.dtype} {array.shape}"
                )
            # By rows, since a transposed array is copied to be written.
            rows_at_once = max(1, _VALUES_PER_WRITE // max(1, array[:1].size))
            for start in range(0, len(array), rows_at_once):
                rows = array[start : start + rows_at_once]
                file.write(rows.astype("<f4", order="C", copy=False).data)


def load_weights(
    model: PretrainedModel, folder: str | os.PathLike, allow_heads=False
) -> None:
    """Assigns every variable of `model` from the weights of a folder.

    Args and errors as in `read_weights`; nothing is assigned from a folder
    that is refused.
    """
    for variable, array in read_weights(model, folder, allow_heads):
        variable.assign(array)


def read_weights(
    model: PretrainedModel, folder: str | os.PathLike, allow_heads=False
) -> Iterator[tuple[keras.Variable, np.ndarray]]:
    """Yields each variable of `model` with its array, the largest first.

    The largest is read first because it is in memory twice, for a moment,
    while the others are not there yet. Names, shapes and types are checked in
    the header and values in a first pass, before anything is yielded.

    Args:
        model: a model with the folder's config.
        folder: a model folder.
        allow_heads: whether the file may hold tensors outside the encoder, as
            when an encoder is read from a task model.

    Raises:
        InputError: it lists the missing, surplus, misshapen, mistyped and
            non-finite tensors.
    """
    folder = Path(folder)
    tensors = stored_tensors(folder)
    pairs = match_weights(model)
    _check(weights_path(folder), tensors, pairs, allow_heads)
    pairs.sort(key=lambda pair: math.prod(pair[0].shape), reverse=True)
    arrays = read_arrays(tensors[name] for _, name, _ in pairs)
    for (variable, _, transposed), (_, array) in zip(
        pairs, arrays, strict=True
    ):
        yield variable, array.T if transposed else array


def tensor_problem(tensor, shape: tuple[int, ...]) -> str | None:
    """Says why a tensor is not float32 and of `shape`; None if it is.

    Args:
        tensor: any object with `shape` and `dtype`, or None if it is missing.
        shape: the shape it should have.
    """
    if tensor is None:
        return "missing"
    if tensor.shape != shape:
        return f"of shape {tensor.shape}, not {shape}"
    if tensor.dtype != "float32":
        return f"of type {tensor.dtype}, not float32"
    return None


def file_shapes(model: PretrainedModel) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the tensors in a model's file, by name."""
    shapes = {
        name: _file_shape(variable, transposed)
        for variable, name, transposed in match_weights(model)
    }
    if model.architecture in WITH_MASKED_LM:
        shapes.setdefault(_EXTRA_OUTPUT_WEIGHTS, (0, model.config.vocab_size))
    return shapes


def _write_weights(model: PretrainedModel, path: Path) -> None:
    entries = {
        name: (variable, transposed)
        for variable, name, transposed in match_weights(model)
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


def _check(path: Path, tensors, pairs, allow_heads: bool) -> None:
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
    problems += [
        f"{readable[tensor]} with non-finite values"
        for tensor, array in read_arrays(readable)
        if not np.isfinite(array).all()
    ]
    problems += [
        f"{name} surplus"
        for name in sorted(surplus)
        if not _may_be_left(name, surplus[name], allow_heads)
    ]
    if problems:
        shown = "; ".join(problems[:_MAX_PROBLEMS_SHOWN])
        more = len(problems) - _MAX_PROBLEMS_SHOWN
        if more > 0:
            shown += f"; and {more} more"
        raise InputError(path, "the tensors of its config", shown)


def _may_be_left(name: str, tensor: StoredTensor, allow_heads: bool) -> bool:
    if name in REDUNDANT:
        return True
    if allow_heads and not name.startswith("mobilebert.encoder."):
        return True
    return name == _EXTRA_OUTPUT_WEIGHTS and 0 in tensor.shape


def _file_shape(variable: keras.Variable, transposed: bool) -> tuple[int, ...]:
    shape = tuple(variable.shape)
    return shape[::-1] if transposed else shape


def _tensors_of_index(path: Path) -> dict[str, StoredTensor]:
    files = read_json_object(path).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise InputError(path, "names and files", files, place="weight_map")
    tensors = {}
    for file in sorted(set(map(str, files.values()))):
        # An index from elsewhere must not name files outside its folder.
        beside = Path(file).name == file and file.isprintable()
        if not beside or not file.endswith(".safetensors"):
            raise InputError(
                path, "safetensors files beside it", file, place="weight_map"
            )
        for name, tensor in tensors_of_file(path.with_name(file)).items():
            if files.get(name) != file:
                found = files.get(name, "none")
                raise InputError(
                    path, f"{name} in {file}", found, place="weight_map"
                )
            tensors[name] = tensor
    for name in files:
        if name not in tensors:
            raise InputError(path.with_name(files[name]), name, "no such name")
    return tensors


def _openings(tensors: Iterable[StoredTensor]):
    """Yields (file, tensors to read before it is closed again)."""
    group, size = [], 0
    for tensor in tensors:
        full = size >= _BYTES_PER_OPENING
        if group and (full or tensor.path != group[0].path):
            yield group[0].path, group
            group, size = [], 0
        group.append(tensor)
        size += math.prod(tensor.shape) * _BYTES_PER_FLOAT
    if group:
        yield group[0].path, group


def _opened(path: Path):
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        # The library also reports a file without read permission as missing.
        found = "one that cannot be read" if path.exists() else "no such file"
        raise InputError(path, "a weights file", found) from error
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(path, error) from error


def _not_safetensors(path: Path, error: Exception) -> InputError:
    return InputError(path, "a safetensors file", error)
