"""Options become flags, help and settings; bad ones become one line."""

import dataclasses
import errno
import io

import pytest
from absl import flags

from mobilebert_tf.commands.command import Command, _Terminal
from mobilebert_tf.data.options import ExampleOptions
from mobilebert_tf.errors import InputError, RunError
from mobilebert_tf.options import Options, option, settings
from mobilebert_tf.training.options import FineTuningOptions
from mobilebert_tf.training.stopping import Stopped


@dataclasses.dataclass(frozen=True)
class TextOptions(Options):
    group = "data"

    input_files: tuple[str, ...] = option((), "Text files.", everyday=True)
    num_lines: int | None = option(None, "Lines to read.", min=1)


@dataclasses.dataclass(frozen=True)
class StepOptions(Options):
    rate: tuple[float, ...] = option((0.1,), "Peak rates.", min=0.0)
    kind: str = option("a", "Kind.", choices=("a", "b"), everyday=True)
    fast: bool = option(False, "Fast.", flag="jit", resumable=True)
    output_dir: str | None = option(None, "Folder to write.", required=True)


def read(*arguments, **defaults):
    seen = []
    command = Command(
        lambda *options: seen.extend(options),
        (TextOptions, StepOptions),
        defaults=defaults,
    )
    command.run(arguments)
    return seen


def test_flags_become_options():
    text, step = read(
        "--input_files=a,b", "--rate=1,0.5", "--jit", "--output_dir=x"
    )
    assert text == TextOptions(("a", "b"))
    assert step == StepOptions((1.0, 0.5), fast=True, output_dir="x")


def test_items_are_kept_as_given():
    _, step = read("--rate=2,1,2", "--output_dir=x")
    assert step.rate == (2.0, 1.0, 2.0)


def test_a_command_has_defaults_of_its_own():
    text, step = read("--output_dir=x", num_lines=7, rate=(0.3,))
    assert text.num_lines == 7
    assert step.rate == (0.3,)


def test_settings_leave_out_what_may_change():
    text, step = read("--output_dir=x", "--jit")
    assert settings(text, step) == {
        "input_files": [],
        "num_lines": None,
        "rate": [0.1],
        "kind": "a",
        "output_dir": "x",
    }


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--num_lines=0", "--num_lines: expected at least 1, found 0"),
        ("--num_lines=4294967296", "expected at most 4294967295"),
        ("--rate=1,nan", "--rate: expected a finite number, found nan"),
        ("--rate=1,x", "--rate: expected numbers, found 'x'"),
        ("--kind=c", "--kind: expected one of a, b, found 'c'"),
        ("--num_lines=1.5", "--num_lines: expected whole numbers, found '1.5'"),
        ("--output_dir=", "--output_dir: expected a name, found an empty text"),
        ("--unknown=1", "Unknown command line flag 'unknown'"),
        ("words", "expected arguments of the form --name=value"),
    ],
)
def test_bad_flags_are_named(flag, message):
    with pytest.raises(InputError) as error:
        read("--output_dir=x", flag)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "build",
    [
        lambda: ExampleOptions(max_seq_length=16, max_predictions_per_seq=17),
        lambda: FineTuningOptions(seed=2**32 - 2, num_seeds=3),
    ],
)
def test_flags_that_do_not_fit_each_other(build):
    with pytest.raises(InputError, match="^--(max_predictions|seed)"):
        build()


def test_names_cannot_steer_the_terminal():
    name = "a\x1b[2J\u202eb\x9b\udcff"
    shown = r"a\x1b[2J\u202eb\x9b\udcff"
    assert str(InputError(name, "text", name, name)).count(shown) == 3
    stream = io.StringIO()
    print(f"{name}\tä\u200c", file=_Terminal(stream), flush=True)
    assert stream.getvalue() == f"{shown}\tä\u200c\n"


def test_a_required_flag_is_asked_for():
    with pytest.raises(InputError, match="--output_dir"):
        read()


def test_help_shows_what_is_used_every_day():
    command = Command(print, (TextOptions, StepOptions), description="Reads.")
    text = command.help("read.py")
    assert text.startswith("Reads.\n\nusage: read.py [flags]\n\ndata:\n")
    assert "--input_files" in text and "--num_lines" not in text
    assert "Kind. (default: a)" in text
    full = command.help("read.py", everything=True)
    assert "--num_lines" in full and "One of a, b. (default: a)" in full
    assert "--helpfull shows 3 more flags." in text


@pytest.mark.parametrize(
    "error, code",
    [
        (InputError("a.txt", "text", "nothing"), 2),
        (RunError("the loss became NaN"), 1),
        (OSError(errno.ENOSPC, "no space"), 1),
        (Stopped("saved", "SIGINT"), 130),
        (OSError(errno.EACCES, "not allowed"), 2),
        (OSError(errno.EROFS, "read-only"), 2),
        (Stopped("saved", "SIGTERM"), 143),
        (Stopped("saved", "SIGHUP"), 129),
        (KeyboardInterrupt(), 130),
    ],
)
def test_how_a_command_ends(error, code):
    def main():
        raise error

    flags.FLAGS.mark_as_parsed()
    with pytest.raises(SystemExit) as ended:
        Command(main, ())._guarded(["command"])
    assert ended.value.code == code
