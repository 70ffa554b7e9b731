"""Rows of a user's table: .tsv as GLUE has it, .csv, .jsonl or .json.

Each may be compressed (.gz). The encoding and the delimiter are recognised and
named; a row that cannot be split is kept as a problem with its line, so that
all bad rows of a file can be shown at once. No row is repaired.
"""

import csv
import dataclasses
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mobilebert_tf.errors import InputError, listed, nearest
from mobilebert_tf.files import read_text

FORMATS = (".tsv", ".csv", ".jsonl", ".json")

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
# What a spreadsheet writes before the header, to name its delimiter.
_NAMED_DELIMITER = re.compile(r"\Asep=(.)[;,\t]*(?=\r?\n)", re.IGNORECASE)
_WHITE_SPACE = "\ufeff \t\r\n\xa0"

# Number of a line, and its cells or what is wrong with it.
_Record = tuple[int, list[str] | InputError]


class TableFormat(NamedTuple):
    """How a table is written; what is None or empty is recognised.

    Attributes:
        delimiter: a character between cells.
        encoding: a name that Python knows.
        column_names: names of the columns of a file without a header.
    """

    delimiter: str | None = None
    encoding: str | None = None
    column_names: Sequence[str] = ()


@dataclasses.dataclass
class Table:
    """A table, of which the requested columns are kept.

    Attributes:
        path: the file.
        rows: place ("line 3") and values by column, in the order of the file,
            without the malformed ones.
        problems: what is wrong with rows, in their order; whoever reads the
            values adds to it.
        notes: how the file was read, where that may surprise.
        delimiter: between cells; None for JSON.
    """

    path: Path
    rows: Iterator[tuple[str, dict[str, Any]]] = iter(())
    problems: list[InputError] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    delimiter: str | None = None


def read_table(
    path: str | os.PathLike,
    columns: Sequence[str],
    given: TableFormat = TableFormat(),
    skip_blank: bool = False,
) -> Table:
    """Opens a table; its rows are split, and its problems found, in turn.

    Blank lines are allowed at both ends of the file. Spaces around the names
    of columns do not count.

    Args:
        path: its ending decides the format. In .tsv a quote is an ordinary
            character; .csv is RFC 4180 with commas, semicolons or tabs; .jsonl
            has an object a line, .json an array of them or, as pandas writes
            it, an object of columns.
        columns: names that the header, or each object, must have.
        given: how the table is written.
        skip_blank: whether blank lines may be anywhere.

    Raises:
        InputError: the file is malformed or a column is missing.
    """
    path = Path(path)
    ending = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    ending = ending.suffix.lower()
    if ending not in FORMATS:
        expected = f"a name in {', '.join(FORMATS)} (or these with .gz)"
        raise InputError(path, expected, repr(ending))
    text, encoding = read_text(path, given.encoding)
    if "\n" not in text:
        text = text.replace("\r", "\n")
    if not text.strip("\r\n"):
        raise InputError(path, "a table with at least one row", "an empty file")
    table = Table(path)
    if encoding != "UTF-8":
        table.notes.append(encoding)
    if ending.startswith(".json"):
        table.rows = _json_rows(table, text.rstrip(), columns)
        return table
    split = _split_tsv if ending == ".tsv" else _split_csv
    usual = "\t" if ending == ".tsv" else ","
    table.delimiter = given.delimiter
    if table.delimiter is None:
        table.delimiter = usual
        if ending == ".csv":
            table.delimiter = _recognised(text, columns, given.column_names)
    if table.delimiter != usual:
        name = _DELIMITERS.get(table.delimiter, repr(table.delimiter))
        table.notes.append(f"separated by {name}")
    if ending == ".csv":
        text = _NAMED_DELIMITER.sub("", text, count=1)
    records = _trimmed(split(path, text, table.delimiter))
    if not records:
        raise InputError(path, "a table with at least one row", "blank lines")
    header, places, records = _header(table, records, columns, given)
    if ending == ".tsv":
        table.notes += _quotes(records, places)
    table.rows = _table_rows(table, records, header, places, skip_blank)
    return table


