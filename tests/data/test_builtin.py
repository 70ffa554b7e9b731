"""The built-in corpus and its tasks, on the packages that are installed here.

The first run reads all sources and takes half a minute; the cache in the
user's folder, named by a hash of packages and code, makes later ones quick.
"""

import collections
import hashlib
import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from mobilebert_tf.data import builtin, documentation

SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def documents():
    return documentation.read_documentation()


@pytest.fixture(scope="module")
def pretraining():
    return builtin.pretraining_documents()


@pytest.fixture(scope="module")
def task():
    return {
        split: types.SimpleNamespace(texts_a=texts, labels=labels)
        for split, (texts, labels) in builtin.library_task().items()
    }


@pytest.fixture(scope="module")
def questions():
    return builtin.argument_questions()


def _normalised(text: str) -> str:
    """Whitespace, case and digits made equal, written apart from the code."""
    return re.sub(r"[\s\d]+", " ", text.casefold()).strip()


def _paragraphs(documents) -> set[str]:
    return {_normalised(line) for document in documents for line in document}


def _qas(squad: dict):
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield paragraph["context"], qa


def test_the_corpus_is_some_ten_megabytes_of_english(documents):
    lines = builtin.load_documents()
    assert lines == [document.paragraphs for document in documents]
    assert 6e6 < sum(len(line) for text in lines for line in text) < 20e6
    assert all(len(document) >= 2 for document in lines)
    words = " ".join(line for text in lines for line in text).lower().split()
    # In English prose of any kind one word in twenty to twenty-five is "the".
    assert 0.04 < words.count("the") / len(words) < 0.12


def test_lines_hold_no_code_and_no_markup(documents):
    for document in documents:
        for line in document.paragraphs:
            assert len(line.split()) >= 8
            assert line == " ".join(line.split())
            assert line.rstrip("\"')]")[-1] in ".!?:"
            assert not re.search(r">>>|``|://|:\w+:`|^\.\. ", line)


def test_every_paragraph_is_kept_once(documents):
    keys = [
        _normalised(line)
        for document in documents
        for line in document.paragraphs
    ]
    assert len(keys) == len(set(keys))


def test_documents_are_sorted_and_leave_out_tests(documents):
    paths = [document.path for document in documents]
    assert paths == sorted(set(paths))
    assert "stdlib/argparse.py" in paths
    assert not [path for path in paths if "/tests/" in path]
    assert not [path for path in paths if "site-packages" in path]


def test_pretraining_leaves_the_held_out_documents_out(
    documents, pretraining, task
):
    kept = _paragraphs(pretraining)
    assert 0.6 < len(pretraining) / len(documents) < 0.9
    for split in ("dev", "test"):
        assert kept.isdisjoint(map(_normalised, task[split].texts_a))
    assert kept.issuperset(map(_normalised, task["train"].texts_a))


def test_no_sentence_of_a_held_out_example_is_trained_on(pretraining, task):
    """Cuts sentences in its own, simpler way."""

    def sentences(text):
        parts = re.split(r"(?<=[a-z][.!?]) (?=[A-Z])", text)
        return {_normalised(part).rstrip(".:!?\"')]") for part in parts}

    known = set()
    for document in pretraining:
        for line in document:
            known |= sentences(line)
    for split in ("dev", "test"):
        for text in task[split].texts_a:
            assert known.isdisjoint(sentences(text)), text


def test_splits_share_no_paragraph_and_no_document(documents, task):
    texts = {
        split: set(map(_normalised, task[split].texts_a)) for split in task
    }
    assert tuple(texts) == SPLITS
    assert sum(map(len, texts.values())) == len(set().union(*texts.values()))
    path_of = {
        line: document.path
        for document in documents
        for line in document.paragraphs
    }
    paths = {
        split: {path_of[text] for text in task[split].texts_a} for split in task
    }
    assert sum(map(len, paths.values())) == len(set().union(*paths.values()))


