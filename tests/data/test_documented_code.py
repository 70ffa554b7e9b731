"""The built-in tags: what authors have marked, and modules held out."""

import pytest

from mobilebert_tf.data import builtin
from mobilebert_tf.data.builtin import code_task, split_of, tagged_sentences
from mobilebert_tf.data.docstrings import Docstring
from mobilebert_tf.data.documentation import read_documentation
from mobilebert_tf.tasks.conll import Sentences, check_scheme


def tagged(text, parameters=()):
    docstring = Docstring("f", text, frozenset(parameters))
    return [
        " ".join(
            token if tag == "O" else f"{token}/{tag}"
            for token, tag in zip(tokens, tags, strict=True)
        )
        for tokens, tags in tagged_sentences(docstring)
    ]


def test_marks_become_tags():
    text = """Return a thing.

    If ``axis`` is given, it must be `None` or one of the axes of ``a.b``, and
    this is done by :func:`np.sum <numpy.sum>` or :class:`~x.Y` in *turn*. The
    sentence without a mark is left out here.

    >>> f(1)  # `x` is not one of the sentences that we have in here.
    """
    assert tagged(text.replace("\n    ", "\n"), {"axis"}) == [
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
def test_what_is_not_understood_is_left_out(text):
    assert tagged(text) == []


def test_modules_are_held_out(monkeypatch):
    """A few modules, of which no sentence is in two splits."""
    documents = [
        document
        for document in read_documentation()
        if document.path.startswith("numpy/l")
    ]
    monkeypatch.setattr(builtin, "read_documentation", lambda: documents)
    read = []
    source = builtin._source
    monkeypatch.setattr(
        builtin,
        "_source",
        lambda path: (read.append(path), source(path))[1],
    )
    task = code_task()
    splits = [split_of(path) for path in read]
    assert splits == sorted(splits, key=["train", "dev", "test"].index)
    sizes = {split: len(tokens) for split, (tokens, _) in task.items()}
    assert sizes["train"] > sizes["dev"] > 0 and sizes["test"] > 0
    every = [tuple(tokens) for rows, _ in task.values() for tokens in rows]
    assert len(set(every)) == len(every)
    for tokens, tags in task.values():
        check_scheme(Sentences("", tokens, tags, [1] * len(tokens)), "iob2")
        assert all(set(row) != {"O"} for row in tags)
        assert not any("`" in row for row in tokens)
