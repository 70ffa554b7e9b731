"""`mobilebert NAME`: every command is found, and anything else is refused."""

import importlib
import json
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


# Runs command lines, each in a process, and prints how they ended.
RUN_ALL = """
import contextlib, importlib, io, json, multiprocessing, sys
from mobilebert_tf.commands.main import COMMANDS, main

def run(words):
    sys.argv = ["mobilebert", *words]
    out, error, code = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main()
        except SystemExit as exit:
            code = exit.code
    heavy = {"tensorflow", "keras", "sklearn", "scipy", "huggingface_hub"}
    found = sorted(heavy & {*sys.modules})
    return code, out.getvalue(), error.getvalue(), found

for module, _, _ in COMMANDS.values():
    importlib.import_module(f"mobilebert_tf.commands.{module}")
context = multiprocessing.get_context("fork")
with context.Pool(2, maxtasksperchild=1) as pool:
    print(json.dumps(pool.map(run, json.loads(sys.argv[1]), chunksize=1)))
"""


@pytest.fixture(scope="module")
def light_ends(tmp_path_factory):
    """How command lines ended, and which heavy packages each imported."""
    folder = tmp_path_factory.mktemp("no_model")
    needed = {
        name: [
            f"--{flag}={folder}/absent"
            for flag in getattr(
                importlib.import_module(f"mobilebert_tf.commands.{module}"),
                attribute,
            ).required
        ]
        for name, (module, attribute, _) in main.COMMANDS.items()
    }
    lines = {("NAME", "help"): []}
    for name in main.COMMANDS:
        lines[name, "help"] = [name, "--help"]
        lines[name, "unknown"] = [name, *needed[name], "--nothing=1"]
    for name in ("classify", "squad", "tag", "distill", "export"):
        lines[name, "no model"] = [name, *needed[name]]
    lines["pretrain", "value"] = ["pretrain", "--output_dir=x", "--seed=x"]
    lines["pretrain", "bound"] = ["pretrain", "--output_dir=x", "--seed=-1"]
    lines["pretrain", "argument"] = ["pretrain", "--output_dir=x", "nothing"]
    lines["train", "unknown"] = ["train"]
    done = run_python(RUN_ALL, json.dumps([*lines.values()]))
    assert done.stdout, done.stderr
    return dict(zip(lines, json.loads(done.stdout), strict=True))


def test_help_and_refused_flags_import_nothing_heavy(light_ends):
    for (name, kind), (code, text, error, heavy) in light_ends.items():
        assert heavy == [], (name, kind)
        if kind == "help":
            assert f"usage: mobilebert {name} " in text
            assert code in (0, None) and error == ""
        else:
            assert (code, text) == (2, ""), (name, kind)
            (line,) = error.splitlines()
            assert "mobilebert" in line, (name, kind)


def test_the_command_line_can_be_typed_again(monkeypatch):
    for program, expected in (
        ("mobilebert pretrain", "mobilebert pretrain --seed=2"),
        ("/x/run_pretraining.py", "python run_pretraining.py --seed=2"),
    ):
        monkeypatch.setattr(sys, "argv", [program, "--seed=2"])
        assert command_line() == expected
