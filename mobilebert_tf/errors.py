"""The errors that are not defects of this project.

Commands turn them into a single line on stderr: exit code 2 for `InputError`, 1
for `RunError`. Anything else keeps its traceback.
"""

import os


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
        super().__init__(" ".join(message.split()))

    def __reduce__(self):
        # So that it can be sent from one process to another.
        return type(self), (self.path, self.expected, self.found, self.place)
