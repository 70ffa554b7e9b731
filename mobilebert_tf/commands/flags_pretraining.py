"""Flags of pre-training's input, and of how its model is judged.

What is read, how examples are made of it, and when the share that is held out
is evaluated.
"""

from absl import flags

from mobilebert_tf.data.stream import PretrainingInput, open_pretraining_input
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.evaluation import Evaluation
from mobilebert_tf.training.pretraining import HeldOutText

FLAGS = flags.FLAGS

LAST, BEST = "last", "best"


def define_pretraining_data_flags() -> None:
    """Defines what text is read and how pre-training examples are made."""
    flags.DEFINE_list(
        "input_files",
        [],
        "Text files or globs, plain or .gz: a sentence or paragraph a line, a "
        "blank line between documents. Or TFRecord files, as written by "
        "commands/shards. If not given: the documentation of the "
        "installed Python packages.",
    )
    flags.DEFINE_string(
        "tfds_name",
        None,
        "Instead, a text dataset of TensorFlow Datasets, prepared before: "
        "wikipedia/20230601.en, wiki40b/en.",
    )
    flags.DEFINE_string("tfds_data_dir", None, "Where that was prepared.")
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


def define_evaluation_flags() -> None:
    """Defines when held-out text is evaluated, and what comes of it."""
    flags.DEFINE_integer(
        "evaluate_every",
        1000,
        "Steps between two evaluations on held-out text; the weights of the "
        "best are kept. 0: evaluate at the end only.",
        0,
    )
    flags.DEFINE_integer(
        "max_eval_batches",
        100,
        "Batches of held-out text that an evaluation reads at most; the one "
        "at the end reads all.",
        1,
    )
    flags.DEFINE_enum(
        "final_model",
        LAST,
        [LAST, BEST],
        "Weights that are written as the model: the last, or those of the best "
        "evaluation (lowest masked LM loss).",
    )


def check_final_model() -> None:
    """Checks that there will be evaluations if the best weights are wanted.

    Raises:
        InputError: if not.
    """
    if FLAGS.final_model == BEST and not FLAGS.evaluate_every:
        raise InputError("--final_model", "last, without evaluations", BEST)


def evaluation(held_out: HeldOutText) -> Evaluation | None:
    """Returns how training is judged, None if not before its end."""
    return held_out.evaluation(FLAGS.evaluate_every, FLAGS.max_eval_batches)


def open_input(tokenizer: WordpieceTokenizer) -> PretrainingInput:
    """Opens the input that the flags name, and says how much there is.

    Raises:
        InputError: if there is no such input, or it is unfit.
    """
    data = open_pretraining_input(
        FLAGS.input_files,
        tokenizer,
        held_out_fraction=FLAGS.held_out_fraction,
        batch_size=FLAGS.train_batch_size,
        settings=_example_settings(),
        tfds_name=FLAGS.tfds_name,
        tfds_data_dir=FLAGS.tfds_data_dir,
    )
    print(data.summary(), flush=True)
    return data


def text_description() -> str:
    """Says what text was read, for model cards."""
    if FLAGS.tfds_name:
        return FLAGS.tfds_name
    if FLAGS.input_files:
        return ", ".join(FLAGS.input_files)
    return "documentation of the installed Python packages"


def _example_settings() -> dict:
    predictions = FLAGS.max_predictions_per_seq or max(
        1, round(FLAGS.masked_lm_prob * FLAGS.max_seq_length)
    )
    return {
        "max_seq_length": FLAGS.max_seq_length,
        "max_predictions_per_seq": predictions,
        "masked_lm_prob": FLAGS.masked_lm_prob,
        "whole_word_mask": FLAGS.whole_word_mask,
    }
