r"""Converts other people's weights into a model folder, or back.

    python -m mobilebert_tf.commands.convert \
        --input=uncased_L-24_H-128_B-512_A-4_F-4_OPT --output=mobilebert

Recognises a TensorFlow 1 checkpoint (prefix, folder or .index), the variables
of a SavedModel, a Model Garden checkpoint, and a Hugging Face folder or hub
name. The result opens with `mobilebert_tf.load` and with Hugging Face
transformers; with --format=tf1 it is a TensorFlow 1 checkpoint with the
released names.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from mobilebert_tf.commands.command import Command, command_line
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_folder, sha256
from mobilebert_tf.hub import (
    converted_folder,
    model_folder,
    published_table,
)
from mobilebert_tf.options import Options, option
from mobilebert_tf.presets import PRESETS


@dataclasses.dataclass(frozen=True)
class ConversionOptions(Options):
    """Options of the converter."""

    group = "data"

    input: str | None = option(
        None,
        "Weights to convert: a folder, the prefix of a checkpoint, one of its "
        "files, a name of --list, or one on the hub.",
        everyday=True,
    )
    output: str | None = option(
        None, "Folder to write; must be new or empty.", everyday=True
    )
    list_weights: bool = option(
        False,
        "Print the published weights that have a name here, and stop.",
        flag="list",
        everyday=True,
    )
    format: str = option(
        "hugging_face",
        "hugging_face or tf1. hugging_face: a model folder, which Hugging "
        "Face transformers opens too. tf1: a TensorFlow 1 checkpoint.",
        choices=("hugging_face", "tf1"),
        everyday=True,
    )
    preset: str | None = option(
        None,
        "Architecture, if there is no config beside the weights.",
        choices=tuple(PRESETS),
        everyday=True,
    )
    config_file: str | None = option(
        None,
        "Architecture as JSON (google-research's or Hugging Face's); by "
        "default the file beside the weights.",
        everyday=True,
    )
    scope: str | None = option(
        None,
        "Read only variables below this name; `teacher` reads the teacher of "
        "a distillation checkpoint.",
    )
    architecture: str | None = option(
        None,
        "Class to read the weights as; by default the one whose heads they "
        "have. A TensorFlow 1 checkpoint does not tell a tagger from a "
        "classifier.",
    )
    leave_behind: tuple[str, ...] | None = option(
        None,
        "Names of surplus tensors to leave behind, with commas; `*` and `?` "
        "stand for any characters, for example loss_fct.*",
    )
    label_names: str | None = option(
        None, "Names of a classifier's classes in their order, with commas."
    )
    vocab_file: str | None = option(
        None, "Vocabulary; by default the one beside the weights."
    )
    do_lower_case: bool | None = option(
        None,
        "Whether the vocabulary is uncased. By default as in the tokenizer's "
        "config beside the weights; without one, or with --vocab_file, "
        "whether the vocabulary has no upper-case letters.",
    )

    def config(self) -> MobileBertConfig | None:
        """Returns the config that a flag names, or None.

        Raises:
            InputError: two flags name one, or the file cannot be used.
        """
        if self.config_file and self.preset:
            raise InputError("--preset", "either this or --config_file", "both")
        if self.config_file:
            return MobileBertConfig.from_json(self.config_file)
        if self.preset:
            return MobileBertConfig.from_preset(self.preset)
        return None


def main(options: ConversionOptions) -> None:
    """Recognises the weights, matches them with a model and writes it."""
    from mobilebert_tf.conversion.reading import read_source
    from mobilebert_tf.conversion.writing import write_folder, write_tf1
    from mobilebert_tf.modeling.load import MODEL_CLASSES
    from mobilebert_tf.training.model_card import write_model_card

    if options.list_weights:
        print(published_table())
        return
    for flag in ("input", "output"):
        if not getattr(options, flag):
            raise InputError(f"--{flag}", "a path", "none")
    if options.architecture not in (None, *MODEL_CLASSES):
        expected = f"one of {', '.join(MODEL_CLASSES)}"
        raise InputError("--architecture", expected, options.architecture)
    label_names = options.label_names
    if label_names is not None:
        label_names = [name.strip() for name in label_names.split(",")]
    conversion = read_source(
        options.input,
        config=options.config(),
        scope=options.scope,
        architecture=options.architecture,
        label_names=label_names,
        leave_behind=options.leave_behind or (),
    )
    source, model = conversion.source, conversion.match.model
    print(f"{options.input}: {source.kind}, {model.architecture}")
    tokenizer = find_tokenizer(options, source.folder, model.config.vocab_size)
    casing = "uncased" if tokenizer.do_lower_case else "cased"
    surplus = model.config.vocab_size - tokenizer.vocab_size
    notes = {
        "Source": f"{source.kind} `{options.input}`",
        **{
            f"SHA-256 of `{file.name}`": f"`{sha256(file)}`"
            for file in source.files()
        },
        "Vocabulary": f"{tokenizer.vocab_size:,} pieces, {casing}"
        + f"; {surplus:,} rows of the word table have no piece" * bool(surplus),
        **conversion.notes,
    }
    with output_folder(options.output) as folder:
        write = write_tf1 if options.format == "tf1" else write_folder
        write(conversion, folder)
        tokenizer.write(folder, model.config.max_position_embeddings)
        write_model_card(
            folder,
            model,
            title=f"Converted from a {source.kind}",
            command=command_line(),
            results={},
            notes=notes,
        )
    for name, note in notes.items():
        print(f"  {name}: {note}")
    print(f"Wrote {options.output}", flush=True)


def open_model_folder(name_or_path: str) -> Path:
    """Returns `hub.model_folder`, after converting an archive of that name.

    The converted folder is kept in the cache, beside the archive's files.

    Raises:
        InputError: there is no such model, or it cannot be converted.
    """
    folder = converted_folder(name_or_path)
    if folder is not None and not folder.is_dir():
        from huggingface_hub.utils import WeakFileLock

        folder.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder.with_name("conversion_lock")):
            if not folder.is_dir():
                main(ConversionOptions(input=name_or_path, output=str(folder)))
    return model_folder(name_or_path)


def find_tokenizer(options: ConversionOptions, folder: Path, vocab_size: int):
    """Returns the tokenizer that belongs to the weights in `folder`.

    Raises:
        InputError: there is no vocabulary, or it has more pieces.
    """
    from mobilebert_tf.text import tokenizer_files as files
    from mobilebert_tf.text.tokenizer import WordpieceTokenizer
    from mobilebert_tf.text.vocabulary import read_vocabulary

    path = options.vocab_file or folder
    has_config = any(
        (folder / name).is_file()
        for name in (files.CONFIG_FILE, files.JSON_FILE)
    )
    if options.vocab_file or not has_config:
        if not options.vocab_file:
            files.check_kind(folder)
            path = _vocabulary_beside(folder, files.VOCAB_FILE)
        vocab = read_vocabulary(path)
        tokenizer = WordpieceTokenizer(vocab, not is_cased(vocab))
    else:
        tokenizer = WordpieceTokenizer.from_folder(folder)
    if options.do_lower_case is not None:
        tokenizer = WordpieceTokenizer(tokenizer.vocab, options.do_lower_case)
    if tokenizer.vocab_size > vocab_size:
        raise InputError(
            path,
            f"a vocabulary of {vocab_size:,} pieces, as the weights have",
            f"{tokenizer.vocab_size:,}",
        )
    return tokenizer


def is_cased(vocab: Sequence[str]) -> bool:
    """Whether a vocabulary has upper-case letters outside its [TOKENS]."""
    return any(
        piece != piece.lower() for piece in vocab if not piece.startswith("[")
    )


def _vocabulary_beside(folder: Path, name: str) -> Path:
    for place in (folder, folder / "assets"):
        if (place / name).is_file():
            return place / name
    raise InputError(
        folder, f"{name} beside the weights, or --vocab_file", "neither"
    )


@contextlib.contextmanager
def output_folder(path: str) -> Iterator[Path]:
    """Yields a temporary folder that becomes `path` on success.

    Raises:
        InputError: `path` exists and is not empty, or cannot be made.
    """
    try:
        with atomic_folder(path) as folder:
            yield folder
    except FileExistsError as error:
        raise InputError(
            path, "a folder that is new or empty", "another"
        ) from error
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            path, "a folder that can be made", error.strerror
        ) from error


COMMAND = Command(
    main, (ConversionOptions,), description=__doc__, resumes=False
)

if __name__ == "__main__":
    COMMAND()