def test_the_library_task_is_large_and_roughly_balanced(task):
    assert len(task["train"].labels) >= 8000
    assert len(task["dev"].labels) >= 2000
    assert len(task["test"].labels) >= 2000
    for split, examples in task.items():
        counts = collections.Counter(examples.labels)
        assert sorted(counts) == [
            "keras",
            "matplotlib",
            "numpy",
            "scikit-learn",
            "scipy",
            "stdlib",
            "tensorflow",
        ]
        assert max(counts.values()) < 0.25 * len(examples.labels), split
        assert min(counts.values()) > 0.03 * len(examples.labels), split


def test_every_prefix_of_the_training_examples_is_a_fair_sample(task):
    labels = task["train"].labels
    for name in set(labels):
        share = labels.count(name) / len(labels)
        assert abs(labels[:2000].count(name) / 2000 - share) < 0.04


def test_labels_are_where_the_paragraph_stands(documents, task):
    library_of = {
        line: document.path
        for document in documents
        for line in document.paragraphs
    }
    folders = {
        "keras": ("keras/", "tf_keras/", "tensorflow/python/keras/"),
        "matplotlib": ("matplotlib/", "mpl_toolkits/"),
        "numpy": ("numpy/",),
        "scikit-learn": ("sklearn/",),
        "scipy": ("scipy/",),
        "stdlib": ("stdlib/",),
        "tensorflow": ("tensorflow/",),
    }
    for examples in task.values():
        pairs = zip(examples.texts_a, examples.labels, strict=True)
        for text, label in pairs:
            assert library_of[text].startswith(folders[label])
            if label == "tensorflow":
                assert not library_of[text].startswith(folders["keras"])


def test_no_example_names_a_library(task):
    names = {
        "numpy", "np", "ndarray", "scipy", "sklearn", "scikit", "matplotlib",
        "mpl", "plt", "pyplot", "tensorflow", "tf", "keras", "python",
    }  # fmt: skip
    for examples in task.values():
        for text in examples.texts_a:
            words = set(re.split(r"[^a-z0-9]+", text.lower()))
            assert not words & names, text


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("An instance of tf.Tensor.", True),
        ("Like np.ndarray or so.", True),
        ("The NumPy-like API of it.", True),
        ("Read from TFRecords.", True),
        ("A plt_like thing.", True),
        ("Drawn by mpl's backend.", True),
        ("A simple inputs_pl sample.", False),
        ("The template of a half.", False),
    ],
)
def test_names_and_aliases(text, named):
    assert builtin.names_a_library(text) is named


@pytest.mark.parametrize("split", ["train", "dev"])
def test_answers_stand_where_they_are_said_to(questions, split):
    squad = questions[split]
    assert squad["version"] == "1.1"
    ids = set()
    for context, qa in _qas(squad):
        (answer,) = qa["answers"]
        start, text = answer["answer_start"], answer["text"]
        assert text and text == text.strip()
        assert context[start : start + len(text)] == text
        # An argument's name stands right before its description.
        name = re.search(r"(\w+): $", context[:start])[1]
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", qa["question"])
        assert qa["question"].endswith("?")
        assert len(text.split()) <= 25
        ids.add(qa["id"])
    assert len(ids) == sum(1 for _ in _qas(squad))
    assert len(ids) >= (8000 if split == "train" else 2000)


def test_dev_questions_ask_for_nothing_trained_on(questions, pretraining):
    titles = {
        split: {article["title"] for article in questions[split]["data"]}
        for split in questions
    }
    assert titles["train"].isdisjoint(titles["dev"])
    contexts = {
        split: {_normalised(context) for context, _ in _qas(questions[split])}
        for split in questions
    }
    assert contexts["train"].isdisjoint(contexts["dev"])
    known = {
        _normalised(qa["answers"][0]["text"])
        for _, qa in _qas(questions["train"])
    }
    known |= {line.rstrip(".") for line in _paragraphs(pretraining)}
    asked = {
        _normalised(qa["answers"][0]["text"])
        for _, qa in _qas(questions["dev"])
    }
    assert known.isdisjoint(asked)


def test_splits_are_those_of_the_hash_of_the_path(documents):
    for document in documents[::50]:
        digest = hashlib.sha256(document.path.encode()).hexdigest()
        percent = int(digest[:16], 16) % 100
        expected = (
            "dev" if percent < 12 else "test" if percent < 24 else "train"
        )
        assert builtin.split_of(document.path) == expected


