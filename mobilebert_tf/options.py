"""Options as dataclass fields: declared, explained and checked in one place.

    @dataclasses.dataclass(frozen=True)
    class StepOptions(Options):
        accumulation_steps: int = option(
            1, "Parts that each batch is split into, to save memory.", min=1
        )

A command turns the fields into flags (`commands/command.py`), `run.json`
records them, and a notebook passes them by keyword. All three read the same
help text, default and bounds from here.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Sequence
from typing import Any, ClassVar

from mobilebert_tf.errors import InputError

_OPTION = "option"
# The generators of NumPy and TensorFlow take no larger seeds.
LARGEST_NUMBER = 2**32 - 1


@dataclasses.dataclass(frozen=True)
class Option:
    """What a field tells its users besides its name, type and default.

    Attributes:
        help: one sentence, which follows the flag's name in `--help`.
        flag: name of the flag, if it differs from the field's.
        group: heading in `--help`; None for the class's `group`.
        min: smallest value.
        max: largest value.
        choices: the only values; for a tuple, the only items.
        everyday: whether `--help` shows it. `--helpfull` shows all.
        required: whether a command refuses to start without it.
        resumable: whether a run may continue with another value, so that
            `run.json` does not record it.
    """

    help: str
    flag: str | None = None
    group: str | None = None
    min: float | None = None
    max: float | None = None
    choices: Sequence[str] | None = None
    everyday: bool = False
    required: bool = False
    resumable: bool = False


def option(default: Any, help: str, **settings) -> Any:
    """Declares a dataclass field that is an option (see `Option`)."""
    metadata = {_OPTION: Option(help, **settings)}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Options:
    """Base class of dataclasses whose fields are options.

    Raises:
        InputError: a value is outside its bounds; it names the flag.
    """

    # Heading in `--help` for fields without one of their own.
    group: ClassVar[str] = "training"

    def __post_init__(self):
        for field, declared in options_of(type(self)):
            value = getattr(self, field.name)
            if value is not None:
                name = f"--{declared.flag or field.name}"
                items = value if isinstance(value, tuple) else (value,)
                for item in items:
                    _check(name, declared, item)


def options_of(
    options: Options | type[Options],
) -> list[tuple[dataclasses.Field, Option]]:
    """Lists the fields of a class that are options, with their declarations."""
    return [
        (field, field.metadata[_OPTION])
        for field in dataclasses.fields(options)
        if _OPTION in field.metadata
    ]


def value_type(options: type[Options], field: dataclasses.Field) -> tuple:
    """Returns the type of a field's values and whether it holds a tuple.

    `int | None` is `(int, False)`, `tuple[float, ...]` is `(float, True)`.
    """
    annotation = typing.get_type_hints(options)[field.name]
    if isinstance(annotation, types.UnionType):
        (annotation,) = set(typing.get_args(annotation)) - {type(None)}
    if typing.get_origin(annotation) is tuple:
        return typing.get_args(annotation)[0], True
    return annotation, False


def settings(*options: Options | type[Options]) -> dict[str, Any]:
    """Returns what `run.json` records: flag names and values as JSON has them.

    Options that may change when a run continues are left out. In place of an
    instance its class gives the defaults.
    """
    values = {}
    for instance in options:
        for field, declared in options_of(instance):
            if not declared.resumable:
                value = getattr(instance, field.name)
                if isinstance(value, tuple):
                    value = list(value)
                values[declared.flag or field.name] = value
    return values


def _check(name: str, declared: Option, value: Any) -> None:
    if declared.choices is not None and value not in declared.choices:
        raise InputError(
            name, f"one of {', '.join(declared.choices)}", repr(value)
        )
    if declared.required and value == "":
        raise InputError(name, "a name", "an empty text")
    low, high = declared.min, declared.max
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(name, "a finite number", value)
    if isinstance(value, int) and high is None:
        high = LARGEST_NUMBER
    if low is not None and value < low:
        raise InputError(name, f"at least {low}", value)
    if high is not None and value > high:
        raise InputError(name, f"at most {high}", value)
