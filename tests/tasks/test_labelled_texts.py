"""Tables of examples: what is read, what is refused, and what is encoded."""

import csv
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.labelled_texts import (
    Examples,
    encode_examples,
    read_examples,
    write_predictions,
)


class StandInTokenizer:
    """Every word is its length as a piece, so that ids are known by sight."""

    pad_id, cls_id, sep_id = 0, 101, 102

    def tokenize(self, texts):
        pieces = [[len(word) for word in text.split()] for text in texts]
        values = np.array([p for row in pieces for p in row], np.int32)
        splits = np.cumsum([0, *map(len, pieces)])
        return SimpleNamespace(
            values=_Tensor(values), row_splits=_Tensor(splits)
        )


class _Tensor:
    def __init__(self, values):
        self.numpy = lambda: values


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
    assert examples.label_names == ["no", "yes"]


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
    examples = read_examples(path, "premise", "hypothesis", "gold")
    assert examples == Examples(["a\u2028b", "ä"], ["c", "d"], ["1", "0"])


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_mark_line_ends_and_separators_inside_texts(write, end):
    lines = ["text\tlabel", "a\u2028b\x0cc\t x ", "d\ty", "", ""]
    path = write("a.tsv", b"\xef\xbb\xbf" + end.join(lines).encode())
    examples = read_examples(path)
    assert examples == Examples(["a\u2028b\x0cc", "d"], None, ["x", "y"])


def test_texts_to_predict_need_no_label(write):
    path = write("a.tsv", "text\na\nb\n")
    assert read_examples(path, has_labels=False) == Examples(["a", "b"])


def test_regression_labels_are_numbers(write):
    path = write("a.csv", "text,label\na,3.25\nb,-1e2\n")
    assert read_examples(path, regression=True).labels == [3.25, -100.0]
    path = write("a.jsonl", '{"text": "a", "label": 2}\n')
    assert read_examples(path, regression=True).labels == [2.0]


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
        (tsv, "label"),
        (jsonl, "label"),
        (csv_file, ["a", "b", "c"]),
    ):
        examples = read_examples(path, label_column=columns, multi_label=True)
        assert examples.labels == expected
        assert examples.label_names == ["a", "b", "c"]
    other = write("b.tsv", "text\tlabel\nx\tb | a, c\n")
    examples = read_examples(other, multi_label=True, label_separator="|")
    assert examples.labels == [("a, c", "b")]


def test_a_table_without_a_header(write):
    path = write("a.tsv", "s\t1\t\tHe left.\ns\t0\t*\tHe leave.\n")
    header = ("source", "label", "mark", "text")
    examples = read_examples(path, header=header)
    assert examples == Examples(["He left.", "He leave."], None, ["1", "0"])