def _recognised(
    text: str, columns: Sequence[str], column_names: Sequence[str]
) -> str:
    """Returns the delimiter of a .csv that splits its first line best."""
    named = _NAMED_DELIMITER.match(text)
    if named:
        return named[1]
    ranks = {}
    for delimiter in _DELIMITERS:
        lines = io.StringIO(text.lstrip("\r\n"), newline="")
        try:
            row = next(csv.reader(lines, delimiter=delimiter))
        except csv.Error:
            row = []
        found = {cell.strip(_WHITE_SPACE) for cell in row}
        has_all = found.issuperset(column.strip() for column in columns)
        if column_names:
            has_all = len(row) == len(column_names)
        ranks[delimiter] = (has_all, len(row))
    # Of equals the first, the comma.
    return max(ranks, key=ranks.get)


def _split_tsv(path: Path, text: str, delimiter: str) -> list[_Record]:
    # splitlines() would also cut at characters that belong to a text.
    return [
        (number, line.removesuffix("\r").split(delimiter))
        for number, line in enumerate(text.split("\n"), start=1)
    ]


def _split_csv(path: Path, text: str, delimiter: str) -> list[_Record]:
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, strict=True, delimiter=delimiter)
    records, row = [], []
    # The limit is the csv module's, for all readers of the process.
    limit = csv.field_size_limit(max(len(text), csv.field_size_limit()))
    try:
        while row is not None:
            number = reader.line_num + 1
            try:
                row = next(reader, None)
            except csv.Error as error:
                row = InputError(path, "a CSV row", error, number)
            if row is not None:
                records.append((number, row))
    finally:
        csv.field_size_limit(limit)
    return records


def _trimmed(records: list[_Record]) -> list[_Record]:
    """Leaves out rows without any text at both ends."""
    filled = [
        index
        for index, (_, row) in enumerate(records)
        if isinstance(row, InputError) or any(map(str.strip, row))
    ]
    return records[filled[0] : filled[-1] + 1] if filled else []


def _header(
    table: Table,
    records: list[_Record],
    columns: Sequence[str],
    given: TableFormat,
) -> tuple[list[str], dict[str, int], list[_Record]]:
    """Returns the header, the place of each column, and the other rows."""
    number, header = records[0]
    if given.column_names:
        header = list(given.column_names)
    else:
        if isinstance(header, InputError):
            raise header
        records = records[1:]
    header = [name.strip(_WHITE_SPACE) for name in header]
    places = {}
    for column in columns:
        name = column.strip()
        if header.count(name) != 1:
            found = f"the columns {listed(header)}"
            if name not in header:
                found += _hint(name, header, table.delimiter)
            expected = f"one column {name!r}"
            raise InputError(table.path, expected, found, number)
        places[column] = header.index(name)
    rows = [row for _, row in records if isinstance(row, list)]
    # R leaves the column of row names without a name.
    if len(rows) > 1 and all(
        len(row) == len(header) + 1 and row[0].strip('"') == str(index)
        for index, row in enumerate(rows, start=1)
    ):
        table.notes.append("the first column, row numbers, has no name")
        header = ["", *header]
        places = {column: place + 1 for column, place in places.items()}
    return header, places, records


def _hint(name: str, header: Sequence[str], delimiter: str) -> str:
    """Returns what may be wrong with a header that lacks a name."""
    if len(header) == 1:
        for other in ",;\t|":
            cells = [cell.strip() for cell in header[0].split(other)]
            if other != delimiter and name in cells:
                return f" (--delimiter={other!r} would separate them)"
    if f'"{name}"' in header:
        return " (a .tsv keeps quotes as text; name the file .csv)"
    return nearest(name, header) or (
        " (--column_names names the columns of a file without a header)"
    )


