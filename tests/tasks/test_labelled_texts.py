"""Tables of examples: what is read, what is refused, and what is encoded."""

import json

import numpy as np
import pytest

from mobilebert_tf.data.tables import TableFormat
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.labelled_texts import (
    KEEP,
    MULTI_LABEL,
    REGRESSION,
    SKIP,
    Examples,
    encode_examples,
    read_examples,
)
from tests import tiny


class StandInTokenizer:
    """Every word is its length as a piece, so that ids are known by sight."""

    pad_id, cls_id, sep_id = 0, 101, 102

    def pieces(self, texts):
        pieces = [[len(word) for word in text.split()] for text in texts]
        ids = np.array([p for row in pieces for p in row], np.int32)
        return ids, np.array([*map(len, pieces)])


@pytest.fixture
def write(tmp_path):
    def write_file(name, content):
        path = tmp_path / name
        if isinstance(content, str):
            content = content.encode()
        path.write_bytes(content)
        return path

    return write_file


def test_tsv_takes_quotes_and_commas_as_they_are(write):
    path = write(
        "a.tsv", 'id\ttext\tlabel\n1\t"Oh", he said\tno\n2\ta "b\tyes\n'
    )
    examples = read_examples(path)
    assert examples == Examples(['"Oh", he said', 'a "b'], None, ["no", "yes"])
    assert examples.label_names == ("no", "yes")


def test_csv_with_quoted_separators_and_line_breaks(write):
    path = write("a.csv", 'label,text\nx,"a, ""b""\nc"\ny,d\n')
    examples = read_examples(path)
    assert examples.texts_a == ['a, "b"\nc', "d"]
    assert examples.labels == ["x", "y"]


