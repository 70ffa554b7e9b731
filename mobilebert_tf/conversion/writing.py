"""Writing a conversion as a model folder or a TensorFlow 1 checkpoint."""

import json
import os
from pathlib import Path

import numpy as np

from mobilebert_tf.config import to_google
from mobilebert_tf.conversion import tf1
from mobilebert_tf.conversion.names import TF1_HEADS, tf1_names
from mobilebert_tf.conversion.reading import Conversion
from mobilebert_tf.conversion.tensors import Tensor
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.folder import WEIGHTS_FILE, file_shapes, refuse
from mobilebert_tf.modeling.weights_file import write_tensors

# The names of the published archive.
TF1_PREFIX = "mobilebert_variables.ckpt"
TF1_CONFIG = "bert_config.json"


def write_folder(conversion: Conversion, folder: str | os.PathLike) -> None:
    """Writes weights and config into a model folder.

    Raises:
        InputError: the source cannot be read to its end, or it has non-finite
            values, which are listed.
    """
    match = conversion.match
    by_name = {matched.name: matched for matched in match.variables.values()}
    shapes = file_shapes(match.model)

    def read(name: str) -> np.ndarray:
        if name not in by_name:
            return np.zeros(shapes[name], "float32")
        array = by_name[name].tensor.read()
        return array.T if by_name[name].transposed else array

    write_tensors(Path(folder) / WEIGHTS_FILE, shapes, read)
    refuse(conversion.source.path, match.unsound)
    match.model.save_config(folder)


def write_tf1(conversion: Conversion, folder: str | os.PathLike) -> None:
    """Writes a TensorFlow 1 checkpoint with the released names, and its config.

    Raises:
        InputError: as `write_folder`, or the original code has no such class
            or activation.
    """
    folder, match = Path(folder), conversion.match
    model = match.model
    if model.architecture not in TF1_HEADS:
        raise InputError(
            conversion.source.path,
            f"a class of the original code ({', '.join(TF1_HEADS)})",
            model.architecture,
        )
    if model.config.hidden_act == "gelu_erf":
        raise InputError(
            conversion.source.path,
            "an activation of the original code, whose gelu is the tanh form",
            "gelu_erf",
        )
    num_heads = model.config.num_attention_heads
    tensors = {
        theirs: _stored(match.variables[ours].tensor, rule, num_heads)
        for theirs, ours, rule in tf1_names(model.config, model.architecture)
        if ours in match.variables
    }
    if len(tensors) != len(match.variables):
        raise ValueError("a variable has no name in the table")
    tf1.write_checkpoint(folder / TF1_PREFIX, tensors)
    refuse(conversion.source.path, match.unsound)
    with atomic_file(folder / TF1_CONFIG) as temporary:
        values = to_google(model.config)
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def _stored(tensor: Tensor, rule, num_heads: int) -> Tensor:
    return Tensor(
        rule.source_shape(tensor.shape, num_heads),
        tensor.dtype,
        lambda: rule.from_ours(tensor.read(), num_heads),
    )
