"""Tagged sentences in columns, as the CoNLL shared tasks have them.

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

One token per line, a blank line between sentences. No line is skipped or
repaired except `-DOCSTART-` lines, which separate documents.

Tags may mark entities: B-TYPE for the first token, I-TYPE for the others, O
outside (IOB2). IOB1 has I-TYPE for the first token too, unless an entity of the
same type ends right before it. BIOES has E-TYPE for the last token and S-TYPE
for a single one; BILOU calls these L and U.
"""

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobilebert_tf.errors import InputError
from mobilebert_tf.files import (
    atomic_file,
    decode_content,
    line_of,
    read_content,
)

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


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Tokens by sentence, with their tags if known.

    Attributes:
        path: where they come from, for messages.
        tokens: of each sentence, at least one.
        tags: one per token; None if unknown.
        first_lines: line of each sentence's first token; every further token
            is on the next line.
    """

    path: str
    tokens: list[list[str]]
    tags: list[list[str]] | None
    first_lines: list[int]

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

    def first(self, number: int) -> "Sentences":
        """Returns the first sentences, or all if there are fewer."""
        return Sentences(
            self.path,
            self.tokens[:number],
            self.tags and self.tags[:number],
            self.first_lines[:number],
        )

    def check_known(self, names: Sequence[str]) -> None:
        """Checks that all tags are among the given ones.

        Raises:
            InputError: a tag is not; it names the first one's line.
        """
        known = set(names)
        for first, tags in zip(self.first_lines, self.tags, strict=True):
            for line, tag in enumerate(tags, start=first):
                if tag not in known:
                    expected = "a tag that the model knows: " + ", ".join(names)
                    raise InputError(self.path, expected, repr(tag), line)


def read_sentences(
    path: str | os.PathLike,
    token_column: int = 1,
    tag_column: int = -1,
    has_tags: bool = True,
) -> Sentences:
    """Reads a file of columns.

    Args:
        path: UTF-8. If the first line with columns holds a tab, tabs separate
            them and a token may hold spaces; otherwise spaces do. All lines
            have the same number of columns.
        token_column: column of the token, 1 for the first or -1 for the last.
        tag_column: column of the tag.
        has_tags: False for sentences to predict; only the token's column is
            then read.

    Raises:
        InputError: the file is missing, or a line has another form.
    """
    columns = [token_column, tag_column] if has_tags else [token_column]
    for name, number in zip(("token", "tag"), columns, strict=False):
        if not number:
            expected = "1 for the first column or -1 for the last, and so on"
            raise InputError(f"--{name}_column", expected, 0)
    path = Path(path)
    reader = _Reader(path, columns)
    sentences = Sentences(str(path), [], [] if has_tags else None, [])
    is_open = False
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        words = line.split(maxsplit=1)
        if not words or words[0] == DOCUMENT_START:
            is_open = False
            continue
        cells = reader.cells(line, number)
        if not is_open:
            is_open = True
            sentences.tokens.append([])
            sentences.first_lines.append(number)
            if has_tags:
                sentences.tags.append([])
        sentences.tokens[-1].append(cells[0])
        if has_tags:
            sentences.tags[-1].append(cells[1])
    if not sentences.tokens:
        raise InputError(path, "at least one sentence", "none")
    return sentences


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


class _Reader:
    """Splits the lines of a file, all in the way of the first one."""

    def __init__(self, path: Path, columns: Sequence[int]):
        self._path = path
        self._columns = columns
        self._num_columns = None
        self._has_tabs = False

    def cells(self, line: str, number: int) -> list[str]:
        """Returns the wanted cells of a line."""
        if self._num_columns is None:
            self._has_tabs = "\t" in line
        if self._has_tabs:
            row = line.split("\t")
        else:
            row = _SPACES.split(line.strip(" "))
        if self._num_columns is None:
            self._begin(row, number)
        elif len(row) != self._num_columns:
            expected = f"{self._num_columns} columns, as before"
            raise InputError(self._path, expected, len(row), number)
        cells = [row[_index(column)].strip(" ") for column in self._columns]
        for name, cell in zip(("token", "tag"), cells, strict=False):
            if not cell.strip():
                raise InputError(
                    self._path, f"a {name}", f"an empty one in {line!r}", number
                )
        return cells

    def _begin(self, row: list[str], number: int) -> None:
        self._num_columns = len(row)
        for column in self._columns:
            if abs(column) > len(row):
                expected = f"a column {column}, with tabs or spaces between"
                found = f"{len(row)} in {' '.join(row)!r}"
                raise InputError(self._path, expected, found, number)
        places = {range(len(row))[_index(column)] for column in self._columns}
        if len(places) < len(self._columns):
            expected = "a column of tags beside the tokens"
            raise InputError(self._path, expected, "the same one", number)


def _index(column: int) -> int:
    return column - (column > 0)


def _read_text(path: Path) -> str:
    content = read_content(path)
    nul = content.find(b"\0")
    if nul >= 0:
        line = line_of(content, nul)
        raise InputError(path, "UTF-8 text", "a NUL byte", line)
    content = content.replace(b"\r\n", b"\n")
    if b"\r" in content:
        line = line_of(content, content.index(b"\r"))
        expected = "lines that end in LF, or in CR and LF"
        raise InputError(path, expected, "a CR inside a line", line)
    return decode_content(path, content)


def _by_type(tag: str) -> tuple[bool, str, str]:
    prefix, _, kind = tag.partition("-")
    return tag != "O", kind, prefix


def recognise_scheme(sentences: Sentences) -> str:
    """Returns the scheme that all tags of sentences follow.

    Raises:
        InputError: a tag fits no scheme, or not that of the others; it names
            the first one's line.
    """
    letters = {
        letter
        for _, pairs in _parsed(sentences, "BIESLU", "--scheme=none")
        for letter, _ in pairs
    }
    for scheme in ("bioes", "bilou"):
        if letters & set(_LETTERS[scheme]) - set("BI"):
            return scheme
    problem = _first_problem(sentences, "iob2")
    if problem is None:
        return "iob2"
    needless = _needless_beginning(sentences)
    if needless is None:
        return "iob1"
    expected, found, line = problem
    expected += f", as B- in line {needless} is IOB2's (or --scheme=iob1)"
    raise InputError(sentences.path, expected, found, line)


def check_scheme(sentences: Sentences, scheme: str) -> None:
    """Checks all tags of sentences.

    IOB1 may have a B-TYPE where it needs none: its meaning is clear.

    Raises:
        InputError: a tag is not the scheme's or is misplaced; it names the
            first one's line.
    """
    if scheme == NO_SCHEME:
        return
    problem = _first_problem(sentences, scheme)
    if problem is not None:
        expected, found, line = problem
        raise InputError(sentences.path, expected, found, line)


def _parsed(
    sentences: Sentences, letters: str, otherwise: str
) -> Iterator[tuple[int, list[_Tag]]]:
    """Yields the first line and the parsed tags of each sentence."""
    known = {"O": _OUTSIDE}
    for first, tags in zip(sentences.first_lines, sentences.tags, strict=True):
        for line, tag in enumerate(tags, start=first):
            if tag in known:
                continue
            match = _TAG.fullmatch(tag)
            if match is None or match[1] not in letters:
                expected = f"O or {', '.join(f'{x}-TYPE' for x in letters)}"
                expected += f" (or {otherwise})"
                raise InputError(sentences.path, expected, repr(tag), line)
            known[tag] = (match[1], match[2])
        yield first, [known[tag] for tag in tags]


def _first_problem(
    sentences: Sentences, scheme: str
) -> tuple[str, str, int] | None:
    """Returns what the first misplaced tag should be, what it is, and where."""
    letters = _LETTERS[scheme]
    for first, pairs in _parsed(sentences, letters, "another --scheme"):
        if scheme == "iob1":
            continue
        before = _OUTSIDE
        for line, pair in enumerate([*pairs, None], start=first):
            expected = _expected(before, pair or _OUTSIDE, scheme)
            if expected:
                found = "the end" if pair is None else _shown(pair)
                # A sentence that ends too early is named by its last line.
                line -= pair is None
                return f"{expected} after {_shown(before)}", found, line
            before = pair
    return None


def _expected(before: _Tag, pair: _Tag, scheme: str) -> str | None:
    """Returns what the scheme requires after a tag, unless `pair` is that."""
    (letter_before, kind_before), (letter, kind) = before, pair
    continues = letter in "IEL"
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


def _needless_beginning(sentences: Sentences) -> int | None:
    """Returns the line of the first B- that IOB1 would not have."""
    for first, pairs in _parsed(sentences, "BI", "another --scheme"):
        before = _OUTSIDE
        for line, (letter, kind) in enumerate(pairs, start=first):
            if letter == "B" and kind != before[1]:
                return line
            before = (letter, kind)
    return None


def _shown(pair: _Tag) -> str:
    letter, kind = pair
    return f"{letter}-{kind}" if kind else letter
