"""Flags of question answering: which questions, which windows, which answers.

What a flag leaves open, the folder says of a model that answers questions
already: windows of another length or stride would be new to it.
"""

import dataclasses
import itertools
from pathlib import Path

from absl import flags

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.tasks.question_answering import (
    QuestionSplit,
    SquadSettings,
    encode_split,
    is_question_answerer,
    known_settings,
    may_have_no_answer,
    read_splits,
)
from mobilebert_tf.tasks.squad import TFDS_NAMES
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

FLAGS = flags.FLAGS

_DEFAULTS = SquadSettings()
_OF_THE_MODEL = "If not given: as the model was trained, or"

# What a resumed run may change.
ANSWER_FLAGS = (
    "do_eval",
    "do_predict",
    "predict_file",
    "eval_batch_size",
    "n_best_size",
    "max_answer_length",
    "null_score_diff_threshold",
)


def define_question_flags() -> None:
    """Defines where questions come from, and what is done with them."""
    flags.DEFINE_enum(
        "task",
        None,
        list(TFDS_NAMES),
        "Train and dev questions by name, through TensorFlow Datasets. Neither "
        "task nor files: the built-in questions.",
    )
    flags.DEFINE_string(
        "train_file", None, "Questions to train on, SQuAD's JSON."
    )
    flags.DEFINE_string(
        "dev_file", None, "Questions to evaluate on, SQuAD's JSON."
    )
    flags.DEFINE_string(
        "predict_file", None, "Questions to answer; answers are ignored."
    )
    flags.DEFINE_bool("do_train", True, "Fine-tune.")
    flags.DEFINE_bool("do_eval", True, "Evaluate on the dev questions.")
    flags.DEFINE_bool("do_predict", True, "Answer --predict_file.")
    flags.DEFINE_integer("num_train_epochs", 5, "Passes over the questions.", 1)
    flags.DEFINE_integer("train_batch_size", 32, "Windows a step.", 1)
    flags.DEFINE_integer("eval_batch_size", 64, "Windows at once.", 1)
    flags.DEFINE_integer(
        "max_train_examples",
        None,
        "Train on the first so many questions only.",
        1,
    )


def define_answer_flags() -> None:
    """Defines how contexts are cut, and how answers are chosen."""
    flags.DEFINE_bool(
        "version_2_with_negative",
        None,
        "Whether questions may have no answer. If not given: whether any has "
        "none among those of the training and dev files, or of the model's.",
    )
    flags.DEFINE_integer(
        "max_seq_length",
        None,
        f"Longest window. {_OF_THE_MODEL} {_DEFAULTS.max_seq_length}, but no "
        "more than the model's positions.",
        8,
    )
    flags.DEFINE_integer(
        "doc_stride",
        None,
        f"Pieces from window to window. {_OF_THE_MODEL} a third of "
        "--max_seq_length.",
        1,
    )
    for name, text in (
        ("max_query_length", "Pieces kept of a question."),
        ("n_best_size", "Answers listed of a question."),
        ("max_answer_length", "Most pieces of an answer."),
    ):
        default = getattr(_DEFAULTS, name)
        flags.DEFINE_integer(
            name, None, f"{text} {_OF_THE_MODEL} {default}.", 1
        )
    flags.DEFINE_float(
        "null_score_diff_threshold",
        None,
        "Leave a question unanswered if its null odds are above this. If not "
        "given: 0 on dev; for --predict_file what is best for F1 on dev, or, "
        "without dev questions, what the model's folder says.",
    )


def read_task(
    folder: Path, tokenizer: WordpieceTokenizer, calibrates: bool
) -> tuple[dict[str, QuestionSplit], SquadSettings]:
    """Reads the questions that the flags name, and encodes them.

    Args:
        folder: the model's.
        tokenizer: the model's.
        calibrates: whether training questions are wanted without training.

    Raises:
        InputError: the flags contradict each other or the model, or a file is
            malformed.
    """
    if not FLAGS.do_train and not is_question_answerer(folder):
        raise InputError(
            folder, "a model that answers questions", "another kind"
        )
    if FLAGS.task and (FLAGS.train_file or FLAGS.dev_file):
        raise InputError("--task", "either a task or files", "both")
    settings = _settings(folder)
    files = {
        split: FLAGS[f"{split}_file"].value
        for split in ("train", "dev", "predict")
    }
    verbs = (FLAGS.do_train or calibrates, FLAGS.do_eval, FLAGS.do_predict)
    wanted = list(itertools.compress(files, verbs))
    splits = read_splits(files, FLAGS.task, wanted)
    if FLAGS.do_train and "train" not in splits:
        raise InputError("--train_file", "a file, or --nodo_train", "none")
    if FLAGS.max_train_examples and "train" in splits:
        splits["train"] = splits["train"].first(FLAGS.max_train_examples)
    version_2 = may_have_no_answer(
        splits,
        FLAGS.version_2_with_negative,
        # A model that is trained further may learn otherwise.
        settings.version_2_with_negative and not FLAGS.do_train,
    )
    settings = dataclasses.replace(settings, version_2_with_negative=version_2)
    return {
        name: encode_split(questions, tokenizer, settings, name)
        for name, questions in splits.items()
    }, settings


def _settings(folder: Path) -> SquadSettings:
    """The flags' windows and answers; what they leave open, the folder's."""
    config = MobileBertConfig.from_json(folder / CONFIG_FILE)
    names = (
        "max_seq_length",
        "doc_stride",
        "max_query_length",
        "n_best_size",
        "max_answer_length",
    )
    given = {name: FLAGS[name].value for name in names}
    if FLAGS.max_seq_length and not FLAGS.doc_stride:
        given["doc_stride"] = FLAGS.max_seq_length // 3
    settings = dataclasses.replace(
        known_settings(folder, config),
        **{name: value for name, value in given.items() if value is not None},
    )
    settings.check(config)
    return settings