def _quotes(records: list[_Record], places: dict[str, int]) -> list[str]:
    """Returns a note if cells of a .tsv are quoted as those of a .csv."""
    cells = [
        row[place]
        for _, row in records
        for place in places.values()
        if place < len(row) and row[place].startswith('"')
    ]
    doubled = sum(cell.endswith('"') and '""' in cell[1:-1] for cell in cells)
    if not doubled:
        return []
    return [
        f"cells that are quoted as in .csv: {doubled:,}; their quotes are kept "
        "as text (name the file .csv to have them read)"
    ]


def _table_rows(
    table: Table,
    records: list[_Record],
    header: list[str],
    places: dict[str, int],
    skip_blank: bool,
) -> Iterator[tuple[str, dict]]:
    for number, row in records:
        if isinstance(row, InputError):
            table.problems.append(row)
            continue
        # Spreadsheets pad rows to the width of the widest.
        while len(row) > len(header) and not row[-1].strip():
            row.pop()
        is_blank = not any(row) and len(row) < len(header)
        if is_blank and skip_blank:
            continue
        plural = "s" if len(header) > 1 else ""
        expected, found = f"{len(header)} column{plural}", None
        if len(row) != len(header):
            found = "a blank line" if is_blank else f"{len(row)}"
            if table.path.suffix == ".tsv" and any(
                cell.count('"') % 2 for cell in row
            ):
                found += " (quotes do not join lines here, but in a .csv)"
        elif len(row) > 1 and header == [
            cell.strip(_WHITE_SPACE) for cell in row
        ]:
            expected, found = "an example", "the names of the columns again"
        if found:
            table.problems.append(
                InputError(table.path, expected, found, number)
            )
            continue
        values = {column: row[place] for column, place in places.items()}
        yield f"line {number}", values


def _json_rows(
    table: Table, text: str, columns: Sequence[str]
) -> Iterator[tuple[str, dict]]:
    for place, row in _json_records(table, text, columns):
        expected, found = "a JSON object", f"a JSON {type(row).__name__}"
        if isinstance(row, ValueError | RecursionError):
            found = str(row)
        elif isinstance(row, dict):
            keys = {key.strip(): key for key in row}
            names = {column: keys.get(column.strip()) for column in columns}
            if None not in names.values():
                yield place, {name: row[key] for name, key in names.items()}
                continue
            name = next(name for name, key in names.items() if key is None)
            expected = f"a key {name!r}"
            found = f"the keys {listed(row)}{nearest(name, row)}"
        table.problems.append(InputError(table.path, expected, found, place))


def _json_records(
    table: Table, text: str, columns: Sequence[str]
) -> Iterator[tuple[str, object]]:
    """Yields place and value of each row, or the error instead of a value."""
    problem = None
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        whole, problem = None, error
    if isinstance(whole, dict):
        whole = _by_rows(whole, columns)
    is_array = ".jsonl" not in table.path.suffixes and text.lstrip()[:1] == "["
    if problem and is_array:
        place = getattr(problem, "lineno", None)
        raise InputError(table.path, "a JSON array", problem, place)
    if isinstance(whole, list):
        for number, row in enumerate(whole, start=1):
            yield f"element {number}", row
        return
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = error if line.strip() else ValueError("a blank line")
        yield f"line {number}", row


def _by_rows(whole: dict, columns: Sequence[str]) -> list | None:
    """Returns the rows of an object of columns, or of its `data`, if any."""
    values = [whole.get(column) for column in columns]
    if all(isinstance(each, dict) for each in values):
        values = [list(each.values()) for each in values]
    if all(isinstance(each, list) for each in values):
        if len(set(map(len, values))) == 1:
            rows = zip(*values, strict=True)
            return [dict(zip(columns, row, strict=True)) for row in rows]
    data = whole.get("data")
    return data if isinstance(data, list) else None
