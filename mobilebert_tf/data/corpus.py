"""Tokenized corpora: documents cut into sentences, then into word pieces.

A corpus takes four bytes a piece, in three flat arrays; the text itself passes
through one document at a time.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

import numpy as np

from mobilebert_tf.text.tokenizer import WordpieceTokenizer

_LINES_AT_A_TIME = 8192

# A possible end of a sentence: a stop, closing quotes or brackets, white space.
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*\s+""")
_INITIALS = re.compile(r"(?:\w\.)*[A-Z]")
_OPENING_SIGNS = "\"'“‘(["
# Words before a full stop that does not end a sentence.
_ABBREVIATIONS = frozenset(
    "Mr Mrs Ms Dr Prof St Sr Jr Rev Hon Gen Col Maj Capt Lt Sgt Gov Sen Rep "
    "vs cf eg ie e.g i.e etc Inc Ltd Co Corp Mt approx ca".split()
)
_ABBREVIATIONS_BEFORE_NUMBERS = frozenset("No Nos no Vol vol p pp Fig".split())


def sentences(line: str) -> list[str]:
    """Cuts a paragraph into sentences without surrounding white space.

    A sentence ends at ".", "!" or "?", including closing quotes or brackets,
    before white space and a capital letter or digit, which quotes or brackets
    may precede. A full stop after an initial ("J. Smith") or a common
    abbreviation ("Dr. Smith", "No. 5") does not end it. The rule is made for
    European languages; other text is not cut.
    """
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(line):
        rest = line[match.end() : match.end() + 4]
        following = rest.lstrip(_OPENING_SIGNS)[:1]
        if not (following.isupper() or following.isdigit()):
            continue
        if line[match.start()] == "." and _is_abbreviation(
            line[start : match.start()], following
        ):
            continue
        spans.append(line[start : match.end()].strip())
        start = match.end()
    rest = line[start:].strip()
    return [*spans, rest] if rest else spans


def _is_abbreviation(before_stop: str, following: str) -> bool:
    # No abbreviation is longer than twelve characters.
    words = before_stop[-12:].split()
    if not words:
        return False
    word = words[-1].lstrip(_OPENING_SIGNS)
    if following.isdigit() and word in _ABBREVIATIONS_BEFORE_NUMBERS:
        return True
    return word in _ABBREVIATIONS or bool(_INITIALS.fullmatch(word))


def split_into_sentences(
    documents: Iterable[list[str]],
) -> Iterator[list[str]]:
    """Cuts the lines of every document into sentences.

    BERT's pre-training recipe fills a segment line by line: with paragraphs as
    lines, segments would be very long or cut anywhere.
    """
    for document in documents:
        yield [part for line in document for part in sentences(line)]


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedCorpus:
    """A corpus as documents of lines of word pieces.

    Attributes:
        tokens: int32 [num_tokens], all pieces in order.
        line_starts: int64 [num_lines + 1]; line i is
            `tokens[line_starts[i]:line_starts[i + 1]]` and never empty.
        document_starts: int64 [num_documents + 1]; document j has at least one
            line, `document_starts[j]` up to `document_starts[j + 1]`.
    """

    tokens: np.ndarray
    line_starts: np.ndarray
    document_starts: np.ndarray

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_documents(self) -> int:
        return len(self.document_starts) - 1

    def split_lines(self, max_pieces: int) -> "TokenizedCorpus":
        """Cuts lines of more than `max_pieces` into nearly equal parts.

        This is for lines without sentence ends, such as lists; a cut may fall
        inside a word.
        """
        lengths = np.diff(self.line_starts)
        num_parts = -(-lengths // max_pieces)
        first_part = np.cumsum(num_parts) - num_parts
        line_of_part = np.repeat(np.arange(len(lengths)), num_parts)
        part = np.arange(len(line_of_part)) - first_part[line_of_part]
        starts = self.line_starts[:-1][line_of_part] + (
            part * lengths[line_of_part] // num_parts[line_of_part]
        )
        return dataclasses.replace(
            self,
            line_starts=np.append(starts, self.num_tokens),
            document_starts=np.append(first_part, len(starts))[
                self.document_starts
            ],
        )


def tokenize_documents(
    documents: Iterable[list[str]], tokenizer: WordpieceTokenizer
) -> TokenizedCorpus:
    """Tokenizes documents as they come, without special tokens.

    Lines without pieces (for example of control characters only) and documents
    without lines are dropped.
    """
    tokens, lengths, line_documents = [], [], []
    for texts, document_indices in _line_batches(documents):
        ids, row_lengths = tokenizer.pieces(texts)
        tokens.append(ids)
        lengths.append(row_lengths[row_lengths > 0])
        line_documents.append(np.array(document_indices)[row_lengths > 0])
    lengths = np.concatenate([np.zeros(0, np.int64), *lengths])
    line_documents = np.concatenate([np.zeros(0, np.int64), *line_documents])
    first_lines = np.flatnonzero(np.diff(line_documents, prepend=-1))
    return TokenizedCorpus(
        tokens=np.concatenate([np.zeros(0, np.int32), *tokens]),
        line_starts=np.append(0, np.cumsum(lengths)),
        document_starts=np.append(first_lines, len(lengths)),
    )


def _line_batches(
    documents: Iterable[list[str]],
) -> Iterator[tuple[list[str], list[int]]]:
    """Yields lines of many documents and the index of each line's document."""
    texts, document_indices = [], []
    for index, document in enumerate(documents):
        texts += document
        document_indices += [index] * len(document)
        if len(texts) >= _LINES_AT_A_TIME:
            yield texts, document_indices
            texts, document_indices = [], []
    if texts:
        yield texts, document_indices