MALFORMED = [
    ("a.txt", "text\tlabel\na\tb\n", {}, ".tsv, .csv, .jsonl"),
    ("a.tsv", "", {}, "empty file"),
    ("a.csv", "", {}, "empty file"),
    ("a.jsonl", "\n\n", {}, "empty file"),
    ("a.tsv", "text\tlabel\n", {}, "only a header"),
    ("a.csv", "text,label\n", {}, "only a header"),
    ("a.tsv", "sentence\tlabel\na\tb\n", {}, "line 1: .*'text'.*'sentence'"),
    ("a.tsv", "text\ttext\tlabel\n", {}, "line 1: .*one column 'text'"),
    ("a.tsv", "text\tlabel\na\tb\nc\n", {}, "line 3: .*2 columns, found 1"),
    ("a.tsv", "text\tlabel\na\tb\tc\n", {}, "line 2: .*2 columns, found 3"),
    ("a.tsv", "text\tlabel\na\tb\n\nc\td\n", {}, "line 3: .*blank line"),
    ("a.csv", "text,label\na,b\n\nc,d\n", {}, "line 3: .*blank line"),
    ("a.csv", 'text,label\n"a\nb",x\nc,d,e\n', {}, "line 4: .*found 3"),
    ("a.csv", 'text,label\na,b\n"c,d\ne,f\n', {}, "line 3: .*end of data"),
    ("a.csv", 'text,label\n"a"b,c\n', {}, "line 2: .*expected after"),
    ("a.tsv", "text\tlabel\n \tb\n", {}, "line 2, column 'text'.*empty"),
    ("a.tsv", "text\tlabel\na\t \n", {}, "line 2, column 'label'.*empty"),
    ("a.tsv", b"text\tlabel\na\tb\nc\0\td\n", {}, "line 3: .*NUL"),
    ("a.tsv", b"text\tlabel\na\tb\nc\xff\td\n", {}, "line 3: .*0xff"),
    ("a.tsv", b"\xef\xbb\xbftext\tlabel\n\xe9\tb\n", {}, "line 2: .*0xe9"),
    ("a.csv", "text,label\na,b\n".encode("utf-16"), {}, "line 1: "),
    ("a.jsonl", '{"text": "a", "label": "b"}\n{"text"\n', {}, "line 2: .*JSON"),
    ("a.jsonl", '["a", "b"]\n', {}, "line 1: .*object.*list"),
    ("a.jsonl", '{"text": "a"}\n', {}, "line 1: .*'label'.*'text'"),
    ("a.jsonl", "{}\n\n{}\n", {"has_labels": False}, "line 1: .*'text'"),
    ("a.jsonl", '{"text": 3, "label": "b"}\n', {}, "line 1, .*a text, found 3"),
    ("a.jsonl", '{"text": "a", "label": true}\n', {}, "'label'.*True"),
    ("a.jsonl", '{"text": "a", "label": null}\n', {}, "'label'.*None"),
    ("a.jsonl", '{"text": "a", "label": 0.5}\n', {}, "'label'.*0.5"),
    ("a.jsonl", '{"text": "a", "label": "x\\ny"}\n', {}, "one line"),
    ("a.jsonl", '{"text": "a\\ud800", "label": "b"}\n', {}, "Unicode.*d800"),
    ("a.jsonl", '{"text": "a\\u0000", "label": "b"}\n', {}, "Unicode.*x00"),
    ("a.jsonl", "[" * 100_000, {}, "line 1: .*JSON object"),
    ("a.tsv", "text\tlabel\na\tb\n", {"regression": True}, "number, found 'b'"),
    ("a.tsv", "text\tlabel\na\tnan\n", {"regression": True}, "finite number"),
    (
        "a.jsonl",
        '{"text": "a", "label": Infinity}',
        {"regression": True},
        "finite number",
    ),
    (
        "a.jsonl",
        '{"text": "a", "label": true}',
        {"regression": True},
        "a number, found True",
    ),
    (
        "a.tsv",
        "text\tlabel\na\tx\nb\tx,x\n",
        {"multi_label": True},
        "line 3, column 'label': expected each label once",
    ),
    (
        "a.tsv",
        "text\tlabel\na\tx,,y\n",
        {"multi_label": True},
        "line 2, column 'label': expected a text, found an empty one",
    ),
    (
        "a.jsonl",
        '{"text": "a", "label": ["x", 0.5]}',
        {"multi_label": True},
        "line 1, column 'label': expected a text, found 0.5",
    ),
    (
        "a.jsonl",
        '{"text": "a", "label": {"x": 1}}',
        {"multi_label": True},
        "line 1, column 'label': expected a text",
    ),
    (
        "a.csv",
        "text,x,y\na,1,0\nb,2,0\n",
        {"multi_label": True, "label_column": ["x", "y"]},
        "line 3, column 'x': expected 0 or 1, found '2'",
    ),
    (
        "a.csv",
        "text,x\na,1\n",
        {"multi_label": True, "label_column": ["x", "y"]},
        "line 1: expected one column 'y'",
    ),
    (
        "a.tsv",
        "text\tlabel\na\tx\nb\tx,z\n",
        {"known_labels": ["x", "y"], "multi_label": True},
        "line 3, column 'label': expected one of 'x', 'y', found 'z'",
    ),
    (
        "a.tsv",
        "s\t1\ta\ns\t1\n",
        {"header": ["source", "label", "text"]},
        "line 2: expected 3 columns, found 2",
    ),
    (
        "a.tsv",
        "text\tlabel\na\tx\nb\tz\n",
        {"known_labels": ["x", "y"]},
        "line 3, column 'label': expected one of 'x', 'y', found 'z'",
    ),
    (
        "a.tsv",
        "text\tlabel\na\tx\n",
        {"text_b_column": "text_b"},
        "line 1: .*'text_b'",
    ),
]


@pytest.mark.parametrize(("name", "content", "arguments", "message"), MALFORMED)
def test_malformed_files_say_where_and_what(
    write, name, content, arguments, message
):
    path = write(name, content)
    with pytest.raises(InputError, match=message) as error:
        read_examples(path, **arguments)
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


