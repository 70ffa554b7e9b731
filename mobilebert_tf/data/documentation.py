"""The English documentation of the installed packages, as documents.

Owns which packages are read, what one document is, and the cache that keeps
the result. Sources are parsed by `docstrings.py`; nothing is imported, nothing
is downloaded. The same packages in the same versions always give the same
documents: modules in the order of their paths, each paragraph kept once, where
it occurs first. Paragraphs that differ only in case, digits, punctuation or
spacing count as one.

Reading a hundred megabytes of source takes some twenty seconds, so the result
is kept in the user's cache folder.
"""

import gc
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mobilebert_tf.data import argument_sections, docstrings
from mobilebert_tf.files import atomic_file

# Folder and distribution name. Only what this package needs to run: what only
# its tests install must not change the text it trains on.
PACKAGES = {
    "PIL": "pillow",
    "absl": "absl-py",
    "etils": "etils",
    "fontTools": "fonttools",
    "google/protobuf": "protobuf",
    "h5py": "h5py",
    "huggingface_hub": "huggingface-hub",
    "joblib": "joblib",
    "keras": "keras",
    "matplotlib": "matplotlib",
    "mpl_toolkits": "matplotlib",
    "numpy": "numpy",
    "optree": "optree",
    "pyparsing": "pyparsing",
    "requests": "requests",
    "rich": "rich",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "tensorflow-datasets",
    "tensorflow_model_optimization": "tensorflow-model-optimization",
    "tensorflow_text": "tensorflow-text",
    "tf_keras": "tf-keras",
    "urllib3": "urllib3",
}
# Which library the modules below a path belong to; the longest prefix decides.
# TensorFlow carries an old copy of Keras.
LIBRARIES = {
    "keras": "keras",
    "matplotlib": "matplotlib",
    "mpl_toolkits": "matplotlib",
    "numpy": "numpy",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
    "stdlib": "stdlib",
    "tensorflow": "tensorflow",
    "tensorflow/python/keras": "keras",
    "tf_keras": "keras",
}
MIN_PARAGRAPHS = 2

_FORMAT = 1  # Raise when the meaning of a cached field changes.
_SKIPPED_FOLDERS = frozenset(
    "__pycache__ _api _tf_keras _vendor dist-packages idlelib lib2to3 "
    "site-packages test tests turtledemo".split()
)
_NOT_LETTERS = re.compile(r"[\W\d_]+")


class Document(NamedTuple):
    """What one module says.

    `path` begins with the package's folder, or `stdlib`. `shared` are the
    indices of paragraphs that another library's modules contain as well.
    `functions` are names with their (argument, description) pairs.
    """

    path: str
    paragraphs: list[str]
    shared: list[int]
    functions: list[tuple[str, list[tuple[str, str]]]]

    @property
    def library(self) -> str | None:
        """The class of this document in the library task, if it has one."""
        parts = self.path.split("/")
        prefixes = ["/".join(parts[:n]) for n in range(len(parts), 0, -1)]
        found = (LIBRARIES[name] for name in prefixes if name in LIBRARIES)
        return next(found, None)


def read_documentation() -> list[Document]:
    """The documents of all installed packages, from the cache when it is there.

    A cache file that is damaged is built again, and said so in a line.
    """
    versions = installed_versions()
    path = _cache_path(versions)
    if path.exists():
        try:
            return _read_cache(path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            print(f"{path}: damaged, building it again: {error}")
    print(f"Reading the documentation of {len(versions)} installed packages")
    documents = build_documents(_source_files(versions))
    _write_cache(path, documents)
    return documents


def installed_versions() -> dict[str, str]:
    """Version by folder of the packages that are installed here, sorted."""
    versions = {"stdlib": sys.version.split()[0]}
    for folder, distribution in PACKAGES.items():
        try:
            versions[folder] = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return dict(sorted(versions.items()))


def build_documents(files: list[tuple[str, Path]]) -> list[Document]:
    """Reads (name, source file) pairs into documents, duplicates removed.

    Args:
        files: names are paths beginning with the package's folder; their order
            decides which occurrence of a duplicate stays.

    Returns:
        The documents with at least two paragraphs.
    """
    first_seen: dict[str, tuple[Document, int]] = {}
    documents = []
    # Millions of short-lived syntax nodes without cycles: the collector only
    # looks at them, which takes as long as parsing does.
    collecting = gc.isenabled()
    gc.disable()
    try:
        for name, file in files:
            documents.append(_read_module(name, file.read_bytes(), first_seen))
    finally:
        if collecting:
            gc.enable()
    return [
        document
        for document in documents
        if len(document.paragraphs) >= MIN_PARAGRAPHS
    ]


def normalised(paragraph: str) -> str:
    """The letters of a paragraph in lower case: what makes it the same one."""
    return _NOT_LETTERS.sub(" ", paragraph.lower()).strip()


def _read_module(
    name: str, source: bytes, first_seen: dict[str, tuple[Document, int]]
) -> Document:
    document = Document(name, [], [], [])
    for docstring in docstrings.read_docstrings(source):
        for paragraph in docstrings.prose(docstring.text):
            key = normalised(paragraph)
            original, index = first_seen.setdefault(
                key, (document, len(document.paragraphs))
            )
            if original is document and index == len(document.paragraphs):
                document.paragraphs.append(paragraph)
            elif original.library != document.library:
                if index not in original.shared:
                    original.shared.append(index)
        described = argument_sections.described_arguments(docstring)
        if described:
            document.functions.append((docstring.name, described))
    return document


def _source_files(versions: dict[str, str]) -> list[tuple[str, Path]]:
    """Names and paths of all modules, sorted by name, tests left out."""
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
    spec = importlib.util.find_spec(top)
    for location in spec.submodule_search_locations:
        root = Path(location, *rest)
        if root.is_dir():
            return root
    raise FileNotFoundError(f"package {folder} has no folder in {spec.origin}")


def _cache_path(versions: dict[str, str]) -> Path:
    """Named by all that decides the content: packages, Python and this code."""
    key = hashlib.sha256(json.dumps([_FORMAT, versions]).encode())
    for module in (__file__, docstrings.__file__, argument_sections.__file__):
        key.update(Path(module).read_bytes())
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"documentation-{key.hexdigest()[:16]}.json"
    return Path(root) / "mobilebert_tf" / name


def _write_cache(path: Path, documents: list[Document]) -> None:
    """Writes a checksum line and a JSON line, or says that it could not."""
    content = json.dumps(documents, ensure_ascii=True)
    checksum = hashlib.sha256(content.encode()).hexdigest()
    try:
        with atomic_file(path) as temporary:
            temporary.write_text(f"{checksum}\n{content}\n", encoding="ascii")
    except OSError as error:
        print(f"{path}: not cached: {error}")


def _read_cache(path: Path) -> list[Document]:
    checksum, _, content = path.read_text(encoding="ascii").partition("\n")
    content = content.rstrip("\n")
    if checksum != hashlib.sha256(content.encode()).hexdigest():
        raise ValueError("its checksum does not fit its content")
    return list(_as_documents(json.loads(content)))


def _as_documents(rows: list) -> Iterator[Document]:
    for path, paragraphs, shared, functions in rows:
        pairs = [
            (function, [(argument, text) for argument, text in arguments])
            for function, arguments in functions
        ]
        yield Document(path, paragraphs, shared, pairs)
