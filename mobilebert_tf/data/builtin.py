"""The text everyone already has: a corpus and two tasks without a download.

Owns the default corpus, used when a user names no files: the documentation of
the installed packages (`documentation.py`). Two tasks with true labels are
made from the same source: which library a paragraph documents, and what an
argument of a function means.

Whole documents are held out: the hash of a module's path decides its split.
Since a paragraph stands in one document only, no split holds another's text.
"""

import ast
import hashlib
import importlib.util
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from mobilebert_tf.data.docstrings import (
    Docstring,
    is_english,
    read_docstrings,
    strip_markup,
)
from mobilebert_tf.data.documentation import (
    Document,
    normalised,
    read_documentation,
)

# A paragraph with one of these gives its library away: names in any word, and
# the usual aliases as words of their own.
_NAMES = (
    "keras matplotlib mplot3d ndarray numpy pylab pyplot python scikit scipy "
    "sklearn tensorboard tensorflow tflite tfrecord".split()
)
_ALIASES = frozenset("mpl np plt sp tf tfds tfp".split())
MIN_TASK_WORDS = 12
# Of one library, so that none drowns the others.
MAX_TRAIN_EXAMPLES = 3000
MAX_HELD_OUT_EXAMPLES = 450

_HELD_OUT_PERCENT = 12  # Of the documents, for dev and for test each.
_MAX_ANSWER_WORDS = 25
_SENTENCE_BREAK = re.compile(r"(?<=[a-z)\"'][.!?])\s+(?=[A-Z\"'(])")
_WORD = re.compile("[a-z0-9]+")
_QUESTIONS = (
    "What does the argument {argument} of {function} mean?",
    "What is {argument} in {function}?",
    "What should be passed to {function} as {argument}?",
    "How is the argument {argument} of {function} described?",
)

_TAGGED_PACKAGES = ("numpy", "scipy", "sklearn")
_MIN_TOKENS, _MAX_TOKENS = 5, 100
# ``code`` or `code`, or :role:`code`, whose target, <...>, is not shown.
_MARKED = re.compile(
    r"(?::[\w:+.-]+:)?(?P<sign>``?)(?P<code>[^`]+?)(?:\s*<[^`>]*>)?(?P=sign)_?"
)
_TOKEN = re.compile(r"\w+|[^\w\s]")
_EXAMPLE_FOLLOWS = re.compile(r"\s*::$")
_MARKED_SENTENCE_BREAK = re.compile(r"(?<=[a-z)`*][.!?])\s+(?=[A-Z`:])")


def load_documents() -> list[list[str]]:
    """All text: documents of at least two paragraphs, one string each."""
    return [document.paragraphs for document in read_documentation()]


def pretraining_documents() -> list[list[str]]:
    """The text to pre-train on: `load_documents` without held-out documents.

    No paragraph of the dev and test splits of `library_task` is in it, not even
    a sentence of one, and no answer of the dev split of `argument_questions`.
    """
    trained_on, _ = _documents()
    return [document.paragraphs for document in trained_on]


def split_of(path: str) -> str:
    """The split of a document: train, dev or test, by the hash of its path."""
    percent = _hash(path) % 100
    if percent < _HELD_OUT_PERCENT:
        return "dev"
    return "test" if percent < 2 * _HELD_OUT_PERCENT else "train"


def library_task() -> dict[str, tuple[list[str], list[str]]]:
    """Returns (paragraphs, names of the libraries they document) by split.

    So that the answer takes understanding and not a look-up, paragraphs that
    name any of the libraries or its usual alias are left out (the standard
    library's name is Python), and so are those found in two libraries and those
    too short to tell. Dev and test have no sentence of the documents to train
    on. Large libraries are cut to a cap, and the order is a fixed shuffle.
    """
    trained_on, held_out = _documents()
    known = _sentences(trained_on)
    texts = defaultdict(list)
    for document in trained_on + held_out:
        split = split_of(document.path)
        if document.library:
            texts[split, document.library] += [
                paragraph
                for index, paragraph in enumerate(document.paragraphs)
                if index not in document.shared
                and len(paragraph.split()) >= MIN_TASK_WORDS
                and not names_a_library(paragraph)
                and (
                    split == "train"
                    or known.isdisjoint(_normalised_sentences(paragraph))
                )
            ]
    examples = {"train": [], "dev": [], "test": []}
    for (split, library), paragraphs in texts.items():
        cap = MAX_TRAIN_EXAMPLES if split == "train" else MAX_HELD_OUT_EXAMPLES
        kept = sorted(paragraphs, key=_hash)[:cap]
        examples[split] += [(paragraph, library) for paragraph in kept]
    return {split: _shuffled(pairs) for split, pairs in examples.items()}


