"""Model folders: `config.json` and `model.safetensors`.

A folder is what every command reads and writes. It is a Hugging Face folder
too: same keys, same names, same layouts. Folders that Hugging Face wrote at
some time are read as well: weights in several files with an index, in a
`tf_model.h5`, of other types, with old names or a pooler that nothing reads.
"""

import dataclasses
import fnmatch
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import keras
import numpy as np

from mobilebert_tf.config import (
    INPUT_NAMES,
    MobileBertConfig,
    read_json_object,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import unpickling_command
from mobilebert_tf.modeling.inputs import read_inputs
from mobilebert_tf.modeling.weight_names import (
    REDUNDANT,
    TIED,
    WITH_MASKED_LM,
    match_weights,
)
from mobilebert_tf.modeling.weights_file import (
    FLOAT_TYPES,
    StoredTensor,
    check_ordinary,
    tensors_of_file,
    tensors_of_keras_file,
    write_tensors,
)

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
KERAS_FILE = "tf_model.h5"
PICKLE_FILE = "pytorch_model.bin"

_ENCODER_PREFIX = "mobilebert."
_POOLER_PREFIX = "mobilebert.pooler."
# Hugging Face has this tensor, empty, even where the word table is so wide
# that the head needs none.
_EXTRA_OUTPUT_WEIGHTS = "cls.predictions.dense.weight"
_MAX_PROBLEMS_SHOWN = 8


class PretrainedModel(keras.Model):
    """A Keras model with a config, which is read from and written to folders.

    However it is called, its inputs pass `read_inputs`: they may have our
    names or Hugging Face's, and `call` gets them by ours.

    Attributes:
        architecture: Hugging Face's name of the class.
        has_label_names: whether the class is constructed with `label_names`,
            the names of its classes, which `config.json` then holds.
        further_inputs: names of inputs besides `INPUT_NAMES`.
        input_axes: axes of `INPUT_NAMES`.
    """

    architecture: ClassVar[str]
    has_label_names: ClassVar[bool] = False
    further_inputs: ClassVar[tuple[str, ...]] = ()
    input_axes: ClassVar[str] = "BS"

    def __init__(self, config: MobileBertConfig, **kwargs):
        # Autocasting would round ids that arrive as floats to bfloat16.
        super().__init__(autocast=False, **kwargs)
        self.config = config

    def __call__(self, inputs, *args, **kwargs):
        return super().__call__(self._read(inputs), *args, **kwargs)

    def stateless_call(
        self, trainable_variables, non_trainable_variables, inputs, **kwargs
    ):
        # How Keras trains on JAX, past `__call__`.
        return super().stateless_call(
            trainable_variables,
            non_trainable_variables,
            self._read(inputs),
            **kwargs,
        )

    def fit(self, x=None, *args, **kwargs):
        return super().fit(self._read_arrays(x), *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        return super().evaluate(self._read_arrays(x), *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        return super().predict(self._read_arrays(x), *args, **kwargs)

    def export(
        self, filepath, format="tf_saved_model", input_signature=None, **kwargs
    ):
        """Exports as Keras does; by default for any batch size and length."""
        shape = (None,) * len(self.input_axes)
        default = {
            name: keras.InputSpec(shape=shape, dtype="int32", name=name)
            for name in INPUT_NAMES
        }
        super().export(
            filepath,
            format,
            input_signature=input_signature or [default],
            **kwargs,
        )

    def _read_arrays(self, x):
        """Reads arrays, before Keras batches them; a dataset's come later."""
        return self._read(x) if isinstance(x, Mapping) else x

    def _read(self, inputs) -> dict[str, Any]:
        config = self.config
        longest = config.max_position_embeddings
        bounds = {
            "input_ids": config.vocab_size,
            "input_mask": 2,
            "segment_ids": config.type_vocab_size,
        } | dict.fromkeys(self.further_inputs)
        read = read_inputs(inputs, bounds, axes=self.input_axes)
        length = read["input_ids"].shape[-1]
        if isinstance(length, int) and not 1 <= length <= longest:
            raise ValueError(
                f"sequences must have 1 to {longest} tokens "
                f"(max_position_embeddings). Received: {length}"
            )
        return read

    @classmethod
    def from_pretrained(cls, name_or_path: str | os.PathLike, **kwargs) -> Self:
        """Returns a model of this class that starts from a folder's weights.

        If the folder is of this class, with the same `label_names` where there
        are any, its head is kept. From any other folder only the encoder is
        read, and the head is new.

        Args:
            name_or_path: see `hub.model_folder`.
            **kwargs: arguments of the class besides its config; for
                `label_names` also `num_labels`, their number.

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
class Matched:
    """One variable of a model and its values in a folder.

    Attributes:
        name: its name in our file.
        transposed: whether our file stores it transposed.
    """

    variable: keras.Variable
    name: str
    transposed: bool
    tensor: StoredTensor

    def read(self) -> np.ndarray:
        """Returns the values as the variable has them."""
        array = self.tensor.read()
        return array.T if self.transposed else array


def stored_tensors(folder: Path) -> tuple[dict[str, StoredTensor], list[str]]:
    """Lists the tensors of a folder by the names that a task model's have.

    Hugging Face writes an encoder alone without the prefix that the encoder
    of a task model has; it is added here. Older names are replaced.

    Returns:
        The tensors, and what was changed about them, for the user.

    Raises:
        InputError: there are no weights, a header is damaged, or the index
            and its files contradict each other.
    """
    path = weights_path(folder)
    listed = {INDEX_FILE: _tensors_of_index, KERAS_FILE: tensors_of_keras_file}
    found = listed.get(path.name, tensors_of_file)(path)
    if not any(name.startswith(_ENCODER_PREFIX) for name in found):
        found = {_ENCODER_PREFIX + name: found[name] for name in found}
    tensors, changes = {}, []
    for old, tensor in found.items():
        name = old.replace("LayerNorm.gamma", "LayerNorm.weight")
        name = name.replace("LayerNorm.beta", "LayerNorm.bias")
        if name != old:
            _add(changes, "LayerNorm.gamma and .beta renamed")
        if name in tensors:
            raise InputError(path, f"one {name}", "two", place=old)
        tensors[name] = tensor
    for copy, name in TIED.items():
        if copy in tensors and name not in tensors:
            tensors[name] = tensors[copy]
            _add(changes, f"{name} read from its copy {copy}")
    return tensors, changes


def _add(changes: list[str], change: str) -> None:
    if change not in changes:
        changes.append(change)


def weights_path(folder: Path) -> Path:
    """Returns the file that lists the tensors of a folder.

    Raises:
        InputError: there is none.
    """
    for name in (WEIGHTS_FILE, INDEX_FILE, KERAS_FILE):
        if (folder / name).exists():
            check_ordinary(folder / name)
            return folder / name
    pickle = folder / PICKLE_FILE
    raise InputError(
        folder / WEIGHTS_FILE,
        f"a weights file (a {PICKLE_FILE} is a pickle, which may run code, and "
        f"is never opened; {unpickling_command(folder)})",
        PICKLE_FILE if pickle.exists() else "no such file",
    )


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
    while the others are not there yet. Names, shapes, types and values are
    checked in a first pass, before anything is yielded. What is changed or
    left behind is printed.

    Args:
        model: a model with the folder's config.
        folder: a model folder.
        allow_heads: reads the encoder alone. Tensors outside it are ignored,
            and a pooler that the folder lacks is not yielded.

    Raises:
        InputError: it lists the missing, surplus, misshapen, mistyped and
            non-finite tensors.
    """
    folder = Path(folder)
    matched, changes = match_folder(model, folder, allow_heads)
    refuse(
        weights_path(folder),
        [
            f"{entry.name} with non-finite values"
            for entry in matched
            if not entry.tensor.is_finite()
        ],
    )
    if changes:
        print(f"{folder}: {'; '.join(changes)}", flush=True)
    matched.sort(key=lambda entry: math.prod(entry.tensor.shape), reverse=True)
    for entry in matched:
        yield entry.variable, entry.read()


def match_folder(
    model: PretrainedModel,
    folder: Path,
    allow_heads: bool = False,
    leave_behind: Sequence[str] = (),
) -> tuple[list[Matched], list[str]]:
    """Accounts for every variable of a model and every tensor of a folder.

    Args:
        model: a model with the folder's config; its variables may lack values.
        folder: a model folder.
        allow_heads: see `read_weights`.
        leave_behind: patterns (`*`, `?`) of surplus tensors to ignore.

    Returns:
        The variables with their tensors, and what was changed or left behind.

    Raises:
        InputError: it lists the missing, surplus, misshapen and mistyped
            tensors, and copies that differ from what they should be tied to.
    """
    tensors, changes = stored_tensors(folder)
    surplus, matched, problems = dict(tensors), [], []
    for variable, name, transposed in match_weights(model):
        tensor = surplus.pop(name, None)
        new_pooler = allow_heads and name.startswith(_POOLER_PREFIX)
        if tensor is None and new_pooler:
            _add(changes, "no pooler: a new one")
            continue
        problem = tensor_problem(tensor, _file_shape(variable, transposed))
        if problem:
            problems.append(f"{name} {problem}")
        else:
            matched.append(Matched(variable, name, transposed, tensor))
            if tensor.dtype != "float32":
                _add(changes, f"{tensor.dtype} read as float32")
    unread = unread_tensors(model)
    with_masked_lm = model.architecture in WITH_MASKED_LM
    for name, tensor in sorted(surplus.items()):
        if any(fnmatch.fnmatchcase(name, like) for like in leave_behind):
            _add(changes, f"{name} left behind")
        elif name in REDUNDANT:
            if with_masked_lm and _is_untied(name, tensors):
                problems.append(f"{name} that is not tied to {TIED[name]}")
        elif any(re.fullmatch(pattern, name) for pattern, _ in unread):
            _add(changes, f"{unread[0][1]} left behind")
        elif not _may_be_left(name, tensor, allow_heads):
            problems.append(f"{name} surplus")
    refuse(weights_path(folder), problems)
    return matched, changes


def unread_tensors(model: PretrainedModel) -> Sequence[tuple[str, str]]:
    """Returns (pattern, reason) of the tensors that a model's head ignores.

    The names are Hugging Face's, or a checkpoint's, with "/".
    """
    if getattr(model, "reads_pooled_output", True):
        return ()
    return ((r"(.*[./])?pooler[./].*", "a pooler that this head ignores"),)


def _is_untied(copy: str, tensors: Mapping[str, StoredTensor]) -> bool:
    original = tensors.get(TIED.get(copy))
    if original is None or original is tensors[copy]:
        return False
    if tensor_problem(tensors[copy], original.shape):
        return True
    return not np.array_equal(original.read(), tensors[copy].read())


def tensor_problem(tensor, shape: tuple[int, ...]) -> str | None:
    """Says why a tensor cannot be read into `shape`; None if it can.

    Args:
        tensor: any object with `shape` and `dtype`, or None if it is missing.
        shape: the shape it should have.
    """
    if tensor is None:
        return "missing"
    if tensor.shape != shape:
        return f"of shape {tensor.shape}, not {shape}"
    if tensor.dtype not in FLOAT_TYPES:
        return f"of type {tensor.dtype}, not a float"
    return None


def refuse(path: str | os.PathLike, problems: Sequence[str]) -> None:
    """Raises an `InputError` that lists the first problems, if there are any.

    Args:
        path: the source.
        problems: name of a tensor and what is wrong with it.
    """
    if problems:
        shown = "; ".join(problems[:_MAX_PROBLEMS_SHOWN])
        more = len(problems) - _MAX_PROBLEMS_SHOWN
        if more > 0:
            shown += f"; and {more} more"
        raise InputError(path, "the tensors of its config", shown)


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


def _may_be_left(name: str, tensor: StoredTensor, allow_heads: bool) -> bool:
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
