"""Extracts prose and argument descriptions from Python docstrings.

Sources are parsed, never imported. Everything in a docstring that is not a
sentence (code, tables, types, section titles, markup) is dropped; the rest
reads like a manual. Plain text, reStructuredText, NumPy sections and Google
sections are understood, because the libraries mix them.
"""

import ast
import inspect
import re
import textwrap
import warnings
from collections.abc import Iterator
from typing import NamedTuple

MIN_WORDS, MAX_WORDS = 8, 200
_MIN_ARGUMENT_WORDS, _MAX_ARGUMENT_WORDS = 5, 50

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# The content of all other directives is code, tables, pictures, formulas or
# version history.
_PROSE_DIRECTIVES = frozenset(
    "admonition attention caution danger hint important note seealso tip "
    "warning".split()
)
# An English sentence of eight words or more has at least two of these.
_FUNCTION_WORDS = frozenset(
    "a an and any are as at be been but by can do does each for from has have "
    "if in into is it its may must no not of on only or other should so such "
    "than that the their then there these they this to use used using was "
    "when where whether which will with you".split()
)

_DIRECTIVE = re.compile(r"\.\. *([\w:-]*?)::(?:\s+|$)")
_TABLE = re.compile(r"[|+]|={2,} +=|-{2,} +-")
_BULLET = re.compile(r"(?:[-*+•]|\(?\d{1,2}[.)]|\(?[a-z]\)|#\.)\s+")
_FIELD = re.compile(r":(\w+)(?: [^:]*)?:(?:\s+|$)")
_TYPE_FIELD = re.compile(r":(?:type|rtype|vartype)(?: [^:]*)?:(?:\s+|$)")
_GOOGLE_ENTRY = re.compile(r"`{0,2}(\*{0,2}\w+)`{0,2}(?: ?\([^()]*\))?:\s+")
# Underlines, "name : type" lines, "Section:" lines and Markdown titles.
_NOT_TEXT = re.compile(
    r"$|([-=~^\"'*+#`_.:])\1{2,}$"
    r"|\*{0,2}[\w.]+(?:\s*,\s*\*{0,2}[\w.]+)*\s+:(?:\s|$)"
    r"|#+\s|(?:[A-Z][a-z]+ ?){1,2}:$"
)

