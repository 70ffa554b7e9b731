"""`mobilebert NAME`: every command is found, and anything else is refused."""

import importlib
import subprocess
import sys

import pytest

from mobilebert_tf.commands import main
from mobilebert_tf.commands.command import Command, command_line


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_exists(name):
    module, attribute, summary = main.COMMANDS[name]
    found = importlib.import_module(f"mobilebert_tf.commands.{module}")
    assert isinstance(getattr(found, attribute), Command)
    assert f"  {name} " in main.usage() and summary in main.usage()


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )


def test_a_package_of_an_extra_is_named():
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from mobilebert_tf.commands.main import main; main()"
    )
    found = run_python(code, "plot", "--runs=a", "--output=a.png")
    assert found.returncode == 1
    assert found.stderr.endswith(
        "plot: this needs another package: pip install matplotlib\n"
    )


def test_help_and_unknown_names_need_no_tensorflow():
    code = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from mobilebert_tf.commands.main import main; main()"
    )

    def run(*arguments):
        return run_python(code, *arguments)

    assert run().stdout.startswith("usage: mobilebert NAME")
    text = run("pretrain", "--help").stdout
    assert "usage: mobilebert pretrain [flags]" in text
    unknown = run("train")
    assert unknown.returncode == 2
    assert unknown.stderr.startswith("mobilebert: expected a command among pre")


def test_the_command_line_can_be_typed_again(monkeypatch):
    for program, expected in (
        ("mobilebert pretrain", "mobilebert pretrain --seed=2"),
        ("/x/run_pretraining.py", "python run_pretraining.py --seed=2"),
    ):
        monkeypatch.setattr(sys, "argv", [program, "--seed=2"])
        assert command_line() == expected
