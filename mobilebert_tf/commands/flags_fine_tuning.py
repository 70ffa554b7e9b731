"""Flags of fine-tuning: hyper-parameters, several at once, and the task."""

from collections.abc import Callable

from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.commands.flags_devices import step_options
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.classification_sources import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TaskSource,
)
from mobilebert_tf.tasks.glue import GLUE_TASKS
from mobilebert_tf.training.fine_tuning import (
    FineTuningOptions,
    Point,
    grid_points,
)

FLAGS = flags.FLAGS

# Where neither a flag nor a task of GLUE says it.
_LEARNING_RATE, _BATCH_SIZE, _EPOCHS = 5e-4, 32, 3

# What differs between the runs of a grid; and more of it may be asked later.
GRID_FLAGS = (
    "learning_rate",
    "train_batch_size",
    "num_train_epochs",
    "seed",
    "num_seeds",
)


def define_task_flags() -> None:
    """Defines where classification examples come from, and what for."""
    flags.DEFINE_enum(
        "task",
        None,
        ["library", *GLUE_TASKS],
        "A task of GLUE; ax is for a model of mnli. Or the built-in one, which "
        "is taken when no file is named: which library does a paragraph "
        "document?",
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder with GLUE's TSV files of the task. If not given: TensorFlow "
        "Datasets.",
    )
    for split, verb in (
        ("train", "train on"),
        ("dev", "choose the best weights by"),
        ("test", "score the result on"),
    ):
        flags.DEFINE_string(
            f"{split}_file", None, f"Examples to {verb}, .tsv, .csv or .jsonl."
        )
    flags.DEFINE_string(
        "predict_file", None, "Texts to predict; labels are ignored."
    )
    flags.DEFINE_string("text_column", "text", "Column of the text.")
    flags.DEFINE_string("text_b_column", None, "Column of a second text.")
    flags.DEFINE_list(
        "label_column",
        ["label"],
        "Column of the label. Several, with --multi_label: each holds 0 or 1.",
    )
    flags.DEFINE_bool("regression", False, "Labels are numbers.")
    flags.DEFINE_bool(
        "multi_label", False, "An example may have several labels, or none."
    )
    flags.DEFINE_string(
        "label_separator",
        ",",
        "Between several labels in a cell, with --multi_label.",
    )
    flags.DEFINE_integer(
        "max_train_examples", None, "Train on the first so many only.", 1
    )
    flags.DEFINE_integer("max_seq_length", 128, "Longest sequence.", 8)
    flags.DEFINE_bool("do_train", True, "Fine-tune.")
    flags.DEFINE_bool("do_eval", True, "Evaluate on dev and test examples.")
    flags.DEFINE_bool(
        "do_predict", True, "Predict --predict_file, or the test set of GLUE."
    )


def define_grid_flags() -> None:
    """Defines hyper-parameters, of which several may be compared."""
    flags.DEFINE_list(
        "learning_rate",
        None,
        "Peak rate. Several, with commas between them, are compared, as are "
        "batch sizes and epochs. If not given: the task's, or "
        f"{_LEARNING_RATE:g}.",
        allow_override=True,
    )
    flags.DEFINE_list(
        "train_batch_size",
        None,
        f"Examples a step. If not given: the task's, or {_BATCH_SIZE}.",
    )
    flags.DEFINE_list(
        "num_train_epochs",
        None,
        f"Passes over the examples. If not given: the task's, or {_EPOCHS}.",
    )
    flags.DEFINE_integer(
        "num_seeds", 1, "Runs of each setting, from --seed upwards.", 1
    )
    flags.DEFINE_integer(
        "eval_every_steps",
        None,
        "Steps between two evaluations on dev. If not given: an epoch. The "
        "best evaluation's weights are kept.",
        1,
    )
    flags.DEFINE_integer(
        "patience",
        None,
        "End a run after so many evaluations without a better score.",
        1,
    )
    flags.DEFINE_integer("eval_batch_size", 64, "Examples at once.", 1)
    flags.DEFINE_list(
        "bucket_lengths",
        ["16", "32", "64", "128", "256"],
        "Widths that batches of shorter examples are cut to; each is compiled. "
        "Empty: all are as wide as --max_seq_length.",
    )


def points() -> list[Point]:
    """Returns the hyper-parameters and seeds that the flags name.

    Raises:
        InputError: one is no positive number.
    """
    task = GLUE_TASKS.get(FLAGS.task)
    if task is None:
        return points_around()
    return points_around(task.learning_rate, task.batch_size, task.num_epochs)


def points_around(
    rate: float = _LEARNING_RATE,
    batch_size: int = _BATCH_SIZE,
    epochs: int = _EPOCHS,
) -> list[Point]:
    """As `points`, with defaults that are no task's of GLUE."""
    return grid_points(
        _numbers("learning_rate", float) or [rate],
        _numbers("train_batch_size", int) or [batch_size],
        _numbers("num_train_epochs", int) or [epochs],
        FLAGS.seed,
        FLAGS.num_seeds,
    )


def fine_tuning_options() -> FineTuningOptions:
    """Returns what all runs of a grid have in common."""
    return FineTuningOptions(
        optimizer=FLAGS.optimizer,
        optimizer_settings=shared.optimizer_settings(),
        warmup_proportion=FLAGS.warmup_proportion,
        end_factor=FLAGS.end_learning_rate_factor,
        decay_power=FLAGS.decay_power,
        eval_batch_size=FLAGS.eval_batch_size,
        eval_every=FLAGS.eval_every_steps,
        patience=FLAGS.patience,
        bucket_lengths=bucket_lengths(),
        step_options=step_options(),
    )


def bucket_lengths() -> tuple[int, ...]:
    """Returns the widths of batches.

    Raises:
        InputError: one is no positive number.
    """
    return tuple(sorted(_numbers("bucket_lengths", int)))


def task_source() -> TaskSource:
    """Returns where examples come from.

    Raises:
        InputError: the flags contradict each other.
    """
    if FLAGS.regression and FLAGS.multi_label:
        raise InputError("--multi_label", "one of the two", "--regression too")
    kind = REGRESSION if FLAGS.regression else SINGLE_LABEL
    kind = MULTI_LABEL if FLAGS.multi_label else kind
    if not FLAGS.label_separator:
        raise InputError("--label_separator", "a character", "none")
    columns = tuple(FLAGS.label_column)
    if not columns:
        raise InputError("--label_column", "a column", "none")
    if len(columns) > 1 and kind != MULTI_LABEL:
        raise InputError(
            "--label_column", "one column, or --multi_label", ",".join(columns)
        )
    files = {
        split: FLAGS[f"{split}_file"].value
        for split in ("train", "dev", "test", "predict")
    }
    return TaskSource(
        FLAGS.task,
        FLAGS.data_dir,
        {split: path for split, path in files.items() if path},
        FLAGS.text_column,
        FLAGS.text_b_column,
        columns,
        kind,
        FLAGS.label_separator,
        FLAGS.max_train_examples,
    )


def _numbers(name: str, kind: Callable[[str], float]) -> list:
    numbers = []
    for text in FLAGS[name].value or []:
        try:
            numbers.append(kind(text))
        except ValueError:
            numbers.append(0)
        if not 0 < numbers[-1] < float("inf"):
            raise InputError(f"--{name}", "positive numbers", repr(text))
    return list(dict.fromkeys(numbers))
