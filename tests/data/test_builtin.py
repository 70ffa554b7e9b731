"""The built-in corpus and its tasks, on the packages that are installed here.

The first run reads all sources and takes half a minute; the cache in the
user's folder makes later ones quick. The tasks are made of a third of it.
"""

import collections
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mobilebert_tf.data import builtin
from mobilebert_tf.data.docstrings import Docstring

# As imported: most tests share its result (see `read_once`).
READ = builtin.read_documentation
FEW_VERSIONS = {"absl": "1", "h5py": "2"}
FOLDERS = {
    "keras": ("keras/", "tf_keras/", "tensorflow/python/keras/"),
    "matplotlib": ("matplotlib/", "mpl_toolkits/"),
    "numpy": ("numpy/",),
    "scikit-learn": ("sklearn/",),
    "scipy": ("scipy/",),
    "stdlib": ("stdlib/",),
    "tensorflow": ("tensorflow/",),
}


@pytest.fixture(scope="module")
def corpus():
    return builtin.read_documentation()


@pytest.fixture(scope="module")
def documents(corpus):
    return corpus[1::3]


@pytest.fixture(scope="module", autouse=True)
def read_once(documents):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtin, "read_documentation", lambda: documents)
        patch.setattr(builtin, "_MAX_TRAIN_EXAMPLES", 1000)
        patch.setattr(builtin, "_MAX_HELD_OUT_EXAMPLES", 150)
        yield


@pytest.fixture(scope="module")
def pretraining():
    return builtin.pretraining_documents()


@pytest.fixture(scope="module")
def task():
    return builtin.library_task()


@pytest.fixture(scope="module")
def questions():
    return builtin.argument_questions()


def _normalised(text: str) -> str:
    """Makes white space, case and digits equal; written apart from the code."""
    return re.sub(r"[\s\d]+", " ", text.casefold()).strip()


def _lines(documents) -> list[str]:
    return [line for document in documents for line in document]