def test_encoding_of_pairs():
    examples = Examples(["a bb", "a"], ["ccc", "dddd eeeee"], [0.5, 2.0])
    encoded = encode_examples(examples, StandInTokenizer(), 8)
    assert encoded["input_ids"].tolist() == [
        [101, 1, 2, 102, 3, 102, 0, 0],
        [101, 1, 102, 4, 5, 102, 0, 0],
    ]
    assert encoded["input_mask"].tolist() == [[1] * 6 + [0] * 2] * 2
    assert encoded["segment_ids"].tolist() == [
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 1, 1, 1, 0, 0],
    ]
    assert encoded["labels"].dtype == np.float32
    assert encoded["labels"].tolist() == [0.5, 2.0]


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


def test_a_text_without_pieces_is_still_an_example():
    encoded = encode_examples(Examples(["", "a"]), StandInTokenizer(), 4)
    assert encoded["input_ids"].tolist() == [[101, 102, 0, 0], [101, 1, 102, 0]]


def test_encoding_with_the_real_tokenizer():
    wordpiece = pytest.importorskip("mobilebert_tf.text.tokenizer")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocab = [*special, "hello", "##s", "world"]
    tokenizer = wordpiece.WordpieceTokenizer(vocab)
    encoded = encode_examples(Examples(["Hellos, world"]), tokenizer, 8)
    assert encoded["input_ids"].tolist() == [[2, 5, 6, 1, 7, 3, 0, 0]]


def test_encoding_of_several_labels():
    examples = Examples(["a", "b", "c"], None, [("x", "z"), (), ("y",)])
    encoded = encode_examples(examples, StandInTokenizer(), 4, ["x", "y", "z"])
    assert encoded["labels"].tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert encoded["labels"].dtype == np.float32
    with pytest.raises(ValueError, match="'z'"):
        encode_examples(examples, StandInTokenizer(), 4, ["x", "y"])


def test_impossible_requests_are_refused():
    tokenizer = StandInTokenizer()
    with pytest.raises(ValueError, match="at least 3"):
        encode_examples(Examples(["a"]), tokenizer, 2)
    with pytest.raises(ValueError, match="at least 5"):
        encode_examples(Examples(["a"], ["b"]), tokenizer, 4)
    with pytest.raises(ValueError, match="'z'"):
        encode_examples(Examples(["a"], None, ["z"]), tokenizer, 4, ["x"])
    with pytest.raises(ValueError, match="label_names"):
        encode_examples(Examples(["a"], None, ["z"]), tokenizer, 4)
    with pytest.raises(ValueError, match="2 texts"):
        Examples(["a", "b"], None, ["x"])


def test_encoding_is_quick():
    """20,000 pairs; a Python loop over pieces would take seconds."""
    texts = ["a bb ccc dddd " * 12] * 20_000
    ragged = StandInTokenizer().tokenize(texts)
    tokenizer = StandInTokenizer()
    tokenizer.tokenize = lambda _: ragged
    start = time.process_time()
    encode_examples(Examples(texts, texts), tokenizer, 64)
    assert time.process_time() - start < 1.5


def test_predictions_read_back(tmp_path):
    path = tmp_path / "predictions.tsv"
    probabilities = np.array([[0.25, 0.75], [0.9, 0.1]], np.float32)
    write_predictions(path, ["no", "yes"], probabilities)
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t"))
    assert rows == [
        ["index", "prediction", "no", "yes"],
        ["0", "yes", "0.250000", "0.750000"],
        ["1", "no", "0.900000", "0.100000"],
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_a_regression_predicts_its_value(tmp_path):
    path = tmp_path / "predictions.tsv"
    write_predictions(path, ["value"], np.array([[2.5], [-1.0]]))
    assert path.read_text().splitlines() == [
        "index\tprediction",
        "0\t2.500000",
        "1\t-1.000000",
    ]


def test_predictions_of_several_labels(tmp_path):
    path = tmp_path / "predictions.tsv"
    probabilities = np.array([[0.5, 0.2, 0.9], [0.1, 0.2, 0.3]])
    write_predictions(path, ["a", "b", "c"], probabilities, multi_label=True)
    lines = path.read_text().splitlines()
    assert lines[0] == "index\tprediction\ta\tb\tc"
    assert lines[1].startswith("0\ta,c\t0.5") and lines[2].startswith("1\t\t")


def test_predictions_of_another_width_leave_the_file_alone(tmp_path):
    path = tmp_path / "predictions.tsv"
    path.write_text("old")
    with pytest.raises(ValueError, match=r"\[num_examples, 3\]"):
        write_predictions(path, ["a", "b", "c"], np.zeros((2, 2)))
    assert path.read_text() == "old"
