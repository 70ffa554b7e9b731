"""The built-in corpus and tasks, so that every command runs without files.

The corpus is the English documentation of the installed packages, parsed and
never imported or downloaded. Three tasks with true labels come from the same
source: which library a paragraph documents (`library_task`), what an argument
means (`argument_questions`), and which words are code (`code_task`).

The same packages in the same versions give the same documents. A document is
held out by the hash of its module's path, and a paragraph is kept only where it
occurs first, so no split contains text of another.
"""

import ast
import contextlib
import gc
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mobilebert_tf.data import docstrings
from mobilebert_tf.files import Fingerprint, atomic_file

# Folders of the packages that a default installation brings: packages that only
# the tests need must not change the training text.
PACKAGES = (
    "PIL absl etils fontTools google/protobuf h5py huggingface_hub joblib "
    "keras matplotlib mpl_toolkits numpy optree pyparsing requests rich scipy "
    "sklearn tensorflow tensorflow_datasets tensorflow_model_optimization "
    "tensorflow_text tf_keras urllib3".split()
)
# Where a distribution's name differs.
_DISTRIBUTIONS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "google/protobuf": "protobuf",
    "mpl_toolkits": "matplotlib",
    "sklearn": "scikit-learn",
}
# The library that a package's modules document.
LIBRARIES = {
    "keras": "keras",
    "matplotlib": "matplotlib",
    "mpl_toolkits": "matplotlib",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "stdlib": "stdlib",
    "tensorflow": "tensorflow",
    "tf_keras": "keras",
}
_OLD_KERAS = "tensorflow/python/keras/"
MIN_PARAGRAPHS = 2
_SKIPPED_FOLDERS = frozenset(
    "__pycache__ _api _tf_keras _vendor dist-packages idlelib lib2to3 "
    "site-packages test tests turtledemo".split()
)
_HELD_OUT_PERCENT = 12  # Of the documents, for dev and for test each.
_NOT_LETTERS = re.compile(r"[\W\d_]+")
_SENTENCE_BREAK = re.compile(r"(?<=[a-z)\"'][.!?])\s+(?=[A-Z\"'(])")

# A paragraph that names a library gives its label away: names in any word, and
# the usual aliases as words of their own.
_NAMES = (
    "keras matplotlib mplot3d ndarray numpy pylab pyplot python scikit scipy "
    "sklearn tensorboard tensorflow tflite tfrecord".split()
)
_ALIASES = frozenset("mpl np plt sp tf tfds tfp".split())
_WORD = re.compile("[a-z0-9]+")
_MIN_TASK_WORDS = 12
# Per library, so that none outweighs the others.
_MAX_TRAIN_EXAMPLES, _MAX_HELD_OUT_EXAMPLES = 3000, 450

_MAX_ANSWER_WORDS = 25
_QUESTIONS = (
    "What does the argument {argument} of {function} mean?",
    "What is {argument} in {function}?",
    "What should be passed to {function} as {argument}?",
    "How is the argument {argument} of {function} described?",
)

# The packages that mark code thoroughly. ``code``, `code`, or :role:`code`,
# whose target, <...>, is not displayed.
_TAGGED_PACKAGES = ("numpy", "scipy", "sklearn")
_MARKED = re.compile(
    r"(?::[\w:+.-]+:)?(?P<sign>``?)(?P<code>[^`]+?)(?:\s*<[^`>]*>)?(?P=sign)_?"
)
_MARKED_SENTENCE_BREAK = re.compile(r"(?<=[a-z)`*][.!?])\s+(?=[A-Z`:])")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_MIN_TOKENS, _MAX_TOKENS = 5, 100


