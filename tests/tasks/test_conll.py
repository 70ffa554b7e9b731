"""Columns of tokens and tags, and their schemes: what is refused where."""

import itertools
import random

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.conll import (
    COLUMNS,
    SENTENCES,
    Sentences,
    check_scheme,
    read_sentences,
    recognise_scheme,
    write_tags,
)

# The beginning of CoNLL-2003's training file, as published.
CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC
call NN I-NP O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER

"""


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "file.conll"
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return path

    return write


def test_a_published_file(write):
    sentences = read_sentences(write(CONLL_2003))
    assert sentences.tokens == [
        ["EU", "rejects", "German", "call"],
        ["Peter", "Blackburn"],
    ]
    assert sentences.tags == [["B-ORG", "O", "B-MISC", "O"], ["B-PER", "I-PER"]]
    assert sentences.lines == [[3, 4, 5, 6], [8, 9]]
    assert (len(sentences), sentences.num_tokens) == (2, 6)
    names = ("O", "B-MISC", "B-ORG", "B-PER", "I-PER")
    assert sentences.tag_names == names
    assert sentences.first(1).tags == sentences.tags[:1]


def test_any_column(write):
    path = write(CONLL_2003)
    assert read_sentences(path, 1, 2).tags[1] == ["NNP", "NNP"]
    assert read_sentences(path, 1, -2).tags[1] == ["B-NP", "I-NP"]
    assert read_sentences(path, -4, 3).tokens[1] == ["Peter", "Blackburn"]
    assert read_sentences(path, 2, has_tags=False).tags is None


@pytest.mark.parametrize(
    "content",
    [
        "a O\nb B-X\n\nc O",
        "a O\r\nb B-X\r\n\r\nc O\r\n",
        "\ufeffa O\nb B-X\n\n\n \nc O\n\n",
        "a\tO\nb\tB-X\n-DOCSTART-\nc\tO\n",
        "a   O\nb B-X  \n\nc  O\n",
        " a O\n b B-X\n\t\n-DOCSTART- O\n\n c O\n",
        "a O\nb B-X\n\nc O\n".encode("utf-16"),
        "a O\nb B-X\n\nc O\n".encode("utf-16-be"),
        "# id = 1\n# text = a b\na\tO\nb\tB-X\n\n#id=2\nc\tO\n",
        "# one comment\n#\na O\nb B-X\n\n# text = c\nc O\n",
    ],
)
def test_ways_to_write_the_same(write, content):
    sentences = read_sentences(write(content))
    assert sentences.tokens == [["a", "b"], ["c"]]
    assert sentences.tags == [["O", "B-X"], ["O"]]


def test_characters_that_only_look_like_separators(write):
    """A no-break space, a line separator: they belong to their token."""
    path = write("10\u00a0000 O\na\u2028b O\nc\u0085 O\n")
    assert read_sentences(path).tokens == [
        ["10\u00a0000", "a\u2028b", "c\u0085"]
    ]
    path = write("New York\tB-LOC\n")
    assert read_sentences(path).tokens == [["New York"]]


def test_sentences_to_predict_need_tokens_only(write):
    sentences = read_sentences(write("a\nb\n\nc\n"), has_tags=False)
    assert sentences.tokens == [["a", "b"], ["c"]]
    assert sentences.tags is None
    # A tag that is there is not looked at.
    path = write("a\t\nb\tB-X\n")
    assert read_sentences(path, has_tags=False).tokens == [["a", "b"]]


def test_a_token_may_be_the_sign_of_a_comment(write):
    for separator in " \t":
        content = "# O\n#b B-X\n\n#c O\n# O\nd O\n".replace(" ", separator)
        sentences = read_sentences(write(content))
        assert sentences.tokens == [["#", "#b"], ["#c", "#", "d"]]


def conllu(*rows):
    """Rows of ten columns: id, form, lemma, UPOS and six that are `_`."""
    return "\n".join(
        "\t".join(row.split() + ["_"] * (10 - len(row.split()))) if row else ""
        for row in rows
    )


FRENCH = (
    "1 Il il PRON",
    "2 parle parler VERB",
    "3-4 du _ _",
    "3 de de ADP",
    "4 le le DET",
    "4.1 mot mot NOUN",
    "",
    "1-2 du _ _",
    "1 de de ADP",
    "2 le le DET",
)


def test_conllu_has_ranges_and_empty_nodes_between_words(write):
    path = write("# sent_id = 1\n" + conllu(*FRENCH))
    sentences = read_sentences(path, 2, 4)
    assert sentences.tokens == [["Il", "parle", "de", "le"], ["de", "le"]]
    assert sentences.tag_names == ("ADP", "DET", "PRON", "VERB")
    # Lines that were left out count.
    assert sentences.lines == [[2, 3, 5, 6], [10, 11]]
    with pytest.raises(InputError, match="line 6: .*, found 'DET'"):
        sentences.check_known(["PRON", "VERB", "ADP"])
    assert read_sentences(path, 2, has_tags=False).tags is None
    assert set(read_sentences(path, 2, 6).tag_names) == {"_"}


@pytest.mark.parametrize(
    "columns, message",
    [
        ((2, 5), "line 1: .*a tag in column 5, found '_', which is no value"),
        ((2, -1), "line 1: .*a tag in column -1, found '_'"),
        ((None, 4), "tokens in column 1 .--token_column=2.., found their numb"),
    ],
)
def test_columns_of_conllu_that_hold_no_words_or_tags(write, columns, message):
    with pytest.raises(InputError, match=message):
        read_sentences(write(conllu(*FRENCH)), *columns)


GERMEVAL = """#\ten.example.org/a_b [2020-01-01]
1\tPeter\tB-PER\tO
2\twohnt\tO\tO

