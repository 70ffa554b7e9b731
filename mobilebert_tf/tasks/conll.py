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
from collections.abc import Collection, Iterator, Sequence
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

    def first(self, number: int | None) -> "Sentences":
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
    columns = {"token": token_column, "tag": tag_column}
    if not has_tags:
        del columns["tag"]
    for name, number in columns.items():
        if not number:
            expected = "1 for the first column or -1 for the last, and so on"
            raise InputError(f"--{name}_column", expected, 0)
    path = Path(path)
    sentences = Sentences(str(path), [], [] if has_tags else None, [])
    is_open = False
    for number, cells in _read_cells(path, columns):
        if cells is None:
            is_open = False
            continue
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


def _read_cells(
    path: Path, columns: dict[str, int]
) -> Iterator[tuple[int, list[str] | None]]:
    """Yields number and wanted cells of each line; None between sentences."""
    num_columns, has_tabs = None, False
    # From 0, or from the end.
    places = [column - (column > 0) for column in columns.values()]
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        words = line.split(maxsplit=1)
        if not words or words[0] == DOCUMENT_START:
            yield number, None
            continue
        if num_columns is None:
            has_tabs = "\t" in line
        row = line.split("\t") if has_tabs else _SPACES.split(line.strip(" "))
        if num_columns is None:
            num_columns = len(row)
            _check_columns(path, row, columns.values(), number)
        elif len(row) != num_columns:
            expected = f"{num_columns} columns, as before"
            raise InputError(path, expected, len(row), number)
        cells = [row[place].strip(" ") for place in places]
        for name, cell in zip(columns, cells, strict=True):
            if not cell.strip():
                found = f"an empty one in {line!r}"
                raise InputError(path, f"a {name}", found, number)
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
    for first, tags in zip(sentences.first_lines, sentences.tags, strict=True):
        before = _OUTSIDE
        for line, tag in enumerate(tags, start=first):
            if tag not in known:
                match = _TAG.fullmatch(tag)
                if match is None or match[1] not in letters:
                    expected = f"O or {', '.join(f'{x}-TYPE' for x in letters)}"
                    expected += f" (or {otherwise})"
                    raise InputError(sentences.path, expected, repr(tag), line)
                known[tag] = (match[1], match[2])
            yield line, before, known[tag]
            before = known[tag]
        yield first + len(tags) - 1, before, None


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
