"""Rows of a user's table: .tsv as GLUE has it, .csv or .jsonl.

A row that cannot be decoded or split is an `InputError` that names the file and
the line; no row is skipped or repaired.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, line_of, read_content

FORMATS = (".tsv", ".csv", ".jsonl")


def read_rows(
    path: str | os.PathLike,
    columns: Sequence[str],
    header: Sequence[str] | None = None,
) -> Iterator[tuple[int, dict]]:
    """Yields (line number, values by column) in the order of the file.

    Rows may have more columns than requested. Blank lines are allowed at the
    end of the file only.

    Args:
        path: its ending decides the format. In .tsv a tab always separates and
            a quote is an ordinary character; .csv is RFC 4180; both need a
            header line. In .jsonl each line is an object. UTF-8, with or
            without a byte order mark.
        columns: names that the header, or each object, must have.
        header: the columns of a table without a header line.

    Raises:
        InputError: the file or a row is malformed, or a column is missing.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise InputError(path, f"a name in {', '.join(FORMATS)}", repr(ending))
    text = _read_text(path)
    if not text:
        raise InputError(path, "a table with at least one row", "an empty file")
    if ending == ".jsonl":
        return _json_rows(path, text, columns)
    split = _tsv_rows if ending == ".tsv" else _csv_rows
    return _table_rows(path, split(path, text), columns, header)


def _read_text(path: Path) -> str:
    content = read_content(path)
    nul = content.find(b"\0")
    if nul >= 0:
        raise InputError(
            path, "UTF-8 text", "a NUL byte", line_of(content, nul)
        )
    return decode_content(path, content).rstrip("\r\n")


def _tsv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    # splitlines() would also cut at characters that belong to a text.
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, line.removesuffix("\r").split("\t")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(path, "a CSV row", error, number) from None
        if row is None:
            return
        yield number, row


def _table_rows(
    path: Path,
    rows: Iterator[tuple[int, list[str]]],
    columns: Sequence[str],
    header: Sequence[str] | None,
) -> Iterator[tuple[int, dict]]:
    if header is None:
        _, header = next(rows)
    for column in columns:
        if header.count(column) != 1:
            found = f"the columns {', '.join(map(repr, header))}"
            raise InputError(path, f"one column {column!r}", found, 1)
    for number, row in rows:
        if len(row) != len(header):
            found = f"{len(row)}" if any(row) else "a blank line"
            raise InputError(path, f"{len(header)} columns", found, number)
        yield number, dict(zip(header, row, strict=True))


def _json_rows(
    path: Path, text: str, columns: Sequence[str]
) -> Iterator[tuple[int, dict]]:
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            found = error if line.strip() else "a blank line"
            raise InputError(path, "a JSON object", found, number) from None
        if not isinstance(row, dict):
            found = f"a JSON {type(row).__name__}"
            raise InputError(path, "a JSON object", found, number)
        for column in columns:
            if column not in row:
                found = f"the keys {', '.join(map(repr, row))}"
                raise InputError(path, f"a key {column!r}", found, number)
        yield number, row
