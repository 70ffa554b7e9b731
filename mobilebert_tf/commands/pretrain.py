r"""Pre-trains a model on raw text: masked LM and next sentence prediction.

Any preset; with `--preset=ib_bert_large` (or `ib_bert_small`) it trains the
inverted-bottleneck teacher, whose recipe the paper's authors did not publish.

    python run_pretraining.py --preset=ib_bert_small --output_dir=runs/teacher

reads the documentation of the installed Python packages, learns a vocabulary
from it and writes a model folder. With your own text:

    python run_pretraining.py --preset=ib_bert_small \
        --input_files='corpus/*.txt' --output_dir=runs/teacher
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

from mobilebert_tf.commands.command import Command, command_line
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import Fingerprint
from mobilebert_tf.options import Options, option
from mobilebert_tf.training.options import (
    ArchitectureOptions,
    DeviceOptions,
    OptimizerOptions,
    OutputOptions,
    PretrainingOptions,
    RunOptions,
    StepOptions,
)
from mobilebert_tf.training.run_folder import (
    BEST_FOLDER,
    SETTINGS_FILE,
    delete_run,
    identify,
)

_VOCAB_FILE = "vocab.txt"


@dataclasses.dataclass(frozen=True)
class VocabularyOptions(Options):
    """The vocabulary of a new model."""

    group = "data"

    vocab_file: str | None = option(
        None,
        "Vocabulary, one piece per line; by default learned from the text.",
        everyday=True,
    )
    vocab_size: int = option(
        4000, "Size of the vocabulary to learn.", min=100, everyday=True
    )
    do_lower_case: bool | None = option(
        None,
        "Lower-case the text and drop its accents and other marks (uncased "
        "model). The default, refused for text with many marks.",
        everyday=True,
    )


@dataclasses.dataclass(frozen=True)
class LengthOptions(Options):
    """How long to train."""

    num_train_steps: int = option(
        2000, "Steps of training.", min=1, everyday=True
    )


def with_casing(
    vocabulary: VocabularyOptions, text: TextOptions
) -> VocabularyOptions:
    """Decides whether the model is uncased where no flag does.

    Raises:
        InputError: the text has too many marks for that.
    """
    from mobilebert_tf.data.sources import are_tfrecords, read_text
    from mobilebert_tf.text.casing import check_uncased

    if vocabulary.do_lower_case is not None:
        return vocabulary
    if not are_tfrecords(text.input_files):
        check_uncased(itertools.chain.from_iterable(read_text(text)))
    return dataclasses.replace(vocabulary, do_lower_case=True)


def build_tokenizer(
    vocabulary: VocabularyOptions,
    text: TextOptions,
    output: OutputOptions | None = None,
):
    """Reads the vocabulary, or learns one from the text.

    Args:
        vocabulary: the file, or what to learn.
        text: what to learn from.
        output: the folder of a run that may have learned it before.

    Raises:
        InputError: the text comes as records, from which nothing can be
            learned, and there is no vocabulary file.
    """
    from mobilebert_tf.data.sources import are_tfrecords, read_text
    from mobilebert_tf.text.tokenizer import WordpieceTokenizer
    from mobilebert_tf.text.vocabulary import learn_vocabulary

    size = vocabulary.vocab_size
    lower = vocabulary.do_lower_case is not False
    if vocabulary.vocab_file:
        return WordpieceTokenizer.from_vocab_file(vocabulary.vocab_file, lower)
    if are_tfrecords(text.input_files):
        raise InputError(
            "--vocab_file", "the vocabulary the records were made with", "none"
        )
    learned = _learned_before(output) if output else None
    if learned:
        return WordpieceTokenizer.from_vocab_file(learned, lower)
    print("Learning a vocabulary ...", flush=True)
    lines = itertools.chain.from_iterable(read_text(text))
    pieces = learn_vocabulary(lines, size, lower)
    print(f"{len(pieces):,} pieces of {size:,} asked for", flush=True)
    return WordpieceTokenizer(pieces, lower)


def _learned_before(output: OutputOptions) -> Path | None:
    folder = Path(output.output_dir)
    if output.restart or not (folder / SETTINGS_FILE).exists():
        return None
    # Older versions kept it with the best weights only, before the end.
    places = (folder / _VOCAB_FILE, folder / BEST_FOLDER / _VOCAB_FILE)
    return next(filter(Path.exists, places), None)


def _fingerprint_of(pieces: Sequence[str]) -> Fingerprint:
    digest = hashlib.sha256("\n".join(pieces).encode()).hexdigest()
    return Fingerprint(_VOCAB_FILE, digest, num_lines=len(pieces))


def _identity(options: Sequence[Options], is_chief: bool):
    """Returns what the run is, and its tokenizer.

    Refuses a folder that is not the run's, before the text is read.
    """
    from mobilebert_tf.data.sources import text_sources

    output, architecture, text, vocabulary = options[:4]
    sources = text_sources(text) | {
        "vocab_file": vocabulary.vocab_file,
        "config_file": architecture.config_file,
    }
    identity = identify(output, options, sources, is_chief)
    tokenizer = build_tokenizer(vocabulary, text, output)
    if not vocabulary.vocab_file:
        learned = {"learned_vocabulary": [_fingerprint_of(tokenizer.vocab)]}
        identity = identity.having(inputs=learned)
    return identity, tokenizer


def run(*options: Options) -> None:
    """Reads text, trains, evaluates, and writes a model folder."""
    import keras

    from mobilebert_tf.data.stream import open_pretraining_input
    from mobilebert_tf.modeling.models import MobileBertForPretraining
    from mobilebert_tf.training import pretraining
    from mobilebert_tf.training.devices import open_devices
    from mobilebert_tf.training.loop import Phase, Run
    from mobilebert_tf.training.optimizers import (
        build_optimizer,
        describe_parameters,
    )
    from mobilebert_tf.training.step import TrainStep, rematerialize

    output, architecture, text, vocabulary, training, length = options[:6]
    optimizer, step_options, run_options, device_options = options[6:]
    devices = open_devices(device_options)
    keras.utils.set_random_seed(training.seed)
    vocabulary = with_casing(vocabulary, text)
    options = (*options[:3], vocabulary, *options[4:])
    identity, tokenizer = _identity(options, devices.is_chief)
    data = open_pretraining_input(text, tokenizer, training.train_batch_size)
    print(data.summary(), flush=True)
    config = architecture.config(tokenizer.vocab_size, text.max_seq_length)
    with devices.scope():
        model = MobileBertForPretraining(config)
    if device_options.rematerialize:
        rematerialize(model.encoder.blocks)
    print(describe_parameters(model.trainable_variables), flush=True)

    def build() -> TrainStep:
        return TrainStep(
            pretraining.pretraining_loss(model),
            model.trainable_variables,
            build_optimizer(
                optimizer, training.learning_rate, length.num_train_steps
            ),
            step_options,
        )

    batches = functools.partial(data.batches, training.seed)
    held_out = pretraining.HeldOutText(model, data)
    # Made first, so that unfit text is refused before a folder is made for it.
    batches(0)
    if output.restart and devices.is_chief:
        delete_run(Path(output.output_dir))
    run = Run(
        output.output_dir,
        model.variables,
        run_options,
        identity,
        devices,
        num_steps=length.num_train_steps,
    )
    if devices.is_chief:
        tokenizer.write(run.folder, config.max_position_embeddings)
    run.train(
        Phase(
            "pretraining",
            length.num_train_steps,
            build,
            batches,
            shown=("masked_lm_loss", "next_sentence_loss"),
            evaluation=held_out.evaluation(training),
        )
    )
    if devices.is_chief:
        pretraining.finish_pretraining(
            run,
            held_out,
            training.final_model,
            title=f"Pre-trained from scratch ({architecture.name})",
            command=command_line(),
            notes={"Training text": text.description()},
        )


COMMAND = Command(
    run,
    (
        OutputOptions,
        ArchitectureOptions,
        TextOptions,
        VocabularyOptions,
        PretrainingOptions,
        LengthOptions,
        OptimizerOptions,
        StepOptions,
        RunOptions,
        DeviceOptions,
    ),
    defaults={"preset": "ib_bert_small"},
    description=__doc__,
)