#\tn-tv.de vom 26.02.2005 [2005-02-26]
1\tAnna\tB-PER\tO
2\t#\tO\tO
"""


def test_germeval_names_its_sources_before_sentences(write):
    sentences = read_sentences(write(GERMEVAL), 2, 3)
    assert sentences.tokens == [["Peter", "wohnt"], ["Anna", "#"]]
    assert sentences.tag_names == ("O", "B-PER")
    with pytest.raises(InputError, match="found their numbers"):
        read_sentences(write(GERMEVAL))


TO_PREDICT = [
    ("Ada wrote it .", SENTENCES, [["Ada", "wrote", "it", "."]]),
    ("Ada wrote.\nPeter  too!\n", SENTENCES, [["Ada", "wrote", "."], 3]),
    ("Ada wrote it .\n\nPeter likes her very much .", SENTENCES, [4, 6]),
    ("the\nmat\n.\n\nthe\ncat\n", COLUMNS, [["the", "mat", "."], 2]),
    ("EU NNP B-ORG\nis VBZ O\n\nPeter NNP I-PER\n", COLUMNS, [2, 1]),
    ("EU\tNNP\nis\tVBZ\n", COLUMNS, [2]),
    ("-DOCSTART- -X-\n\nEU NNP\nis VBZ\n", COLUMNS, [2]),
    ("EU NNP\n" * 8, COLUMNS, [8]),
    (
        "\u4eca\u65e5\u306f\u3044\u3044\u3002\n\u660e\u65e5\u3082\u3002",
        SENTENCES,
        [4, 4],
    ),
    ("Hello\nAda wrote it .\n", SENTENCES, [1, 4]),
    ("on\n01.02.2005\n.\n", COLUMNS, [3]),
]


@pytest.mark.parametrize(("content", "form", "tokens"), TO_PREDICT)
def test_sentences_to_predict_are_plain_or_in_columns(
    write, content, form, tokens
):
    sentences = read_sentences(write(content), has_tags=False)
    assert sentences.form == form
    for found, wanted in zip(sentences.tokens, tokens, strict=True):
        assert wanted in (found, len(found))
    # A column that is named is read.
    if content.startswith("Ada") and content.count("\n") < 2:
        one = read_sentences(write(content), 1, has_tags=False)
        assert one.tokens[0][0] == "Ada" and one.form == COLUMNS


GOOD = "EU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
TABS = GOOD.replace(" ", "\t")
MALFORMED = [
    ("", "expected at least one sentence, found none"),
    ("\n\n  \n", "expected at least one sentence, found none"),
    ("-DOCSTART- O\n\n", "expected at least one sentence"),
    (GOOD + "a\0b X O\n", "line 5: expected UTF-8 text, found a NUL"),
    (GOOD.encode() + b"Z\xfcrich NNP O\n", "line 5: .* found the byte 0xfc"),
    (GOOD.replace("\n", "\r"), "line 1: .* in LF, or in CR and LF, found a CR"),
    ("EU\nrejects\n", "line 1: .*tags beside the tokens, found the same"),
    (GOOD + "Blackburn NNP\n", "line 5: .*3 columns, as before, found 2"),
    (GOOD + "New York NNP B-LOC\n", "line 5: .*3 columns, as before, found 4"),
    (TABS + "Blackburn NNP I-PER\n", "line 5: .*3 columns, as before, found 1"),
    ("EU\tB-ORG\nrejects\t\n", r"line 2: .*a tag, .*one in 'rejects\\t'"),
    ("EU\tB-ORG\n\tO\n", r"line 2: .*a token, found an empty one in '\\tO'"),
    ("EU\tB-ORG\n\u00a0\tO\n", "line 2: .*a token, found an empty one"),
]


@pytest.mark.parametrize(("content", "message"), MALFORMED)
def test_malformed_files_are_named_by_line(write, content, message):
    with pytest.raises(InputError, match=message) as error:
        read_sentences(write(content))
    assert "file.conll" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "columns, message",
    [
        ((5, -1), "line 3: expected a column 5, .* found 4 in 'EU NNP B-NP"),
        ((1, -5), "line 3: expected a column -5"),
        ((1, 0), "--tag_column: expected 1 for the first column or -1"),
        ((0, 1), "--token_column: expected 1 for the first column or -1"),
        ((2, -3), "line 3: expected a column of tags beside the tokens"),
    ],
)
def test_columns_that_are_not_there(write, columns, message):
    with pytest.raises(InputError, match=message):
        read_sentences(write(CONLL_2003), *columns)


def test_unknown_tags_are_named_by_line(write):
    sentences = read_sentences(write(CONLL_2003))
    sentences.check_known(sentences.tag_names)
    with pytest.raises(InputError) as error:
        sentences.check_known(["O", "B-ORG", "B-MISC", "B-PER"])
    assert str(error.value).endswith(
        "file.conll, line 9: expected a tag that the model knows: 'O', "
        "'B-ORG', 'B-MISC', 'B-PER', found 'I-PER'"
    )


@pytest.mark.parametrize("token", ["b", "New York", "\u2028"])
def test_what_is_written_is_read_again(tmp_path, token):
    tokens, tags = [["a", token], ["c"]], [["O", "B-X"], ["O"]]
    path = tmp_path / "out.conll"
    if token.strip():
        write_tags(path, tokens, tags, [["O", "O"], ["B-X"]])
        sentences = read_sentences(path)
        assert sentences.tokens == tokens
        assert sentences.tags == [["O", "O"], ["B-X"]]
        assert read_sentences(path, 1, 2).tags == tags
    write_tags(path, [["a"], ["b"]], [["O"], ["B-X"]])
    assert path.read_text() == "a O\n\nb B-X\n\n"


def sentences_of(*lines):
    tags = [line.split() for line in lines]
    numbers = itertools.count(1)
    lines = [[next(numbers) for _ in [*some, ""]][:-1] for some in tags]
    return Sentences("t.conll", [["x"] * len(t) for t in tags], tags, lines)


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
    ("bioes", "B-A I-A"): "line 2: .* or E-A after I-A, found the end",
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
