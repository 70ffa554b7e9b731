"""Which scheme tags follow, and where they do not."""

import random

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.conll import Sentences, check_scheme, recognise_scheme


def sentences_of(*lines):
    tags = [line.split() for line in lines]
    first = [1]
    for some in tags:
        first.append(first[-1] + len(some) + 1)
    return Sentences(
        "t.conll", [["x"] * len(t) for t in tags], tags, first[:-1]
    )


# The same entities: A of two tokens, then A of one, B of three, A of one.
SAME = {
    "iob1": "O I-A I-A B-A I-B I-B I-B O I-A",
    "iob2": "O B-A I-A B-A B-B I-B I-B O B-A",
    "bioes": "O B-A E-A S-A B-B I-B E-B O S-A",
    "bilou": "O B-A L-A U-A B-B I-B L-B O U-A",
}


@pytest.mark.parametrize("scheme", SAME)
def test_schemes_are_recognised(scheme):
    sentences = sentences_of("O O", SAME[scheme])
    assert recognise_scheme(sentences) == scheme
    check_scheme(sentences, scheme)
    check_scheme(sentences, "none")


@pytest.mark.parametrize("scheme", SAME)
@pytest.mark.parametrize("other", SAME)
def test_a_scheme_is_not_another(scheme, other):
    sentences = sentences_of(SAME[scheme])
    # IOB1 is read as conlleval does, so that IOB2 passes for it.
    if other == scheme or (scheme, other) == ("iob2", "iob1"):
        return check_scheme(sentences, other)
    with pytest.raises(InputError, match="t.conll, line [234]: expected "):
        check_scheme(sentences, other)


MISPLACED = {
    ("iob2", "O I-A"): "line 2: expected B-A after O, found I-A",
    ("iob2", "B-A I-B"): "line 2: expected B-B after B-A, found I-B",
    ("iob2", "B-A", "I-A"): "line 3: expected B-A after O, found I-A",
    ("bioes", "B-A O"): "line 2: expected I-A or E-A after B-A, found O",
    ("bioes", "B-A B-A"): "line 2: expected I-A or E-A after B-A, found B-A",
    ("bioes", "B-A E-B"): "line 2: expected I-A or E-A after B-A, found E-B",
    ("bioes", "O B-A", "O"): "line 2: .* after B-A, found the end",
    (
        "bioes",
        "B-A I-A",
    ): "line 2: expected I-A or E-A after I-A, found the end",
    ("bioes", "S-A I-A"): "line 2: expected B-A or S-A after S-A, found I-A",
    ("bioes", "O E-A"): "line 2: expected B-A or S-A after O, found E-A",
    ("bioes", "S-A U-A"): "line 2: expected O or B-TYPE, .* found 'U-A'",
    ("bilou", "U-A L-A"): "line 2: expected B-A or U-A after U-A, found L-A",
    ("iob1", "B-A E-A"): "line 2: expected O or B-TYPE, I-TYPE .*, found 'E-A'",
}


@pytest.mark.parametrize("case", MISPLACED)
def test_misplaced_tags_are_named_by_line(case):
    scheme, *lines = case
    with pytest.raises(InputError, match=MISPLACED[case]):
        check_scheme(sentences_of(*lines), scheme)


@pytest.mark.parametrize(
    "tag", ["I", "I-", "B", "0", "o", "b-A", "X-A", "B_A", "PER", "-A", "NN"]
)
def test_tags_of_no_scheme_are_named(tag):
    sentences = sentences_of("O B-A", f"O {tag}")
    with pytest.raises(InputError) as error:
        recognise_scheme(sentences)
    assert str(error.value) == (
        "t.conll, line 5: expected O or B-TYPE, I-TYPE, E-TYPE, S-TYPE, L-TYPE,"
        f" U-TYPE (or --scheme=none), found {tag!r}"
    )
    check_scheme(sentences, "none")


def test_a_mixture_is_no_scheme():
    """B- where IOB1 has none, and an I- that begins: which is meant?"""
    sentences = sentences_of("O B-A I-A", "I-B O")
    with pytest.raises(InputError) as error:
        recognise_scheme(sentences)
    assert str(error.value) == (
        "t.conll, line 5: expected B-B after O, as B- in line 2 is IOB2's (or "
        "--scheme=iob1), found I-B"
    )
    check_scheme(sentences, "iob1")


def test_types_may_have_any_name():
    sentences = sentences_of("B-a-b I-a-b B-I-A O B-\u00e9")
    assert recognise_scheme(sentences) == "iob2"


def test_random_entities_in_every_scheme():
    """Written in a scheme from its definition, and recognised as that."""
    rng = random.Random(5)
    for _ in range(200):
        number = rng.randrange(1, 12)
        spans = [
            (rng.choice("AB O"), rng.randrange(1, 4)) for _ in range(number)
        ]
        # What tells one scheme from another: neighbours and singles.
        spans += [("A", 2), ("A", 1), ("O", 1), ("B", 3)]
        written = {scheme: [] for scheme in SAME}
        before = "O"
        for kind, size in spans:
            if kind in " O":
                for tags in written.values():
                    tags += ["O"] * size
                before = "O"
                continue
            inside = [f"I-{kind}"] * size
            first = "B" if before == kind else "I"
            written["iob1"] += [f"{first}-{kind}", *inside[1:]]
            written["iob2"] += [f"B-{kind}", *inside[1:]]
            for scheme, last, single in (
                ("bioes", "E", "S"),
                ("bilou", "L", "U"),
            ):
                written[scheme] += (
                    [f"{single}-{kind}"]
                    if size == 1
                    else [f"B-{kind}", *inside[2:], f"{last}-{kind}"]
                )
            before = kind
        for scheme, tags in written.items():
            sentences = sentences_of(" ".join(tags))
            assert recognise_scheme(sentences) == scheme, tags
            check_scheme(sentences, scheme)
