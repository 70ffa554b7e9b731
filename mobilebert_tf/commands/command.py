"""A command: options as flags, help in groups, and how a command ends.

    COMMAND = Command(main, (DataOptions, StepOptions), defaults={"seed": 2})
    if __name__ == "__main__":
        COMMAND()

`main` gets one checked instance of each class, in that order. Bad input ends in
one line and exit code 2; a run that cannot continue in one line and exit code
1; Ctrl-C, SIGTERM and SIGHUP, after saving, in 128 + the signal's number.
--verbosity=1 shows what TensorFlow prints when it is imported.
"""

import dataclasses
import errno
import re
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags, logging

from mobilebert_tf import compat
from mobilebert_tf.errors import InputError, RunError, printable
from mobilebert_tf.options import Option, Options, options_of, value_type
from mobilebert_tf.ownership import release_folders
from mobilebert_tf.training.stopping import Stopped, say, stop_at_signals

EXIT_INTERRUPTED = 130
EXIT_BAD_INPUT = 2
EXIT_FAILED = 1

GROUPS = ("data", "model", "training", "export")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Module -> package, of those that the optional extras bring.
_OPTIONAL = {
    "cycler": "matplotlib",
    "matplotlib": "matplotlib",
    "tensorflow_datasets": "tensorflow-datasets importlib_resources",
}
# A place that is read-only, or that has a file for a folder or the reverse.
_UNFIT_PLACE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)
_RESUME = "Run the same command to resume from the last checkpoint."
_HELP_ON_STOPS = (
    "Ctrl-C, SIGTERM and SIGHUP stop it, with exit code 128 + the signal's "
    "number;\nthe same command continues."
)
_HELP = ("--help", "-help", "-h")
_FULL_HELP = ("--helpfull", "-helpfull")
# Columns of a line of help, and of the flag's name in it.
_HELP_WIDTH = 100
_HELP_COLUMNS = 28


@dataclasses.dataclass(frozen=True)
class Command:
    """What a command does and which options it takes.

    Attributes:
        main: takes an instance of each class in `options`, in that order.
        options: the classes whose fields become flags.
        defaults: defaults of this command, by flag name, where they differ from
            those of the fields.
        description: what `--help` starts with.
        resumes: whether the same command continues a run that was stopped.
    """

    main: Callable[..., None]
    options: tuple[type[Options], ...]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    description: str = ""
    resumes: bool = True

    def __call__(self) -> None:
        """Runs the command with the arguments of this process, and exits."""
        logging.set_verbosity(logging.WARNING)
        sys.stdout, sys.stderr = (
            stream and _Terminal(stream) for stream in (sys.stdout, sys.stderr)
        )
        stop_at_signals(_RESUME if self.resumes else "")
        everything = any(word in _FULL_HELP for word in sys.argv[1:])
        if everything or any(word in _HELP for word in sys.argv[1:]):
            # So that `--help | head` ends without a traceback.
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            print(self.help(Path(sys.argv[0]).name, everything))
            sys.exit(0)
        self.define(flags.FLAGS)
        app.run(self._guarded, flags_parser=_parse_or_fail)

    def run(self, arguments: Sequence[str] = ()) -> None:
        """Runs the command in this process, as a test or the demo does.

        Args:
            arguments: flags, for example `["--seed=2"]`.

        Raises:
            InputError: a flag is unknown, missing or malformed, or the input
                is bad.
        """
        values = flags.FlagValues()
        self.define(values)
        try:
            rest = values(["command", *arguments])
        except flags.Error as error:
            raise InputError("flags", "valid flags", str(error)) from error
        _refuse_arguments(rest)
        self._main(values)

    @property
    def required(self) -> list[str]:
        """The flags without which the command refuses to start."""
        return [flag.name for flag in self._flags() if flag.is_required]

    def define(self, values: flags.FlagValues) -> None:
        """Defines a flag for each option; equal names are an error."""
        found = self._flags()
        unknown = set(self.defaults) - {flag.name for flag in found}
        if unknown:
            raise ValueError(f"no option is named {sorted(unknown)}")
        for flag in found:
            flag.define(values)

    def read(self, values: flags.FlagValues) -> list[Options]:
        """Returns an instance of each class with the flags' values.

        Raises:
            InputError: a value is out of bounds.
        """
        fields = {options: {} for options in self.options}
        for flag in self._flags():
            fields[flag.options][flag.field] = flag.read(values)
        return [options(**fields[options]) for options in self.options]

    def help(self, program: str, everything: bool = False) -> str:
        """Returns the text of `--help`: everyday flags by group, a line each.

        Args:
            program: name of the script or command.
            everything: list every flag, not only those used every day.
        """
        groups, hidden = {}, 0
        for flag in self._flags():
            declared = flag.declared
            if everything or declared.everyday or flag.is_required:
                group = declared.group or flag.options.group
                groups.setdefault(group, []).append(flag.help(everything))
            else:
                hidden += 1
        known = [group for group in GROUPS if group in groups]
        lines = [self.description.strip(), "", f"usage: {program} [flags]"]
        for group in [*known, *(set(groups) - set(known))]:
            lines += ["", f"{group}:", *groups[group]]
        if self.resumes:
            lines += ["", _HELP_ON_STOPS]
        if hidden:
            lines += ["", f"--helpfull shows {hidden} more flags."]
        return "\n".join(lines)

    def _flags(self) -> list["_Flag"]:
        found = []
        for options in self.options:
            for field, declared in options_of(options):
                name = declared.flag or field.name
                default = self.defaults.get(name, field.default)
                kind = value_type(options, field)
                found.append(
                    _Flag(name, options, field.name, declared, default, *kind)
                )
        return found

    def _guarded(self, arguments: list[str]) -> None:
        if flags.FLAGS.verbosity > 0:
            compat.mute_tensorflow(False)
        try:
            _refuse_arguments(arguments)
            self._main(flags.FLAGS)
        except InputError as error:
            _fail(EXIT_BAD_INPUT, str(error))
        except RunError as error:
            _fail(EXIT_FAILED, str(error))
        except ModuleNotFoundError as error:
            fail_for_missing_package(error)
        except OSError as error:
            if error.errno in _UNFIT_PLACE:
                _fail(EXIT_BAD_INPUT, str(error))
            if error.errno not in _NO_SPACE:
                raise
            _fail(EXIT_FAILED, str(error))
        except Stopped as stopped:
            say(str(stopped))
            sys.exit(stopped.exit_code)
        except KeyboardInterrupt:
            say("\nstopped")
            sys.exit(EXIT_INTERRUPTED)

    def _main(self, values: flags.FlagValues) -> None:
        try:
            self.main(*self.read(values))
        finally:
            release_folders()


