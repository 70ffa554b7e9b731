"""Reading the tokenizer of a model folder.

A model folder holds `vocab.txt` and usually `tokenizer_config.json`;
transformers 5 writes `tokenizer.json` in place of `vocab.txt`. A file that asks
for another tokenizer than BERT's is refused: it would silently give other
tokens than the model was trained on.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from mobilebert_tf.errors import InputError, listed, shortened
from mobilebert_tf.files import read_json_object
from mobilebert_tf.text.vocabulary import (
    SPECIAL_TOKENS,
    check_vocabulary,
    read_vocabulary,
)

VOCAB_FILE = "vocab.txt"
CONFIG_FILE = "tokenizer_config.json"
JSON_FILE = "tokenizer.json"
_MODEL_CONFIG_FILE = "config.json"
# Files of older releases of transformers that name tokens too.
_TOKEN_FILES = ("special_tokens_map.json", "added_tokens.json")
# Of one algorithm; that of the last two is told by tokenizer.json.
_CLASSES = (
    *("BertTokenizer", "MobileBertTokenizer", "DistilBertTokenizer"),
    *("ElectraTokenizer", "PreTrainedTokenizer", "TokenizersBackend"),
)


def read_tokenizer_files(folder: Path) -> tuple[list[str], bool]:
    """Returns the pieces of a folder and whether they are uncased.

    Pieces come from `vocab.txt`, else from `tokenizer.json`; the casing from
    `tokenizer_config.json`, else from `tokenizer.json`, else it is uncased.

    Raises:
        InputError: both vocabularies are missing, a file is malformed or asks
            for another tokenizer than BERT's, or there are more pieces than
            the `vocab_size` of the folder's model.
    """
    vocab_file, json_file = folder / VOCAB_FILE, folder / JSON_FILE
    has_json = json_file.exists()
    check_kind(folder)
    casing = _casing_of_json(json_file) if has_json else None
    if vocab_file.exists() or not has_json:
        source, pieces = vocab_file, read_vocabulary(vocab_file)
    else:
        source, pieces = json_file, _pieces_of_json(json_file)
    config_file = folder / _MODEL_CONFIG_FILE
    if config_file.exists():
        size = read_json_object(config_file).get("vocab_size", len(pieces))
        # Surplus rows of the word table do no harm.
        if not isinstance(size, int) or size < len(pieces):
            raise InputError(
                source,
                f"at most {size} pieces, the vocab_size of {config_file.name}",
                len(pieces),
            )
    return pieces, _casing(folder / CONFIG_FILE, casing)


def _casing(path: Path, default: bool | None) -> bool:
    """Returns the casing of a tokenizer_config.json, if it is consistent."""
    values = read_json_object(path) if path.exists() else {}
    do_lower_case = values.get("do_lower_case")
    if do_lower_case is None:
        do_lower_case = default in (None, True)
    if not isinstance(do_lower_case, bool):
        raise InputError(path, "true or false", do_lower_case, "do_lower_case")
    if default not in (None, do_lower_case):
        raise InputError(
            path,
            f"{json.dumps(default)}, as {JSON_FILE} has it",
            json.dumps(do_lower_case),
            "do_lower_case",
        )
    _require(path, values, strip_accents=(None, do_lower_case))
    return do_lower_case


def check_kind(folder: Path) -> None:
    """Refuses another tokenizer than BERT's, and tokens of the user's own.

    Such tokens would have to stay whole wherever they are written in a text,
    which the tokenizers of phones cannot do.

    Raises:
        InputError: a file of the folder names a class, an algorithm or a token
            that is not BERT's.
    """
    for name in (CONFIG_FILE, _MODEL_CONFIG_FILE, *_TOKEN_FILES):
        path = folder / name
        if path.exists():
            values = read_json_object(path)
            _check_algorithm(path, values)
            if name != _MODEL_CONFIG_FILE:
                _check_tokens(path, _named_tokens(name, values))


def _check_algorithm(path: Path, values: dict) -> None:
    name = values.get("tokenizer_class")
    if name is not None and str(name).removesuffix("Fast") not in _CLASSES:
        known = ", ".join(_CLASSES)
        raise InputError(
            path, f"one of {known}", shortened(name), "tokenizer_class"
        )
    _require(
        path,
        values,
        tokenize_chinese_chars=(None, True),
        do_basic_tokenize=(None, True),
        # Of the Japanese BERT, whose configuration may lack the class.
        word_tokenizer_type=(None, "basic"),
        subword_tokenizer_type=(None, "wordpiece"),
    )


def _named_tokens(file: str, values: dict) -> list:
    """Lists the tokens that a file of transformers names for themselves."""
    if file == "added_tokens.json":
        return list(values)
    tokens = [values[key] for key in values if key.endswith("_token")]
    for key in (
        "additional_special_tokens",
        "extra_special_tokens",
        "added_tokens_decoder",
    ):
        found = values.get(key)
        if isinstance(found, dict):
            found = list(found.values())
        tokens += found if isinstance(found, list) else [found]
    # "add_bos_token" is true or false.
    return [token for token in tokens if isinstance(token, str | dict)]


def _check_tokens(path: Path, tokens: Sequence) -> None:
    contents = [
        token.get("content") if isinstance(token, dict) else token
        for token in tokens
    ]
    added = [str(token) for token in contents if token not in SPECIAL_TOKENS]
    if added:
        raise InputError(
            path,
            f"no tokens besides {' '.join(SPECIAL_TOKENS)}",
            listed(added),
        )


def _casing_of_json(path: Path) -> bool:
    """Tells whether a tokenizer.json, which must be BERT's, lower-cases."""
    values = read_json_object(path)
    tokens = values.get("added_tokens") or []
    _check_tokens(path, tokens if isinstance(tokens, list) else [tokens])
    normalizer = _part(path, values, "normalizer")
    lower = normalizer.get("lowercase")
    _require(
        path,
        normalizer,
        "normalizer",
        type=("BertNormalizer",),
        lowercase=(True, False),
        clean_text=(True,),
        handle_chinese_chars=(True,),
        strip_accents=(None, lower),
    )
    return lower


