r"""Turns other people's weights into a model folder, or back.

    python -m mobilebert_tf.commands.convert \
        --input=uncased_L-24_H-128_B-512_A-4_F-4_OPT --output=mobilebert

Recognises a TensorFlow 1 checkpoint (prefix, folder or .index), the variables
of a SavedModel, a Model Garden checkpoint, and a Hugging Face folder or hub
name. What it writes opens with `mobilebert_tf.load` and with Hugging Face
transformers; with --format=tf1 it is a TensorFlow 1 checkpoint with the
released names.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.conversion.reading import Conversion, read_source
from mobilebert_tf.conversion.writing import write_folder, write_tf1
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_folder
from mobilebert_tf.modeling.load import MODEL_CLASSES
from mobilebert_tf.presets import PRESETS
from mobilebert_tf.text.tokenizer import (
    CONFIG_FILE,
    JSON_FILE,
    VOCAB_FILE,
    WordpieceTokenizer,
)
from mobilebert_tf.text.vocabulary import read_vocabulary
from mobilebert_tf.training.model_card import write_model_card

FLAGS = flags.FLAGS

flags.DEFINE_string(
    "input",
    None,
    "What to convert: a folder, a checkpoint's prefix, or one of its files.",
    required=True,
)
flags.DEFINE_string(
    "output", None, "Folder to write; must be new or empty.", required=True
)
flags.DEFINE_enum(
    "format",
    "hugging_face",
    ["hugging_face", "tf1"],
    "hugging_face: a model folder of this project, which Hugging Face "
    "transformers opens too. tf1: a TensorFlow 1 checkpoint.",
)
flags.DEFINE_enum(
    "preset", None, list(PRESETS), "Architecture, where no config lies beside."
)
flags.DEFINE_string(
    "config_file",
    None,
    "Architecture as JSON (google-research's or Hugging Face's). The one "
    "beside the weights is taken if neither this nor --preset is given.",
)
flags.DEFINE_string(
    "scope",
    None,
    "Take only the variables below this name: `teacher` takes the teacher of "
    "a distillation checkpoint.",
)
flags.DEFINE_enum(
    "architecture",
    None,
    list(MODEL_CLASSES),
    "Class to read the weights as; by default the one whose heads they have. "
    "A TensorFlow 1 checkpoint cannot tell a tagger from a classifier.",
)
flags.DEFINE_list(
    "label_names", None, "Names of a classifier's classes, in their order."
)
flags.DEFINE_string(
    "vocab_file", None, "Vocabulary; the one beside the weights if not given."
)
flags.DEFINE_bool(
    "do_lower_case",
    None,
    "Whether the vocabulary is uncased. By default what the tokenizer's config "
    "beside the weights says; without one, or with --vocab_file, whether the "
    "vocabulary has no upper-case letter.",
)


def config_from_flags() -> MobileBertConfig | None:
    """Returns the config that a flag names, if one does.

    Raises:
        InputError: if two do, or the file is unfit.
    """
    if FLAGS.config_file and FLAGS.preset:
        raise InputError("--preset", "either this or --config_file", "both")
    if FLAGS.config_file:
        return MobileBertConfig.from_json(FLAGS.config_file)
    if FLAGS.preset:
        return MobileBertConfig.from_preset(FLAGS.preset)
    return None


def find_tokenizer(conversion: Conversion) -> WordpieceTokenizer:
    """Returns the tokenizer that belongs to the weights.

    Raises:
        InputError: if there is no vocabulary, or it is not the model's.
    """
    folder = conversion.source.folder
    path = FLAGS.vocab_file or folder
    says_casing = any(
        (folder / name).is_file() for name in (CONFIG_FILE, JSON_FILE)
    )
    if FLAGS.vocab_file or not says_casing:
        path = FLAGS.vocab_file or _vocabulary_beside(folder)
        vocab = read_vocabulary(path)
        tokenizer = WordpieceTokenizer(vocab, not is_cased(vocab))
    else:
        tokenizer = WordpieceTokenizer.from_folder(folder)
    if FLAGS.do_lower_case is not None:
        tokenizer = WordpieceTokenizer(tokenizer.vocab, FLAGS.do_lower_case)
    wanted = conversion.match.model.config.vocab_size
    if tokenizer.vocab_size != wanted:
        raise InputError(
            path,
            f"a vocabulary of {wanted:,} pieces, as the weights have",
            f"{tokenizer.vocab_size:,}",
        )
    return tokenizer


def is_cased(vocab: Sequence[str]) -> bool:
    """Whether a vocabulary has upper-case letters outside its [TOKENS]."""
    return any(
        piece != piece.lower() for piece in vocab if not piece.startswith("[")
    )


def _vocabulary_beside(folder: Path) -> Path:
    for place in (folder, folder / "assets"):
        if (place / VOCAB_FILE).is_file():
            return place / VOCAB_FILE
    raise InputError(
        folder, f"{VOCAB_FILE} beside the weights, or --vocab_file", "neither"
    )


def card_notes(conversion: Conversion, tokenizer) -> dict[str, str]:
    """Returns what the model card says about where the weights came from."""
    source = conversion.source
    notes = {"Source": f"{source.kind} `{FLAGS.input}`"}
    for file in source.files():
        notes[f"SHA-256 of `{file.name}`"] = f"`{_sha256(file)}`"
    casing = "uncased" if tokenizer.do_lower_case else "cased"
    notes["Vocabulary"] = f"{tokenizer.vocab_size:,} pieces, {casing}"
    return notes | conversion.notes


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@contextlib.contextmanager
def output_folder() -> Iterator[Path]:
    """Yields a temporary folder that becomes --output on success.

    Raises:
        InputError: if it is there and not empty, or cannot be made.
    """
    try:
        with atomic_folder(FLAGS.output) as folder:
            yield folder
    except FileExistsError as error:
        raise InputError(
            FLAGS.output, "a folder that is new or empty", "another"
        ) from error
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            FLAGS.output, "a folder that can be made", error.strerror
        ) from error


def main(_) -> None:
    """Recognises, matches, writes, says what it did."""
    conversion = read_source(
        FLAGS.input,
        config=config_from_flags(),
        scope=FLAGS.scope,
        architecture=FLAGS.architecture,
        label_names=FLAGS.label_names,
    )
    model = conversion.match.model
    print(f"{FLAGS.input}: {conversion.source.kind}, {model.architecture}")
    tokenizer = find_tokenizer(conversion)
    notes = card_notes(conversion, tokenizer)
    with output_folder() as folder:
        if FLAGS.format == "tf1":
            write_tf1(conversion, folder)
        else:
            write_folder(conversion, folder)
        tokenizer.write(folder, model.config.max_position_embeddings)
        write_model_card(
            folder,
            model,
            title=f"Converted from a {conversion.source.kind}",
            command=shared.command_line(),
            results={},
            notes=notes,
        )
    for name, note in notes.items():
        print(f"  {name}: {note}")
    print(f"Wrote {FLAGS.output}", flush=True)


if __name__ == "__main__":
    shared.run_script(main, goes_on=False)