class Document(NamedTuple):
    """The documentation of one module.

    Attributes:
        path: the module's path, beginning with its package's folder or
            "stdlib".
        paragraphs: those that no earlier module contains, one string each.
        shared: indices of paragraphs that another library's modules repeat.
        functions: (name, [(argument, description)]) of each function.
        tagged: [tokens, tags] of each sentence that marks code, for packages
            that mark it thoroughly.
    """

    path: str
    paragraphs: list[str]
    shared: list[int]
    functions: list
    tagged: list

    @property
    def library(self) -> str | None:
        """The label in `library_task`, or None for other packages."""
        if self.path.startswith(_OLD_KERAS):
            return "keras"
        return LIBRARIES.get(self.path.split("/")[0])

    @property
    def split(self) -> str:
        """The split: train, dev or test, by the hash of the path."""
        percent = _hash(self.path) % 100
        if percent < _HELD_OUT_PERCENT:
            return "dev"
        return "test" if percent < 2 * _HELD_OUT_PERCENT else "train"


def pretraining_documents() -> list[list[str]]:
    """Returns the paragraphs of the documents that are not held out.

    They contain no sentence of the dev and test splits of `library_task`, and
    no answer of the dev split of `argument_questions`.
    """
    return [document.paragraphs for document in _split_documents()["train"]]


def library_task() -> dict[str, tuple[list[str], list[str]]]:
    """Returns (paragraphs, the libraries they document) by split.

    Left out are paragraphs of fewer than 12 words, those that name a library or
    its usual alias (the standard library's name is Python), those found in two
    libraries, and held-out paragraphs with a sentence of a training document.
    Large libraries are capped; the order is a fixed shuffle.
    """
    splits = _split_documents()
    known = _sentences(splits["train"])
    task = {}
    for split, documents in splits.items():
        excluded, cap = known, _MAX_HELD_OUT_EXAMPLES
        if split == "train":
            excluded, cap = set(), _MAX_TRAIN_EXAMPLES
        texts = defaultdict(list)
        for document in documents:
            if document.library:
                texts[document.library] += _task_texts(document, excluded)
        rows = [
            (paragraph, library)
            for library, paragraphs in texts.items()
            for paragraph in sorted(paragraphs, key=_hash)[:cap]
        ]
        # Another hash than that of the cap, which kept the smallest.
        rows.sort(key=lambda row: _hash(f"shuffle {row[0]}"))
        task[split] = [text for text, _ in rows], [label for _, label in rows]
    return task


def _task_texts(document: Document, excluded: set[str]) -> list[str]:
    return [
        paragraph
        for index, paragraph in enumerate(document.paragraphs)
        if index not in document.shared
        and len(paragraph.split()) >= _MIN_TASK_WORDS
        and not names_a_library(paragraph)
        and excluded.isdisjoint(_normalised_sentences(paragraph))
    ]


def names_a_library(paragraph: str) -> bool:
    """Tells whether a paragraph contains a library's name or usual alias."""
    lowered = paragraph.lower()
    return any(name in lowered for name in _NAMES) or not _ALIASES.isdisjoint(
        _WORD.findall(lowered)
    )


def argument_questions() -> dict[str, dict]:
    """Returns questions about arguments in SQuAD v1.1's format; train and dev.

    A context lists the arguments of a function with their descriptions; an
    answer is the first sentence of a description. The dev split is made of all
    held-out documents, without answers that occur in a training document.
    """
    splits = _split_documents()
    known = _sentences(splits["train"])
    held_out = sorted(splits["dev"] + splits["test"])
    return {
        "train": _squad(splits["train"], excluded=set()),
        "dev": _squad(held_out, excluded=known),
    }


def _squad(documents: list[Document], excluded: set[str]) -> dict:
    articles, seen = [], set()
    for document in documents:
        paragraphs = []
        for function, pairs in document.functions:
            key = normalised(" ".join(text for _, text in pairs))
            if len(pairs) < 2 or key in seen:
                continue
            seen.add(key)
            context = " ".join(
                f"{argument}: {text}" for argument, text in pairs
            )
            place = f"{document.path} {function}"
            questions = [
                question
                for question in _questions(place, function, context, pairs)
                if normalised(question["answers"][0]["text"]) not in excluded
            ]
            if questions:
                paragraphs.append({"context": context, "qas": questions})
        if paragraphs:
            articles.append({"title": document.path, "paragraphs": paragraphs})
    return {"version": "1.1", "data": articles}


