"""Prose and argument descriptions out of docstrings written for the test."""

import inspect

import pytest

from mobilebert_tf.data.docstrings import (
    Docstring,
    described_arguments,
    is_english,
    prose,
    read_docstrings,
    strip_markup,
)

NUMPY_STYLE = '''
"""Compute the weighted mean of the values along one axis of an array.

The weights need not sum to one, since they are divided by
their sum:

.. math:: m = \\\\sum_i w_i x_i

.. versionadded:: 1.2
   This is a sentence about a version which nobody should ever read.

Parameters
----------
values : array_like
    The values to average, of any shape that has this axis.
weights, counts : array_like, optional
    The weights of the values. By default all of the values count
    the same.

    .. note:: A weight of zero leaves out the value that it belongs to.

Returns
-------
mean : float
    The mean of the values, or *nan* if there is nothing to average::

        mean([]) is not a number in this code of quite a few words.

====== =========================================================
Name   The table has words in it as well, and they are left out.
====== =========================================================

Other Titles That Are Long Enough To Be Taken For A Sentence Here
~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~

Examples
--------
>>> mean([1, 2])  # The result of this is what you would expect it to be.
1.5 is what is printed here, and it is not a part of the text.

- The first item of this list says something about :func:`~a.b.mean`.
- The second item is as long as the first and ends in ``code``.

See https://example.com for all that is not said in this docstring.
"""
'''

GOOGLE_STYLE = '''
"""Trains the model for a number of epochs on the data that is given.

```python
model.fit("This is a line of code which is made of many words.")
```

Args:
  data: the examples to train on, as a `Dataset` or as a list of
    arrays of the same length.
  epochs (int): How often to go over the examples from the first one
    to the last.
  missing: This argument is not in the signature of the function at all.
  verbose: 0 or 1.

Returns:
  A `History` whose attribute holds the losses of all of the epochs.
"""
'''


def _text(source: str) -> str:
    return inspect.cleandoc(source.strip().strip('"'))


def test_prose_of_a_numpy_docstring():
    assert prose(_text(NUMPY_STYLE)) == [
        "Compute the weighted mean of the values along one axis of an array.",
        "The weights need not sum to one, since they are divided by their sum:",
        "The values to average, of any shape that has this axis.",
        "The weights of the values. By default all of the values count the "
        "same.",
        "A weight of zero leaves out the value that it belongs to.",
        "The mean of the values, or nan if there is nothing to average:",
        "The first item of this list says something about a.b.mean.",
        "The second item is as long as the first and ends in code.",
    ]


def test_prose_of_a_google_docstring():
    assert prose(_text(GOOGLE_STYLE)) == [
        "Trains the model for a number of epochs on the data that is given.",
        "The examples to train on, as a Dataset or as a list of arrays of the "
        "same length.",
        "How often to go over the examples from the first one to the last.",
        "This argument is not in the signature of the function at all.",
        "A History whose attribute holds the losses of all of the epochs.",
    ]


@pytest.mark.parametrize(
    ("markup", "plain"),
    [
        ("See :func:`numpy.mean` or :class:`~a.B`.", "See numpy.mean or a.B."),
        ("The :ref:`guide <the-guide>` [1]_.", "The guide."),
        ("A `link <http://a.b/c>`_ and ``code``.", "A link and code."),
        ("A [link](http://a.b/c), `x` and **bold**.", "A link, x and bold."),
        ("The product a * b * c, 2**3 and *x*.", None),
        ("An index like x[0] or a list [1, 2].", None),
    ],
)
def test_markup_is_removed_and_nothing_else(markup, plain):
    expected = plain or markup.replace("*x*", "x")
    assert strip_markup(markup) == expected


def test_what_is_english():
    assert is_english("This is a sentence that has just eight words.")
    for paragraph in (
        "This is a sentence with seven words.",
        "This is a sentence that ends in no stop",
        "this is a fragment which begins in the middle.",
        "Die Werte werden entlang einer Achse gemittelt und gewichtet.",
        "Numpy scipy sklearn keras pandas torch jax matplotlib rich.",
        "For x_1 = f(3) and y_2 = g(4), z3 += 1 is the 2nd.",
        "The set {a, b} is what the function returns to you.",
        "The page is at http://a.b and can be read there.",
    ):
        assert not is_english(paragraph), paragraph


def test_docstrings_come_in_the_order_of_the_source():
    source = b'''"""Module."""
class A:
    """Class."""
    def __init__(self, x, *, y=1):
        """Constructor."""
    if x:
        async def method(cls, a, /, b):
            """Method."""
            def inner():
                """Nobody can call this."""
try:
    def function():
        """Function."""
except ImportError:
    pass
'''
    assert read_docstrings(source) == [
        Docstring("", "Module.", frozenset()),
        Docstring("A", "Class.", frozenset("xy")),
        Docstring("A", "Constructor.", frozenset("xy")),
        Docstring("method", "Method.", frozenset("ab")),
        Docstring("function", "Function.", frozenset()),
    ]


@pytest.mark.parametrize(
    "source, texts",
    [
        (b'"""Old."""\nprint "x"', []),
        (b'"""\0"""', []),
        (b"x = 1", []),
        (b'"""\xff"""', []),
        # A bad escape warns nobody.
        (b'"""A \\d digit."""', ["A \\d digit."]),
    ],
)
def test_odd_sources(source, texts):
    assert [docstring.text for docstring in read_docstrings(source)] == texts


def test_arguments_of_a_google_docstring():
    docstring = Docstring(
        "fit", _text(GOOGLE_STYLE), frozenset(("data", "epochs", "verbose"))
    )
    assert described_arguments(docstring) == [
        (
            "data",
            "The examples to train on, as a Dataset or as a list of arrays of "
            "the same length.",
        ),
        (
            "epochs",
            "How often to go over the examples from the first one to the last.",
        ),
    ]


def test_arguments_of_a_numpy_docstring():
    text = _text(
        """Do it.

        Parameters
        ----------
        values : array_like
            the values to average over
        *args
            All that is passed on to it.

            A second paragraph is not a part of the description.
        mode : {'a', 'b'}
            - a list is not a description of it

        Returns
        -------
        out : float
            The mean of all of the values.
        """
    )
    names = frozenset(("values", "args", "mode", "out"))
    assert described_arguments(Docstring("mean", text, names)) == [
        ("values", "The values to average over."),
        ("args", "All that is passed on to it."),
    ]
