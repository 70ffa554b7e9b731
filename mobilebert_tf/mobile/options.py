"""Kinds of .tflite files, and how a network is quantised."""

import dataclasses
from typing import ClassVar

from mobilebert_tf.options import Options, option

KINDS = ("float32", "float16", "dynamic", "int8", "int8_qat", "int16x8")

# Integers throughout; `int8_qat` is also trained under quantisation.
TRAINED_KIND = "int8_qat"
INTEGER_KINDS = ("int8", TRAINED_KIND)

# Files that hardware may compute in float16.
FLOAT_KINDS = ("float32", "float16")

# Kinds whose activations need ranges, measured on training examples.
CALIBRATED_KINDS = (*INTEGER_KINDS, "int16x8")

# Ranges measured on a few hundred examples hold for the rest.
CALIBRATION_EXAMPLES = 512


@dataclasses.dataclass(frozen=True)
class ExportOptions(Options):
    """Which .tflite files are written."""

    group: ClassVar[str] = "export"

    kinds: tuple[str, ...] = option(
        (),
        "Kinds of .tflite files: float32, float16, dynamic, int8, int8_qat, "
        "int16x8. Each is scored. dynamic has int8 weights, int8 computes with "
        "integers throughout, int8_qat is int8 after quantisation-aware "
        "training.",
        flag="export",
        choices=KINDS,
        everyday=True,
        resumable=True,
    )
    max_seq_length: int | None = option(
        None,
        "Length of the files' inputs. Default: --max_seq_length.",
        flag="export_seq_length",
        min=8,
        resumable=True,
    )
    metadata: bool = option(
        False,
        "Put vocabulary and labels into the files, for MediaPipe's text tasks "
        "on phones. Classifiers then return probabilities.",
        resumable=True,
    )
    dynamic_per_tensor: bool = option(
        False,
        "Give each weight matrix of a dynamic file one scale, so that "
        "TensorFlow Lite 2.14 opens it; by default one per output channel, "
        "which 2.17 introduced.",
        resumable=True,
    )


@dataclasses.dataclass(frozen=True)
class QuantizationOptions(Options):
    """How a network is quantised.

    Attributes:
        batch_size: examples per step, and at once in calibration.
        seed: of the order of examples.
    """

    group: ClassVar[str] = "export"

    num_steps: int = option(
        200,
        "Steps of quantisation-aware training.",
        flag="num_qat_steps",
        min=1,
        resumable=True,
    )
    learning_rate: float = option(
        1e-3,
        "Peak rate of quantisation-aware training, relative to the size of the "
        "weights: 0.001 is a thousandth per step.",
        flag="qat_learning_rate",
        min=0.0,
        resumable=True,
    )
    equalize: bool = option(
        True,
        "Give the channels of each tensor alike ranges before rounding.",
        resumable=True,
    )
    batch_size: int = 32
    seed: int = 1
