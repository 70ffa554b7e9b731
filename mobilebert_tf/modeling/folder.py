"""One `.safetensors` file: listing its tensors, and writing it.

The library writes from a dict of all tensors, so that the weights are in memory
twice. Here one tensor at a time is: a file is written in the order of its
header, which the shapes alone decide. What is written is what the library would
have written, byte for byte. `stored_weights` reads.

The tensors of a model folder, listed whole and read a few rows at a time.

A folder holds `model.safetensors` or, as Hugging Face writes large models,
several such files and an index that says which tensor is in which. Weights are
never in memory as a whole here: pages of a mapped file count as memory while
it is open, so it is opened anew every so often, which gives them back.

What a model folder holds: `config.json` and `model.safetensors`.

A folder is what every command reads and writes. It is a Hugging Face folder
too: same keys, same names, same layouts. Weights go in and out a few rows at a
time, so that a model needs little more memory than itself.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import keras
import numpy as np
from safetensors import SafetensorError, safe_open

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.weight_names import (
    REDUNDANT,
    WITH_MASKED_LM,
    match_weights,
)

# The format's names of types, and NumPy's.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
_BYTES_PER_FLOAT = 4
_ALIGNMENT = 8
_BLOCK_VALUES = 2**18


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor's place in a file.

    Attributes:
        path: the file.
        name: its name there.
        shape: its shape there.
        dtype: NumPy's name of its type ("bfloat16", which it lacks, too).
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a file by name, from its header.

    Raises:
        InputError: if there is no such file, or its header is damaged.
    """
    tensors = {}
    with _opened(path) as file:
        for name in file.keys():
            entry = file.get_slice(name)
            dtype = entry.get_dtype()
            tensors[name] = StoredTensor(
                path,
                name,
                tuple(entry.get_shape()),
                _DTYPES.get(dtype, dtype),
            )
    return tensors


def write_tensors(
    path: str | os.PathLike,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], np.ndarray],
) -> None:
    """Writes float32 tensors, atomically.

    Args:
        path: the file.
        shapes: the shape of each tensor, by name; of one dimension or more.
        read: gives a tensor by its name; asked once for each.

    Raises:
        ValueError: if a tensor has another shape or type than was announced.
    """
    # Hugging Face refuses a file that does not say it is PyTorch-shaped.
    header = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, shape = end, list(shapes[name])
        end = start + math.prod(shape) * _BYTES_PER_FLOAT
        header[name] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": [start, end],
        }
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
            # By rows: a transposed array is copied to be written.
            rows_at_once = max(1, _BLOCK_VALUES // max(1, array[:1].size))
            for start in range(0, len(array), rows_at_once):
                rows = array[start : start + rows_at_once]
                file.write(rows.astype("<f4", order="C", copy=False).data)


def _opened(path: Path):
    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        # The library says so of a file that it may not open, too.
        found = "one that cannot be read" if path.exists() else "no such file"
        raise InputError(path, "a weights file", found) from error
    except (SafetensorError, OSError) as error:
        raise InputError(path, "a safetensors file", error) from error


WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLE_FILE = "pytorch_model.bin"

_ENCODER_PREFIX = "mobilebert."
# Rows are read in blocks of about so many bytes, a few blocks per opening.
_BLOCK_BYTES = 2**20
_OPENING_BYTES = 4 * _BLOCK_BYTES
# A page that is read brings its neighbours along (Linux's fault-around).
_NEIGHBOUR_BYTES = 2**16


def weights_path(folder: Path) -> Path:
    """Returns the file that says which tensors a folder has.

    Raises:
        InputError: if there is none.
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


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Lists a folder's tensors by the full names that a task model's have.

    Hugging Face writes an encoder alone without the prefix that the encoder
    of a task model has; it is added here.

    Raises:
        InputError: if there are no weights, a header is damaged, or the index
            and its files contradict each other.
    """
    path = weights_path(folder)
    listed = _tensors_of_index if path.name == INDEX_FILE else tensors_of_file
    tensors = listed(path)
    if any(name.startswith(_ENCODER_PREFIX) for name in tensors):
        return tensors
    return {_ENCODER_PREFIX + name: entry for name, entry in tensors.items()}


def tensor_problem(tensor, shape: tuple[int, ...]) -> str | None:
    """Says what keeps a tensor from being a float32 one of `shape`.

    Args:
        tensor: what has a `shape` and a `dtype`; None where there is none.
        shape: what is wanted.
    """
    if tensor is None:
        return "missing"
    if tensor.shape != shape:
        return f"of shape {tensor.shape}, not {shape}"
    if tensor.dtype != "float32":
        return f"of type {tensor.dtype}, not float32"
    return None


def read_rows(
    tensors: Iterable[StoredTensor],
) -> Iterator[tuple[StoredTensor, int, np.ndarray]]:
    """Reads float32 tensors in their order, a few rows at a time.

    Args:
        tensors: of one folder, of one dimension or more.

    Yields:
        (tensor, start, rows): rows `start` and following of the tensor.

    Raises:
        InputError: if a file has changed since it was listed.
    """
    for path, blocks in _openings(tensors):
        try:
            with safe_open(path, framework="numpy") as file:
                for tensor, start, stop in blocks:
                    yield tensor, start, file.get_slice(tensor.name)[start:stop]
        except (SafetensorError, OSError) as error:
            raise InputError(path, "a safetensors file", error) from error


def read_arrays(
    tensors: Mapping[StoredTensor, bool],
) -> Iterator[tuple[StoredTensor, np.ndarray]]:
    """Reads whole float32 tensors in their order, one at a time.

    Args:
        tensors: of one folder; whether each is to be transposed.

    Raises:
        InputError: as `read_rows`.
    """
    for tensor, start, rows in read_rows(tensors):
        if start == 0:
            transposed = tensors[tensor]
            shape = tensor.shape[::-1] if transposed else tensor.shape
            array = np.empty(shape, np.float32)
            in_file = array.T if transposed else array
        stop = start + len(rows)
        in_file[start:stop] = rows
        if stop == tensor.shape[0]:
            yield tensor, array


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
                raise InputError(
                    path,
                    f"{name} in {file}",
                    files.get(name, "none"),
                    place="weight_map",
                )
            tensors[name] = tensor
    for name in files:
        if name not in tensors:
            raise InputError(path.with_name(files[name]), name, "no such name")
    return tensors


def _openings(tensors: Iterable[StoredTensor]):
    """Yields (file, blocks to read before it is closed again)."""
    path, blocks, size = None, [], 0
    for tensor, start, stop in _blocks(tensors):
        if blocks and (tensor.path != path or size >= _OPENING_BYTES):
            yield path, blocks
            blocks, size = [], 0
        path = tensor.path
        blocks.append((tensor, start, stop))
        size += max((stop - start) * _row_bytes(tensor), _NEIGHBOUR_BYTES)
    if blocks:
        yield path, blocks


def _blocks(tensors: Iterable[StoredTensor]):
    for tensor in tensors:
        num_rows = tensor.shape[0]
        step = max(1, _BLOCK_BYTES // _row_bytes(tensor))
        for start in range(0, num_rows, step):
            yield tensor, start, min(start + step, num_rows)


def _row_bytes(tensor: StoredTensor) -> int:
    return _BYTES_PER_FLOAT * int(np.prod(tensor.shape[1:], dtype=np.int64))


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