def fail_for_missing_package(error: ModuleNotFoundError) -> None:
    """Exits with the name of the package that an extra would have brought.

    Raises:
        ModuleNotFoundError: the module belongs to no extra.
    """
    if error.name not in _OPTIONAL:
        raise error
    package = _OPTIONAL[error.name]
    _fail(EXIT_FAILED, f"this needs another package: pip install {package}")


def command_line() -> str:
    """Returns the command of this process as the user could type it again."""
    script = Path(sys.argv[0])
    if script.name.startswith("mobilebert "):
        return f"{script.name} {shlex.join(sys.argv[1:])}"
    name = [script.name]
    if script.parent.name == "commands":
        name = ["-m", f"mobilebert_tf.commands.{script.stem}"]
    return shlex.join(["python", *name, *sys.argv[1:]])


class _Terminal:
    """A stream in which names from files cannot steer the terminal."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name):
        return getattr(self._stream, name)


class _Flag(NamedTuple):
    """An option as a flag; `kind` is the type of its value or its items."""

    name: str
    options: type[Options]
    field: str
    declared: Option
    default: Any
    kind: type
    is_tuple: bool

    @property
    def is_required(self) -> bool:
        """Whether the command neither has a default nor can do without."""
        return self.declared.required and not self.default

    def define(self, values: flags.FlagValues) -> None:
        default, required = self.default, self.is_required
        if required or default is None:
            default = None
        elif self.is_tuple:
            default = [str(item) for item in default]
        elif self.kind is not bool:
            default = str(default)
        define = flags.DEFINE_list if self.is_tuple else flags.DEFINE_string
        if self.kind is bool:
            define = flags.DEFINE_bool
        keywords = {"flag_values": values, "required": required}
        define(self.name, default, self.declared.help, **keywords)

    def read(self, values: flags.FlagValues) -> Any:
        value = values[self.name].value
        if value is None or self.kind is bool:
            return value
        if self.is_tuple:
            return tuple(self._parse(text) for text in value)
        return self._parse(value)

    def _parse(self, text: str) -> Any:
        try:
            return self.kind(text)
        except ValueError:
            expected = f"{'whole ' * (self.kind is int)}numbers"
            raise InputError(f"--{self.name}", expected, repr(text)) from None

    def help(self, everything: bool) -> str:
        """Returns its entry in the help, all of it or a sentence."""
        default, text = self.default, self.declared.help
        choices = self.declared.choices or ()
        if not everything:
            # The first sentence, or what comes before a semicolon.
            text = re.split(r"(?<=\.) |;", text)[0].rstrip(".") + "."
        elif not all(choice in text for choice in choices):
            text += f" One of {', '.join(choices)}."
        if self.is_required:
            text += " (required)"
        elif isinstance(default, tuple):
            text += f" (default: {','.join(map(str, default))})" * bool(default)
        elif default is not None and self.kind is not bool:
            text += f" (default: {default})"
        elif default:
            text += " (default: on)"
        lines = textwrap.wrap(text, _HELP_WIDTH - _HELP_COLUMNS)
        flag = f"  --{'[no]' * (self.kind is bool)}{self.name}"
        indent = "\n" + " " * _HELP_COLUMNS
        start = flag.ljust(_HELP_COLUMNS)
        if len(flag) >= _HELP_COLUMNS:
            start = flag + indent
        return start + indent.join(lines)


def _refuse_arguments(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise InputError(
            "flags", "arguments of the form --name=value", arguments[1:]
        )


def _parse_or_fail(arguments: list[str]) -> list[str]:
    """Parses flags; by itself absl prints two lines and exits with code 1."""
    try:
        return flags.FLAGS(arguments)
    except flags.Error as error:
        _fail(EXIT_BAD_INPUT, " ".join(str(error).split()))


def _fail(code: int, message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
