"""Tagged sentences that everyone already has: code inside documentation.

Owns the default task of token classification: which words of a sentence are
code, and of what kind? Authors have marked them, ``so`` or :func:`so`; the
marks are taken away and become the tags. Sentences are from the docstrings of
installed packages that mark code thoroughly, and only those with a mark are
taken: in a sentence without one, code may have been left unmarked.

Whole modules are held out, the same as in `builtin.py`.
"""

import ast
import importlib.util
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mobilebert_tf.data.builtin import split_of
from mobilebert_tf.data.docstrings import (
    Docstring,
    is_english,
    read_docstrings,
    strip_markup,
)
from mobilebert_tf.data.documentation import normalised, read_documentation
from mobilebert_tf.tasks.conll import Sentences

PACKAGES = ("numpy", "scipy", "sklearn")
MIN_TOKENS, MAX_TOKENS = 5, 100

# ``code`` or `code`, or :role:`code`, whose target, <...>, is not shown.
_MARKED = re.compile(
    r"(?::[\w:+.-]+:)?(?P<sign>``?)(?P<code>[^`]+?)(?:\s*<[^`>]*>)?(?P=sign)_?"
)
_TOKEN = re.compile(r"\w+|[^\w\s]")
_EXAMPLE_FOLLOWS = re.compile(r"\s*::$")
_SENTENCE_BREAK = re.compile(r"(?<=[a-z)`*][.!?])\s+(?=[A-Z`:])")


def code_task() -> dict[str, Sentences]:
    """Sentences with IOB2 tags; splits train, dev and test.

    PARAMETER is an argument of the function that is documented, VALUE a
    Python literal such as None or 0.5, CODE anything else that is marked: one
    mark in ten is no code but a formula, a link or a term of a glossary. Each
    sentence is there once; dev and test have none of the modules of the
    other splits.
    """
    found = {"train": [], "dev": [], "test": []}
    seen = set()
    modules = [
        document.path
        for document in read_documentation()
        if document.path.split("/")[0] in PACKAGES
    ]
    print(f"Reading the documentation of {', '.join(PACKAGES)}", flush=True)
    # Train first: what it has is not asked for later.
    for split in found:
        for tokens, tags in _in_modules(
            path for path in modules if split_of(path) == split
        ):
            key = normalised(" ".join(tokens))
            if key not in seen:
                seen.add(key)
                found[split].append((tokens, tags))
    return {split: _sentences(split, found[split]) for split in found}


def tagged_sentences(
    docstring: Docstring,
) -> Iterator[tuple[list[str], list[str]]]:
    """Tokens and tags of the sentences of a docstring that mark code."""
    for paragraph in docstring.text.split("\n\n"):
        lines = paragraph.splitlines()
        indents = {len(line) - len(line.lstrip()) for line in lines}
        # Lists, tables and definitions have lines of several indentations.
        if "`" not in paragraph or len(indents) > 1:
            continue
        raw = " ".join(line.strip() for line in lines)
        raw = _EXAMPLE_FOLLOWS.sub(":", raw)
        if not is_english(strip_markup(raw)):
            continue
        for sentence in _SENTENCE_BREAK.split(raw):
            tokens, tags = _tagged(sentence, docstring.parameters)
            is_marked = any(tag != "O" for tag in tags)
            if is_marked and MIN_TOKENS <= len(tokens) <= MAX_TOKENS:
                if "`" not in tokens:  # A mark that was not understood.
                    yield tokens, tags


def _in_modules(paths: Iterable[str]) -> Iterator[tuple[list[str], list[str]]]:
    for path in paths:
        for docstring in read_docstrings(_source(path)):
            yield from tagged_sentences(docstring)


def _tagged(
    sentence: str, parameters: frozenset[str]
) -> tuple[list[str], list[str]]:
    tokens, tags, end = [], [], 0
    for match in _MARKED.finditer(sentence):
        _add(tokens, tags, strip_markup(sentence[end : match.start()]), None)
        code = match["code"].strip("~ ")
        _add(tokens, tags, code, _kind(code, parameters))
        end = match.end()
    _add(tokens, tags, strip_markup(sentence[end:]), None)
    return tokens, tags


def _add(tokens: list, tags: list, text: str, kind: str | None) -> None:
    """Adds the tokens of a text, all of one kind, with their tags."""
    for index, token in enumerate(_TOKEN.findall(text)):
        tokens.append(token)
        tags.append(f"{'I' if index else 'B'}-{kind}" if kind else "O")


def _kind(code: str, parameters: frozenset[str]) -> str:
    if code.lstrip("*") in parameters:
        return "PARAMETER"
    try:
        ast.literal_eval(code)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return "CODE"
    return "VALUE"


def _source(path: str) -> bytes:
    package, _, rest = path.partition("/")
    # Finding the spec of a top-level package does not import it.
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0], rest).read_bytes()


def _sentences(split: str, found: list) -> Sentences:
    return Sentences(
        f"built-in {split} sentences",
        [tokens for tokens, _ in found],
        [tags for _, tags in found],
        # Of a file that they would fill.
        list(_first_lines(found)),
    )


def _first_lines(found: list) -> Iterator[int]:
    line = 1
    for tokens, _ in found:
        yield line
        line += len(tokens) + 1
