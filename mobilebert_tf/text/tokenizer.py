"""WordPiece tokenizer: text to ids, with offsets back into the text.

The text is normalised by `normalization` and split by TensorFlow Text's fast
WordPiece kernel. The library's whole BERT tokenizer would normalise again,
which takes more than half of its time. Where nothing else has imported
TensorFlow, `tokenizers` gives the same pieces: a phone file answers without.
"""

import functools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mobilebert_tf.files import atomic_files
from mobilebert_tf.hub import model_folder
from mobilebert_tf.text.encoding import encode_texts
from mobilebert_tf.text.normalization import (
    normalize,
    normalize_with_offsets,
    split_words,
    word_spans,
)
from mobilebert_tf.text.tokenizer_files import (
    CONFIG_FILE,
    VOCAB_FILE,
    read_tokenizer_files,
)
from mobilebert_tf.text.vocabulary import (
    CONTINUATION_PREFIX,
    MAX_WORD_CHARACTERS,
    SPECIAL_TOKENS,
    check_vocabulary,
    read_vocabulary,
)

if TYPE_CHECKING:
    import tensorflow as tf

# The kernel counts bytes, up to four a character.
_MAX_WORD_BYTES = 4 * MAX_WORD_CHARACTERS
# Texts given to the kernel at a time: enough to hide the call, few enough that
# a large corpus is not copied at once.
_BATCH_SIZE = 4096


class WordpieceTokenizer:
    """BERT's WordPiece tokenizer, token for token.

    Special tokens written in the text ("[MASK]") are ordinary text, as in the
    original, so that a user's sentence cannot forge a separator.

    Raises:
        InputError: `vocab` is not a vocabulary (see `check_vocabulary`).

    Example:
        tokenizer = WordpieceTokenizer.from_vocab_file("vocab.txt")
        model(tokenizer(["Hello, world!", "Hello"]))
        ids = tokenizer.encode("Hello, world!")  # [101, 7592, ...]
        tokenizer.decode(ids)                    # "[CLS] hello , world ! [SEP]"
    """

    def __init__(self, vocab: Sequence[str], do_lower_case: bool = True):
        check_vocabulary(vocab)
        self.vocab = tuple(vocab)
        self.vocab_size = len(self.vocab)
        self.do_lower_case = do_lower_case
        # In the order of SPECIAL_TOKENS.
        self.special_ids = tuple(map(self.vocab.index, SPECIAL_TOKENS))
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            self.special_ids
        )

    @classmethod
    def from_vocab_file(
        cls, path: str | os.PathLike, do_lower_case: bool = True
    ) -> "WordpieceTokenizer":
        """Reads a file of one piece a line, as `read_vocabulary` does."""
        return cls(read_vocabulary(path), do_lower_case)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike) -> "WordpieceTokenizer":
        """Reads a model folder, with the errors of `read_tokenizer_files`."""
        pieces, do_lower_case = read_tokenizer_files(Path(folder))
        return cls(pieces, do_lower_case)

    def write(
        self, folder: str | os.PathLike, model_max_length: int = 512
    ) -> None:
        """Writes the files that Hugging Face's AutoTokenizer opens.

        Other files in `folder` stay. `model_max_length` is the number of
        positions of the model.
        """
        config = {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": self.do_lower_case,
            "strip_accents": None,
            "tokenize_chinese_chars": True,
            "model_max_length": model_max_length,
            # "pad_token": "[PAD]" and so on.
            **{
                f"{token[1:-1].lower()}_token": token
                for token in SPECIAL_TOKENS
            },
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

    @functools.cached_property
    def continuation_mask(self) -> np.ndarray:
        """Boolean [vocab_size], true for pieces that continue a word."""
        return np.array(
            [piece.startswith(CONTINUATION_PREFIX) for piece in self.vocab]
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        text_pairs: str | Sequence[str] | None = None,
        max_length: int | None = None,
        padding: str = "longest",
    ) -> dict[str, np.ndarray]:
        """Encodes texts, or pairs of texts, as a model's inputs.

        Args:
            texts: a text, or N texts.
            text_pairs: the second of each pair.
            max_length: longer sequences are truncated, a pair at its longer
                text; None keeps all pieces.
            padding: `longest`, to the longest sequence, or `max_length`.

        Returns:
            `input_ids`, `input_mask` and `segment_ids`, int32 [N, S].

        Raises:
            ValueError: see `encode_texts`.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if isinstance(text_pairs, str):
            text_pairs = [text_pairs]
        return encode_texts(self, texts, text_pairs, max_length, padding)

    def encode(self, text: str, text_pair: str | None = None) -> list[int]:
        """Returns the ids of a text or pair, with special tokens."""
        return self(text, text_pair)["input_ids"][0].tolist()

    def pieces(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokenizes texts without adding special tokens.

        Returns:
            The ids of all texts in a row, int32, and the number of each
            text's, int64 [len(texts)].
        """
        flat_ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for batch in _batches(texts):
            prepared = [self._prepared(text)[0] for text in batch]
            if sys.modules.get("tensorflow"):
                ids = self._kernel.tokenize(prepared)
                flat_ids.append(ids.flat_values.numpy())
                lengths.append(ids.row_lengths().numpy())
            else:
                rows = self._light_kernel.encode_batch(
                    [split_words(text) for text in prepared],
                    is_pretokenized=True,
                    add_special_tokens=False,
                )
                flat_ids += [np.array(row.ids, np.int32) for row in rows]
                lengths.append(np.array([len(row.ids) for row in rows]))
        return np.concatenate(flat_ids), np.concatenate(lengths)

    def tokenize(self, texts: str | Sequence[str]):
        """Tokenizes texts without adding special tokens.

        Returns:
            The pieces of a single text, as strings; of several texts their
            ids, an int32 `tf.RaggedTensor` [len(texts), (pieces)].
        """
        if isinstance(texts, str):
            return [self.vocab[index] for index in self.pieces([texts])[0]]
        ids, lengths = self.pieces(texts)
        return _ragged([ids], [lengths], np.int32)

    def tokenize_with_offsets(
        self, texts: Sequence[str]
    ) -> "tuple[tf.RaggedTensor, tf.RaggedTensor, tf.RaggedTensor]":
        """Tokenizes like `tokenize` and locates each piece in its text.

        Returns:
            Ragged [len(texts), (pieces)] int32 ids, int64 `starts` and int64
            `ends`. Piece i of a text was made from `text[starts[i]:ends[i]]`,
            in characters of the text as given, not as normalised.
        """
        flat_ids, flat_starts, flat_ends, lengths = [], [], [], []
        for batch in _batches(texts):
            normalized, origins = zip(
                *(self._prepared(text, with_origin=True) for text in batch),
                strict=True,
            )
            ids, starts, ends = self._kernel.tokenize_with_offsets(normalized)
            flat_ids.append(ids.flat_values.numpy())
            lengths.append(ids.row_lengths().numpy())
            origin = np.concatenate(origins)
            first, last = _characters_at(
                normalized,
                lengths[-1],
                np.stack([starts.flat_values, ends.flat_values - 1]),
            )
            flat_starts.append(origin[first])
            flat_ends.append(origin[last] + 1)
        return (
            _ragged(flat_ids, lengths, np.int32),
            _ragged(flat_starts, lengths, np.int64),
            _ragged(flat_ends, lengths, np.int64),
        )

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = False
    ) -> str:
        """Joins pieces into words with single spaces, for display."""
        text = " ".join(
            self.vocab[int(index)]
            for index in ids
            if not (skip_special_tokens and index in self.special_ids)
        )
        return text.replace(f" {CONTINUATION_PREFIX}", "")

    @functools.cached_property
    def _kernel(self):
        import tensorflow as tf
        import tensorflow_text

        return tensorflow_text.FastWordpieceTokenizer(
            list(self.vocab),
            suffix_indicator=CONTINUATION_PREFIX,
            max_bytes_per_word=_MAX_WORD_BYTES,
            token_out_type=tf.int32,
            unknown_token="[UNK]",
        )

    @functools.cached_property
    def _light_kernel(self):
        """Splits words; equal for all characters that Python's Unicode has."""
        import tokenizers

        return tokenizers.Tokenizer(
            tokenizers.models.WordPiece(
                {piece: index for index, piece in enumerate(self.vocab)},
                unk_token="[UNK]",
                continuing_subword_prefix=CONTINUATION_PREFIX,
                max_input_chars_per_word=MAX_WORD_CHARACTERS,
            )
        )

    def _prepared(
        self, text: str, with_origin: bool = False
    ) -> tuple[str, np.ndarray | None]:
        """Normalises a text for the kernel and locates its characters.

        Words over BERT's limit of characters are lengthened past the kernel's
        limit of bytes by repeating their last character.
        """
        if with_origin:
            text, origin = normalize_with_offsets(text, self.do_lower_case)
        else:
            text, origin = normalize(text, self.do_lower_case), None
        if not _may_have_overlong_word(text):
            return text, origin
        for start, end in reversed(word_spans(text, MAX_WORD_CHARACTERS + 1)):
            surplus = max(0, _MAX_WORD_BYTES + 1 - (end - start))
            text = text[:end] + text[end - 1] * surplus + text[end:]
            if with_origin:
                tail = np.repeat(origin[end - 1], surplus)
                origin = np.insert(origin, end, tail)
        return text, origin


