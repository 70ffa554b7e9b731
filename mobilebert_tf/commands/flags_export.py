"""Flags of export: which .tflite files are written, and how they are trained.

Owns what a command says of its files: results for its record, a table for the
terminal and the model card.
"""

from absl import flags

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.options import ExportOptions, QuantizationOptions
from mobilebert_tf.mobile.shipped_tasks import ShippedTask
from mobilebert_tf.mobile.stages import (
    check_export,
    export_and_score,
    shown_metrics,
    table,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

FLAGS = flags.FLAGS

# More files, and better ones, may be asked for later.
EXPORT_FLAGS = (
    "export",
    "export_seq_length",
    "num_qat_steps",
    "qat_learning_rate",
    "equalize",
    "metadata",
    "mlperf_order",
)


def define_export_flags() -> None:
    """Defines what .tflite files are written."""
    flags.DEFINE_list(
        "export",
        [],
        "Kinds of .tflite files to write and evaluate: float32; float16; "
        "dynamic (int8 weights); int8 (integers throughout); int8_qat (the "
        "same, after quantisation-aware training); int16x8.",
    )
    flags.DEFINE_integer(
        "export_seq_length",
        None,
        "Length of the files' inputs. If not given: --max_seq_length.",
        8,
    )
    flags.DEFINE_integer(
        "num_qat_steps", 200, "Steps of quantisation-aware training.", 1
    )
    flags.DEFINE_float(
        "qat_learning_rate",
        1e-3,
        "Peak rate of quantisation-aware training; relative to the size of "
        "weights, 0.001 being a thousandth a step.",
        0.0,
    )
    flags.DEFINE_bool(
        "equalize",
        True,
        "Make the ranges of channels alike before they are rounded.",
    )
    flags.DEFINE_bool(
        "metadata",
        False,
        "Put vocabulary and labels into the files, for MediaPipe's text tasks "
        "on phones. Classifiers then return probabilities.",
    )


def define_mlperf_flag() -> None:
    """Defines --mlperf_order, for question answering."""
    flags.DEFINE_bool(
        "mlperf_order", False, "Let end_logits come before start_logits."
    )


def options() -> ExportOptions:
    """Returns which files are written."""
    return ExportOptions(
        tuple(FLAGS.export), FLAGS.export_seq_length, FLAGS.metadata
    )


def check_files(config: MobileBertConfig) -> None:
    """Checks the flags before anything is read or trained.

    Args:
        config: of the model that will be exported.

    Raises:
        InputError: for an unknown kind, a length beyond the positions, or
            metadata without files.
    """
    options()
    if FLAGS.metadata and not FLAGS.export:
        raise InputError("--metadata", "--export, to have files", "none")
    longest, length = config.max_position_embeddings, FLAGS.export_seq_length
    if length and length > longest:
        raise InputError("--export_seq_length", f"at most {longest}", length)


def export_length(max_seq_length: int) -> int:
    """Returns the length of the files' inputs.

    Args:
        max_seq_length: of training.
    """
    return FLAGS.export_seq_length or max_seq_length


def check_task(task: ShippedTask, tokenizer: WordpieceTokenizer) -> None:
    """Checks that the files can be made for a task."""
    check_export(options(), task, tokenizer)


def ship(
    model, task: ShippedTask, tokenizer: WordpieceTokenizer, batch_size: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Writes the files into --output_dir, scores them, shows a table.

    Args:
        model: the fine-tuned model.
        task: its task, with examples of the files' length.
        tokenizer: its tokenizer.
        batch_size: of quantisation-aware training.

    Returns:
        Results, `KIND_NAME`; and the table as a note for the model card.
    """
    quantization = QuantizationOptions(
        FLAGS.num_qat_steps,
        FLAGS.qat_learning_rate,
        FLAGS.equalize,
        batch_size,
        FLAGS.seed,
    )
    rows = export_and_score(
        model, task, tokenizer, FLAGS.output_dir, options(), quantization
    )
    lines = table(rows, shown_metrics(task))
    print("\n".join(lines), flush=True)
    indented = "\n".join(f"      {line}" for line in lines)
    results = {
        f"{kind}_{name}": value
        for kind, row in rows.items()
        for name, value in row.items()
    }
    return results, {
        f"Files for inputs of {task.max_seq_length} pieces": (
            "held-out metrics, size, and milliseconds of an inference on one "
            f"thread of the machine that wrote them:\n\n{indented}\n"
        )
    }
