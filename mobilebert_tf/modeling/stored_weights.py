"""The tensors of a model folder, listed whole and read a few rows at a time.

A folder holds `model.safetensors` or, as Hugging Face writes large models,
several such files and an index that says which tensor is in which. Weights are
never in memory as a whole here: pages of a mapped file count as memory while
it is open, so it is opened anew every so often, which gives them back.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.safetensors_file import (
    StoredTensor,
    tensors_of_file,
)

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_PICKLE_FILE = "pytorch_model.bin"

_ENCODER_PREFIX = "mobilebert."
_BYTES_PER_FLOAT = 4
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
