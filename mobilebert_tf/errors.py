"""The errors that are not defects of this project.

Commands turn them into a single line on stderr: exit code 2 for `InputError`, 1
for `RunError`. Anything else keeps its traceback.
"""

import difflib
import os
import re
from collections.abc import Iterable, Sequence

# How many names, and how many bad rows, a message lists.
_NUM_NAMES = 8
_NUM_PROBLEMS = 5
# Control characters, halves of surrogate pairs, changes of direction.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff"
    "\\u202a-\\u202e\\u2066-\\u2069]"
)


def printable(text: str) -> str:
    """Writes characters that would steer a terminal as escapes."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


class RunError(RuntimeError):
    """A run cannot continue, although its input was accepted.

    For example, its loss became NaN, or the disk is full.
    """


class InputError(ValueError):
    """A file, folder or flag that the user gave is not what was expected.

    Args:
        path: the file or flag at fault.
        expected: what would have been right.
        found: what was there instead.
        place: where in the file: a line number, a column, a tensor name.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        expected: str,
        found: object,
        place: str | int | None = None,
    ):
        self.path = os.fspath(path)
        self.expected = expected
        self.found = found
        self.place = place
        where = self.path
        if isinstance(place, int):
            where += f", line {place}"
        elif place:
            where += f", {place}"
        message = f"{where}: expected {expected}, found {found}"
        super().__init__(printable(" ".join(message.split())))

    def __reduce__(self):
        # So that it can be sent from one process to another.
        return type(self), (self.path, self.expected, self.found, self.place)


def refuse(problems: Sequence[InputError], hint: str = "") -> None:
    """Raises what is wrong with a file, if anything is, as one error.

    Of several problems it shows the first five and says how many there are. The
    hint follows in parentheses.
    """
    if not problems:
        return
    hint = f" ({hint})" if hint else ""
    first, path = problems[0], problems[0].path
    if len(problems) == 1:
        found = f"{first.found}{hint}"
        raise InputError(path, first.expected, found, first.place)
    shown = [
        str(problem).removeprefix(path).lstrip(",: ")
        for problem in problems[:_NUM_PROBLEMS]
    ]
    if len(problems) > _NUM_PROBLEMS:
        shown.append(f"and {len(problems) - _NUM_PROBLEMS:,} more")
    raise InputError(
        path, "no mistakes", f"{len(problems):,}: {'; '.join(shown)}{hint}"
    )


def listed(names: Iterable[object]) -> str:
    """Returns names for a message: the first eight and how many follow."""
    names = list(map(shortened, names))
    more = len(names) - _NUM_NAMES
    shown = ", ".join(names[:_NUM_NAMES])
    return f"{shown} and {more:,} more" if more > 0 else shown


def shortened(value: object) -> str:
    """Returns a value as Python writes it, cut at 60 characters."""
    # Strings are cut first: they may have millions of characters.
    shown = repr(value[:60] if isinstance(value, str) else value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns a suggestion that follows an unknown name, or an empty text."""
    by_case = {each.casefold(): each for each in known}
    (near,) = difflib.get_close_matches(name.casefold(), by_case, 1) or [None]
    if near is None:
        return ""
    case = ", which differs in case only" * (near == name.casefold())
    return f" (did you mean {by_case[near]!r}{case}?)"
