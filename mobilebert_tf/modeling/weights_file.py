"""Files of weights: where each tensor stands, reading and writing.

Reads safetensors and the HDF5 files that Hugging Face wrote from Keras 2.
Tensors are read and written one at a time and in parts, so that a model needs
little more memory than its own; a mapped file would count as memory too.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
from safetensors import SafetensorError, safe_open

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file

# The types that are read, as float32, and their bytes in a file. NumPy has no
# bfloat16: its bits are the upper half of a float32's.
_FORMATS = {
    "float32": "<f4",
    "float16": "<f2",
    "float64": "<f8",
    "bfloat16": "<u2",
}
FLOAT_TYPES = tuple(_FORMATS)
# The format's names of types are short for NumPy's, for example BF16.
_TYPES = {"F": "float", "BF": "bfloat", "I": "int", "U": "uint"}
_BYTES_PER_FLOAT = 4
_ALIGNMENT = 8
_VALUES_AT_ONCE = 2**18


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        path: the file.
        name: its name there, or Hugging Face's name in PyTorch for it.
        shape: its shape, of PyTorch's layout.
        dtype: NumPy's name of its type, or "bfloat16".
        offset: number of bytes before its values.
        transposed: whether the file has Keras's layout instead.
    """

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    transposed: bool = False

    def read(self) -> np.ndarray:
        """Returns its values as float32.

        Raises:
            InputError: the file has changed since it was listed.
        """
        values = np.empty(math.prod(self.shape), np.float32)
        start = 0
        for part in self.parts():
            values[start : start + part.size] = part
            start += part.size
        if self.transposed:
            return values.reshape(self.shape[::-1]).T
        return values.reshape(self.shape)

    def parts(self) -> Iterator[np.ndarray]:
        """Yields its values as flat float32 arrays, in the file's order."""
        left, dtype = math.prod(self.shape), np.dtype(_FORMATS[self.dtype])
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while left:
                    count = min(left, _VALUES_AT_ONCE)
                    part = np.fromfile(file, dtype, count)
                    if part.size < count:
                        raise InputError(
                            self.path, f"all of {self.name}", "its end"
                        )
                    left -= count
                    yield self._as_float32(part)
        except OSError as error:
            raise InputError(
                self.path, "a readable file", error.strerror
            ) from error

    def is_finite(self) -> bool:
        """Whether no value is infinite, NaN, or so once it is float32."""
        return all(np.isfinite(part).all() for part in self.parts())

    def _as_float32(self, values: np.ndarray) -> np.ndarray:
        if self.dtype == "bfloat16":
            return (values.astype(np.uint32) << 16).view(np.float32)
        with np.errstate(over="ignore"):
            return values.astype(np.float32, copy=False)


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a safetensors file by name, from its header.

    Raises:
        InputError: the file is missing, or its header is damaged.
    """
    check_ordinary(path)
    try:
        # The library checks that the tensors fill the file without a gap.
        with safe_open(path, framework="numpy"), path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(path, "a safetensors file", error) from error
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        kind = entry["dtype"].rstrip("0123456789")
        dtype = entry["dtype"].replace(kind, _TYPES.get(kind, kind))
        offset = 8 + size + entry["data_offsets"][0]
        shape = tuple(entry["shape"])
        tensors[name] = StoredTensor(path, name, shape, dtype, offset)
    return tensors


def tensors_of_keras_file(path: Path) -> dict[str, StoredTensor]:
    """Lists the tensors of a `tf_model.h5` by their names in PyTorch.

    Hugging Face's class and model name precede a variable's path there,
    `_._` stands for a list's index and `a___b` for `b`.

    Raises:
        InputError: the file is missing, damaged, or stores a tensor
            compressed, in pieces or in another file.
    """
    check_ordinary(path)
    datasets = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            datasets[name] = item

    try:
        with h5py.File(path, "r") as file:
            # Links to other files are not followed.
            file.visititems(add)
            stored = [
                _keras_tensor(path, name, dataset)
                for name, dataset in datasets.items()
            ]
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise InputError(path, "an HDF5 file of Keras 2", error) from error
    return {tensor.name: tensor for tensor in stored}


def _keras_tensor(path: Path, name: str, dataset) -> StoredTensor:
    parts = re.sub(r":\d+$", "", name).replace("_._", "/").split("/")
    parts = [part.split("___")[-1] for part in parts]
    # The layer's group, the name of the model, the path of the variable.
    *scope, leaf = parts[2:] or parts
    leaf = {"gamma": "weight", "beta": "bias", "embeddings": "weight"}.get(
        leaf, leaf
    )
    transposed = leaf == "kernel"
    if transposed:
        leaf = "weight"
    offset = dataset.id.get_offset()
    if (offset is None and dataset.size) or dataset.external:
        raise InputError(
            path, "tensors that are stored whole", "another layout", name
        )
    dtype = dataset.dtype.name
    if dataset.dtype.str != _FORMATS.get(dtype):
        dtype = dataset.dtype.str
    shape = dataset.shape[::-1] if transposed else dataset.shape
    name = ".".join([*scope, leaf])
    return StoredTensor(path, name, shape, dtype, offset or 0, transposed)


def check_ordinary(path: Path) -> None:
    """Refuses what is missing, unreadable, or would block (a FIFO).

    Raises:
        InputError: this is so.
    """
    if not path.exists():
        raise InputError(path, "a weights file", "no such file")
    if not path.is_file():
        raise InputError(path, "a weights file", "no ordinary file")
    if not os.access(path, os.R_OK):
        raise InputError(path, "a weights file", "one that cannot be read")


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
            rows_at_once = max(1, _VALUES_AT_ONCE // max(1, array[:1].size))
            for start in range(0, len(array), rows_at_once):
                rows = array[start : start + rows_at_once]
                file.write(rows.astype("<f4", order="C", copy=False).data)
