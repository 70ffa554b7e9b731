"""Matching the tensors of a source with the variables of a model."""

import dataclasses
import re
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from pathlib import Path

import keras
import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.folder import tensor_problem
from mobilebert_tf.modeling.load import MODEL_CLASSES
from mobilebert_tf.modeling.weight_names import match_weights, variables_by_path

# The source's name, our variable's path, how the source stores it.
Row = tuple[str, str, "Rule"]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is not read yet.

    Attributes:
        dtype: NumPy's name of its type, or "bfloat16".
        read: returns its values.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a source stores one of our variables.

    Attributes:
        source_shape: maps our shape and the number of heads to its shape.
        transposed: whether the source swaps the axes; otherwise it reshapes.
    """

    source_shape: Callable[[tuple[int, ...], int], tuple[int, ...]]
    transposed: bool = False

    def to_ours(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a view of a source's array in our layout."""
        return array.T if self.transposed else array.reshape(shape)

    def from_ours(self, array: np.ndarray, num_heads: int) -> np.ndarray:
        """Returns a view of our array as the source stores it."""
        if self.transposed:
            return array.T
        return array.reshape(self.source_shape(array.shape, num_heads))


SAME = Rule(lambda shape, num_heads: shape)
TRANSPOSED = Rule(lambda shape, num_heads: shape[::-1], transposed=True)
# Attention kernels and biases with a separate axis for the heads.
HEADS_OUT = Rule(
    lambda shape, num_heads: (*shape[:-1], num_heads, shape[-1] // num_heads)
)
HEADS_IN = Rule(
    lambda shape, num_heads: (num_heads, shape[0] // num_heads, *shape[1:])
)


@dataclasses.dataclass(frozen=True)
class Matched:
    """One variable of a model and its values.

    Attributes:
        name: its name in our file.
        transposed: whether our file stores it transposed.
        tensor: its values in our layout.
    """

    name: str
    transposed: bool
    tensor: Tensor


@dataclasses.dataclass(frozen=True)
class Match:
    """The tensors of a source as variables of a model.

    Attributes:
        model: see `blank_model`.
        variables: by our path.
        dropped: number of tensors that were left behind, by reason.
        unsound: tensors with non-finite values, found while they are read.
    """

    model: keras.Model
    variables: dict[str, Matched]
    dropped: dict[str, int]
    unsound: list[str]


def blank_model(
    config: MobileBertConfig, architecture: str, label_names: Sequence[str]
) -> keras.Model:
    """Returns a model whose variables have shapes and paths but no values.

    Args:
        config: its config.
        architecture: a key of `MODEL_CLASSES`.
        label_names: used if the class has them.
    """
    model_class = MODEL_CLASSES[architecture]
    arguments = {}
    if model_class.has_label_names:
        arguments["label_names"] = label_names
    with keras.StatelessScope(initialize_variables=False):
        return model_class(config, **arguments)


def match(
    path: Path,
    model: keras.Model,
    source: Mapping[str, Tensor],
    table: Iterable[Row],
    dropped: Iterable[tuple[str, str]] = (),
) -> Match:
    """Accounts for every tensor of a source and every variable of a model.

    Args:
        path: the source, for messages.
        model: result of `blank_model`.
        source: its tensors by name.
        table: rows for all variables; others are ignored.
        dropped: (pattern, reason) of names that are deliberately left behind.

    Raises:
        InputError: it lists every missing, surplus, misshapen and mistyped
            tensor.
    """
    rows = {ours: (theirs, rule) for theirs, ours, rule in table}
    rest, problems, unsound, matched = dict(source), [], [], {}
    for path_of_ours, variable, name, transposed in _variables(model):
        theirs, rule = rows[path_of_ours]
        tensor = rest.pop(theirs, None)
        shape = tuple(variable.shape)
        wanted = rule.source_shape(shape, model.config.num_attention_heads)
        problem = tensor_problem(tensor, wanted)
        if problem:
            problems.append(f"{theirs} {problem}")
            continue
        ours = _in_our_layout(theirs, tensor, rule, shape, unsound)
        matched[path_of_ours] = Matched(name, transposed, ours)
    counts = {}
    for theirs in sorted(rest):
        reason = _reason(theirs, dropped)
        counts[reason] = counts.get(reason, 0) + 1
    counts.pop(None, None)
    problems += [f"{theirs} surplus" for theirs in surplus((), rest, dropped)]
    raise_problems(path, problems)
    return Match(model, matched, counts, unsound)


def surplus(known: Collection[str], source: Mapping, dropped) -> list[str]:
    """Returns the names in a source that are neither known nor dropped."""
    return [
        name
        for name in sorted(source)
        if name not in known and _reason(name, dropped) is None
    ]


def raise_problems(path: Path, problems: Sequence[str]) -> None:
    """Raises an `InputError` that lists the problems, if there are any."""
    if problems:
        raise InputError(
            path, "exactly the tensors of its config", "; ".join(problems)
        )


def _variables(model: keras.Model):
    """Yields (our path, variable, name in our file, whether transposed)."""
    paths = {
        id(variable): path
        for path, variable in variables_by_path(model).items()
    }
    for variable, name, transposed in match_weights(model):
        yield paths[id(variable)], variable, name, transposed


def _in_our_layout(theirs, tensor, rule, shape, unsound) -> Tensor:
    def read():
        array = tensor.read()
        if not np.isfinite(array).all():
            unsound.append(f"{theirs} with non-finite values")
        return rule.to_ours(array, shape)

    return Tensor(shape, tensor.dtype, read)


def _reason(name: str, dropped) -> str | None:
    for pattern, reason in dropped:
        if re.fullmatch(pattern, name):
            return reason
    return None
