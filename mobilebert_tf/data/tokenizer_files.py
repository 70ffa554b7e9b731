"""The tokenizer of a model folder: its pieces and its casing, from any form.

Published folders have `vocab.txt` and, mostly, `tokenizer_config.json`; Hugging
Face's transformers 5 writes `tokenizer.json` in place of the first. Only
BERT's own normalisation is implemented: a file that asks for another would
silently give other tokens than the model was trained on, and is refused.
"""

import json
from pathlib import Path

from mobilebert_tf.config import read_json_object
from mobilebert_tf.data.vocabulary import check_vocabulary, read_vocabulary
from mobilebert_tf.errors import InputError

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
