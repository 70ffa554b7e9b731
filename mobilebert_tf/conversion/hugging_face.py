"""Reading Hugging Face folders, which our model folders are."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.conversion.tensors import SAME, TRANSPOSED, Row, Tensor
from mobilebert_tf.modeling.safetensors_file import StoredTensor
from mobilebert_tf.modeling.stored_weights import read_arrays, stored_tensors
from mobilebert_tf.modeling.weight_names import REDUNDANT, weight_names

# Patterns, as of the other dialects, of what stays behind, and why.
DROPPED = tuple((re.escape(name), why) for name, why in REDUNDANT.items())


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Lists a folder's tensors by the full names that a task model's have.

    Raises:
        InputError: if there are no weights, or a header is damaged.
    """
    return {
        name: Tensor(entry.shape, entry.dtype, lambda entry=entry: _read(entry))
        for name, entry in stored_tensors(folder).items()
        # The masked LM head of a wide word table has an empty one.
        if 0 not in entry.shape
    }


def _read(entry: StoredTensor) -> np.ndarray:
    ((_, array),) = read_arrays({entry: False})
    return array


def hugging_face_names(
    config: MobileBertConfig, architecture: str
) -> Iterator[Row]:
    """Yields (their name, our path, rule) for a whole model."""
    for ours, theirs, transposed in weight_names(config, architecture):
        yield theirs, ours, TRANSPOSED if transposed else SAME
