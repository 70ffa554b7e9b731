"""Flags that several commands share, and how a command ends.

The only module besides the scripts and `tools/` that knows absl flags: the
library below takes values.
"""

import dataclasses
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from mobilebert_tf.config import PRESETS, MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.run import NonFiniteLoss, Stopped

FLAGS = flags.FLAGS

# The shell's own convention: 128 + SIGINT.
EXIT_INTERRUPTED = 130
EXIT_BAD_INPUT = 2
EXIT_FAILED = 1


def run_script(main: Callable[[list[str]], None]) -> None:
    """Runs `main`; bad input ends in one line and exit code 2."""

    def guarded(arguments: list[str]) -> None:
        if len(arguments) > 1:
            _fail(
                EXIT_BAD_INPUT,
                f"arguments are given as --name=value; found {arguments[1:]}",
            )
        try:
            main(arguments)
        except InputError as error:
            _fail(EXIT_BAD_INPUT, str(error))
        except NonFiniteLoss as error:
            _fail(EXIT_FAILED, str(error))
        except Stopped as stopped:
            print(stopped, flush=True)
            sys.exit(EXIT_INTERRUPTED)
        except KeyboardInterrupt:
            print("\nstopped", flush=True)
            sys.exit(EXIT_INTERRUPTED)

    logging.set_verbosity(logging.WARNING)
    app.run(guarded)


