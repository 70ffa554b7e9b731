"""One `.safetensors` file: listing its tensors, and writing it.

The library writes from a dict of all tensors, so that the weights are in memory
twice. Here one tensor at a time is: a file is written in the order of its
header, which the shapes alone decide. What is written is what the library would
have written, byte for byte. `stored_weights` reads.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.errors import InputError

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
