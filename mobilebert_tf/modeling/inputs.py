"""The one door for inputs of models and .tflite files: names, shapes, types.

What a caller misspells is refused here, in one line, before anything computes
with the rest. Nothing here needs Keras: tensors of any backend, symbolic ones
too, have a `shape` and a `dtype`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mobilebert_tf.config import INPUT_NAMES, OTHER_INPUT_NAMES

_INT32 = 2**31
_NUMBERS = ("bool", "int", "uint", "float", "bfloat")


def read_inputs(
    inputs: Mapping[str, Any],
    bounds: Mapping[str, int | None],
    required: Sequence[str] = INPUT_NAMES[:1],
    axes: str = "BS",
) -> dict[str, Any]:
    """Returns inputs by our names; arrays and lists become int32 arrays.

    Tensors are returned as they are. Their values, which may be on a device or
    not known yet, are not checked.

    Args:
        inputs: arrays, lists or tensors by our names or Hugging Face's (a
            tokenizer's `BatchEncoding` as well). None stands for an absent one.
        bounds: the names that may be given; values are from 0 to below these.
            None stands for the length of the sequences.
        required: names that must be given.
        axes: letters of the axes of ids, masks and segments; others are of
            two axes.

    Raises:
        ValueError: a name is unknown, given twice or missing, or values are
            not whole numbers within the bounds or do not fit each other.
    """
    names = {name: name for name in bounds} | OTHER_INPUT_NAMES
    if not isinstance(inputs, Mapping):
        raise ValueError(
            f"inputs must be a dict with {', '.join(names)}. "
            f"Received: {type(inputs).__name__}"
        )
    unknown = [str(name) for name in inputs if name not in names]
    if unknown:
        raise ValueError(
            f"inputs must be named {', '.join(names)}. "
            f"Received: {', '.join(unknown[:8])}"
        )
    given = {}
    for name, values in inputs.items():
        if values is None:
            continue
        if names[name] in given:
            twice = [each for each in inputs if names[each] == names[name]]
            raise ValueError(
                f"{names[name]} must be given once. "
                f"Received: {' and '.join(twice)}"
            )
        given[names[name]] = values
    missing = [name for name in required if name not in given]
    if missing:
        raise ValueError(
            f"inputs must hold {', '.join(required)}. "
            f"Missing: {', '.join(missing)}"
        )
    found = {}
    # Ids first: their shape is what the others are compared with.
    for name in sorted(given, key=[*INPUT_NAMES, *bounds].index):
        bound = bounds[name]
        if bound is None:
            _check_shapes(found, axes)
            length = found["input_ids"].shape[-1]
            bound = length if isinstance(length, int) else _INT32
        found[name] = _numbers(name, given[name], bound)
    _check_shapes(found, axes)
    return found


def _numbers(name: str, values: Any, bound: int) -> Any:
    """Returns a tensor or an int32 array."""
    if hasattr(values, "row_splits"):
        raise ValueError(
            f"{name} must be padded to rows of one length. "
            f"Received: {type(values).__name__}"
        )
    if not hasattr(values, "dtype"):
        try:
            values = np.asarray(values)
        except ValueError:
            raise ValueError(
                f"{name} must have rows of one length. "
                "Received: lists of several"
            ) from None
    dtype = getattr(values.dtype, "name", str(values.dtype))
    if not dtype.removeprefix("torch.").startswith(_NUMBERS):
        raise ValueError(f"{name} must be whole numbers. Received: {dtype}")
    if not isinstance(values, np.ndarray):
        return values
    if values.size:
        low, high = values.min(), values.max()
        is_whole = values.dtype.kind != "f" or (values == values.round()).all()
        if not is_whole or low < 0 or high >= bound:
            raise ValueError(
                f"{name} must be whole numbers from 0 to {bound - 1}. "
                f"Received: {low} to {high}, {dtype}"
            )
    return values.astype(np.int32)


def _check_shapes(inputs: Mapping[str, Any], axes: str) -> None:
    wanted = {}
    for name, values in inputs.items():
        letters = axes if name in INPUT_NAMES else f"{axes[0]}P"
        if getattr(values.shape, "rank", 0) is None:
            continue  # TensorFlow does not know it yet.
        shape = tuple(values.shape)
        # Sizes that are not known yet are None, or symbols of JAX.
        sizes = {
            letter: size
            for letter, size in zip(letters, shape)
            if isinstance(size, int)
        }
        fits = len(shape) == len(letters) and all(
            wanted.setdefault(letter, size) == size
            for letter, size in sizes.items()
        )
        if not fits:
            described = ", ".join(
                f"{letter}={wanted[letter]}" if letter in wanted else letter
                for letter in letters
            )
            raise ValueError(
                f"{name} must be [{described}]. Received: {list(shape)}"
            )
