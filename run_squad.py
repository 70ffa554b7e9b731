r"""Fine-tunes and evaluates a model that answers questions, and answers some.

    python run_squad.py --model=runs/student --output_dir=runs/answers

takes built-in questions: what does the argument of a function mean? With SQuAD
(`--task=squad_v1` or `squad_v2`) through TensorFlow Datasets, or with files in
SQuAD's format, v1.1 or v2.0, your own as well:

    python run_squad.py --model=runs/student --output_dir=runs/answers \
        --train_file=train-v1.1.json --dev_file=dev-v1.1.json \
        --predict_file=new.json

An answer is a stretch of its context. Long contexts are cut into windows, a
new one every `--doc_stride` word pieces. `dev_exact` and `dev_f1` are the
official scores, in percent. The official scripts read what is written beside
the model: `predictions.json`, `nbest_predictions.json` and, where questions
may have no answer, `null_odds.json` of `--predict_file`, and the same of dev,
with `dev_` before the name. Without training (`--nodo_train`) the model must
be one that answers questions already.
"""

import dataclasses
import itertools
from pathlib import Path

import keras
from absl import flags

from mobilebert_tf import flags as shared
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.data.squad import TFDS_NAMES
from mobilebert_tf.data.squad_batches import training_dataset
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.flags import devices
from mobilebert_tf.hub import model_folder
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.training.model_card import write_model_folder
from mobilebert_tf.training.optimization import OPTIMIZERS
from mobilebert_tf.training.question_answering import (
    answer_splits,
    question_answering_loss,
)
from mobilebert_tf.training.question_answering_task import (
    QuestionSplit,
    SquadSettings,
    build_question_answerer,
    encode_split,
    is_question_answerer,
    may_have_no_answer,
    read_splits,
)
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.step import build_train_step

FLAGS = flags.FLAGS
LONGEST = SquadSettings().max_seq_length

shared.define_output_flags()
shared.define_optimizer_flags("adamw", learning_rate=4e-5, warmup=0.1)
devices.define_device_flags()
flags.DEFINE_string(
    "model",
    None,
    "Model folder, or model on the hub, to start from.",
    required=True,
)
flags.DEFINE_enum(
    "task",
    None,
    list(TFDS_NAMES),
    "Train and dev questions by name, through TensorFlow Datasets. Neither "
    "task nor files: the built-in questions.",
)
flags.DEFINE_string("train_file", None, "Questions to train on, SQuAD's JSON.")
flags.DEFINE_string("dev_file", None, "Questions to evaluate on, SQuAD's JSON.")
flags.DEFINE_string(
    "predict_file", None, "Questions to answer; answers are ignored."
)
flags.DEFINE_bool("do_train", True, "Fine-tune.")
flags.DEFINE_bool("do_eval", True, "Evaluate on the dev questions.")
flags.DEFINE_bool("do_predict", True, "Answer --predict_file.")
flags.DEFINE_bool(
    "version_2_with_negative",
    None,
    "Whether questions may have no answer. If not given: whether any has none "
    "among those of the training and dev files.",
)
flags.DEFINE_integer(
    "max_seq_length",
    None,
    f"Longest window; {LONGEST}, or the model's positions if it has fewer.",
    8,
)
flags.DEFINE_integer(
    "doc_stride",
    None,
    "Pieces from window to window; if not given, a third of --max_seq_length.",
    1,
)
flags.DEFINE_integer("max_query_length", 64, "Pieces kept of a question.", 1)
flags.DEFINE_integer("n_best_size", 20, "Answers listed of a question.", 1)
flags.DEFINE_integer("max_answer_length", 30, "Most pieces of an answer.", 1)
flags.DEFINE_float(
    "null_score_diff_threshold",
    None,
    "Leave a question unanswered if its null odds are above this. If not "
    "given: 0 on dev, and for --predict_file what is best for F1 on dev.",
)
flags.DEFINE_integer("num_train_epochs", 5, "Passes over the questions.", 1)
flags.DEFINE_integer("train_batch_size", 32, "Windows a step.", 1)
flags.DEFINE_integer("eval_batch_size", 64, "Windows at once.", 1)
flags.DEFINE_integer(
    "max_train_examples", None, "Train on the first so many questions only.", 1
)
# So that --help lists the shared flags too.
flags.adopt_module_key_flags(shared)
flags.adopt_module_key_flags(devices)


# What a resumed run may change.
_UNIMPORTANT = (
    "do_eval",
    "do_predict",
    "predict_file",
    "eval_batch_size",
    "n_best_size",
    "max_answer_length",
    "null_score_diff_threshold",
)


