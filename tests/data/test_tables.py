"""Tables as other programs write them: encodings, delimiters and headers."""

import csv
import gzip
import json

import pytest

from mobilebert_tf.data.tables import TableFormat, read_table
from mobilebert_tf.errors import InputError

COLUMNS = ("text", "label")
ROWS = [("A good film, really", "pos"), ('Ein trüber; "Film"', "neg")]
VALUES = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]


def write(folder, name, content):
    path = folder / name
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(content)
    return path


def write_csv(path, delimiter, quoting=csv.QUOTE_MINIMAL, index=False):
    """Writes `ROWS` as pandas does, perhaps with its column of row numbers."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=quoting)
        for number, row in enumerate([COLUMNS, *ROWS]):
            cells = [str(number - 1) if number else ""] if index else []
            writer.writerow([*cells, *row])


def read(path, columns=COLUMNS, **given):
    """Rows and notes of a table without problems."""
    table = read_table(path, columns, TableFormat(**given))
    rows = [values for _, values in table.rows]
    assert table.problems == []
    return rows, table.notes


def problem_of(path, columns=COLUMNS, **given):
    with pytest.raises(InputError) as caught:
        list(read_table(path, columns, TableFormat(**given)).rows)
    assert "\n" not in str(caught.value)
    return str(caught.value)


ENCODINGS = [
    ("utf-8", []),
    ("utf-8-sig", []),
    ("utf-16", ["UTF-16"]),
    ("utf-16-le", ["UTF-16-LE"]),
    ("utf-16-be", ["UTF-16-BE"]),
    ("utf-32", ["UTF-32"]),
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(("encoding", "notes"), ENCODINGS)
@pytest.mark.parametrize("ending", ["tsv", "csv", "csv.gz"])
def test_encodings_are_recognised_and_named(
    tmp_path, encoding, notes, end, ending
):
    delimiter = "\t" if ending == "tsv" else ","
    lines = [delimiter.join(COLUMNS), f"Ünder{delimiter}pos", ""]
    content = end.join(lines).encode(encoding)
    content = gzip.compress(content) if ending.endswith("gz") else content
    path = write(tmp_path, f"a.{ending}", content)
    assert read(path) == ([{"text": "Ünder", "label": "pos"}], notes)


def test_other_encodings_are_named_by_the_user(tmp_path):
    path = write(tmp_path, "a.csv", "text,label\nCafé,pos\n".encode("cp1252"))
    message = problem_of(path)
    assert "line 2: expected UTF-8 text, or --encoding (perhaps cp1" in message
    rows, notes = read(path, encoding="cp1252")
    assert rows == [{"text": "Café", "label": "pos"}] and notes == ["CP1252"]
    message = problem_of(path, encoding="ascii")
    assert "line 2: expected ASCII text, found the byte 0xe9" in message
    path = write(tmp_path, "b.csv.gz", gzip.compress(b"text,label\na,b\n")[:-9])
    assert "expected a whole gzip file" in problem_of(path)
    path = write(tmp_path, "c.tsv", "text\tlabel\na\tb\n".encode("utf-16")[:-1])
    assert "expected UTF-16 text" in problem_of(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_delimiters_are_recognised_and_named(tmp_path, delimiter, quoting):
    for index in (False, True):
        path = tmp_path / "a.csv"
        write_csv(path, delimiter, quoting, index)
        given = {"delimiter": delimiter} if delimiter == "|" else {}
        rows, notes = read(path, **given)
        assert rows == VALUES
        words = {";": "semicolons", "\t": "tabs", "|": "'|'"}.get(delimiter)
        assert notes == ([f"separated by {words}"] if words else [])


@pytest.mark.parametrize(
    "content",
    [
        # Excel: the delimiter before the header, padded rows, blank rows.
        "sep=;\r\ntext;label\r\na;x\r\nb;y\r\n",
        "text;label;;\r\na;x;;\r\nb;y;;\r\n;;;\r\n;;;\r\n",
        "text;label\na;x;;\nb;y;\n\n \n\n",
        "\n\ntext;label\na;x\nb;y",
        # A text that holds more commas than there are columns.
        "text;label;a note, of sorts\na;x;1,2,3\nb;y;4,5\n",
        # R's write.table: the column of row numbers has no name.
        '"text";"label"\n"1";"a";"x"\n"2";"b";"y"\n',
        " Text ; text ; label \n-;a;x\n-;b;y\n",
    ],
)
def test_what_spreadsheets_add_is_left_out(tmp_path, content):
    path = write(tmp_path, "a.csv", content)
    rows, notes = read(path)
    assert [(row["text"], row["label"]) for row in rows] == [
        ("a", "x"),
        ("b", "y"),
    ]
    assert notes[0] == "separated by semicolons"


def test_a_delimiter_is_named_before_the_header_only(tmp_path):
    path = write(tmp_path, "a.csv", 'text,label\n"a\nsep=;\nb",x\n')
    assert read(path)[0] == [{"text": "a\nsep=;\nb", "label": "x"}]


def test_rows_know_their_lines(tmp_path):
    path = write(tmp_path, "a.csv", 'sep=,\n"text",label\n"a\nb",x\nc,y\n')
    table = read_table(path, COLUMNS)
    assert [place for place, _ in table.rows] == ["line 3", "line 5"]


HEADERS = [
    ("a.csv", "Text,label\na,b\n", "(did you mean 'Text', which differs in c"),
    ("a.tsv", "txet\tlabel\na\tb\n", "found the columns 'txet', 'label' (did"),
    ("a.tsv", "text,label\na,b\n", "(--delimiter=',' would separate them)"),
    ("a.csv", "text|label\na|b\n", "(--delimiter='|' would separate them)"),
    ("a.tsv", '"text"\t"label"\n"a"\t"b"\n', "quotes as text; name the file"),
    ("a.tsv", "A good film\tpos\n", "(--column_names names the columns of a "),
    ("a.csv", "text,label,text\na,b,c\n", "one column 'text', found the col"),
    ("a.csv", "text,label,text \na,b,c\n", "one column 'text', found the col"),
    ("a.jsonl", '{"Text": "a", "label": 1}', "a key 'text', found the keys 'T"),
    ("a.csv", ",".join("abcdefghijkl") + "\n", "'g', 'h' and 4 more (--col"),
    ("a.csv", ";;;\n\n", "found blank lines"),
    ("a.txt", "text\tlabel\n", "expected a name in .tsv, .csv, .jsonl, .json"),
    ("a.json", '[{"text": "a"},\n{"text"', "line 2: expected a JSON array"),
    ("a.json", '\n[{"text": "a"},\n{"text"', "line 3: expected a JSON array"),
]


@pytest.mark.parametrize(("name", "content", "message"), HEADERS)
def test_headers_that_lack_a_column(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    try:
        table = read_table(path, COLUMNS)
        assert list(table.rows) == []
        found = str(table.problems[0])
    except InputError as error:
        found = str(error)
    assert message in found and "\n" not in found


def test_spaces_around_names_of_columns_do_not_count(tmp_path):
    path = write(tmp_path, "a.csv", "Review Text, My Label \na,x\n")
    for label in ("My Label", " My Label "):
        rows, _ = read(path, ("Review Text", label))
        assert rows == [{"Review Text": "a", label: "x"}]
    path = write(tmp_path, "a.jsonl", '{"text ": "a"}')
    assert read(path, ["text"])[0] == [{"text": "a"}]


def test_columns_of_a_file_without_a_header_are_named(tmp_path):
    for name, separator in (("a.tsv", "\t"), ("a.csv", ",")):
        path = write(tmp_path, name, f"pos{separator}a\nneg{separator}b\n")
        rows, _ = read(path, column_names=("label", "text"))
        assert [row["text"] for row in rows] == ["a", "b"]
    path = write(tmp_path, "b.csv", "text,label\na,x\n")
    table = read_table(path, COLUMNS, TableFormat(column_names=COLUMNS))
    assert len(list(table.rows)) == 1
    (problem,) = table.problems
    assert "line 1: expected an example, found the names of" in str(problem)


def test_a_header_in_the_middle_is_refused(tmp_path):
    content = "text\tlabel\na\tx\n\ufefftext\tlabel \nb\ty\n"
    table = read_table(write(tmp_path, "a.tsv", content), COLUMNS)
    assert len(list(table.rows)) == 2
    (problem,) = table.problems
    assert "line 3: expected an example, found the names of the" in str(problem)


def test_cells_may_have_any_length(tmp_path):
    long, limit = "word " * 60_000, csv.field_size_limit()
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        path = tmp_path / name
        separator = "\t" if name == "a.tsv" else ","
        content = f"text{separator}label\n{long}{separator}x\n"
        if name == "a.jsonl":
            content = json.dumps({"text": long, "label": "x"})
        write(tmp_path, name, content)
        assert read(path)[0] == [{"text": long, "label": "x"}]
    assert csv.field_size_limit() == limit


def test_quotes_of_a_tsv_are_text_and_noticed(tmp_path):
    path = tmp_path / "a.tsv"
    write_csv(path, "\t")
    rows, (note,) = read(path)
    assert rows[1]["text"] == '"Ein trüber; ""Film"""'
    assert "quoted as in .csv: 1; their quotes are kept as text" in note
    # The same file under another name.
    assert read(path.rename(tmp_path / "a.csv"))[0] == VALUES
    path = write(tmp_path, "b.tsv", 'text\tlabel\n"a\nb"\tx\nc\ty\n')
    table = read_table(path, COLUMNS)
    assert len(list(table.rows)) == 2
    assert "quotes do not join lines here" in str(table.problems[0])


# What pandas' to_json writes by its `orient`, and JSON Lines.
BY_ORIENT = {
    "records": VALUES,
    "columns": {
        column: {str(index): row[column] for index, row in enumerate(VALUES)}
        for column in COLUMNS
    },
    "list": {column: [row[column] for row in VALUES] for column in COLUMNS},
    "table": {"schema": {"fields": []}, "data": VALUES},
}


@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_json_of_other_programs_is_read(tmp_path, ending):
    lines = "\n".join(map(json.dumps, VALUES))
    contents = [*map(json.dumps, BY_ORIENT.values()), lines]
    contents += [json.dumps(VALUES, indent=2), f"\ufeff{lines}"]
    for content in map(str.encode, contents):
        if ending.endswith("gz"):
            content = gzip.compress(content)
        assert read(write(tmp_path, f"a.{ending}", content))[0] == VALUES
