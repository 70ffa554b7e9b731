"""Plain English out of Python documentation strings.

Owns the way from one source file to paragraphs of prose: the file is parsed,
never imported, and everything in its docstrings that is not a sentence (code,
tables, types, section titles, markup) is dropped. What remains reads like a
manual, which is what a language model should be trained on.

Four notations are understood, since the libraries mix them: plain text,
reStructuredText, the NumPy sections and the Google sections.
"""

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
from typing import NamedTuple

MIN_WORDS = 8
MAX_WORDS = 200

_DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)

# Directives whose content is prose; the content of all others is code, tables,
# pictures, formulas or version history.
_PROSE_DIRECTIVES = frozenset(
    "admonition attention caution danger hint important note seealso tip "
    "warning".split()
)
# A sentence of eight words or more without two of these is not English.
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


class Docstring(NamedTuple):
    """A docstring as written, indentation removed.

    `name` is the definition's own name, or the owning class for `__init__`,
    and empty for a module; `parameters` are the names in its signature.
    """

    name: str
    text: str
    parameters: frozenset[str]


def read_docstrings(source: bytes) -> list[Docstring]:
    """The docstrings of a module in the order of its text, by parsing it.

    Definitions inside functions are left out: nobody can call them. A source
    that this Python cannot parse (a template, another version's syntax) has
    no docstrings.
    """
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Other people's escape sequences.
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
    arguments = getattr(node, "args", None)
    if arguments is None:
        return frozenset()
    named = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return frozenset(argument.arg for argument in named) - {"self", "cls"}


def prose(text: str) -> list[str]:
    """The paragraphs of English in one docstring, in order, one line each."""
    paragraphs = []
    for raw in _raw_paragraphs(text):
        if raw.count(" ") >= MIN_WORDS - 1:  # Markup removal adds no words.
            paragraph = strip_markup(raw)
            if is_english(paragraph):
                paragraphs.append(paragraph)
    return paragraphs


def strip_markup(text: str) -> str:
    """Removes reStructuredText and Markdown markup, keeping its words."""
    if _MARKUP_SIGN.search(text):
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    return " ".join(text.split())


def is_english(paragraph: str) -> bool:
    """Whether a paragraph reads as English sentences, at least 8 words long.

    Besides what `is_text` asks, it has two different function words, starts
    with a capital and ends with a stop.
    """
    return (
        is_text(paragraph, MIN_WORDS, MAX_WORDS)
        and (paragraph[0].isupper() or paragraph[0] in "\"'(")
        and len(_FUNCTION_WORDS.intersection(paragraph.lower().split())) >= 2
    )


def is_text(paragraph: str, min_words: int, max_words: int) -> bool:
    """Whether this is text and not code or a formula, and ends with a stop.

    Three quarters of its words must be purely alphabetic.
    """
    num_words = len(paragraph.split())
    if not min_words <= num_words <= max_words:
        return False
    if not _SENTENCE_END.search(paragraph) or _NOT_PROSE.search(paragraph):
        return False
    num_alphabetic = len(_WORD.findall(paragraph))
    return num_alphabetic >= 0.75 * num_words and paragraph.isprintable()


def _raw_paragraphs(text: str) -> Iterator[str]:
    """Joins lines that belong together; list items and entries are split."""
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
                lines = []  # A defined term or a type, now comes its text.
        if not lines:
            start, labelled = indent, bool(label)
        lines.append(line)


def _label(line: str, indent: int) -> re.Match | None:
    """The bullet, argument name or notice that opens a line, if one does."""
    entry = _GOOGLE_ENTRY.match(line) if indent else None
    return entry or _BULLET.match(line) or _FIELD.match(line)


def _text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Indentation and content of lines of text; "" where anything else was."""
    skipped_indent = None  # Deeper lines than this belong to a dropped block.
    in_example = False  # Lasts until a blank line, so it covers the output.
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
    """What a line is (text, or what drops it) and the text it leaves."""
    if stripped.startswith("```"):
        # A fence that opens and closes in one line hides nothing below it.
        return ("break" if stripped.count("```") == 2 else "fence"), ""
    if stripped.startswith((">>>", "In [", "$ ", "% ")):
        return "example", ""
    directive = _DIRECTIVE.match(stripped)
    if directive and directive[1] in _PROSE_DIRECTIVES:
        return "break", stripped[directive.end() :]
    if directive or stripped.startswith((".. [", ".. _")):
        return "block", ""
    field = _FIELD.match(stripped)
    if field and field[1] in ("type", "rtype", "vartype"):
        return "block", ""
    if _TABLE.match(stripped):
        return "example", ""
    if _NOT_TEXT.match(stripped):
        return "break", ""
    return "text", stripped