def names_a_library(paragraph: str) -> bool:
    """Whether a name or alias of one of the task's libraries is in it."""
    lowered = paragraph.lower()
    return any(name in lowered for name in _NAMES) or not _ALIASES.isdisjoint(
        _WORD.findall(lowered)
    )


def argument_questions() -> dict[str, dict]:
    """Extractive questions about arguments; splits train and dev, SQuAD v1.1.

    A context is a function's argument descriptions in a row, an answer is the
    first sentence of one of them. Dev is made of the documents that
    `pretraining_documents` holds out, and asks for no sentence that is also
    found there or in the training questions.
    """
    trained_on, held_out = _documents()
    return {
        "train": _squad(trained_on, excluded=set()),
        "dev": _squad(held_out, excluded=_sentences(trained_on)),
    }


def _documents() -> tuple[list[Document], list[Document]]:
    """The documents of the training split and those of dev and test."""
    trained_on, held_out = [], []
    for document in read_documentation():
        in_train = split_of(document.path) == "train"
        (trained_on if in_train else held_out).append(document)
    return trained_on, held_out


def _sentences(documents: list[Document]) -> set[str]:
    """All sentences of paragraphs and argument descriptions, normalised."""
    sentences = set()
    for document in documents:
        for paragraph in document.paragraphs:
            sentences.update(_normalised_sentences(paragraph))
        for _, pairs in document.functions:
            for _, text in pairs:
                sentences.update(_normalised_sentences(text))
    return sentences


def _normalised_sentences(paragraph: str) -> list[str]:
    return [normalised(part) for part in _SENTENCE_BREAK.split(paragraph)]


def _squad(documents: list[Document], excluded: set[str]) -> dict:
    """Questions in the structure of SQuAD v1.1, contexts each once."""
    articles = []
    seen = set()
    for document in documents:
        paragraphs = []
        for function, pairs in document.functions:
            key = normalised(" ".join(text for _, text in pairs))
            if len(pairs) < 2 or key in seen:
                continue
            seen.add(key)
            paragraph = _squad_paragraph(
                document.path, function, pairs, excluded
            )
            if paragraph["qas"]:
                paragraphs.append(paragraph)
        if paragraphs:
            articles.append({"title": document.path, "paragraphs": paragraphs})
    return {"version": "1.1", "data": articles}


def _squad_paragraph(
    path: str,
    function: str,
    pairs: list[tuple[str, str]],
    excluded: set[str],
) -> dict:
    context = " ".join(f"{argument}: {text}" for argument, text in pairs)
    questions = []
    start = 0
    for argument, text in pairs:
        start += len(f"{argument}: ")
        answer = _SENTENCE_BREAK.split(text)[0].rstrip(".")
        number = _hash(f"{path} {function} {argument} {context}")
        if (
            len(answer.split()) <= _MAX_ANSWER_WORDS
            and normalised(answer) not in excluded
        ):
            question = _QUESTIONS[number % len(_QUESTIONS)].format(
                argument=argument, function=function
            )
            questions.append(
                {
                    "id": f"{number:016x}",
                    "question": question,
                    "answers": [{"text": answer, "answer_start": start}],
                }
            )
        start += len(f"{text} ")
    return {"context": context, "qas": questions}


def _shuffled(pairs: list[tuple[str, str]]) -> tuple[list[str], list[str]]:
    # Another hash than the one that the cap kept the smallest of.
    pairs = sorted(pairs, key=lambda pair: _hash(f"shuffle {pair[0]}"))
    return [text for text, _ in pairs], [label for _, label in pairs]


def code_task() -> dict[str, tuple[list[list[str]], list[list[str]]]]:
    """Returns (tokens by sentence, IOB2 tags by sentence) by split.

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
        if document.path.split("/")[0] in _TAGGED_PACKAGES
    ]
    print(
        f"Reading the documentation of {', '.join(_TAGGED_PACKAGES)}",
        flush=True,
    )
    # Train first: what it has is not asked for later.
    for split in found:
        for tokens, tags in _in_modules(
            path for path in modules if split_of(path) == split
        ):
            key = normalised(" ".join(tokens))
            if key not in seen:
                seen.add(key)
                found[split].append((tokens, tags))
    return {
        split: ([tokens for tokens, _ in rows], [tags for _, tags in rows])
        for split, rows in found.items()
    }


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
        for sentence in _MARKED_SENTENCE_BREAK.split(raw):
            tokens, tags = _tagged(sentence, docstring.parameters)
            is_marked = any(tag != "O" for tag in tags)
            if is_marked and _MIN_TOKENS <= len(tokens) <= _MAX_TOKENS:
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


def _hash(text: str) -> int:
    """A 64-bit number that is the same in every process and Python."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big")
