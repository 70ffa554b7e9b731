"""Flags of the devices that train, and of how a step is carried out there."""

import keras
from absl import flags

from mobilebert_tf.errors import InputError
from mobilebert_tf.training.devices import (
    KINDS,
    Distribution,
    open_distribution,
)
from mobilebert_tf.training.options import RunOptions, StepOptions
from mobilebert_tf.training.step import rematerialize

FLAGS = flags.FLAGS

# What a resumed run may change: the mathematics stay the same. (Where batches
# have several widths, `run_squad.py` sees to the steps in a call itself.)
DEVICE_FLAGS = (
    "distribution",
    "num_gpus",
    "tpu",
    "accumulation_steps",
    "steps_per_execution",
    "jit_compile",
    "rematerialize",
    "skip_nonfinite",
)


def define_device_flags() -> None:
    """Defines where training runs, and how a step is carried out there."""
    flags.DEFINE_enum(
        "distribution",
        "none",
        KINDS,
        "none: one device. mirrored: the GPUs of this machine. multi_worker: "
        "machines that TF_CONFIG lists, with --output_dir on a disk that all "
        "of them see. tpu: the cores of --tpu.",
    )
    flags.DEFINE_integer(
        "num_gpus", None, "Of --distribution=mirrored; all if not given.", 1
    )
    flags.DEFINE_string(
        "tpu", None, "Name or address of a TPU; this machine's if not given."
    )
    flags.DEFINE_integer(
        "accumulation_steps",
        1,
        "Parts that a batch is cut into, one after the other, where memory "
        "cannot hold it whole.",
        1,
    )
    flags.DEFINE_integer(
        "steps_per_execution",
        1,
        "Steps in one call, for devices that would wait for Python.",
        1,
    )
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA.")
    flags.DEFINE_bool(
        "rematerialize",
        False,
        "Keep block inputs only and compute the rest again for the gradient: "
        "less memory, more time.",
    )
    flags.DEFINE_enum(
        "mixed_precision",
        "float32",
        ["float32", "bfloat16", "float16"],
        "What layers compute in; weights stay float32. float16 is refused: "
        "it ends at 65504, and activations without a norm reach 2.5e7.",
    )
    flags.DEFINE_integer(
        "skip_nonfinite",
        0,
        "Steps whose loss or gradient is not finite that are left out before "
        "the run stops for one.",
        0,
    )


def open_devices(num_runs: int = 1) -> Distribution:
    """Connects to the devices and sets the precision that the flags name.

    To be called before anything is computed.

    Args:
        num_runs: how many runs the command compares.

    Raises:
        InputError: for float16, for devices that are not there, for flags of
            another kind of devices, and for several runs in several processes.
    """
    if FLAGS.distribution == "multi_worker" and num_runs > 1:
        # Which runs are over, and which is the best, only the chief knows.
        raise InputError(
            "--distribution",
            f"none, mirrored or tpu for {num_runs} runs",
            "multi_worker",
        )
    for name, kind in (("num_gpus", "mirrored"), ("tpu", "tpu")):
        if FLAGS[name].value is not None and FLAGS.distribution != kind:
            raise InputError(
                f"--{name}",
                f"--distribution={kind} with it",
                FLAGS.distribution,
            )
    if FLAGS.mixed_precision == "float16":
        raise InputError(
            "--mixed_precision",
            "float32 or bfloat16 (float16 ends at 65504, and activations "
            "without a norm reach 2.5e7)",
            "float16",
        )
    if FLAGS.mixed_precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    return open_distribution(FLAGS.distribution, FLAGS.num_gpus, FLAGS.tpu)


def step_options() -> StepOptions:
    """Returns how a step is carried out."""
    return StepOptions(
        FLAGS.accumulation_steps,
        FLAGS.steps_per_execution,
        FLAGS.jit_compile,
    )


def prepare_encoder(encoder: keras.Model) -> None:
    """Applies --rematerialize to an encoder that will be trained."""
    if FLAGS.rematerialize:
        rematerialize(encoder.blocks)


def run_settings(distribution: Distribution) -> dict:
    """Returns the arguments of `Run` that come from shared flags."""
    return {
        "options": RunOptions(
            FLAGS.log_every, FLAGS.save_every_seconds, FLAGS.skip_nonfinite
        ),
        "devices": distribution,
    }
