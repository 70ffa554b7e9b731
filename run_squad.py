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
with `dev_` before the name. `--teacher=FOLDER` learns from a better model too.
`--export=float32,dynamic,int8_qat` also writes `.tflite` files, the last one
after quantisation-aware training, and scores each on dev in the same way.

Without training (`--nodo_train`) the model must be one that answers questions
already. How its windows were cut, and from which odds on a question is left
unanswered, which dev decides, stands in its folder: later questions are
answered in the same way.
"""

from pathlib import Path

import keras
from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.commands import flags_devices as devices
from mobilebert_tf.commands import flags_export as export
from mobilebert_tf.commands import flags_question_answering as answering
from mobilebert_tf.commands import flags_teacher as teaching
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.hub import model_folder
from mobilebert_tf.mobile.shipped_tasks import shipped_question_answerer
from mobilebert_tf.mobile.stages import needs_calibration
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.tasks.question_answering import (
    QuestionSplit,
    answer_splits,
    build_question_answerer,
    question_answering_loss,
    windows_of_length,
    write_settings,
)
from mobilebert_tf.tasks.squad_windows import training_dataset
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.model_card import write_model_folder

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_optimizer_flags("adamw", learning_rate=4e-5, warmup=0.1)
shared.define_model_flag()
devices.define_device_flags()
answering.define_question_flags()
answering.define_answer_flags()
teaching.define_teacher_flags()
export.define_export_flags()
export.define_mlperf_flag()
# So that --help lists the shared flags too.
for module in (shared, devices, answering, teaching, export):
    flags.adopt_module_key_flags(module)


def _one_width() -> bool:
    # Several steps in one call must have one shape.
    return FLAGS.steps_per_execution > 1


def train(
    run: Run, model, compute_loss, split: QuestionSplit, max_seq_length: int
) -> None:
    """Fine-tunes `model`, or what is left of it."""
    batch_size = min(FLAGS.train_batch_size, len(split.windows))
    steps_per_epoch = len(split.windows) // batch_size
    num_steps = FLAGS.num_train_epochs * steps_per_epoch

    def build():
        return shared.train_step(
            compute_loss, model.trainable_variables, num_steps
        )

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

    run.train(Phase("fine_tuning", num_steps, build, dataset))


def read(folder: Path, tokenizer: WordpieceTokenizer):
    """Reads the questions that the flags name.

    Returns:
        The splits, their settings, and what is exported: the same questions,
        in windows as long as the files' inputs.
    """
    export.check_files(MobileBertConfig.from_json(folder / CONFIG_FILE))
    splits, settings = answering.read_task(
        folder, tokenizer, needs_calibration(FLAGS.export)
    )
    shipped = None
    if FLAGS.export:
        length = export.export_length(settings.max_seq_length)
        windows = windows_of_length(splits, settings, tokenizer, length)
        shipped = shipped_question_answerer(
            *windows,
            threshold=FLAGS.null_score_diff_threshold or 0.0,
            mlperf_order=FLAGS.mlperf_order,
        )
        export.check_task(shipped, tokenizer)
    return splits, settings, shipped


def finish(run: Run, model, tokenizer, splits, settings, shipped) -> None:
    """Answers, exports and writes; arguments as `read` returns them."""
    results, settings = answer_splits(
        model,
        splits,
        settings,
        batch_size=FLAGS.eval_batch_size,
        folder=FLAGS.output_dir,
        threshold=FLAGS.null_score_diff_threshold,
    )
    exported, notes = {}, {}
    if FLAGS.export:
        exported, notes = export.ship(
            model, shipped, tokenizer, FLAGS.train_batch_size
        )
    run.finish(results | exported)
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
        }
        | notes,
    )
    write_settings(FLAGS.output_dir, settings)


def main(_) -> None:
    """Reads, trains, evaluates, answers, exports, writes."""
    distribution = devices.open_devices()
    keras.utils.set_random_seed(FLAGS.seed)
    folder = model_folder(FLAGS.model)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    splits, settings, shipped = read(folder, tokenizer)
    with distribution.scope():
        model = build_question_answerer(folder)
    devices.prepare_encoder(model.encoder)
    length = settings.max_seq_length
    teacher = teaching.open_teacher(
        distribution, tokenizer, type(model), (), length
    )
    compute_loss = teaching.task_or_taught_loss(
        question_answering_loss, model, teacher
    )
    # Batches of one width are other ones: that may not change when a run goes
    # on.
    unimportant = (*answering.ANSWER_FLAGS, *export.EXPORT_FLAGS)
    run = Run(
        FLAGS.output_dir,
        model.variables,
        settings=shared.settings(*unimportant) | {"one_width": _one_width()},
        **devices.run_settings(distribution),
    )
    if FLAGS.do_train:
        train(run, model, compute_loss, splits["train"], length)
    if distribution.is_chief:
        finish(run, model, tokenizer, splits, settings, shipped)


if __name__ == "__main__":
    shared.run_script(main)
