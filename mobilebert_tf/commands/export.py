r"""Writes .tflite files of a model folder, without training.

    python -m mobilebert_tf.commands.export --model=runs/sst2 \
        --export=dynamic,int8 --calibration_file=texts.txt --output_dir=phone

`int8` and `int16x8` files need texts like those that the files will meet: one
per line, the two texts of a pair separated by a tab. A pre-trained model is
exported as its encoder, which embeds texts with --output=mean. Scores, and
`int8_qat`, come from --export of the commands that fine-tune.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from mobilebert_tf.commands.command import Command
from mobilebert_tf.commands.convert import open_model_folder
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import decode_content, read_content
from mobilebert_tf.mobile.options import (
    CALIBRATED_KINDS,
    KINDS,
    TRAINED_KIND,
)
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks.length import saved_length
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

_BATCH_SIZE, _MAX_TEXTS = 32, 512


@dataclasses.dataclass(frozen=True)
class FileOptions(Options):
    """Which files are written, from which model."""

    group: ClassVar[str] = "export"

    model: str = option("", "Model folder, or model on the hub.", required=True)
    output_dir: str = option("", "Folder to write KIND.tflite.", required=True)
    kinds: tuple[str, ...] = option(
        ("float32",),
        f"Kinds of files: {', '.join(KINDS)}.",
        flag="export",
        choices=KINDS,
        everyday=True,
    )
    lengths: tuple[int, ...] | None = option(
        None,
        "Length of the files' inputs; several lengths share a file. Default: "
        "as the model was fine-tuned, or 128.",
        flag="export_seq_length",
        min=8,
        everyday=True,
    )
    calibration_file: str | None = option(
        None,
        "Texts, one per line, on which the ranges of int8 and int16x8 are "
        f"measured; the first {_MAX_TEXTS} are read.",
        everyday=True,
    )
    equalize: bool = option(
        True, "Give the channels of each tensor alike ranges before rounding."
    )
    output: str | None = option(
        None,
        "What the files return instead of logits: probabilities, "
        "independent_probabilities, or an encoder's first_token or mean.",
        everyday=True,
    )
    mlperf_order: bool = option(
        False,
        "Put end_logits before start_logits, as MLPerf Mobile reads them.",
    )
    metadata: bool = option(
        False,
        "Put vocabulary and labels into the files, for MediaPipe's text tasks "
        "on phones. Classifiers need --output=probabilities with it.",
    )
    dynamic_per_tensor: bool = option(
        False,
        "Give each weight matrix of a dynamic file one scale, so that "
        "TensorFlow Lite 2.14 opens it.",
    )


def main(options: FileOptions) -> None:
    """Writes the files.

    Raises:
        InputError: an option or the model does not allow it.
    """
    wanting = [kind for kind in options.kinds if kind in CALIBRATED_KINDS]
    if TRAINED_KIND in wanting:
        kinds = ", ".join(kind for kind in KINDS if kind != TRAINED_KIND)
        raise InputError("--export", f"kinds among {kinds}", TRAINED_KIND)
    if wanting and not options.calibration_file:
        expected = f"a file of texts for {', '.join(wanting)}"
        raise InputError("--calibration_file", expected, "none")
    folder = open_model_folder(options.model)
    if options.lengths is None:
        lengths = (saved_length(folder),)
        options = dataclasses.replace(options, lengths=lengths)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    batches = []
    if options.calibration_file:
        batches = list(_batches(options, tokenizer))
    try:
        _write(options, folder, tokenizer, batches)
    except ValueError as error:
        # The room's own checks of lengths, outputs and metadata.
        raise InputError(
            "flags", "files that this model allows", error
        ) from error


def _write(options: FileOptions, folder: Path, tokenizer, batches) -> None:
    from mobilebert_tf.mobile.export import export
    from mobilebert_tf.mobile.folding import HEADS, fold
    from mobilebert_tf.mobile.stages import Networks
    from mobilebert_tf.mobile.tflite_file import TextMetadata
    from mobilebert_tf.modeling.load import load

    model = load(folder)
    folded = fold(model if type(model) in HEADS else model.encoder)
    metadata = None
    if options.metadata:
        labels = getattr(model, "label_names", ())
        metadata = TextMetadata(
            tokenizer.vocab, labels, do_lower_case=tokenizer.do_lower_case
        )
    output = Path(options.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    networks = Networks(folded, batches, max(options.lengths), options.equalize)
    for kind in options.kinds:
        path = export(
            networks.of_kind(kind),
            output / f"{kind}.tflite",
            options.lengths,
            kind,
            calibration=batches,
            output=options.output,
            mlperf_order=options.mlperf_order,
            metadata=metadata,
            per_tensor=options.dynamic_per_tensor,
        )
        print(f"Wrote {path}", flush=True)


def _batches(options: FileOptions, tokenizer) -> Iterator[dict]:
    """Yields the texts of --calibration_file, encoded at the longest length."""
    from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples

    path = Path(options.calibration_file)
    lines = decode_content(path, read_content(path)).splitlines()
    rows = [line.split("\t") for line in lines if line.strip()][:_MAX_TEXTS]
    if not rows or len({len(row) for row in rows}) > 1 or len(rows[0]) > 2:
        raise InputError(
            path,
            "one text per line, or two separated by a tab",
            f"{len(rows)} lines of "
            f"{sorted({len(row) for row in rows})} columns",
        )
    columns = [list(column) for column in zip(*rows, strict=True)]
    arrays = encode_examples(
        Examples(*columns), tokenizer, max(options.lengths)
    )
    for begin in range(0, len(rows), _BATCH_SIZE):
        chosen = slice(begin, begin + _BATCH_SIZE)
        yield {name: array[chosen] for name, array in arrays.items()}


COMMAND = Command(main, (FileOptions,), description=__doc__, resumes=False)

if __name__ == "__main__":
    COMMAND()
