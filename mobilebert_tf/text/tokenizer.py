"""The tokenizer of a model folder: its pieces and its casing, from any form.

Published folders have `vocab.txt` and, mostly, `tokenizer_config.json`; Hugging
Face's transformers 5 writes `tokenizer.json` in place of the first. Only
BERT's own normalisation is implemented: a file that asks for another would
silently give other tokens than the model was trained on, and is refused.

The tokenizer: text to WordPiece ids, with offsets back into the text.

TensorFlow Text's fast kernel does the splitting, fed with text that we have
normalised ourselves (see `normalization`). The kernel alone, without the fast
BERT tokenizer's own normaliser around it: after ours that one has nothing left
to do, yet takes more than half of the time.
"""

import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_text

from mobilebert_tf.config import read_json_object
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_files
from mobilebert_tf.hub import model_folder
from mobilebert_tf.text.normalization import (
    normalize,
    normalize_with_offsets,
    word_spans,
)
from mobilebert_tf.text.vocabulary import (
    CONTINUATION_PREFIX,
    check_vocabulary,
    read_vocabulary,
)

VOCAB_FILE = "vocab.txt"
CONFIG_FILE = "tokenizer_config.json"
JSON_FILE = "tokenizer.json"
_MODEL_CONFIG_FILE = "config.json"


def read_tokenizer_files(folder: Path) -> tuple[list[str], bool]:
    """Returns the pieces of a folder, and whether they are uncased.

    `vocab.txt` wins where `tokenizer.json` is there too; the casing is what
    `tokenizer_config.json` says, else what `tokenizer.json` says, else uncased.

    Raises:
        InputError: if there is neither file, one is malformed or asks for
            another tokenizer than BERT's, or the number of pieces is not the
            `vocab_size` of the folder's model.
    """
    vocab_file, json_file = folder / VOCAB_FILE, folder / JSON_FILE
    casing = None
    if json_file.exists():
        source, casing = json_file, _casing_of_json(json_file)
    if vocab_file.exists() or not json_file.exists():
        source, pieces = vocab_file, read_vocabulary(vocab_file)
    else:
        pieces = _pieces_of_json(json_file)
    do_lower_case = _casing(folder / CONFIG_FILE, casing)
    _check_size(folder / _MODEL_CONFIG_FILE, source, len(pieces))
    return pieces, do_lower_case


def _casing(path: Path, default: bool | None) -> bool:
    """`do_lower_case` of a tokenizer_config.json, checked with its company."""
    values = read_json_object(path) if path.exists() else {}
    do_lower_case = values.get("do_lower_case")
    if do_lower_case is None:
        do_lower_case = True if default is None else default
    if not isinstance(do_lower_case, bool):
        raise InputError(path, "true or false", do_lower_case, "do_lower_case")
    if default not in (None, do_lower_case):
        raise InputError(
            path,
            f"{json.dumps(default)}, as {JSON_FILE} has it",
            json.dumps(do_lower_case),
            "do_lower_case",
        )
    _require(path, values, "strip_accents", (None, do_lower_case))
    _require(path, values, "tokenize_chinese_chars", (None, True))
    return do_lower_case


def _casing_of_json(path: Path) -> bool:
    """Whether a tokenizer.json's normaliser, BERT's, lower-cases."""
    normalizer = _part(path, read_json_object(path), "normalizer")
    _require(path, normalizer, "type", ("BertNormalizer",), "normalizer")
    _require(path, normalizer, "lowercase", (True, False), "normalizer")
    lower = normalizer["lowercase"]
    for name, usual in (
        ("clean_text", (True,)),
        ("handle_chinese_chars", (True,)),
        ("strip_accents", (None, lower)),
    ):
        _require(path, normalizer, name, usual, "normalizer")
    return lower


def _pieces_of_json(path: Path) -> list[str]:
    """The vocabulary of a tokenizer.json, in the order of its ids."""
    values = read_json_object(path)
    splitter = _part(path, values, "pre_tokenizer")
    _require(path, splitter, "type", ("BertPreTokenizer",), "pre_tokenizer")
    model = _part(path, values, "model")
    # Old files leave the type unsaid, and can be no other with this prefix.
    _require(path, model, "type", (None, "WordPiece"), "model")
    for name, usual in (
        ("continuing_subword_prefix", "##"),
        ("unk_token", "[UNK]"),
        ("max_input_chars_per_word", 100),
    ):
        _require(path, model, name, (usual,), "model")
    ids = model.get("vocab")
    if not isinstance(ids, dict):
        raise InputError(path, "pieces and ids", type(ids).__name__, "vocab")
    for index in ids.values():
        if not isinstance(index, int) or isinstance(index, bool):
            raise InputError(path, "pieces and ids", index, "vocab")
    pieces = sorted(ids, key=ids.get)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise InputError(path, "ids 0, 1, ...", "other ids", "vocab")
    for token in values.get("added_tokens") or []:
        content = token.get("content") if isinstance(token, dict) else token
        if content not in ids:
            raise InputError(
                path, "pieces of vocab only", repr(content), "added_tokens"
            )
    check_vocabulary(pieces, path)
    return pieces


