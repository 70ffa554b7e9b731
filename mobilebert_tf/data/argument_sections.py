"""Argument descriptions out of docstrings.

Owns the reading of the two common notations of a parameter list: Google's
("Args:" and indented "name: description") and NumPy's ("Parameters", a line
of dashes, "name : type" and an indented description). Only arguments that the
signature really has are reported.
"""

import re
from collections.abc import Iterator

from mobilebert_tf.data.docstrings import Docstring, is_text, strip_markup

MIN_WORDS = 5
MAX_WORDS = 50

_GOOGLE_TITLES = ("Args:", "Arguments:", "Parameters:")
_NUMPY_TITLES = ("Parameters", "Other Parameters")
_GOOGLE_ENTRY = re.compile(r"`{0,2}\*{0,2}(\w+)`{0,2}(?: ?\([^()]*\))?:\s+")
_NUMPY_ENTRY = re.compile(r"\*{0,2}(\w+)(?:\s+:|$)")
_ITEM = re.compile(r"(?:[-*+•]|\d+[.)])\s|>>>|```|\.\. |\|")


def described_arguments(docstring: Docstring) -> list[tuple[str, str]]:
    """Names and descriptions of a function's arguments, in order, each once.

    A description is the first paragraph of what is said about the argument,
    without its markup, and reads as a sentence of 5 to 50 words. Arguments
    described otherwise, or absent from the signature, are left out.
    """
    described = {}
    if not docstring.parameters:
        return []
    for name, lines in _entries(docstring.text.expandtabs().splitlines()):
        if name not in docstring.parameters or name in described:
            continue
        text = strip_markup(" ".join(lines))
        text = text[:1].upper() + text[1:]
        if text and text[-1].isalnum():
            text += "."
        if is_text(text, MIN_WORDS, MAX_WORDS):
            described[name] = text
    return list(described.items())


def _entries(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    """The names in all parameter lists of a docstring, with their lines."""
    for index, line in enumerate(lines):
        title = line.strip()
        if title in _GOOGLE_TITLES:
            indent = len(line) - len(line.lstrip())
            yield from _google_entries(lines[index + 1 :], indent)
        elif title in _NUMPY_TITLES and "---" in "".join(
            lines[index + 1 :][:1]
        ):
            yield from _numpy_entries(lines[index + 2 :])


def _google_entries(
    lines: list[str], title_indent: int
) -> Iterator[tuple[str, list[str]]]:
    entry_indent = None
    for index, line in enumerate(lines):
        stripped = line.lstrip()
        if not stripped:
            continue
        indent = len(line) - len(stripped)
        if indent <= title_indent:
            return
        if entry_indent is None:
            entry_indent = indent
        entry = _GOOGLE_ENTRY.match(stripped)
        if entry and indent == entry_indent:
            rest = _indented_paragraph(lines[index + 1 :], indent)
            yield entry[1], [stripped[entry.end() :], *rest]


def _numpy_entries(lines: list[str]) -> Iterator[tuple[str, list[str]]]:
    for index, line in enumerate(lines):
        if line.startswith("---"):
            return  # The line before was the next section's title.
        entry = _NUMPY_ENTRY.match(line)
        if entry:
            yield entry[1], _indented_paragraph(lines[index + 1 :], 0)


def _indented_paragraph(lines: list[str], indent: int) -> list[str]:
    """The lines of a first paragraph that is indented deeper than `indent`."""
    paragraph = []
    for line in lines:
        stripped = line.strip()
        deeper = len(line) - len(line.lstrip()) > indent
        if not stripped or not deeper or _ITEM.match(stripped):
            break
        paragraph.append(stripped)
    return paragraph
