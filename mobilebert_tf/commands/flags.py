"""Flags that several commands share, and how a command ends.

The only folder besides the scripts and `tools/` that knows absl flags: the
library below takes values. Beside what all commands share here, `devices` has
the flags of where training runs, `pretraining` those of its input, `transfer`
and `fine_tuning` those of the two ways to go on from there, `export` those of
the files for phones.
"""

import dataclasses
import errno
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf
from absl import app, flags, logging

from mobilebert_tf.commands.flags_devices import DEVICE_FLAGS, step_options
from mobilebert_tf.config import PRESETS, MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.checkpoints import CannotSave
from mobilebert_tf.training.log import NonFiniteLoss
from mobilebert_tf.training.optimizers import OPTIMIZERS, WarmupPolynomialDecay
from mobilebert_tf.training.step import TrainStep
from mobilebert_tf.training.stopping import Stopped, stop_at_sigterm

FLAGS = flags.FLAGS

# The shell's own convention: 128 + SIGINT. A scheduler's SIGTERM, which takes
# a machine away for a while, is no failure.
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 0
EXIT_BAD_INPUT = 2
EXIT_FAILED = 1

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def run_script(main: Callable[[list[str]], None], goes_on: bool = True) -> None:
    """Runs `main`; bad input ends in one line and exit code 2.

    Args:
        main: takes the arguments that are no flags.
        goes_on: whether the same command goes on where it was stopped, so
            that a stop by SIGTERM is no failure.
    """

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
        except (NonFiniteLoss, CannotSave) as error:
            _fail(EXIT_FAILED, str(error))
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise
            _fail(EXIT_FAILED, str(error))
        except Stopped as stopped:
            print(stopped, flush=True)
            sys.exit(
                EXIT_TERMINATED
                if stopped.signal_name == "SIGTERM"
                else EXIT_INTERRUPTED
            )
        except KeyboardInterrupt:
            print("\nstopped", flush=True)
            sys.exit(EXIT_INTERRUPTED)

    logging.set_verbosity(logging.WARNING)
    if goes_on:
        stop_at_sigterm()
    else:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    app.run(guarded, flags_parser=_parse_flags)


def _parse_flags(arguments: list[str]) -> list[str]:
    """Parses flags; absl's own way ends in two lines and exit code 1."""
    try:
        return FLAGS(arguments)
    except flags.Error as error:
        _fail(EXIT_BAD_INPUT, " ".join(str(error).split()))


def _fail(code: int, message: str) -> None:
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


def define_output_flags() -> None:
    """Defines --output_dir, --seed, --log_every, --save_every_seconds."""
    flags.DEFINE_string(
        "output_dir",
        None,
        "Model folder to write. Started again with the same flags, a stopped "
        "run goes on.",
        required=True,
    )
    flags.DEFINE_integer(
        "seed", 1, "Of weights, data order and masks.", lower_bound=0
    )
    flags.DEFINE_integer(
        "log_every", 50, "Steps between two log lines.", lower_bound=1
    )
    flags.DEFINE_integer(
        "save_every_seconds",
        120,
        "Seconds between two checkpoints.",
        lower_bound=1,
    )


def define_model_flag() -> None:
    """Defines --model, where fine-tuning starts."""
    flags.DEFINE_string(
        "model",
        None,
        "Model folder, or model on the hub, to start from.",
        required=True,
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


def define_optimizer_flags(
    optimizer: str, learning_rate: float, warmup: float
) -> None:
    """Defines the optimizer and its schedule, with a script's defaults."""
    flags.DEFINE_enum("optimizer", optimizer, ["adamw", "lamb"], "Optimizer.")
    flags.DEFINE_float("learning_rate", learning_rate, "Peak rate.", 0.0)
    flags.DEFINE_float(
        "warmup_proportion", warmup, "Share of the steps to warm up.", 0.0, 1.0
    )
    flags.DEFINE_float(
        "end_learning_rate_factor",
        0.0,
        "What the decay leaves of the rate at the end (1e-4 in the release).",
        0.0,
        1.0,
    )
    flags.DEFINE_float(
        "decay_power", 1.0, "Power of the polynomial decay; 1 is linear.", 0.0
    )
    flags.DEFINE_float(
        "weight_decay", 0.01, "Decay of matrices and tables.", 0.0
    )
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


def warmup_schedule(num_steps: int) -> WarmupPolynomialDecay:
    """Returns the learning-rate schedule that the flags name.

    Args:
        num_steps: what it is spread over.
    """
    return WarmupPolynomialDecay(
        FLAGS.learning_rate,
        num_steps,
        round(FLAGS.warmup_proportion * num_steps),
        FLAGS.end_learning_rate_factor,
        FLAGS.decay_power,
    )


def train_step(
    compute_loss: Callable[[dict], dict[str, tf.Tensor]],
    variables: Sequence,
    num_steps: int,
) -> TrainStep:
    """Returns a step with the optimizer that the flags name, for a `Phase`.

    Args:
        compute_loss: from a batch to its loss terms.
        variables: what is trained.
        num_steps: what the schedule is spread over.
    """
    optimizer = OPTIMIZERS[FLAGS.optimizer](
        warmup_schedule(num_steps), **optimizer_settings()
    )
    return TrainStep(compute_loss, variables, optimizer, step_options())


def settings(*unimportant: str) -> dict:
    """Returns a command's flags, for its run's record.

    Args:
        *unimportant: flags that a resumed run may change.
    """
    left_out = {
        "output_dir",
        "log_every",
        "save_every_seconds",
        *DEVICE_FLAGS,
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


def architecture_name() -> str:
    """Returns the config file or preset that was asked for, for titles."""
    return FLAGS.config_file or FLAGS.preset


def command_line() -> str:
    """Returns the command as the user could type it again."""
    script = Path(sys.argv[0])
    name = [script.name]
    if script.parent.name in ("tools", "commands"):
        name = ["-m", f"mobilebert_tf.{script.parent.name}.{script.stem}"]
    return shlex.join(["python", *name, *sys.argv[1:]])