def _questions(
    place: str, function: str, context: str, pairs: list
) -> Iterator[dict]:
    start = 0
    for argument, text in pairs:
        start += len(f"{argument}: ")
        answer = _SENTENCE_BREAK.split(text)[0].rstrip(".")
        if len(answer.split()) <= _MAX_ANSWER_WORDS:
            number = _hash(f"{place} {argument} {context}")
            question = _QUESTIONS[number % len(_QUESTIONS)].format(
                argument=argument, function=function
            )
            yield {
                "id": f"{number:016x}",
                "question": question,
                "answers": [{"text": answer, "answer_start": start}],
            }
        start += len(f"{text} ")


def code_task() -> dict[str, tuple[list[list[str]], list[list[str]]]]:
    """Returns (tokens by sentence, IOB2 tags by sentence) by split.

    Tagged are the words that authors mark as code: PARAMETER is an argument of
    the documented function, VALUE a Python literal such as None or 0.5, CODE
    any other mark (one in ten is a formula, a link or a term of a glossary).
    Sentences without a mark are left out, because their code may be unmarked.
    """
    task, seen = {}, set()
    # The training split comes first: the others leave out its sentences.
    for split, documents in _split_documents().items():
        tokens, tags = task[split] = [], []
        for document in documents:
            for sentence, sentence_tags in document.tagged:
                key = normalised(" ".join(sentence))
                if key not in seen:
                    seen.add(key)
                    tokens.append(sentence)
                    tags.append(sentence_tags)
    return task


def tagged_sentences(
    docstring: docstrings.Docstring,
) -> Iterator[tuple[list[str], list[str]]]:
    """Yields tokens and tags of the sentences of a docstring that mark code."""
    for paragraph in docstring.text.split("\n\n"):
        lines = paragraph.splitlines()
        indents = {len(line) - len(line.lstrip()) for line in lines}
        # Lists, tables and definitions have lines of several indentations.
        if "`" not in paragraph or len(indents) > 1:
            continue
        raw = " ".join(line.strip() for line in lines)
        raw = re.sub(r"\s*::$", ":", raw)
        if not docstrings.is_english(docstrings.strip_markup(raw)):
            continue
        for sentence in _MARKED_SENTENCE_BREAK.split(raw):
            tokens, tags = _tagged(sentence, docstring.parameters)
            is_marked = any(tag != "O" for tag in tags)
            if is_marked and _MIN_TOKENS <= len(tokens) <= _MAX_TOKENS:
                if "`" not in tokens:  # An unbalanced mark.
                    yield tokens, tags


def _tagged(
    sentence: str, parameters: frozenset[str]
) -> tuple[list[str], list[str]]:
    tokens, tags, end = [], [], 0
    for match in [*_MARKED.finditer(sentence), None]:
        start = match.start() if match else len(sentence)
        plain = _TOKEN.findall(docstrings.strip_markup(sentence[end:start]))
        tokens += plain
        tags += ["O"] * len(plain)
        if match:
            code = match["code"].strip("~ ")
            marked = _TOKEN.findall(code)
            tokens += marked
            label = _label(code, parameters)
            tags += [f"B-{label}", *[f"I-{label}"] * len(marked)][: len(marked)]
            end = match.end()
    return tokens, tags


def _label(code: str, parameters: frozenset[str]) -> str:
    if code.lstrip("*") in parameters:
        return "PARAMETER"
    try:
        ast.literal_eval(code)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return "CODE"
    return "VALUE"