def test_other_processes_make_the_same(questions, task):
    """With another hash seed, and the sources of three packages read anew."""
    script = """
import hashlib, json, sys, types
# The package without its __init__, which would load TensorFlow for nothing.
package = sys.modules["mobilebert_tf"] = types.ModuleType("mobilebert_tf")
package.__path__ = ["mobilebert_tf"]
from mobilebert_tf.data import builtin, documentation as d
versions = {"absl": "", "google/protobuf": "", "h5py": ""}
made = [
    [texts + labels for texts, labels in builtin.library_task().values()],
    builtin.argument_questions(),
    d.build_documents(d._source_files(versions)),
]
print(hashlib.sha256(json.dumps(made).encode()).hexdigest())
"""
    environment = {**os.environ, "PYTHONHASHSEED": "17"}
    found = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()[-1]

    versions = {"absl": "", "google/protobuf": "", "h5py": ""}
    sources = documentation._source_files(versions)
    made = [
        [examples.texts_a + examples.labels for examples in task.values()],
        questions,
        documentation.build_documents(sources),
    ]
    assert found == hashlib.sha256(json.dumps(made).encode()).hexdigest()
    assert len(made[2]) > 20


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """A cache folder of its own, and few packages to fill it from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(
        documentation, "installed_versions", lambda: {"absl": "1", "h5py": "2"}
    )
    return tmp_path / "mobilebert_tf"


def test_the_cache_gives_back_what_was_built(small_cache, monkeypatch, capsys):
    built = documentation.read_documentation()
    (file,) = small_cache.iterdir()
    monkeypatch.setattr(documentation, "build_documents", None)
    assert documentation.read_documentation() == built
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("damage", ["truncated", "changed", "binary", "empty"])
def test_a_damaged_cache_is_built_again_and_said_so(
    small_cache, capsys, damage
):
    built = documentation.read_documentation()
    (file,) = small_cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(
        {
            "truncated": content[: len(content) // 2],
            "changed": content.replace(b"flag", b"flog", 1),
            "binary": b"\xff\x00",
            "empty": b"",
        }[damage]
    )
    capsys.readouterr()
    assert documentation.read_documentation() == built
    assert f"{file}: damaged" in capsys.readouterr().out
    assert file.read_bytes() == content


def test_other_versions_use_another_cache(small_cache, monkeypatch):
    documentation.read_documentation()
    monkeypatch.setattr(
        documentation, "installed_versions", lambda: {"absl": "2", "h5py": "2"}
    )
    documentation.read_documentation()
    assert len(list(small_cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_said_so(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(
        documentation, "installed_versions", lambda: {"h5py": "2"}
    )
    assert documentation.read_documentation()
    assert "not cached" in capsys.readouterr().out


def test_duplicates_stay_where_they_come_first(tmp_path):
    line = "The number {} of rows that are read from the file at once."
    other = "This is a paragraph that stands in one of the modules only{}."
    sources = {
        "numpy/a.py": [line.format(1), other.format("")],
        "numpy/b.py": [
            line.format(2),
            other.format(", b"),
            other.format("; c"),
        ],
        "scipy/a.py": [line.format(3).upper().capitalize(), other.format(" d")],
        "scipy/b.py": [other.format(" e"), other.format(" f")],
    }
    files = []
    for name, lines in sources.items():
        path = tmp_path / name.replace("/", "_")
        path.write_text('"""' + "\n\n".join(lines) + '\n"""\n')
        files.append((name, path))

    documents = documentation.build_documents(files)

    assert [document.path for document in documents] == [
        "numpy/a.py",
        "numpy/b.py",
        "scipy/b.py",
    ]  # scipy/a.py has one paragraph left, too few for a document.
    assert documents[0].paragraphs == sources["numpy/a.py"]
    assert documents[1].paragraphs == sources["numpy/b.py"][1:]
    # SciPy has the line about rows too, so it is not NumPy's alone.
    assert [document.shared for document in documents] == [[0], [], []]