def _qas(squad: dict):
    for article in squad["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                yield paragraph["context"], qa


def _split_of(path: str) -> str:
    percent = int(hashlib.sha256(path.encode()).hexdigest()[:16], 16) % 100
    return "dev" if percent < 12 else "test" if percent < 24 else "train"


def test_the_corpus_is_ten_megabytes_of_plain_english(corpus):
    lines = _lines(document.paragraphs for document in corpus)
    assert 6e6 < sum(map(len, lines)) < 20e6
    words = " ".join(lines).lower().split()
    # In English prose of any kind one word in twenty to twenty-five is "the".
    assert 0.04 < words.count("the") / len(words) < 0.12
    for line in lines:
        assert len(line.split()) >= 8
        assert line == " ".join(line.split())
        assert line.rstrip("\"')]")[-1] in ".!?:"
        assert not re.search(r">>>|``|://|:\w+:`|^\.\. ", line)


def test_documents_are_modules_and_have_no_paragraph_twice(corpus):
    paths = [document.path for document in corpus]
    assert paths == sorted(set(paths))
    assert "stdlib/argparse.py" in paths
    assert not [path for path in paths if "/tests/" in path]
    assert not [path for path in paths if "site-packages" in path]
    assert all(len(document.paragraphs) >= 2 for document in corpus)
    lines = _lines(document.paragraphs for document in corpus)
    assert len(lines) == len(set(map(_normalised, lines)))


def test_pretraining_leaves_out_the_held_out_documents(documents, pretraining):
    """The split follows from SHA-256 of the path, computed here again."""
    assert pretraining == [
        document.paragraphs
        for document in documents
        if _split_of(document.path) == "train"
    ]
    assert 0.6 < len(pretraining) / len(documents) < 0.9


def test_no_sentence_of_a_held_out_example_is_trained_on(pretraining, task):
    """Cuts sentences in its own, simpler way."""

    def sentences(text):
        parts = re.split(r"(?<=[a-z][.!?]) (?=[A-Z])", text)
        return {_normalised(part).rstrip(".:!?\"')]") for part in parts}

    known = set().union(*map(sentences, _lines(pretraining)))
    for split in ("dev", "test"):
        for text in task[split][0]:
            assert known.isdisjoint(sentences(text)), text


def test_labels_and_splits_follow_from_where_a_paragraph_stands(
    documents, task
):
    path_of = {
        line: document.path
        for document in documents
        for line in document.paragraphs
    }
    assert tuple(task) == ("train", "dev", "test")
    for split, (texts, labels) in task.items():
        assert len(set(texts)) == len(texts)
        for text, label in zip(texts, labels, strict=True):
            path = path_of[text]
            assert _split_of(path) == split
            assert path.startswith(FOLDERS[label])
            if label == "tensorflow":
                assert not path.startswith(FOLDERS["keras"])


def test_the_library_task_is_large_balanced_and_shuffled(task):
    for split, least in (("train", 2600), ("dev", 650), ("test", 650)):
        labels = task[split][1]
        assert len(labels) >= least
        counts = collections.Counter(labels)
        assert sorted(counts) == sorted(FOLDERS)
        assert max(counts.values()) < 0.25 * len(labels)
        assert min(counts.values()) > 0.02 * len(labels)
    labels = task["train"][1]
    for name in FOLDERS:
        share = labels.count(name) / len(labels)
        assert abs(labels[:1000].count(name) / 1000 - share) < 0.04


def test_no_example_names_a_library(task):
    names = {
        "numpy", "np", "ndarray", "scipy", "sklearn", "scikit", "matplotlib",
        "mpl", "plt", "pyplot", "tensorflow", "tf", "keras", "python",
    }  # fmt: skip
    for texts, _ in task.values():
        for text in texts:
            words = set(re.split(r"[^a-z0-9]+", text.lower()))
            assert not words & names, text


def test_names_and_aliases():
    for text in (
        "An instance of tf.Tensor.",
        "The NumPy-like API of it.",
        "Read from TFRecords.",
        "A plt_like thing.",
        "Drawn by mpl's backend.",
    ):
        assert builtin.names_a_library(text), text
    for text in ("A simple inputs_pl sample.", "The template of a half."):
        assert not builtin.names_a_library(text), text


@pytest.mark.parametrize("split", ["train", "dev"])
def test_an_answer_is_the_description_of_its_argument(questions, split):
    squad = questions[split]
    assert squad["version"] == "1.1"
    ids = []
    for context, qa in _qas(squad):
        (answer,) = qa["answers"]
        start, text = answer["answer_start"], answer["text"]
        assert text and text == text.strip()
        assert context[start : start + len(text)] == text
        name = re.search(r"(\w+): $", context[:start])[1]
        assert re.search(rf"(?<!\w){re.escape(name)}(?!\w)", qa["question"])
        assert qa["question"].endswith("?")
        assert len(text.split()) <= 25
        ids.append(qa["id"])
    assert len(ids) == len(set(ids)) >= (2600 if split == "train" else 650)


def test_dev_questions_ask_for_nothing_trained_on(questions, pretraining):
    for split, squad in questions.items():
        for article in squad["data"]:
            assert (_split_of(article["title"]) == "train") is (
                split == "train"
            )
    contexts, answers = (
        {
            split: {_normalised(choose(pair)) for pair in _qas(squad)}
            for split, squad in questions.items()
        }
        for choose in (
            lambda pair: pair[0],
            lambda pair: pair[1]["answers"][0]["text"],
        )
    )
    assert contexts["train"].isdisjoint(contexts["dev"])
    known = {_normalised(line).rstrip(".") for line in _lines(pretraining)}
    assert answers["dev"].isdisjoint(answers["train"] | known)


def _tagged(text, parameters=()):
    docstring = Docstring("f", text, frozenset(parameters))
    return [
        " ".join(
            token if tag == "O" else f"{token}/{tag}"
            for token, tag in zip(tokens, tags, strict=True)
        )
        for tokens, tags in builtin.tagged_sentences(docstring)
    ]


def test_marks_become_tags():
    text = """Return a thing.

If ``axis`` is given, it must be `None` or one of the axes of ``a.b``, and
this is done by :func:`np.sum <numpy.sum>` or :class:`~x.Y` in *turn*. The
sentence without a mark is left out here.

>>> f(1)  # `x` is not one of the sentences that we have in here.
"""
    assert _tagged(text, {"axis"}) == [
        "If axis/B-PARAMETER is given , it must be None/B-VALUE or one of the "
        "axes of a/B-CODE ./I-CODE b/I-CODE , and this is done by np/B-CODE "
        "./I-CODE sum/I-CODE or x/B-CODE ./I-CODE Y/I-CODE in turn ."
    ]


@pytest.mark.parametrize(
    "text",
    [
        "A list, of which it is known that it has\n    ``x`` in the next line.",
        "Unbalanced `marks are in this one, and it must be left out for them.",
        "Too short ``x``.",
    ],
)
def test_sentences_with_unclear_marks_are_left_out(text):
    assert _tagged(text) == []


def test_the_code_task_has_each_sentence_once_and_valid_tags(documents):
    split_of = collections.defaultdict(set)
    for document in documents:
        for tokens, _ in document.tagged:
            split_of[tuple(tokens)].add(_split_of(document.path))
    task = builtin.code_task()
    seen = set()
    for split, (sentences, tags) in task.items():
        assert len(sentences) >= (1300 if split == "train" else 150)
        for tokens, row in zip(sentences, tags, strict=True):
            assert len(tokens) == len(row) and set(row) != {"O"}
            assert "`" not in tokens
            key = " ".join(tokens)
            assert key not in seen
            seen.add(key)
            assert split in split_of[tuple(tokens)]
            # IOB2: I-X only follows B-X or I-X.
            for before, tag in zip(["O", *row], row, strict=False):
                assert re.fullmatch("O|[BI]-(PARAMETER|VALUE|CODE)", tag)
                assert tag[0] != "I" or before[1:] == tag[1:]
    kinds = {
        tag[2:] for _, tags in task.values() for row in tags for tag in row
    }
    assert kinds == {"", "PARAMETER", "VALUE", "CODE"}


DIGEST = """
import hashlib, json
from mobilebert_tf.data import builtin
versions = dict.fromkeys(["absl", "mpl_toolkits", "numpy"])
made = builtin.build_documents(builtin._source_files(versions))
builtin.read_documentation = lambda: made
made = [
    made,
    builtin.library_task(),
    builtin.argument_questions(),
    builtin.code_task(),
]
assert all(made)
print(hashlib.sha256(json.dumps(made).encode()).hexdigest())
"""


def test_the_hash_seed_does_not_matter():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "17")
    }
    assert len(outputs) == 1


