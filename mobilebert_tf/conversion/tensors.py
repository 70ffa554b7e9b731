"""Matching the tensors of a source with the variables of a model."""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.folder import refuse, tensor_problem
from mobilebert_tf.modeling.load import SavedModel
from mobilebert_tf.modeling.weight_names import match_weights, variables_by_path

# The source's name, our variable's path, how the source stores it.
Row = tuple[str, str, "Rule"]

SLOTS = "training state"
AVERAGES = "running averages of the weights"
_AVERAGES_SCOPE = re.compile(r"(.*/)?\w*(ema|average|shadow|swa)\w*", re.I)


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
        tensor: its values in our layout, as float32.
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
        changes: what reading changes, for the user.
        unsound: tensors with non-finite values, found while they are read.
    """

    model: keras.Model
    variables: dict[str, Matched]
    dropped: Mapping[str, int]
    changes: Sequence[str]
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
    with keras.StatelessScope(initialize_variables=False):
        return SavedModel(config, architecture, label_names).build()


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
        InputError: it lists the missing, surplus, misshapen and mistyped
            tensors.
    """
    rows = {ours: (theirs, rule) for theirs, ours, rule in table}
    paths = {id(found): at for at, found in variables_by_path(model).items()}
    known, problems, changes, unsound, matched = set(), [], [], [], {}
    for variable, name, transposed in match_weights(model):
        theirs, rule = rows[paths[id(variable)]]
        tensor = source.get(theirs)
        known.add(theirs)
        shape = tuple(variable.shape)
        wanted = rule.source_shape(shape, model.config.num_attention_heads)
        problem = tensor_problem(tensor, wanted)
        if problem:
            problems.append(f"{theirs} {problem}")
            continue
        if tensor.dtype != "float32":
            changes.append(f"{tensor.dtype} read as float32")
        ours = in_our_layout(theirs, tensor, rule, shape, unsound)
        matched[paths[id(variable)]] = Matched(name, transposed, ours)
    counts, surplus = left_behind(source, known, dropped)
    problems += [f"{theirs} surplus" for theirs in surplus]
    refuse(path, problems)
    return Match(model, matched, counts, list(dict.fromkeys(changes)), unsound)


def left_behind(
    source: Collection[str], known: Collection[str], dropped
) -> tuple[Counter, list[str]]:
    """Returns why tensors are left behind, and the names without a reason.

    Args:
        source: names of all tensors.
        known: the names of a model's variables there.
        dropped: (pattern, reason) of names that are left behind.
    """
    reasons = {
        name: _reason(name, known, dropped)
        for name in sorted(source)
        if name not in known
    }
    surplus = [name for name, reason in reasons.items() if reason is None]
    return Counter(filter(None, reasons.values())), surplus


def in_our_layout(theirs, tensor, rule, shape, unsound) -> Tensor:
    """Returns the tensor as a variable of ours has it, checked when read."""

    def read():
        with np.errstate(over="ignore"):
            array = tensor.read().astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            unsound.append(f"{theirs} with non-finite values")
        return rule.to_ours(array, shape)

    return Tensor(shape, "float32", read)


def _reason(name: str, known: Collection[str], dropped) -> str | None:
    for pattern, reason in dropped:
        if re.fullmatch(pattern, name):
            return reason
    # Every optimizer names its slots and averages after the variable: below
    # it, below a scope of its own, or both.
    parts = name.split("/")
    for start in range(len(parts)):
        for end in range(start + 1, len(parts)):
            if "/".join(parts[start:end]) in known:
                is_average = re.search("average", parts[-1], re.I)
                return AVERAGES if is_average else SLOTS
        in_scope = start and "/".join(parts[start:]) in known
        if in_scope and _AVERAGES_SCOPE.fullmatch("/".join(parts[:start])):
            return AVERAGES
    return None