def _one_width() -> bool:
    # Several steps in one call must have one shape.
    return FLAGS.steps_per_execution > 1


def read_task(
    folder: Path, tokenizer: WordpieceTokenizer
) -> tuple[dict[str, QuestionSplit], SquadSettings]:
    """Reads the questions that the flags name, and encodes them."""
    if not FLAGS.do_train and not is_question_answerer(folder):
        raise InputError(
            folder, "a model that answers questions", "another kind"
        )
    if FLAGS.task and (FLAGS.train_file or FLAGS.dev_file):
        raise InputError("--task", "either a task or files", "both")
    config = MobileBertConfig.from_json(folder / CONFIG_FILE)
    length = FLAGS.max_seq_length
    length = length or min(LONGEST, config.max_position_embeddings)
    settings = SquadSettings(
        length,
        FLAGS.doc_stride or length // 3,
        FLAGS.max_query_length,
        FLAGS.n_best_size,
        FLAGS.max_answer_length,
    )
    settings.check(config)
    files = {
        split: FLAGS[f"{split}_file"].value
        for split in ("train", "dev", "predict")
    }
    verbs = (FLAGS.do_train, FLAGS.do_eval, FLAGS.do_predict)
    wanted = list(itertools.compress(files, verbs))
    splits = read_splits(files, FLAGS.task, wanted)
    if FLAGS.do_train and "train" not in splits:
        raise InputError("--train_file", "a file, or --nodo_train", "none")
    if FLAGS.max_train_examples and "train" in splits:
        splits["train"] = splits["train"].first(FLAGS.max_train_examples)
    version_2 = may_have_no_answer(splits, FLAGS.version_2_with_negative)
    settings = dataclasses.replace(settings, version_2_with_negative=version_2)
    return {
        name: encode_split(questions, tokenizer, settings, name)
        for name, questions in splits.items()
    }, settings


def train(run: Run, model, split: QuestionSplit, max_seq_length: int) -> None:
    """Fine-tunes `model`, or what is left of it."""
    batch_size = min(FLAGS.train_batch_size, len(split.windows))
    steps_per_epoch = len(split.windows) // batch_size
    num_steps = FLAGS.num_train_epochs * steps_per_epoch

    def build():
        schedule = shared.warmup_schedule(num_steps)
        optimizer = OPTIMIZERS[FLAGS.optimizer](
            schedule, **shared.optimizer_settings()
        )
        step = build_train_step(
            question_answering_loss(model),
            model.trainable_variables,
            optimizer,
            devices.step_options(),
        )
        return step, optimizer

    def dataset(start_step):
        return training_dataset(
            split.windows,
            split.labels,
            batch_size=batch_size,
            max_seq_length=max_seq_length,
            seed=FLAGS.seed,
            start_step=start_step,
            one_width=_one_width(),
        )

    # Word pieces, not padding: that depends on the widths of the windows.
    tokens_per_step = round(batch_size * split.windows.lengths.mean())
    run.phase("fine_tuning", num_steps, build, dataset, tokens_per_step)


def main(_) -> None:
    """Reads, trains, evaluates, answers, writes."""
    distribution = devices.open_devices()
    keras.utils.set_random_seed(FLAGS.seed)
    folder = model_folder(FLAGS.model)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    splits, settings = read_task(folder, tokenizer)
    with distribution.scope():
        model = build_question_answerer(folder)
    devices.prepare_encoder(model.encoder)
    run = Run(
        FLAGS.output_dir,
        # Its batches are other ones: this may not change when a run goes on.
        shared.settings(*_UNIMPORTANT) | {"one_width": _one_width()},
        model.variables,
        **devices.run_settings(distribution),
    )
    if FLAGS.do_train:
        train(run, model, splits["train"], settings.max_seq_length)
    if not distribution.is_chief:
        return
    results = answer_splits(
        model,
        splits,
        settings,
        batch_size=FLAGS.eval_batch_size,
        folder=FLAGS.output_dir,
        threshold=FLAGS.null_score_diff_threshold,
    )
    run.finish(results)
    write_model_folder(
        FLAGS.output_dir,
        model,
        tokenizer,
        title="Question answerer",
        command=shared.command_line(),
        results=results,
        notes={
            "Started from": FLAGS.model,
            **{name: split.description for name, split in splits.items()},
        },
    )


if __name__ == "__main__":
    shared.run_script(main)