_MARKUP = (
    (
        re.compile(r"(?<!\w):[\w:+.-]+:`~?[.!]?([^`<]*?)(?:\s*<[^`>]*>)?`"),
        r"\1",
    ),
    (re.compile(r"!?\[([^\]\[]*)\]\((?:[^()\s]*)\)"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),
    (re.compile(r"`+([^`]*)`+_{0,2}"), r"\1"),
    (re.compile(r"\s*\[[\w#*]+\]_"), ""),
    (re.compile(r"\*\*(\S(?:[^*]*\S)?)\*\*"), r"\1"),
    (re.compile(r"(?<![\w*])\*([^\s*](?:[^*]*[^\s*])?)\*(?![\w*])"), r"\1"),
    (re.compile(r"\\([_*\s])"), r"\1"),
)
_MARKUP_SIGN = re.compile(r"[`*\[\\]")
_NOT_PROSE = re.compile(r"://|[\\{}|$@^]|==|[^\s.]\(.*\)\(|<\w+>|\w_\b")
_WORD = re.compile(
    r"(?<!\S)[\"'(]*[A-Za-z]+(?:['’-][A-Za-z]+)*[.,;:!?\"')]*(?!\S)"
)
_SENTENCE_END = re.compile(r"[.!?:][\"')\]]*$")

# The body of an argument list: in Google's notation the lines that are indented
# deeper than the title, in NumPy's the lines down to the next underline.
_ARGUMENT_LIST = re.compile(
    r"^( *)(?:Args|Arguments|Parameters):\n(?P<google>(?:\1 +.*\n| *\n)*)"
    r"|^(?:Other )?Parameters\n---.*\n(?P<numpy>(?:(?!---).*\n)*)",
    re.MULTILINE,
)
# The rest of a description's first paragraph, up to a list, code or a table.
_INDENTED = r"(?P<rest>(?:\n +(?!(?:[-*+•]|\d+[.)]) |>>>|```|\.\. |\|)\S.*)*)"
_GOOGLE_ARGUMENT = re.compile(
    r"^`{0,2}\*{0,2}(?P<name>\w+)`{0,2}(?: ?\([^()\n]*\))?: (?P<first>.*)"
    + _INDENTED,
    re.MULTILINE,
)
_NUMPY_ARGUMENT = re.compile(
    rf"^\*{{0,2}}(?P<name>\w+)(?: +:.*)?(?P<first>){_INDENTED}$", re.MULTILINE
)


class Docstring(NamedTuple):
    """A docstring as written, without its indentation.

    Attributes:
        name: name of the function or class (the class for `__init__`), or
            "" for a module.
        text: the docstring.
        parameters: names in the signature, without self and cls.
    """

    name: str
    text: str
    parameters: frozenset[str]


def read_docstrings(source: bytes) -> list[Docstring]:
    """Returns the docstrings of a module in the order of its text.

    Definitions inside functions are left out, because nobody can call them. A
    source that this Python cannot parse (a template, another version's syntax)
    has no docstrings.
    """
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Invalid escape sequences.
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [
        Docstring(name, inspect.cleandoc(text), _parameters(node))
        for name, node in [("", tree), *_definitions(tree.body, "")]
        if (text := ast.get_docstring(node, clean=False))
    ]


def _definitions(body: list, owner: str) -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if isinstance(node, _DEFINITIONS):
            yield owner if node.name == "__init__" else node.name, node
            if isinstance(node, ast.ClassDef):
                yield from _definitions(node.body, node.name)
        elif isinstance(node, ast.If | ast.Try):
            yield from _definitions(node.body, owner)
            yield from _definitions(node.orelse, owner)


def _parameters(node: ast.AST) -> frozenset[str]:
    if isinstance(node, ast.ClassDef):
        for method in node.body:
            if getattr(method, "name", "") == "__init__":
                return _parameters(method)
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return frozenset()
    arguments = node.args
    named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return frozenset(argument.arg for argument in named) - {"self", "cls"}


def prose(text: str) -> list[str]:
    """Returns the English paragraphs of a docstring, each on one line."""
    stripped = (
        strip_markup(raw)
        for raw in _raw_paragraphs(text)
        if raw.count(" ") >= MIN_WORDS - 1  # Removing markup adds no words.
    )
    return [paragraph for paragraph in stripped if is_english(paragraph)]


def described_arguments(docstring: Docstring) -> list[tuple[str, str]]:
    """Returns (argument, description) pairs, each argument of a function once.

    A description is the first paragraph about an argument of the signature,
    without markup, if it has 5 to 50 words.
    """
    described = {}
    for section in _ARGUMENT_LIST.finditer(docstring.text.expandtabs() + "\n"):
        if section["google"]:
            body = textwrap.dedent(section["google"])
            arguments = _GOOGLE_ARGUMENT.finditer(body)
        else:
            arguments = _NUMPY_ARGUMENT.finditer(section["numpy"] or "")
        for argument in arguments:
            name = argument["name"]
            if name not in docstring.parameters or name in described:
                continue
            text = strip_markup(argument["first"] + argument["rest"])
            text = text[:1].upper() + text[1:]
            if text[-1:].isalnum():
                text += "."
            if _is_text(text, _MIN_ARGUMENT_WORDS, _MAX_ARGUMENT_WORDS):
                described[name] = text
    return list(described.items())


def strip_markup(text: str) -> str:
    """Removes reStructuredText and Markdown markup, keeping its words."""
    if _MARKUP_SIGN.search(text):
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    return " ".join(text.split())


def is_english(paragraph: str) -> bool:
    """Tells whether a paragraph is at least 8 words of English sentences."""
    return (
        _is_text(paragraph, MIN_WORDS, MAX_WORDS)
        and (paragraph[0].isupper() or paragraph[0] in "\"'(")
        and len(_FUNCTION_WORDS.intersection(paragraph.lower().split())) >= 2
    )


def _is_text(paragraph: str, min_words: int, max_words: int) -> bool:
    """Tells complete sentences from code, formulas and fragments."""
    num_words = len(paragraph.split())
    return bool(
        min_words <= num_words <= max_words
        and _SENTENCE_END.search(paragraph)
        and not _NOT_PROSE.search(paragraph)
        and len(_WORD.findall(paragraph)) >= 0.75 * num_words
        and paragraph.isprintable()
    )


def _raw_paragraphs(text: str) -> Iterator[str]:
    """Joins the lines of a paragraph; list items and entries are separate."""
    lines: list[str] = []
    start = 0  # Indentation of the paragraph's first line.
    labelled = False
    for indent, line in [*_text_lines(text), (0, "")]:
        label = _label(line, indent) if indent <= start or not lines else None
        if not line or label or indent < start:
            yield " ".join(lines)
            lines = []
        if not line:
            start = 0
            continue
        if label:
            line = line[label.end() :]
            line = line[:1].upper() + line[1:]
        elif len(lines) == 1 and indent > start and not labelled:
            if not _SENTENCE_END.search(lines[0]) and lines[0].count(" ") < 6:
                lines = []  # A defined term or a type: its text follows.
        if not lines:
            start, labelled = indent, bool(label)
        lines.append(line)


def _label(line: str, indent: int) -> re.Match | None:
    """Matches the bullet, argument name or field that opens a line."""
    entry = _GOOGLE_ENTRY.match(line) if indent else None
    return entry or _BULLET.match(line) or _FIELD.match(line)


def _text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yields indentation and content of each line, "" for lines not of text."""
    skipped_indent = None  # Lines deeper than this belong to a dropped block.
    in_example = False  # Up to a blank line, so that output is dropped too.
    fence = ""
    for line in text.expandtabs().splitlines():
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if fence:
            fence = "" if stripped.startswith(fence) else fence
            continue
        if not stripped:
            in_example = False
        elif in_example:
            continue
        elif skipped_indent is not None:
            if indent > skipped_indent:
                continue
            skipped_indent = None
        kind, content = _line_kind(stripped)
        if kind == "fence":
            fence = stripped[:3]
        elif kind == "block" or content.endswith("::"):
            skipped_indent = indent
        in_example = in_example or kind == "example"
        if kind != "text":
            yield indent, ""
        if content:
            yield indent, re.sub(r"\s*::$", ":", content)


def _line_kind(stripped: str) -> tuple[str, str]:
    """Returns what a line is, and the text in it that is kept."""
    if stripped.startswith("```"):
        # A fence closed on the same line hides nothing below it.
        return ("break" if stripped.count("```") == 2 else "fence"), ""
    if stripped.startswith((">>>", "In [", "$ ", "% ")):
        return "example", ""
    directive = _DIRECTIVE.match(stripped)
    if directive and directive[1] in _PROSE_DIRECTIVES:
        return "break", stripped[directive.end() :]
    if directive or stripped.startswith((".. [", ".. _")):
        return "block", ""
    if _TYPE_FIELD.match(stripped):
        return "block", ""
    if _TABLE.match(stripped):
        return "example", ""
    return ("break", "") if _NOT_TEXT.match(stripped) else ("text", stripped)
