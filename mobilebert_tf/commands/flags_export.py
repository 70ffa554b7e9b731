"""Flags of export: which .tflite files are written, and how they are trained.

Owns what a command says of its files: results for its record, a table for the
terminal and the model card.
"""

from absl import flags

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.calibration import METHODS
from mobilebert_tf.mobile.stages import (
    QuantizationOptions,
    ShippedTask,
    check_kinds,
    export_and_evaluate,
    table,
)
from mobilebert_tf.mobile.tflite_file import ANSWERER_LENGTH
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

FLAGS = flags.FLAGS

# More files, and better ones, may be asked for later.
EXPORT_FLAGS = (
    "export",
    "export_seq_length",
    "num_qat_steps",
    "qat_learning_rate",
    "calibration",
    "equalize",
    "metadata",
    "mlperf_order",
)

# What no text task of a phone opens.
_WITHOUT_TEXT_TASK = {
    "regression": "a regression",
    "token_classification": "a tagger",
}


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
    flags.DEFINE_enum(
        "calibration",
        "min_max",
        METHODS,
        "How ranges are chosen of what is seen on training examples.",
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


def check_export(config: MobileBertConfig) -> None:
    """Checks the flags before anything is read or trained.

    Args:
        config: of the model that will be exported.

    Raises:
        InputError: for an unknown kind, a length beyond the positions, or
            metadata for no file.
    """
    check_kinds(FLAGS.export)
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


def metadata_tokenizer(
    tokenizer: WordpieceTokenizer,
    task: str,
    length: int,
    has_pairs: bool = False,
) -> WordpieceTokenizer | None:
    """Returns the tokenizer if it is to be put into the files.

    Args:
        tokenizer: the model's.
        task: what the model does; `regression`, `token_classification` and
            `question_answering` are what this looks for.
        length: of the files' inputs.
        has_pairs: whether a classifier takes two texts.

    Raises:
        InputError: if no text task of a phone opens such files.
    """
    if not FLAGS.metadata:
        return None
    if task in _WITHOUT_TEXT_TASK:
        found = _WITHOUT_TEXT_TASK[task]
        raise InputError("--metadata", "a classifier", found)
    if has_pairs:
        raise InputError("--metadata", "a classifier of single texts", "pairs")
    if task == "question_answering" and length != ANSWERER_LENGTH:
        raise InputError(
            "--metadata", f"--export_seq_length={ANSWERER_LENGTH}", length
        )
    if not tokenizer.do_lower_case:
        raise InputError(
            "--metadata",
            "an uncased vocabulary (text tasks lower-case every text)",
            "a cased one",
        )
    return tokenizer


def ship(
    task: ShippedTask, batch_size: int
) -> tuple[dict[str, float], dict[str, str]]:
    """Writes the files into --output_dir, evaluates them, shows a table.

    Args:
        task: what is shipped.
        batch_size: of quantisation-aware training.

    Returns:
        Results, `KIND_NAME`; and the table as a note for the model card.
    """
    options = QuantizationOptions(
        FLAGS.num_qat_steps,
        FLAGS.qat_learning_rate,
        batch_size,
        FLAGS.seed,
        FLAGS.calibration,
        FLAGS.equalize,
    )
    rows = export_and_evaluate(task, FLAGS.export, FLAGS.output_dir, options)
    lines = table(rows, task.shown)
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