def _check_size(config_file: Path, source: Path, num_pieces: int) -> None:
    """Refuses another number of pieces than the model beside them has."""
    if not config_file.exists():
        return
    vocab_size = read_json_object(config_file).get("vocab_size", num_pieces)
    if vocab_size != num_pieces:
        raise InputError(
            source,
            f"{vocab_size} pieces, the vocab_size of {config_file.name}",
            num_pieces,
        )


def _part(path: Path, values: dict, name: str) -> dict:
    part = values.get(name)
    if not isinstance(part, dict):
        raise InputError(path, "BERT's WordPiece tokenizer", part, name)
    return part


def _require(
    path: Path, values: dict, name: str, allowed: tuple, part: str = ""
) -> None:
    """Refuses a value that is not, to the type, among those allowed."""
    value = values.get(name)
    if (type(value), value) not in [(type(one), one) for one in allowed]:
        expected = " or ".join(map(json.dumps, allowed))
        place = f"{part}.{name}" if part else name
        raise InputError(path, expected, json.dumps(value), place)


# A longer word is unknown as a whole: Hugging Face's limit (BERT's own code has
# 200). It counts characters, the kernel bytes, up to four a character.
MAX_WORD_CHARACTERS = 100
_MAX_WORD_BYTES = 4 * MAX_WORD_CHARACTERS
# Texts handed to the kernel at a time: enough to hide the call, few enough
# that paragraphs of a large corpus never lie in memory twice.
_BATCH_SIZE = 4096


class WordpieceTokenizer:
    """BERT's WordPiece tokenizer, token for token.

    Special tokens written in the text ("[MASK]") are text like any other, as
    in the original: a user's sentence cannot forge a separator.

    Args:
        vocab: the pieces, in the order of their ids.
        do_lower_case: whether the vocabulary is uncased.

    Raises:
        InputError: `vocab` is not a vocabulary (see `check_vocabulary`).

    Example:
        tokenizer = WordpieceTokenizer.from_vocab_file("vocab.txt")
        ids = tokenizer.tokenize(["Hello, world!"])  # ragged [1, (pieces)]
        tokenizer.detokenize(ids[0])                 # "hello , world !"
    """

    def __init__(self, vocab: Sequence[str], do_lower_case: bool = True):
        check_vocabulary(vocab)
        self.vocab = tuple(vocab)
        self.vocab_size = len(self.vocab)
        self.do_lower_case = do_lower_case
        self.pad_id = self.vocab.index("[PAD]")
        self.unk_id = self.vocab.index("[UNK]")
        self.cls_id = self.vocab.index("[CLS]")
        self.sep_id = self.vocab.index("[SEP]")
        self.mask_id = self.vocab.index("[MASK]")
        self._kernel = tensorflow_text.FastWordpieceTokenizer(
            list(self.vocab),
            suffix_indicator=CONTINUATION_PREFIX,
            max_bytes_per_word=_MAX_WORD_BYTES,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
        )

    @classmethod
    def from_vocab_file(
        cls, path: str | os.PathLike, do_lower_case: bool = True
    ) -> "WordpieceTokenizer":
        """Reads a vocabulary file, one piece a line.

        Raises:
            InputError: the file is missing or not a vocabulary.
        """
        return cls(read_vocabulary(path), do_lower_case)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "WordpieceTokenizer":
        """Reads the tokenizer of a model folder (see `tokenizer_files`).

        Raises:
            InputError: a file is missing or malformed, asks for another
                normalisation than BERT's, or has not as many pieces as the
                folder's model.
        """
        pieces, do_lower_case = read_tokenizer_files(Path(folder))
        return cls(pieces, do_lower_case)

    def write(
        self, folder: str | os.PathLike, model_max_length: int = 512
    ) -> None:
        """Writes both files, so that Hugging Face's AutoTokenizer opens them.

        Args:
            folder: made if it is not there; its other files stay.
            model_max_length: number of positions of the model it belongs to.
        """
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.do_lower_case,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "model_max_length": model_max_length,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        }
        with atomic_files(folder) as temporary:
            (temporary / VOCAB_FILE).write_text(
                "".join(f"{piece}\n" for piece in self.vocab),
                encoding="utf-8",
                newline="\n",
            )
            (temporary / CONFIG_FILE).write_text(
                json.dumps(config, indent=2) + "\n", encoding="utf-8"
            )

    @property
    def special_ids(self) -> tuple[int, ...]:
        """Ids of [PAD], [UNK], [CLS], [SEP] and [MASK]."""
        return (
            self.pad_id,
            self.unk_id,
            self.cls_id,
            self.sep_id,
            self.mask_id,
        )

    @functools.cached_property
    def continuation_mask(self) -> np.ndarray:
        """Boolean [vocab_size], true for pieces that continue a word."""
        return np.array(
            [piece.startswith(CONTINUATION_PREFIX) for piece in self.vocab]
        )

    def tokenize(self, texts: Sequence[str]) -> tf.RaggedTensor:
        """Tokenizes texts, without adding special tokens.

        Returns:
            int32 ragged [len(texts), (pieces)].
        """
        flat_ids, lengths = [], []
        for batch in _batches(texts):
            ids = self._kernel.tokenize(
                [self._prepared(text)[0] for text in batch]
            )
            flat_ids.append(ids.flat_values.numpy())
            lengths.append(ids.row_lengths().numpy())
        lengths = _joined(lengths, np.int64)
        return _ragged(_joined(flat_ids, np.int32), lengths)

    def tokenize_with_offsets(
        self, texts: Sequence[str]
    ) -> tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]:
        """As `tokenize`, and says where in its text each piece stands.

        Returns:
            Three ragged tensors [len(texts), (pieces)]: int32 ids, and int64
            `starts` and `ends`. Piece i of a text was made from
            `text[starts[i]:ends[i]]`; both count characters of the text as
            given, not as normalised.
        """
        flat_ids, flat_starts, flat_ends, lengths = [], [], [], []
        for batch in _batches(texts):
            normalized, origins = zip(
                *(self._prepared(text, with_origin=True) for text in batch),
                strict=True,
            )
            ids, starts, ends = self._kernel.tokenize_with_offsets(normalized)
            row_lengths = ids.row_lengths().numpy()
            flat_ids.append(ids.flat_values.numpy())
            lengths.append(row_lengths)
            characters = _CharacterIndex(normalized, row_lengths)
            origin = np.concatenate(origins)
            first = characters.at(starts.flat_values.numpy())
            last = characters.at(ends.flat_values.numpy() - 1)
            flat_starts.append(origin[first])
            flat_ends.append(origin[last] + 1)
        lengths = _joined(lengths, np.int64)
        return (
            _ragged(_joined(flat_ids, np.int32), lengths),
            _ragged(_joined(flat_starts, np.int64), lengths),
            _ragged(_joined(flat_ends, np.int64), lengths),
        )

    def detokenize(self, ids: Sequence[int]) -> str:
        """Joins pieces into words with single spaces, for display."""
        text = " ".join(self.vocab[int(index)] for index in ids)
        return text.replace(f" {CONTINUATION_PREFIX}", "")

    def _prepared(
        self, text: str, with_origin: bool = False
    ) -> tuple[str, np.ndarray | None]:
        """Text for the kernel and, if wanted, where its characters are from.

        Words over BERT's limit of characters are lengthened past the kernel's
        limit of bytes by repeating their last character.
        """
        origin = None
        if with_origin:
            text, origin = normalize_with_offsets(text, self.do_lower_case)
        else:
            text = normalize(text, self.do_lower_case)
        if not _may_have_overlong_word(text):
            return text, origin
        for start, end in reversed(word_spans(text, MAX_WORD_CHARACTERS + 1)):
            surplus = _MAX_WORD_BYTES + 1 - (end - start)
            if surplus <= 0:
                continue
            text = text[:end] + text[end - 1] * surplus + text[end:]
            if with_origin:
                tail = np.repeat(origin[end - 1], surplus)
                origin = np.insert(origin, end, tail)
        return text, origin