def _pieces_of_json(path: Path) -> list[str]:
    """Returns the pieces of a tokenizer.json in the order of their ids."""
    values = read_json_object(path)
    splitter = _part(path, values, "pre_tokenizer")
    _require(path, splitter, "pre_tokenizer", type=("BertPreTokenizer",))
    model = _part(path, values, "model")
    _require(
        path,
        model,
        "model",
        # Old files have no type; with this prefix it can only be WordPiece.
        type=(None, "WordPiece"),
        continuing_subword_prefix=("##",),
        unk_token=("[UNK]",),
        max_input_chars_per_word=(100,),
    )
    ids = model.get("vocab")
    if not isinstance(ids, dict) or {type(i) for i in ids.values()} != {int}:
        raise InputError(path, "pieces and ids", "something else", "vocab")
    pieces = sorted(ids, key=ids.get)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise InputError(path, "ids 0, 1, ...", "other ids", "vocab")
    check_vocabulary(pieces, path)
    return pieces


def _part(path: Path, values: dict, name: str) -> dict:
    part = values.get(name)
    if not isinstance(part, dict):
        raise InputError(path, "BERT's WordPiece tokenizer", part, name)
    return part


def _require(path: Path, values: dict, part: str = "", **allowed) -> None:
    """Checks that values are among those allowed, types included."""
    for name, choices in allowed.items():
        value = values.get(name)
        if (type(value), value) not in [(type(item), item) for item in choices]:
            expected = " or ".join(map(json.dumps, choices))
            place = f"{part}.{name}" if part else name
            raise InputError(path, expected, json.dumps(value), place)