@pytest.fixture
def small_cache(tmp_path, monkeypatch):
    """A cache folder of its own, and few packages to fill it from."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(builtin, "installed_versions", lambda: FEW_VERSIONS)
    return tmp_path / "mobilebert_tf"


def test_the_cache_is_used_until_it_is_damaged(
    small_cache, monkeypatch, capsys
):
    built = READ()
    (file,) = small_cache.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(builtin, "build_documents", None)
        cached = READ()
    assert json.dumps(cached) == json.dumps(built)
    assert capsys.readouterr().out.count("\n") == 1
    content = file.read_bytes()
    middle = len(content) // 2
    monkeypatch.setattr(builtin, "build_documents", lambda files: built)
    for damaged in (
        content[:middle],
        content[:middle] + b"flip" + content[middle + 4 :],
        b"\xff\x00",
        b"",
    ):
        file.write_bytes(damaged)
        assert READ() == built
        assert f"{file}: damaged" in capsys.readouterr().out
        assert file.read_bytes() == content


def test_other_versions_use_another_cache(small_cache, monkeypatch):
    READ()
    other = {**FEW_VERSIONS, "absl": "2"}
    monkeypatch.setattr(builtin, "installed_versions", lambda: other)
    READ()
    assert len(list(small_cache.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_reported(
    small_cache, monkeypatch, capsys
):
    small_cache.write_text("not a folder")
    assert READ()
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

    documents = builtin.build_documents(files)

    assert [document.path for document in documents] == [
        "numpy/a.py",
        "numpy/b.py",
        "scipy/b.py",
    ]  # scipy/a.py has one paragraph left, too few for a document.
    assert documents[0].paragraphs == sources["numpy/a.py"]
    assert documents[1].paragraphs == sources["numpy/b.py"][1:]
    # SciPy has the line about rows too, so it is not NumPy's alone.
    assert [document.shared for document in documents] == [[0], [], []]
