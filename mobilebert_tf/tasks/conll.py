"""Tagged sentences in columns, as the CoNLL shared tasks have them.

    EU NNP B-NP B-ORG
    rejects VBZ B-VP O

Owns the form of the file, read and written: one token a line, a blank line
between sentences, the tag in one of the columns. What the tags mean is
`tag_schemes.py`'s. No line is skipped or repaired, but `-DOCSTART-` lines,
which separate documents.

How tags mark stretches of tokens: IOB1, IOB2, BIOES and BILOU.

Owns recognising the scheme of a file and checking its tags. A stretch, an
entity say, has a type, and each of its tokens a tag: B-TYPE for the first,
I-TYPE for the others, O outside. IOB1 says I-TYPE for the first one too, unless
a stretch of the same type ends right before it. BIOES has E-TYPE for the last
token and S-TYPE for a single one; BILOU calls these L and U.
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

# Not `split()`, which also cuts at characters that belong to a token.
_SPACES = re.compile(" +")


@dataclasses.dataclass(frozen=True)
class Sentences:
    """Tokens by sentence, with tags where they are known.

    Attributes:
        path: where they are from, for messages.
        tokens: of each sentence, at least one.
        tags: of each token, or None as a whole.
        first_lines: number of the line of each sentence's first token; each
            further token is on the next line.
    """

    path: str
    tokens: list[list[str]]
    tags: list[list[str]] | None
    first_lines: list[int]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def num_tokens(self) -> int:
        """Of all sentences together."""
        return sum(map(len, self.tokens))

    @property
    def tag_names(self) -> tuple[str, ...]:
        """The different tags: O first, then types, each in its own order."""
        names = {tag for tags in self.tags for tag in tags}
        return tuple(sorted(names, key=_by_type))

    def first(self, number: int) -> "Sentences":
        """The first so many sentences, or all if there are fewer."""
        return Sentences(
            self.path,
            self.tokens[:number],
            self.tags and self.tags[:number],
            self.first_lines[:number],
        )

    def check_known(self, names: Sequence[str]) -> None:
        """Checks that all tags are among some.

        Raises:
            InputError: naming the line of the first that is not.
        """
        known = set(names)
        for line, tags in zip(self.first_lines, self.tags, strict=True):
            for tag in tags:
                if tag not in known:
                    expected = "a tag that the model knows: " + ", ".join(names)
                    raise InputError(self.path, expected, repr(tag), line)
                line += 1


def read_sentences(
    path: str | os.PathLike,
    token_column: int = 1,
    tag_column: int = -1,
    has_tags: bool = True,
) -> Sentences:
    """Reads a file of columns.

    Args:
        path: UTF-8. If its first line of columns holds a tab, tabs separate
            them, and a token may hold spaces; otherwise any number of spaces
            does. All lines have equally many columns.
        token_column: number of the token's column, from 1, or from -1, the
            last, downwards.
        tag_column: that of the tag.
        has_tags: False for sentences to predict; other columns than the
            token's are then ignored.

    Raises:
        InputError: there is no such file, or a line of it is not like that.
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
        cells = None
        if line.strip() and not _starts_document(line):
            cells = reader.cells(line, number)
        if cells and not is_open:
            sentences.tokens.append([])
            sentences.first_lines.append(number)
            if has_tags:
                sentences.tags.append([])
        is_open = cells is not None
        if cells:
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
    """Writes tokens with their tags, readable by `conlleval` and ourselves.

    Args:
        path: where to write; appears whole or not at all.
        tokens: by sentence.
        *columns: tags of each token; where there are two, `conlleval` wants
            the right one first. Spaces separate them, or, where a token holds
            one, tabs, of which `conlleval` is told by its option -d.
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
    """Splits the lines of a file, all in the way of its first one."""

    def __init__(self, path: Path, columns: Sequence[int]):
        self._path = path
        self._columns = columns
        self._num_columns = None
        self._has_tabs = False

    def cells(self, line: str, number: int) -> list[str]:
        """The wanted cells of a line."""
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
        cells = [
            row[column - (column > 0)].strip(" ") for column in self._columns
        ]
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
        places = {range(len(row))[c - (c > 0)] for c in self._columns}
        if len(places) < len(self._columns):
            expected = "a column of tags beside the tokens"
            raise InputError(self._path, expected, "the same one", number)


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


def _starts_document(line: str) -> bool:
    return line.split(maxsplit=1)[0] == DOCUMENT_START


def _by_type(tag: str) -> tuple[bool, str, str]:
    prefix, _, kind = tag.partition("-")
    return tag != "O", kind, prefix


# A scheme's letters, besides O.
_LETTERS = {"iob1": "BI", "iob2": "BI", "bioes": "BIES", "bilou": "BILU"}
# Tags that mark no stretches, part-of-speech tags say.
NO_SCHEME = "none"
SCHEMES = (*_LETTERS, NO_SCHEME)

_TAG = re.compile("([A-Z])-(.+)")
_OUTSIDE = ("O", "")
_Tag = tuple[str, str]


def recognise_scheme(sentences: Sentences) -> str:
    """Returns the scheme that all tags of sentences follow.

    Raises:
        InputError: naming the line of the first tag that fits none, or not
            the others.
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

    IOB1 may have a B-TYPE where it needs none: what is meant is clear.

    Raises:
        InputError: naming the line of the first tag that is not the scheme's,
            or not where it stands.
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
    """First line, and (letter, type) of each tag, by sentence."""
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
    """What was expected and found where, of the first misplaced tag."""
    letters = _LETTERS[scheme]
    for first, pairs in _parsed(sentences, letters, "another --scheme"):
        if scheme == "iob1":
            continue
        before = _OUTSIDE
        for line, pair in enumerate([*pairs, None], start=first):
            expected = _expected(before, pair or _OUTSIDE, scheme)
            if expected:
                found = "the end" if pair is None else _shown(pair)
                # Of a sentence that ends too early, its last line.
                line -= pair is None
                return f"{expected} after {_shown(before)}", found, line
            before = pair
    return None


def _expected(before: _Tag, pair: _Tag, scheme: str) -> str | None:
    """What `scheme` wants after a tag, if it is not what comes."""
    (letter_before, kind_before), (letter, kind) = before, pair
    follows = "IEL"
    if scheme == "iob2":
        goes_on = letter_before in ("B", "I") and kind == kind_before
        return f"B-{kind}" if letter == "I" and not goes_on else None
    last = _LETTERS[scheme][2]
    if letter_before in ("B", "I"):
        if letter not in follows or kind != kind_before:
            return f"I-{kind_before} or {last}-{kind_before}"
    elif letter in follows:
        return f"B-{kind} or {_LETTERS[scheme][3]}-{kind}"
    return None


def _needless_beginning(sentences: Sentences) -> int | None:
    """Line of the first B- that IOB1 would not have."""
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
