"""Tagged sentences in columns, as the CoNLL shared tasks have them.

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

One token per line, a blank line between sentences. Left out are `-DOCSTART-`
lines, which separate documents, comments before a sentence (`# ` and a text),
and what CoNLL-U has between words: ranges (`3-4`) and empty nodes (`8.1`).

Tags may mark entities: B-TYPE for the first token, I-TYPE for the others, O
outside (IOB2). IOB1 has I-TYPE for the first token too, unless an entity of the
same type ends right before it. BIOES has E-TYPE for the last token and S-TYPE
for a single one; BILOU calls these L and U.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mobilebert_tf.errors import InputError, listed
from mobilebert_tf.files import atomic_file, read_text
from mobilebert_tf.text.normalization import split_words

DOCUMENT_START = "-DOCSTART-"

# The letters of a scheme, besides O.
_LETTERS = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU"}
# Tags that mark no entities, such as parts of speech.
NO_SCHEME = "none"
SCHEMES = (*_LETTERS, NO_SCHEME)

_TAG = re.compile("([A-Z])-(.+)")
_OUTSIDE = ("O", "")
# A letter and a type.
_Tag = tuple[str, str]

# `str.split` would also split at characters that belong to a token.
_SPACES = re.compile(" +")

# A comment, of which the second kind is one whatever the file's columns are.
_COMMENT = re.compile(r"#(\s|\s*[\w.:-]+\s*=|$)")
_KEY_AND_VALUE = re.compile(r"#\s*[\w.:-]+\s*=\s")
# CoNLL-U: columns, ids that are not a word's, the column of features, in which
# `_` is a value, and the mark of no value.
_CONLLU_WIDTH, _FEATURES, _NO_VALUE = 10, 6, "_"
_NOT_A_WORD = re.compile(r"\d+[-.]\d+")
# Sentences of as many lines seldom have equally many words each.
_MANY_LINES = 8

SENTENCES = "plain sentences, one a line"
COLUMNS = "columns, one token a line"


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Tokens by sentence, with their tags if known.

    Attributes:
        path: where they come from, for messages.
        tokens: of each sentence, at least one.
        tags: one per token; None if unknown.
        lines: line of each token in the file.
        form: how the file was read: `COLUMNS` or `SENTENCES`.
    """

    path: str
    tokens: list[list[str]]
    tags: list[list[str]] | None
    lines: list[list[int]]
    form: str = COLUMNS

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all sentences."""
        return sum(map(len, self.tokens))

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The different tags: O first, then by type, then by letter."""
        names = {tag for tags in self.tags for tag in tags}
        return tuple(sorted(names, key=_by_type))

    def first(self, number: int | None) -> "Sentences":
        """Returns the first sentences, or all if there are fewer."""
        return Sentences(
            self.path,
            self.tokens[:number],
            self.tags and self.tags[:number],
            self.lines[:number],
            self.form,
        )

    def check_known(self, names: Sequence[str]) -> None:
        """Checks that all tags are among the given ones.

        Raises:
            InputError: a tag is not; it names the first one's line.
        """
        known = set(names)
        for lines, tags in zip(self.lines, self.tags, strict=True):
            for line, tag in zip(lines, tags, strict=True):
                if tag not in known:
                    expected = f"a tag that the model knows: {listed(names)}"
                    raise InputError(self.path, expected, repr(tag), line)


def read_sentences(
    path: str | os.PathLike,
    token_column: int | None = None,
    tag_column: int = -1,
    has_tags: bool = True,
    encoding: str | None = None,
) -> Sentences:
    """Reads a file of columns or, without tags, of plain sentences.

    Args:
        path: if the first line with columns holds a tab, tabs separate them and
            a token may hold spaces; otherwise spaces do. All lines have the
            same number of columns.
        token_column: column of the token, 1 for the first or -1 for the last.
            None: the first; without tags, lines of several words that do not
            look like columns are sentences.
        tag_column: column of the tag.
        has_tags: False for sentences to predict; only the token's column is
            then read.
        encoding: see `read_text`.

    Raises:
        InputError: the file is missing, or a line has another form.
    """
    columns = {"token": token_column or 1, "tag": tag_column}
    if token_column == 0 or tag_column == 0:
        name = "tag" if token_column else "token"
        expected = "1 for the first column or -1 for the last, and so on"
        raise InputError(f"--{name}_column", expected, 0)
    if not has_tags:
        del columns["tag"]
    path = Path(path)
    lines = _read_lines(path, encoding)
    shape = _Shape.of(lines)
    if not has_tags and token_column is None and not shape.is_columns(lines):
        return _plain_sentences(path, lines)
    sentences = Sentences(str(path), [], [] if has_tags else None, [])
    is_open = False
    for number, cells in _read_cells(path, lines, shape, columns):
        if cells is None:
            is_open = False
            continue
        if not is_open:
            is_open = True
            sentences.tokens.append([])
            sentences.lines.append([])
            if has_tags:
                sentences.tags.append([])
        sentences.tokens[-1].append(cells[0])
        sentences.lines[-1].append(number)
        if has_tags:
            sentences.tags[-1].append(cells[1])
    if not sentences.tokens:
        raise InputError(path, "at least one sentence", "none")
    if shape.width > 1 and all(
        tokens == [str(number) for number in range(1, len(tokens) + 1)]
        for tokens in sentences.tokens
    ):
        column = columns["token"]
        expected = f"tokens in column {column} (--token_column=2?)"
        raise InputError(path, expected, "their numbers")
    return sentences


