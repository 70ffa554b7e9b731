"""Every command that README and docs/ show is one that still runs."""

import importlib
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from mobilebert_tf.commands.command import Command
from mobilebert_tf.commands.main import COMMANDS
from tests import tiny

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = ("python", "mobilebert", "make", "MOBILEBERT_TF_DATA=DATA")


def shown(page: Path) -> list[list[str]]:
    """The commands in a page's indented blocks and between its backticks."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    text = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    lines = [
        line.strip() for line in re.findall(r"^    \S.*$", text, re.MULTILINE)
    ]
    lines += [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
    return [
        shlex.split(line.split("  #")[0])
        for line in lines
        if line.split(" ")[0] in PROGRAMS and " " in line
    ]


ALL = [
    pytest.param(words, id=f"{page.name}-{' '.join(words)[:60]}")
    for page in PAGES
    for words in shown(page)
]


def command_of(words: list[str]) -> tuple[Command, list[str]] | None:
    """The command that a line runs and its flags; None for other programs."""
    if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        main = importlib.import_module(words[2]).main
        return Command(main, (main.__annotations__["options"],)), words[3:]
    if words[:2] == ["python", "-m"] and ".commands." in words[2]:
        words = ["mobilebert", words[2].rpartition(".")[2], *words[3:]]
    if words[0] == "mobilebert":
        module, attribute, _ = COMMANDS[words[1]]
        found = importlib.import_module(f"mobilebert_tf.commands.{module}")
        return getattr(found, attribute), words[2:]
    if words[0] == "python" and words[1].startswith("run_"):
        names = runpy.run_path(str(ROOT / words[1]))
        (command,) = [v for v in names.values() if isinstance(v, Command)]
        return command, words[2:]
    return None


def test_pages_show_commands():
    assert len(ALL) > 25


@pytest.mark.parametrize("words", ALL)
def test_a_command_exists_and_accepts_its_flags(words):
    words = [word for word in words if word != "MOBILEBERT_TF_DATA=DATA"]
    found = command_of(words)
    if found:
        command, arguments = found
        values = flags.FlagValues()
        command.define(values)
        arguments = [word for word in arguments if "..." not in word]
        given = {word.split("=")[0] for word in arguments}
        for name in command.required:
            if f"--{name}" not in given:
                arguments.append(f"--{name}=x")
        assert values(["command", *arguments]) == ["command"]
        command.read(values)
    elif words[0] == "make":
        targets = re.findall(
            r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
        assert words[1].rstrip(",") in targets
    else:
        assert (ROOT / words[1]).exists()


def test_the_python_of_readme_runs(tmp_path, monkeypatch, capsys):
    blocks = re.findall(
        r"^```python\n(.*?)^```", PAGES[0].read_text(), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 2
    tiny.write_folder(tmp_path / "runs" / "classifier")
    monkeypatch.chdir(tmp_path)
    batch = tiny.batch(width=8)
    names = {
        "ids": batch["input_ids"],
        "mask": batch["input_mask"],
        "segments": batch["segment_ids"],
    }
    exec(blocks[0], names)
    assert names["out"].sequence_output.shape == (3, 8, 512)
    assert np.isfinite(names["out"].pooled_output).all()
    exec(blocks[1], {})
    assert capsys.readouterr().out.strip() in tiny.LABELS


def test_readme_is_one_page_and_its_links_lead_somewhere():
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    for page in PAGES:
        links = re.findall(r"\]\(([^)#]+)\)", page.read_text())
        for link in links:
            if not link.startswith("http"):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
