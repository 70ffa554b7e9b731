"""Columns of tokens and tags: what is read, and what is refused where."""

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.conll import Sentences, read_sentences, write_tags

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
    assert sentences.first_lines == [3, 8]
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


GOOD = "EU NNP B-ORG\nrejects VBZ O\n\nPeter NNP B-PER\n"
MALFORMED = {
    "empty": ("", "expected at least one sentence, found none"),
    "blank": ("\n\n  \n", "expected at least one sentence, found none"),
    "documents only": ("-DOCSTART- O\n\n", "expected at least one sentence"),
    "a NUL": (GOOD + "a\0b X O\n", "line 5: expected UTF-8 text, found a NUL"),
    "Latin-1": (
        GOOD.encode() + "Z\u00fcrich NNP O\n".encode("latin-1"),
        "line 5: expected UTF-8 text, found the byte 0xfc",
    ),
    "UTF-16": (
        GOOD.encode("utf-16"),
        "line 1: expected UTF-8 text, found a NU",
    ),
    "old line ends": (
        GOOD.replace("\n", "\r"),
        "line 1: expected lines that end in LF, or in CR and LF, found a CR",
    ),
    "one column": (
        "EU\nrejects\n",
        "line 1: expected a column of tags beside the tokens, found the same",
    ),
    "a column less": (
        GOOD + "Blackburn NNP\n",
        "line 5: expected 3 columns, as before, found 2",
    ),
    "a column more": (
        GOOD + "New York NNP B-LOC\n",
        "line 5: expected 3 columns, as before, found 4",
    ),
    "spaces after tabs": (
        GOOD.replace(" ", "\t") + "Blackburn NNP I-PER\n",
        "line 5: expected 3 columns, as before, found 1",
    ),
    "a tag missing": (
        "EU\tB-ORG\nrejects\t\n",
        r"line 2: expected a tag, found an empty one in 'rejects\\t'",
    ),
    "a token missing": (
        "EU\tB-ORG\n\tO\n",
        r"line 2: expected a token, found an empty one in '\\tO'",
    ),
    "an invisible token": (
        "EU\tB-ORG\n\u00a0\tO\n",
        "line 2: expected a token, found an empty one",
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_files_are_named_by_line(write, case):
    content, message = MALFORMED[case]
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


def test_missing_files(tmp_path):
    with pytest.raises(
        InputError, match="nowhere: expected a file, found noth"
    ):
        read_sentences(tmp_path / "nowhere")
    with pytest.raises(InputError, match="expected a file, found a directory"):
        read_sentences(tmp_path)


def test_unknown_tags_are_named_by_line(write):
    sentences = read_sentences(write(CONLL_2003))
    sentences.check_known(sentences.tag_names)
    with pytest.raises(InputError) as error:
        sentences.check_known(["O", "B-ORG", "B-MISC", "B-PER"])
    assert str(error.value).endswith(
        "file.conll, line 9: expected a tag that the model knows: O, B-ORG, "
        "B-MISC, B-PER, found 'I-PER'"
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


def test_first_of_sentences_without_tags():
    sentences = Sentences("x", [["a"], ["b"]], None, [1, 3])
    assert sentences.first(1) == Sentences("x", [["a"]], None, [1])