def load_tokenizer(name_or_path: str | os.PathLike) -> WordpieceTokenizer:
    """Reads the tokenizer of a model folder or a name on the hub (see `load`).

    Raises:
        InputError: there is none, or it is not BERT's.
    """
    return WordpieceTokenizer.from_folder(model_folder(name_or_path))


def _characters_at(
    texts: Sequence[str], row_lengths: np.ndarray, byte_index: np.ndarray
) -> np.ndarray:
    """Converts byte offsets within each text to characters of all texts."""
    encoded = [text.encode("utf-8") for text in texts]
    row_starts = np.cumsum([0, *map(len, encoded[:-1])])
    content = np.frombuffer(b"".join(encoded), np.uint8)
    # Bytes 10xxxxxx continue a character.
    characters = np.cumsum((content & 0xC0) != 0x80) - 1
    return characters[byte_index + np.repeat(row_starts, row_lengths)]


def _may_have_overlong_word(text: str) -> bool:
    """Tells cheaply whether a stretch over the limit has no space."""
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


def _ragged(
    values: list[np.ndarray], lengths: list[np.ndarray], dtype: type
) -> "tf.RaggedTensor":
    import tensorflow as tf

    return tf.RaggedTensor.from_row_lengths(
        np.concatenate([np.zeros(0, dtype), *values]),
        np.concatenate([np.zeros(0, np.int64), *lengths]),
        validate=False,
    )
