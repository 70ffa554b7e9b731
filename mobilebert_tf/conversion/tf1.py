"""Reading and writing TensorFlow 1 checkpoints.

The `variables/` of a SavedModel have the same format. TensorFlow merges groups
of tensors into one checkpoint, so that only one group is in memory.
"""

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

from mobilebert_tf.conversion.tensors import Tensor
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.weights_file import check_ordinary

# TensorFlow reports data that end too early as an IndexError.
_READ_ERRORS = (tf.errors.OpError, OSError, ValueError, IndexError)
_PATTERN_SIGNS = set("[\\")


def open_checkpoint(prefix: str | os.PathLike):
    """Returns TensorFlow's reader for a checkpoint.

    Raises:
        InputError: its index is missing or damaged, or TensorFlow cannot open
            a file of that name.
    """
    index = Path(f"{prefix}.index")
    if not index.is_file():
        raise InputError(index, "a checkpoint's index", "no such file")
    pattern_signs = sorted(_PATTERN_SIGNS & set(os.fspath(prefix)))
    if pattern_signs:
        raise InputError(
            prefix,
            "a path that TensorFlow cannot take for a pattern (move it)",
            " ".join(pattern_signs),
        )
    for file in index.parent.iterdir():
        if file.name.startswith(f"{index.stem}.data-"):
            check_ordinary(file)
    try:
        return tf.train.load_checkpoint(os.fspath(prefix))
    except _READ_ERRORS as error:
        raise InputError(index, "a checkpoint's index", error) from error


def latest_checkpoint(folder: Path) -> Path | None:
    """Returns the prefix that a folder's list of checkpoints names, or None.

    Raises:
        InputError: the list is damaged.
    """
    try:
        latest = tf.train.latest_checkpoint(os.fspath(folder))
    except UnicodeDecodeError as error:
        raise InputError(
            folder / "checkpoint", "a list of checkpoints", error
        ) from error
    return None if latest is None else Path(latest)


def read_checkpoint(
    prefix: str | os.PathLike, scope: str | None = None
) -> dict[str, Tensor]:
    """Lists a checkpoint's tensors by variable name.

    Args:
        prefix: path of the checkpoint without `.index`.
        scope: lists only names that start with `scope/`, without it.

    Raises:
        InputError: the index is damaged or has nothing in the scope; when a
            tensor is read: the data are damaged.
    """
    reader = open_checkpoint(prefix)
    dtypes = reader.get_variable_to_dtype_map()
    before = f"{scope}/" if scope else ""
    tensors = {}
    for name, shape in reader.get_variable_to_shape_map().items():
        if name.startswith(before):
            tensors[name.removeprefix(before)] = Tensor(
                tuple(shape),
                dtypes[name].name,
                lambda name=name: _read(reader, prefix, name),
            )
    if not tensors:
        raise InputError(f"{prefix}.index", f"tensors below {before}", "none")
    return tensors


def write_checkpoint(
    prefix: str | os.PathLike, tensors: Mapping[str, Tensor]
) -> None:
    """Writes a TensorFlow 1 checkpoint.

    Args:
        prefix: path of its files without their endings.
        tensors: by variable name.

    Raises:
        InputError: the files cannot be written.
    """
    prefix = Path(prefix)
    prefix.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=prefix.parent) as folder:
        try:
            _write_in_parts(prefix, folder, tensors)
        except tf.errors.OpError as error:
            raise InputError(
                prefix, "room and permission to write it", error.message
            ) from error


def _write_in_parts(
    prefix: Path, folder: str, tensors: Mapping[str, Tensor]
) -> None:
    parts = []
    for group in _groups(tensors):
        part = os.path.join(folder, f"part-{len(parts):05d}")
        tf.raw_ops.SaveV2(
            prefix=part,
            tensor_names=group,
            shape_and_slices=[""] * len(group),
            tensors=[_tensor(tensors[name]) for name in group],
        )
        parts.append(part)
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts,
        destination_prefix=os.fspath(prefix),
        delete_old_dirs=False,
    )


def _groups(tensors: Mapping[str, Tensor]):
    """Yields groups of names, each with an eighth of all values or one tensor.

    The largest come first, when nothing else is in memory yet: TensorFlow
    copies an array twice, and does not release the memory of small tensors.
    """
    sizes = {name: math.prod(tensors[name].shape) for name in tensors}
    sizes = dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))
    limit = sum(sizes.values()) // 8
    group, size = [], 0
    for name in sizes:
        if group and size + sizes[name] > limit:
            yield group
            group, size = [], 0
        group.append(name)
        size += sizes[name]
    if group:
        yield group


def _tensor(tensor: Tensor) -> tf.Tensor:
    # In two steps, so that the base of a transposed view is freed before the
    # next copy.
    array = np.ascontiguousarray(tensor.read())
    return tf.constant(array)


def _read(reader, prefix, name: str) -> np.ndarray:
    try:
        return np.asarray(reader.get_tensor(name))
    except _READ_ERRORS as error:
        raise InputError(
            f"{prefix}.data", "readable data", error, place=name
        ) from error