def test_jsonl_with_pairs_and_numbered_classes(write):
    rows = [
        {"premise": "a\u2028b", "hypothesis": "c", "gold": 1, "more": []},
        {"premise": "ä", "hypothesis": "d", "gold": 0},
    ]
    path = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    examples = read_examples(path, ("premise", "hypothesis"), ("gold",))
    assert examples == Examples(["a\u2028b", "ä"], ["c", "d"], ["1", "0"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_mark_line_ends_and_separators_inside_texts(write, end):
    lines = ["text\tlabel", "a\u2028b\x0cc\t x ", "d\ty", "", ""]
    path = write("a.tsv", b"\xef\xbb\xbf" + end.join(lines).encode())
    examples = read_examples(path)
    assert examples == Examples(["a\u2028b\x0cc", "d"], None, ["x", "y"])


def test_texts_to_predict_need_no_label(write):
    path = write("a.tsv", "text\na\nb\n")
    assert read_examples(path, label_columns=()) == Examples(["a", "b"])


def test_regression_labels_are_numbers(write):
    path = write("a.csv", "text,label\na,3.25\nb,-1e2\n")
    examples = read_examples(path, problem_type=REGRESSION)
    assert examples.labels == [3.25, -100.0]
    path = write("a.jsonl", '{"text": "a", "label": 2}\n')
    assert read_examples(path, problem_type=REGRESSION).labels == [2.0]


def test_several_labels_in_a_cell_in_a_list_and_in_columns(write):
    expected = [("a", "b"), (), ("c",)]
    tsv = write("a.tsv", "text\tlabel\nx\tb,a\ny\t\nz\t c \n")
    rows = [
        {"text": "x", "label": ["b", "a"]},
        {"text": "y", "label": []},
        {"text": "z", "label": "c"},
    ]
    jsonl = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    csv_file = write("a.csv", "text,c,a,b\nx,0,1,1\ny,0,0,0\nz, 1,0,0\n")
    for path, columns in (
        (tsv, ["label"]),
        (jsonl, ["label"]),
        (csv_file, ["a", "b", "c"]),
    ):
        examples = read_examples(path, ["text"], columns, MULTI_LABEL)
        assert examples.labels == expected
        assert examples.label_names == ("a", "b", "c")
    other = write("b.tsv", "text\tlabel\nx\tb | a, c\n")
    examples = read_examples(
        other, problem_type=MULTI_LABEL, label_separator="|"
    )
    assert examples.labels == [("a, c", "b")]


def test_a_table_without_a_header(write):
    path = write("a.tsv", "s\t1\t\tHe left.\ns\t0\t*\tHe leave.\n")
    names = TableFormat(column_names=("source", "label", "mark", "text"))
    examples = read_examples(path, table_format=names)
    assert examples == Examples(["He left.", "He leave."], None, ["1", "0"])


NUMBERS, SEVERAL = {"problem_type": REGRESSION}, {"problem_type": MULTI_LABEL}
MARKS = SEVERAL | {"label_columns": ["x", "y"]}
KNOWN = {"known_labels": ["x", "y"]}
THREE = {"table_format": TableFormat(column_names=("text", "b", "label"))}
# Ending, content, arguments and message.
MALFORMED = [
    ("txt", "text\tlabel\na\tb\n", {}, ".tsv, .csv, .jsonl"),
    ("tsv", "", {}, "empty file"),
    ("csv", "", {}, "empty file"),
    ("jsonl", "\n\n", {}, "empty file"),
    ("tsv", "text\tlabel\n", {}, "only a header"),
    ("csv", "text,label\n", {}, "only a header"),
    ("tsv", "sentence\tlabel\na\tb\n", {}, "line 1: .*'text'.*'sentence'"),
    ("tsv", "text\ttext\tlabel\n", {}, "line 1: .*one column 'text'"),
    ("tsv", "text\tlabel\na\tb\nc\n", {}, "line 3: .*2 columns, found 1"),
    ("tsv", "text\tlabel\na\tb\tc\n", {}, "line 2: .*2 columns, found 3"),
    ("tsv", "text\tlabel\na\tb\n\nc\td\n", {}, "line 3: .*blank line"),
    ("csv", "text,label\na,b\n\nc,d\n", {}, "line 3: .*blank line"),
    ("csv", 'text,label\n"a\nb",x\nc,d,e\n', {}, "line 4: .*found 3"),
    ("csv", 'text,label\na,b\n"c,d\ne,f\n', {}, "line 3: .*end of data"),
    ("csv", 'text,label\n"a"b,c\n', {}, "line 2: .*expected after"),
    ("tsv", "text\tlabel\n \tb\n", {}, "line 2, column 'text'.*empty"),
    ("tsv", "text\tlabel\na\t \n", {}, "line 2, column 'label'.*empty"),
    ("tsv", b"text\tlabel\na\tb\nc\0\td\n", {}, "line 3: .*NUL"),
    ("tsv", b"text\tlabel\na\tb\nc\xff\td\n", {}, "line 3: .*0xff"),
    ("tsv", b"\xef\xbb\xbftext\tlabel\n\xe9\tb\n", {}, "line 2: .*0xe9"),
    ("jsonl", '{"text": "a", "label": "b"}\n{"text"\n', {}, "line 2: .*JSON"),
    ("jsonl", '["a", "b"]\n', {}, "element 1: .*object.*str"),
    ("jsonl", '{"text": "a"}\n', {}, "line 1: .*'label'.*'text'"),
    ("jsonl", "{}\n\n{}\n", {"label_columns": ()}, "line 1: .*'text'"),
    ("jsonl", '{"text": 3, "label": "b"}\n', {}, "line 1, .*a text, found 3"),
    ("jsonl", '{"text": "a", "label": ["b"]}\n', {}, "--multi_label., found"),
    ("csv", "text\na, b\n", {"label_columns": ()}, "line 2: .*1 column, .* 2"),
    ("jsonl", '{"text": "a", "label": null}\n', {}, "'label'.*empty"),
    (
        "jsonl",
        '{"text": "a", "label": 0.5}\n',
        {},
        "--regression.*found 0.5",
    ),
    ("jsonl", '{"text": "a", "label": "x\\ny"}\n', {}, "one line"),
    ("jsonl", '{"text": "a\\ud800", "label": "b"}\n', {}, "Unicode.*d800"),
    ("jsonl", '{"text": "a\\u0000", "label": "b"}\n', {}, "Unicode.*x00"),
    ("jsonl", "[" * 100_000, {}, "line 1: .*JSON object"),
    ("tsv", "text\tlabel\na\tb\n", NUMBERS, "number, found 'b'"),
    ("tsv", "text\tlabel\na\tnan\n", NUMBERS, "finite number"),
    ("jsonl", '{"text": "a", "label": Infinity}', NUMBERS, "finite number"),
    ("jsonl", '{"text": "a", "label": true}', NUMBERS, "a number, found True"),
    ("tsv", "text\tlabel\na\tx\nb\tx,x\n", SEVERAL, "line 3.*each label once"),
    ("tsv", "text\tlabel\na\tx,,y\n", SEVERAL, "line 2.*found an empty one"),
    ("jsonl", '{"text": "a", "label": ["x", 0.5]}', SEVERAL, "found 0.5"),
    ("jsonl", '{"text": "a", "label": {"x": 1}}', SEVERAL, "expected a text"),
    ("csv", "text,x,y\na,1,0\nb,2,0\n", MARKS, "line 3.*'x': .*0 or 1.*'2'"),
    ("csv", "text,x\na,1\n", MARKS, "line 1: expected one column 'y'"),
    ("tsv", "text\tlabel\na\tx,z\n", SEVERAL | KNOWN, "'x', 'y', found 'z'"),
    ("tsv", "text\tlabel\na\tx\nb\tz\n", KNOWN, "line 3.*'x', 'y', found 'z'"),
    ("tsv", "s\t1\n", THREE, "line 1: expected 3"),
    ("tsv", "text\tlabel\n", {"text_columns": ["a", "b"]}, "line 1: .*'a'"),
]


@pytest.mark.parametrize(("ending", "content", "given", "message"), MALFORMED)
def test_malformed_files_say_where_and_what(
    write, ending, content, given, message
):
    path = write(f"a.{ending}", content)
    with pytest.raises(InputError, match=message) as error:
        read_examples(path, **given)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_missing_files_and_directories(tmp_path):
    with pytest.raises(InputError, match="expected a file, found nothing"):
        read_examples(tmp_path / "a.tsv")
    (tmp_path / "b.tsv").mkdir()
    with pytest.raises(InputError, match="expected a file, found a directory"):
        read_examples(tmp_path / "b.tsv")


def test_encoding_of_single_texts():
    examples = Examples(
        ["a bb ccc", "dddd", "a bb ccc dddd"], None, list("yxy")
    )
    encoded = encode_examples(examples, StandInTokenizer(), 5, ["x", "y"])
    assert encoded["input_ids"].tolist() == [
        [101, 1, 2, 3, 102],
        [101, 4, 102, 0, 0],
        [101, 1, 2, 3, 102],
    ]
    assert encoded["input_mask"].tolist() == [[1] * 5, [1, 1, 1, 0, 0], [1] * 5]
    assert not encoded["segment_ids"].any()
    assert encoded["labels"].tolist() == [1, 0, 1]
    assert {array.dtype for array in encoded.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("max_seq_length", [5, 8, 9, 14])
def test_pairs_are_truncated_as_in_bert(max_seq_length):
    """The loop of the original, against every combination of lengths."""
    lengths = [(a, b) for a in range(1, 13) for b in range(1, 13)]
    texts_a = [" ".join("a" * n for n in range(1, a + 1)) for a, _ in lengths]
    texts_b = [" ".join("a" * n for n in range(1, b + 1)) for _, b in lengths]
    encoded = encode_examples(
        Examples(texts_a, texts_b), StandInTokenizer(), max_seq_length
    )
    for row, (length_a, length_b) in enumerate(lengths):
        pieces_a = list(range(1, length_a + 1))
        pieces_b = list(range(1, length_b + 1))
        while len(pieces_a) + len(pieces_b) > max_seq_length - 3:
            longer = pieces_a if len(pieces_a) > len(pieces_b) else pieces_b
            longer.pop()
        ids = [101, *pieces_a, 102, *pieces_b, 102]
        segments = [0] * (len(pieces_a) + 2) + [1] * (len(pieces_b) + 1)
        padding = [0] * (max_seq_length - len(ids))
        assert encoded["input_ids"][row].tolist() == ids + padding
        assert encoded["segment_ids"][row].tolist() == segments + padding
        mask = [1] * len(ids) + padding
        assert encoded["input_mask"][row].tolist() == mask
    assert "labels" not in encoded


def test_encoding_with_the_real_tokenizer():
    arrays = encode_examples(Examples(["Cats, q\u4e2d"]), tiny.tokenizer(), 8)
    pieces = "[CLS] cat ##s [UNK] q [UNK] [SEP] [PAD]".split()
    ids = [tiny.PIECES.index(piece) for piece in pieces]
    assert arrays["input_ids"].tolist() == [ids]


def test_encoding_of_several_labels():
    examples = Examples(["a", "b", "c"], None, [("x", "z"), (), ("y",)])
    encoded = encode_examples(examples, StandInTokenizer(), 4, ["x", "y", "z"])
    assert encoded["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert encoded["labels"].dtype == np.float32
    numbers = encode_examples(
        Examples(["a"], labels=[0.5]), StandInTokenizer(), 4
    )["labels"]
    assert numbers.dtype == np.float32 and numbers.tolist() == [0.5]


def test_impossible_requests_are_refused():
    tokenizer = StandInTokenizer()
    with pytest.raises(ValueError, match="at least 3"):
        encode_examples(Examples(["a"]), tokenizer, 2)
    with pytest.raises(ValueError, match="at least 5"):
        encode_examples(Examples(["a"], ["b"]), tokenizer, 4)


def messages_of(path, **given):
    with pytest.raises(InputError) as caught:
        read_examples(path, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_bad_rows_are_shown_at_once_and_in_their_order(write):
    rows = ["a,x", ",x", "b", "c,y", " ,y", ",x", "d,x,y", "text,label", ",y"]
    path = write("a.csv", "\n".join(["text,label", *rows]))
    message = messages_of(path)
    assert ": expected no mistakes, found 7: line 3, column 'text': " in message
    places = [part.partition(":")[0] for part in message.split("; ")[1:]]
    assert places == [
        "line 4",
        "line 6, column 'text'",
        "line 7, column 'text'",
        "line 8",
        "and 2 more (--empty_texts=skip leaves out rows without a text)",
    ]


def test_empty_texts_may_be_left_out(write):
    content = "text,label\na,x\n,y\n\n  ,x\nb,y\n"
    examples = read_examples(write("a.csv", content), empty_texts=SKIP)
    assert examples == Examples(["a", "b"], None, ["x", "y"])
    assert examples.notes == ("2 of 4 rows left out, without a text",)
    rows = '[{"text": null, "label": 1}, {"text": NaN}, {"text": "a"}]'
    path = write("a.json", rows)
    kept = read_examples(path, label_columns=(), empty_texts=KEEP)
    assert kept.texts_a == ["", "", "a"]
    path = write("b.csv", "text,label\n,x\n,y\n")
    assert "found empty texts only" in messages_of(path, empty_texts=SKIP)


# Labels as JSON or a table program may have them, and the names they become.
NAMES = [
    ("[true, false]", ["true", "false"]),
    ("[1.0, 0.0]", ["1", "0"]),
    ("[3, -1]", ["3", "-1"]),
    ('["TRUE", " b "]', ["TRUE", "b"]),
]


@pytest.mark.parametrize(("labels", "names"), NAMES)
def test_labels_of_json_are_names(write, labels, names):
    rows = [{"text": "a", "label": label} for label in json.loads(labels)]
    path = write("a.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_examples(path).labels == names


@pytest.mark.parametrize("missing", ["nan", "NaN", "<NA>", "#N/A"])
def test_a_missing_label_is_not_a_class(write, missing):
    path = write("a.tsv", f"text\tlabel\na\tx\nb\t{missing}\n")
    assert f"line 3, column 'label': expected a label, found '{missing}'" in (
        messages_of(path)
    )
    path = write("a.jsonl", '{"text": "a", "label": NaN}\n')
    assert "expected a label, found an empty one" in messages_of(path)


@pytest.mark.parametrize("yes", ["1", "1.0", "True", "TRUE", " 1 "])
def test_marks_are_written_in_many_ways(write, yes):
    no = yes.replace("1", "0").replace("True", "False").replace("TRUE", "FALSE")
    path = write("a.csv", f"text,x,y\na,{yes},{no}\nb,{no},{no}\n")
    examples = read_examples(path, label_columns=["x", "y"], **SEVERAL)
    assert examples.labels == [("x",), ()]
    json_yes = yes.strip().lower()
    row = f'{{"text": "a", "x": {json_yes}, "y": {no.strip().lower()}}}'
    path = write("a.jsonl", row)
    examples = read_examples(path, label_columns=["x", "y"], **SEVERAL)
    assert examples.labels == [("x",)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text":"a","label":[1,0]}\n{"text":"b","label":[0,0]}'),
        ("a.json", '[{"text":"a","label":[1.0,0.0,0.0]}]'.replace(".0", "")),
        ("a.csv", 'text,label\na,"1,0"\nb,"0,1"\n'),
        ("b.csv", 'text,label\na,"[1, 0, 0]"\nb,"[0, 0, 1]"\n'),
    ],
)
def test_a_mark_for_each_class_is_not_a_list_of_names(write, name, content):
    message = messages_of(write(name, content), **SEVERAL)
    assert "column 'label'" in message and "--label_column=NAME,NAME" in message
    assert "marks of 0 or 1 in every row" in message


def test_lists_of_numbers_may_be_names(write):
    rows = ['{"text": "a", "label": [1, 0]}', '{"text": "b", "label": [2]}']
    path = write("a.jsonl", "\n".join(rows))
    assert read_examples(path, **SEVERAL).labels == [("0", "1"), ("2",)]


def test_unknown_labels_come_with_a_suggestion(write):
    path = write("a.csv", "text,label\na,TRUE\nb,Fals\nc,x\n")
    message = messages_of(path, known_labels=["False", "True"])
    assert "(did you mean 'True', which differs in case only?)" in message
    assert "found 'Fals' (did you mean 'False'?)" in message
    assert message.endswith("found 'x'")
    many = [f"class {number}" for number in range(20)]
    message = messages_of(path, known_labels=many)
    assert "'class 7' and 12 more, found" in message
    assert "class 8" not in message


def test_decimal_commas_come_with_semicolons(write):
    path = write("a.csv", "text;label\na, b;3,25\nc;-1,5\n")
    assert read_examples(path, **NUMBERS).labels == [3.25, -1.5]
    path = write("b.csv", 'text,label\na,"3,25"\n')
    assert "expected a number, found '3,25'" in messages_of(path, **NUMBERS)