def _fail(code: int, message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def define_output_flags() -> None:
    """Defines --output_dir, --seed and --log_every."""
    flags.DEFINE_string(
        "output_dir",
        None,
        "Model folder to write. Started again with the same flags, a stopped "
        "run goes on.",
        required=True,
    )
    flags.DEFINE_integer("seed", 1, "Of weights, data order and masks.")
    flags.DEFINE_integer(
        "log_every", 50, "Steps between two log lines.", lower_bound=1
    )
    flags.DEFINE_integer(
        "save_every_seconds",
        120,
        "Seconds between two checkpoints.",
        lower_bound=1,
    )


def define_config_flags(default_preset: str | None) -> None:
    """Defines --preset and --config_file."""
    flags.DEFINE_enum(
        "preset", default_preset, list(PRESETS), "Architecture by name."
    )
    flags.DEFINE_string(
        "config_file",
        None,
        "Architecture as JSON (google-research's or Hugging Face's); wins "
        "over --preset. The vocabulary decides vocab_size.",
    )


def define_pretraining_data_flags() -> None:
    """Defines what text is read and how pre-training examples are made."""
    flags.DEFINE_list(
        "input_files",
        [],
        "Text files or globs, plain or .gz: a sentence or paragraph a line, a "
        "blank line between documents. None: the documentation of the "
        "installed Python packages.",
    )
    flags.DEFINE_integer("max_seq_length", 128, "Longest sequence.", 8)
    flags.DEFINE_integer(
        "max_predictions_per_seq",
        None,
        "Most masked pieces in a sequence; 15 % of --max_seq_length if not "
        "given.",
        lower_bound=1,
    )
    flags.DEFINE_float(
        "masked_lm_prob", 0.15, "Share of pieces to mask.", 0.0, 1.0
    )
    flags.DEFINE_bool("whole_word_mask", False, "Mask whole words.")
    flags.DEFINE_float(
        "held_out_fraction",
        0.02,
        "Share of the documents that is not trained on but evaluated.",
        0.0,
        0.5,
    )
    flags.DEFINE_integer("train_batch_size", 32, "Sequences a step.", 1)


def define_optimizer_flags(
    optimizer: str, learning_rate: float, warmup: float
) -> None:
    """Defines the optimizer and its schedule, with a script's defaults."""
    flags.DEFINE_enum("optimizer", optimizer, ["adamw", "lamb"], "Optimizer.")
    flags.DEFINE_float("learning_rate", learning_rate, "Peak rate.", 0.0)
    flags.DEFINE_float(
        "warmup_proportion", warmup, "Share of the steps to warm up.", 0.0, 1.0
    )
    flags.DEFINE_float("weight_decay", 0.01, "Of matrices and tables.", 0.0)
    flags.DEFINE_bool(
        "bias_correction",
        True,
        "Correct Adam's moments for their start at zero (the release does "
        "not; short runs need it).",
    )


def optimizer_settings() -> dict:
    """Returns the optimizer's settings besides its schedule."""
    return {
        "decay_rate": FLAGS.weight_decay,
        "bias_correction": FLAGS.bias_correction,
        "global_clipnorm": 1.0,
    }


def define_task_flags() -> None:
    """Defines where classification examples come from."""
    flags.DEFINE_enum(
        "task",
        None,
        ["library"],
        "Built-in task: which library does a paragraph document? Taken when "
        "no file is named.",
    )
    for split in ("train", "dev", "test"):
        flags.DEFINE_string(
            f"{split}_file", None, f"{split} examples, .tsv, .csv or .jsonl."
        )
    flags.DEFINE_string("predict_file", None, "Texts to predict, no labels.")
    flags.DEFINE_string("text_column", "text", "Column of the text.")
    flags.DEFINE_string("text_b_column", None, "Column of a second text.")
    flags.DEFINE_string("label_column", "label", "Column of the label.")
    flags.DEFINE_bool("regression", False, "Labels are numbers.")
    flags.DEFINE_integer(
        "max_train_examples", None, "Train on the first so many only.", 1
    )
    flags.DEFINE_integer("max_seq_length", 128, "Longest sequence.", 8)


def define_export_flags() -> None:
    """Defines what .tflite files are written."""
    flags.DEFINE_list(
        "export",
        [],
        "Kinds of .tflite files to write and evaluate: float32, dynamic (int8 "
        "weights), int8 (integers throughout, after quantisation-aware "
        "training).",
    )
    flags.DEFINE_integer(
        "num_qat_steps", 200, "Steps of quantisation-aware training.", 0
    )
    flags.DEFINE_float(
        "qat_learning_rate", 1e-4, "Peak rate of those steps.", 0.0
    )


def settings(*unimportant: str) -> dict:
    """Returns a command's flags, for its run's record.

    Args:
        *unimportant: flags that a resumed run may change.
    """
    left_out = {
        "output_dir",
        "log_every",
        "save_every_seconds",
        *unimportant,
    }
    return {
        flag.name: flag.value
        for flag in FLAGS.get_key_flags_for_module(sys.argv[0])
        if flag.name not in left_out
    }


def config_from_flags(vocab_size: int) -> MobileBertConfig:
    """Returns the config that --config_file or --preset names.

    Raises:
        InputError: if neither is given, or the file cannot be used.
    """
    if FLAGS.config_file:
        config = MobileBertConfig.from_json(FLAGS.config_file)
    elif FLAGS.preset:
        config = MobileBertConfig.from_preset(FLAGS.preset)
    else:
        raise InputError("--preset", "a preset or --config_file", "neither")
    config = dataclasses.replace(config, vocab_size=vocab_size)
    check_max_seq_length(config)
    return config


def check_max_seq_length(config: MobileBertConfig) -> None:
    """Checks that a model has positions for sequences that long.

    Raises:
        InputError: if it has not.
    """
    longest = config.max_position_embeddings
    if FLAGS.max_seq_length > longest:
        raise InputError(
            "--max_seq_length", f"at most {longest}", FLAGS.max_seq_length
        )


def pretraining_data_settings() -> dict:
    """Returns how examples are made, as `pretraining_dataset` takes it."""
    predictions = FLAGS.max_predictions_per_seq or max(
        1, round(FLAGS.masked_lm_prob * FLAGS.max_seq_length)
    )
    return {
        "max_seq_length": FLAGS.max_seq_length,
        "max_predictions_per_seq": predictions,
        "masked_lm_prob": FLAGS.masked_lm_prob,
        "whole_word_mask": FLAGS.whole_word_mask,
    }


def architecture_name() -> str:
    """Returns the config file or preset that was asked for, for titles."""
    return FLAGS.config_file or FLAGS.preset


def text_description() -> str:
    """Says what text was read, for model cards."""
    if FLAGS.input_files:
        return ", ".join(FLAGS.input_files)
    return "documentation of the installed Python packages"


def command_line() -> str:
    """Returns the command as the user could type it again."""
    name = os.path.basename(sys.argv[0])
    return shlex.join(["python", name, *sys.argv[1:]])
