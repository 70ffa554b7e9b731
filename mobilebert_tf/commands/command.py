"""A command: options as flags, help in groups, and how a command ends.

    COMMAND = Command(main, (DataOptions, StepOptions), defaults={"seed": 2})
    if __name__ == "__main__":
        COMMAND()

`main` gets one checked instance of each class, in that order. Bad input ends in
one line and exit code 2; a run that cannot continue in one line and exit code
1; SIGTERM, after saving, in exit code 0; Ctrl-C in 130.
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
from typing import Any

from absl import app, flags, logging

from mobilebert_tf.errors import InputError, RunError
from mobilebert_tf.options import Option, Options, options_of, value_type
from mobilebert_tf.training.stopping import Stopped, stop_at_sigterm

# The shell's convention: 128 + SIGINT. A scheduler that sends SIGTERM takes the
# machine away for a while, which is not a failure.
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 0
EXIT_BAD_INPUT = 2
EXIT_FAILED = 1

GROUPS = ("data", "model", "training", "export")

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
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
        if self.resumes:
            stop_at_sigterm()
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        everything = any(word in _FULL_HELP for word in sys.argv[1:])
        if everything or any(word in _HELP for word in sys.argv[1:]):
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
        self.main(*self.read(values))

    @property
    def required(self) -> list[str]:
        """The flags without which the command refuses to start."""
        return [
            declared.flag or field.name
            for options in self.options
            for field, declared in options_of(options)
            if declared.required
        ]

    def define(self, values: flags.FlagValues) -> None:
        """Defines a flag for each option; equal names are an error."""
        unknown = set(self.defaults)
        for options in self.options:
            for field, declared in options_of(options):
                name = declared.flag or field.name
                default = self.defaults.get(name, field.default)
                unknown.discard(name)
                _define(values, options, field, name, default)
        if unknown:
            raise ValueError(f"no option is named {sorted(unknown)}")

    def read(self, values: flags.FlagValues) -> list[Options]:
        """Returns an instance of each class with the flags' values.

        Raises:
            InputError: a value is out of bounds.
        """
        return [
            options(
                **{
                    field.name: _read(values, options, field, declared)
                    for field, declared in options_of(options)
                }
            )
            for options in self.options
        ]

    def help(self, program: str, everything: bool = False) -> str:
        """Returns the text of `--help`: everyday flags by group, a line each.

        Args:
            program: name of the script or command.
            everything: list every flag, not only those used every day.
        """
        groups, hidden = {}, 0
        for options in self.options:
            for field, declared in options_of(options):
                if not (everything or declared.everyday or declared.required):
                    hidden += 1
                    continue
                name = declared.flag or field.name
                default = self.defaults.get(name, field.default)
                groups.setdefault(declared.group or options.group, []).append(
                    _help_line(
                        options, field, declared, name, default, everything
                    )
                )
        known = [group for group in GROUPS if group in groups]
        lines = [self.description.strip(), "", f"usage: {program} [flags]"]
        for group in [*known, *(set(groups) - set(known))]:
            lines += ["", f"{group}:", *groups[group]]
        if hidden:
            lines += ["", f"--helpfull shows {hidden} more flags."]
        return "\n".join(lines)

    def _guarded(self, arguments: list[str]) -> None:
        try:
            _refuse_arguments(arguments)
            self.main(*self.read(flags.FLAGS))
        except InputError as error:
            _fail(EXIT_BAD_INPUT, str(error))
        except RunError as error:
            _fail(EXIT_FAILED, str(error))
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            _fail(EXIT_FAILED, str(error))
        except Stopped as stopped:
            print(stopped, flush=True)
            terminated = stopped.signal_name == "SIGTERM"
            sys.exit(EXIT_TERMINATED if terminated else EXIT_INTERRUPTED)
        except KeyboardInterrupt:
            print("\nstopped", flush=True)
            sys.exit(EXIT_INTERRUPTED)


def command_line() -> str:
    """Returns the command of this process as the user could type it again."""
    script = Path(sys.argv[0])
    if script.name.startswith("mobilebert "):
        return f"{script.name} {shlex.join(sys.argv[1:])}"
    name = [script.name]
    if script.parent.name == "commands":
        name = ["-m", f"mobilebert_tf.commands.{script.stem}"]
    return shlex.join(["python", *name, *sys.argv[1:]])


def _define(values, options, field, name: str, default: Any) -> None:
    declared = dict((f.name, d) for f, d in options_of(options))[field.name]
    kind, is_tuple = value_type(options, field)
    keywords = {"flag_values": values, "required": declared.required}
    if declared.required:
        default = None
    if is_tuple:
        default = None if default is None else [str(item) for item in default]
        flags.DEFINE_list(name, default, declared.help, **keywords)
    elif declared.choices is not None:
        choices = list(declared.choices)
        flags.DEFINE_enum(name, default, choices, declared.help, **keywords)
    else:
        define = {
            bool: flags.DEFINE_bool,
            int: flags.DEFINE_integer,
            float: flags.DEFINE_float,
            str: flags.DEFINE_string,
        }[kind]
        define(name, default, declared.help, **keywords)


def _read(values, options, field, declared: Option) -> Any:
    name = declared.flag or field.name
    value = values[name].value
    kind, is_tuple = value_type(options, field)
    if not is_tuple or value is None:
        return value
    items = []
    for text in value:
        try:
            items.append(kind(text))
        except ValueError:
            expected = f"{'whole ' * (kind is int)}numbers"
            raise InputError(f"--{name}", expected, repr(text)) from None
    return tuple(items)


def _help_line(
    options, field, declared: Option, name: str, default, everything: bool
) -> str:
    kind, _ = value_type(options, field)
    flag = f"  --{'[no]' * (kind is bool)}{name}"
    text = declared.help
    if not everything:
        # The first sentence, or what comes before a semicolon.
        text = re.split(r"(?<=\.) |;", text)[0].rstrip(".") + "."
    elif declared.choices and not all(
        choice in text for choice in declared.choices
    ):
        text += f" One of {', '.join(declared.choices)}."
    if declared.required:
        text += " (required)"
    elif isinstance(default, tuple):
        text += f" (default: {','.join(map(str, default))})" * bool(default)
    elif default is not None and kind is not bool:
        text += f" (default: {default})"
    elif default:
        text += " (default: on)"
    lines = textwrap.wrap(text, _HELP_WIDTH - _HELP_COLUMNS)
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