def load_tokenizer(name_or_path: str | os.PathLike) -> WordpieceTokenizer:
    """Returns the tokenizer of a model: its vocabulary and its casing.

    Args:
        name_or_path: a folder, or a name on the hub, as for `load`.

    Raises:
        InputError: if there is none, or it is not BERT's.
    """
    return WordpieceTokenizer.from_folder(model_folder(name_or_path))


class _CharacterIndex:
    """Finds characters of a batch of strings by the bytes of each string."""

    def __init__(self, texts: Sequence[str], row_lengths: np.ndarray):
        encoded = [text.encode("utf-8") for text in texts]
        byte_counts = [len(text) for text in encoded]
        row_starts = np.cumsum([0, *byte_counts[:-1]])
        self._offsets = np.repeat(row_starts, row_lengths)
        content = np.frombuffer(b"".join(encoded), np.uint8)
        # Bytes 10xxxxxx continue a character.
        self._characters = np.cumsum((content & 0xC0) != 0x80) - 1

    def at(self, byte_index: np.ndarray) -> np.ndarray:
        """Index, over all texts joined, of the characters at these bytes."""
        return self._characters[byte_index + self._offsets]


def _may_have_overlong_word(text: str) -> bool:
    """Whether some stretch over the limit has no space; cheap on prose."""
    start = 0
    while len(text) - start > MAX_WORD_CHARACTERS:
        space = text.rfind(" ", start, start + MAX_WORD_CHARACTERS + 1)
        if space < 0:
            return True
        start = space + 1
    return False


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be a sequence of str. Received: {texts!r}")
    for start in range(0, len(texts), _BATCH_SIZE):
        yield texts[start : start + _BATCH_SIZE]


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.zeros(0, dtype), *arrays])


def _ragged(values: np.ndarray, lengths: np.ndarray) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)