def read_documentation() -> list[Document]:
    """Returns the documents of all installed packages, sorted by path.

    Reading all sources takes some twenty seconds, so the result is cached in
    the user's cache folder, under a name made of the versions and of this code.
    A damaged cache file is reported and built again.
    """
    versions = installed_versions()
    key = hashlib.sha256(json.dumps(versions).encode())
    for module in (__file__, docstrings.__file__):
        key.update(Path(module).read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"documentation-{key.hexdigest()[:16]}.json.gz"
    path = root / "mobilebert_tf" / name
    if path.exists():
        try:
            content = gzip.decompress(path.read_bytes())
            return [Document(*fields) for fields in json.loads(content)]
        except (OSError, EOFError, zlib.error, ValueError) as error:
            print(f"{path}: damaged, building it again: {error}")
    print(f"Reading the documentation of {len(versions)} installed packages")
    documents = build_documents(_source_files(versions))
    content = gzip.compress(json.dumps(documents).encode(), 6, mtime=0)
    try:
        with atomic_file(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        print(f"{path}: not cached: {error}")
    return documents


def documentation_fingerprints() -> list[Fingerprint]:
    """Takes the fingerprints of the documentation of all packages."""
    versions = installed_versions()
    digests = {folder: hashlib.sha256() for folder in versions}
    for document in read_documentation():
        folder = next(
            name for name in digests if document.path.startswith(f"{name}/")
        )
        digests[folder].update(json.dumps(document).encode())
    return [
        Fingerprint(f"{folder} {version}", digests[folder].hexdigest())
        for folder, version in versions.items()
    ]


def installed_versions() -> dict[str, str]:
    """Returns the versions of Python and the installed `PACKAGES` by folder."""
    versions = {"stdlib": sys.version.split()[0]}
    for folder in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            name = _DISTRIBUTIONS.get(folder, folder)
            versions[folder] = importlib.metadata.version(name)
    return dict(sorted(versions.items()))


def build_documents(files: list[tuple[str, Path]]) -> list[Document]:
    """Reads (path in a document, source file) pairs into documents.

    Paragraphs that differ only in case, digits, punctuation or spacing count as
    one, which stays where it occurs first.

    Returns:
        The documents with at least two paragraphs.
    """
    first_seen: dict[str, tuple[Document, int]] = {}
    # Parsing makes millions of short-lived nodes without cycles: searching
    # them for garbage would take as long as parsing does.
    gc.disable()
    try:
        documents = [
            _read_module(name, file.read_bytes(), first_seen)
            for name, file in files
        ]
    finally:
        gc.enable()
    return [
        document
        for document in documents
        if len(document.paragraphs) >= MIN_PARAGRAPHS
    ]


def normalised(paragraph: str) -> str:
    """Returns the letters of a paragraph in lower case, which identify it."""
    return _NOT_LETTERS.sub(" ", paragraph.lower()).strip()


def _read_module(
    path: str, source: bytes, first_seen: dict[str, tuple[Document, int]]
) -> Document:
    document = Document(path, [], [], [], [])
    for docstring in docstrings.read_docstrings(source):
        for paragraph in docstrings.prose(docstring.text):
            original, index = first_seen.setdefault(
                normalised(paragraph), (document, len(document.paragraphs))
            )
            if original is document and index == len(document.paragraphs):
                document.paragraphs.append(paragraph)
            elif original.library != document.library:
                if index not in original.shared:
                    original.shared.append(index)
        described = docstrings.described_arguments(docstring)
        if described:
            document.functions.append((docstring.name, described))
        if path.split("/")[0] in _TAGGED_PACKAGES:
            document.tagged.extend(tagged_sentences(docstring))
    return document


def _source_files(versions: dict[str, str]) -> list[tuple[str, Path]]:
    """Returns names and paths of all modules but tests, sorted by name."""
    files = []
    for folder in versions:
        root = _package_root(folder)
        for path in root.rglob("*.py"):
            relative = path.relative_to(root)
            if not _SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
                files.append((f"{folder}/{relative.as_posix()}", path))
    return sorted(files)


def _package_root(folder: str) -> Path:
    if folder == "stdlib":
        return Path(sysconfig.get_path("stdlib"))
    top, *rest = folder.split("/")
    # Finding the spec of a top-level package does not import it.
    locations = importlib.util.find_spec(top).submodule_search_locations
    roots = [Path(location, *rest) for location in locations]
    return next(root for root in roots if root.is_dir())


def _split_documents() -> dict[str, list[Document]]:
    splits = {"train": [], "dev": [], "test": []}
    for document in read_documentation():
        splits[document.split].append(document)
    return splits


def _sentences(documents: list[Document]) -> set[str]:
    """Returns all sentences of paragraphs and descriptions, normalised."""
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


def _hash(text: str) -> int:
    """Returns a 64-bit hash that is the same in every process and Python."""
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big")