def _plain_sentences(path: Path, lines: Sequence[str]) -> Sentences:
    filled = [
        (number, split_words(line))
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    tokens = [words for _, words in filled]
    places = [[number] * len(words) for number, words in filled]
    return Sentences(str(path), tokens, None, places, SENTENCES)


def write_tags(
    path: str | os.PathLike,
    tokens: Sequence[Sequence[str]],
    *columns: Sequence[Sequence[str]],
) -> None:
    """Writes tokens with their tags, for `conlleval` and `read_sentences`.

    Spaces separate the columns; if a token holds one, tabs do (`conlleval -d`).

    Args:
        path: where to write, atomically.
        tokens: by sentence.
        *columns: tags of each token; of two, `conlleval` wants the right one
            first.
    """
    has_spaces = any(" " in token for some in tokens for token in some)
    separator = "\t" if has_spaces else " "
    with (
        atomic_file(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="\n") as file,
    ):
        for sentence in zip(tokens, *columns, strict=True):
            for cells in zip(*sentence, strict=True):
                file.write(separator.join(cells) + "\n")
            file.write("\n")


class _Shape(NamedTuple):
    """Columns of a file: how many, and whether tabs separate them."""

    width: int
    has_tabs: bool

    @classmethod
    def of(cls, lines: Sequence[str]) -> "_Shape":
        """Returns the shape of the first line that is not a comment."""
        filled = [line for line in lines if not _is_separator(line)]
        # A token may begin with the sign of a comment.
        lines = [line for line in filled if line[0] != "#"] or filled or [""]
        has_tabs = "\t" in lines[0]
        return cls(len(cls(0, has_tabs).split(lines[0])), has_tabs)

    @property
    def is_conllu(self) -> bool:
        return self.has_tabs and self.width == _CONLLU_WIDTH

    def split(self, line: str) -> list[str]:
        if self.has_tabs:
            return line.split("\t")
        return _SPACES.split(line.strip(" "))

    def is_comment(self, line: str) -> bool:
        """Tells whether a line before a sentence is a comment, not a token."""
        if not _COMMENT.match(line):
            return False
        is_token = len(self.split(line)) == self.width
        return not is_token or bool(_KEY_AND_VALUE.match(line))

    def is_columns(self, lines: Sequence[str]) -> bool:
        """Tells whether lines without a known form are columns."""
        if self.has_tabs:
            return True
        if any(line.startswith(DOCUMENT_START) for line in lines):
            return True
        rows = [
            self.split(line)
            for line in lines
            if not _is_separator(line) and not self.is_comment(line)
        ]
        num_alike = sum(len(row) == self.width for row in rows)
        if num_alike < len(rows):
            # A few lines that differ are mistakes.
            return len(rows) >= _MANY_LINES and num_alike >= 0.9 * len(rows)
        if self.width == 1:
            # Chinese and Japanese have no spaces between words.
            num_long = sum(len(split_words(row[0])) > 3 for row in rows)
            return 2 * num_long <= len(rows)
        return len(rows) >= _MANY_LINES or all(
            row[-1] == "O" or _TAG.fullmatch(row[-1]) for row in rows
        )


def _is_separator(line: str) -> bool:
    words = line.split(maxsplit=1)
    return not words or words[0] == DOCUMENT_START


def _read_cells(
    path: Path, lines: Sequence[str], shape: _Shape, columns: dict[str, int]
) -> Iterator[tuple[int, list[str] | None]]:
    """Yields number and wanted cells of each line; None between sentences."""
    # From 0, or from the end.
    places = [column - (column > 0) for column in columns.values()]
    is_checked, is_start = False, True
    for number, line in enumerate(lines, start=1):
        if _is_separator(line):
            is_start = True
            yield number, None
            continue
        if is_start and shape.is_comment(line):
            continue
        is_start = False
        row = shape.split(line)
        if not is_checked:
            is_checked = True
            _check_columns(path, row, columns.values(), number)
        if len(row) != shape.width:
            expected = f"{shape.width} columns, as before"
            raise InputError(path, expected, len(row), number)
        if shape.is_conllu and _NOT_A_WORD.fullmatch(row[0]):
            continue
        cells = [row[place].strip(" ") for place in places]
        for name, cell in zip(columns, cells, strict=True):
            if not cell.strip():
                found = f"an empty one in {line!r}"
                raise InputError(path, f"a {name}", found, number)
        tag_column = columns.get("tag", _FEATURES)
        has_value = cells[-1] != _NO_VALUE or tag_column == _FEATURES
        if shape.is_conllu and not has_value:
            expected = f"a tag in column {tag_column}"
            found = f"{_NO_VALUE!r}, which is no value in CoNLL-U"
            raise InputError(path, expected, found, number)
        yield number, cells


def _check_columns(
    path: Path, row: list[str], columns: Collection[int], number: int
) -> None:
    """Checks that a file's first row has the wanted columns."""
    for column in columns:
        if abs(column) > len(row):
            expected = f"a column {column}, with tabs or spaces between"
            found = f"{len(row)} in {' '.join(row)!r}"
            raise InputError(path, expected, found, number)
    different = {range(len(row))[column - (column > 0)] for column in columns}
    if len(different) < len(columns):
        expected = "a column of tags beside the tokens"
        raise InputError(path, expected, "the same one", number)


def _read_lines(path: Path, encoding: str | None) -> list[str]:
    text = read_text(path, encoding)[0].replace("\r\n", "\n")
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        expected = "lines that end in LF, or in CR and LF"
        raise InputError(path, expected, "a CR inside a line", line)
    return text.split("\n")


def _by_type(tag: str) -> tuple[bool, str, str]:
    prefix, _, kind = tag.partition("-")
    return tag != "O", kind, prefix


def recognise_scheme(sentences: Sentences) -> str:
    """Returns the scheme that all tags of sentences follow.

    Raises:
        InputError: a tag fits no scheme, or not that of the others; it names
            the first one's line.
    """
    steps = list(_steps(sentences, "BIESLU", "--scheme=none"))
    letters = {pair[0] for _, _, pair in steps if pair}
    for scheme in ("bioes", "bilou"):
        if letters & set(_LETTERS[scheme]) - set("BI"):
            return scheme
    problem = _first_problem(sentences, "iob2")
    if problem is None:
        return "iob2"
    for line, before, pair in steps:
        if pair and pair[0] == "B" and pair[1] != before[1]:
            # IOB1 has no B- there.
            expected = f"{problem.expected}, as B- in line {line} is IOB2's "
            expected += "(or --scheme=iob1)"
            raise InputError(
                sentences.path, expected, problem.found, problem.place
            )
    return "iob1"


def check_scheme(sentences: Sentences, scheme: str) -> None:
    """Checks all tags of sentences.

    IOB1 may have a B-TYPE where it needs none: its meaning is clear.

    Raises:
        InputError: a tag is not the scheme's or is misplaced; it names the
            first one's line.
    """
    problem = None
    if scheme != NO_SCHEME:
        problem = _first_problem(sentences, scheme)
    if problem is not None:
        raise problem


def _steps(
    sentences: Sentences, letters: str, otherwise: str
) -> Iterator[tuple[int, _Tag, _Tag | None]]:
    """Yields line, tag before and tag of each token; None after the last."""
    known = {"O": _OUTSIDE}
    for lines, tags in zip(sentences.lines, sentences.tags, strict=True):
        before = _OUTSIDE
        for line, tag in zip(lines, tags, strict=True):
            if tag not in known:
                match = _TAG.fullmatch(tag)
                if match is None or match[1] not in letters:
                    expected = f"O or {', '.join(f'{x}-TYPE' for x in letters)}"
                    expected += f" (or {otherwise})"
                    raise InputError(sentences.path, expected, repr(tag), line)
                known[tag] = (match[1], match[2])
            yield line, before, known[tag]
            before = known[tag]
        yield lines[-1], before, None


def _first_problem(sentences: Sentences, scheme: str) -> InputError | None:
    """Returns what is wrong with the first misplaced tag."""
    steps = _steps(sentences, _LETTERS[scheme], "another --scheme")
    for line, before, pair in steps:
        expected = _expected(before, pair or _OUTSIDE, scheme)
        if expected:
            expected += f" after {_shown(before)}"
            found = _shown(pair) if pair else "the end"
            return InputError(sentences.path, expected, found, line)
    return None


def _expected(before: _Tag, pair: _Tag, scheme: str) -> str | None:
    """Returns what the scheme requires after a tag, unless `pair` is that."""
    (letter_before, kind_before), (letter, kind) = before, pair
    continues = letter in "IEL"
    if scheme == "iob1":
        return None
    if scheme == "iob2":
        is_open = letter_before in "BI" and kind == kind_before
        return f"B-{kind}" if continues and not is_open else None
    last, single = _LETTERS[scheme][2:]
    if letter_before in "BI":
        if not continues or kind != kind_before:
            return f"I-{kind_before} or {last}-{kind_before}"
    elif continues:
        return f"B-{kind} or {single}-{kind}"
    return None


def _shown(pair: _Tag) -> str:
    letter, kind = pair
    return f"{letter}-{kind}" if kind else letter
