r"""Fine-tunes, evaluates and predicts with a sentence classifier.

    python run_classifier.py --model=runs/student --output_dir=runs/classifier

takes the built-in task: which library does a paragraph of documentation
describe? A task of GLUE, from its official files (without --data_dir from
TensorFlow Datasets); test predictions are written as GLUE's server takes them:

    python run_classifier.py --model=runs/student --output_dir=runs/sst2 \
        --task=sst2 --data_dir=glue/SST-2 \
        --learning_rate=1e-5,3e-5,1e-4 --num_seeds=5 --patience=3

compares three rates with five seeds each and keeps the best on dev. With your
own files (.tsv, .csv or .jsonl, with a header):

    python run_classifier.py --model=runs/student --output_dir=runs/classifier \
        --train_file=train.tsv --dev_file=dev.tsv --predict_file=new.tsv \
        --text_column=sentence --label_column=label

`--regression` for numbers, `--multi_label` for several labels at once,
`--text_b_column` for pairs, `--teacher=FOLDER` to learn from a better
classifier too. `--export=float32,dynamic,int8_qat` also writes `.tflite` files,
the last one after quantisation-aware training, and evaluates each on the same
examples. Without training (`--nodo_train`) the model must be a classifier.
"""

import functools

from absl import flags

from mobilebert_tf.commands import flags as shared
from mobilebert_tf.commands import flags_devices as devices
from mobilebert_tf.commands import flags_export as export
from mobilebert_tf.commands import flags_fine_tuning as tuning
from mobilebert_tf.commands import flags_teacher as teaching
from mobilebert_tf.commands.flags_fine_tuning_runs import fine_tune
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.hub import model_folder
from mobilebert_tf.mobile.shipped_tasks import shipped_classifier
from mobilebert_tf.mobile.stages import needs_calibration
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.tasks.classification import (
    Predictor,
    build_classifier,
    fine_tuning_loss,
    read_task,
    write_problem_type,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.fine_tuning import GridOutcome
from mobilebert_tf.training.loop import Run
from mobilebert_tf.training.model_card import write_model_folder

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_optimizer_flags("adamw", learning_rate=5e-4, warmup=0.1)
shared.define_model_flag()
tuning.define_task_flags()
export.define_export_flags()
devices.define_device_flags()
tuning.define_grid_flags()
teaching.define_teacher_flags()
# So that --help lists the shared flags too.
for module in (shared, devices, tuning, teaching, export):
    flags.adopt_module_key_flags(module)

# What a resumed run may change.
_UNIMPORTANT = (
    *export.EXPORT_FLAGS,
    "do_eval",
    "do_predict",
    "predict_file",
    "eval_batch_size",
    *tuning.GRID_FLAGS,
)


def main(_) -> None:
    """Reads, trains, evaluates, predicts, writes, exports."""
    points, source = tuning.points(), tuning.task_source()
    distribution = devices.open_devices(len(points))
    folder = model_folder(FLAGS.model)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    config = MobileBertConfig.from_json(folder / CONFIG_FILE)
    export.check_files(config)
    shared.check_max_seq_length(config)
    verbs = (FLAGS.do_train, FLAGS.do_eval, FLAGS.do_predict)
    task = read_task(
        source,
        verbs,
        folder,
        tokenizer,
        FLAGS.max_seq_length,
        needs_calibration(FLAGS.export),
    )
    export.check_task(shipped_classifier(task), tokenizer)
    if FLAGS.do_train:
        outcome = fine_tune(
            task,
            points,
            functools.partial(build_classifier, folder, task.label_names),
            fine_tuning_loss,
            Predictor,
            tokenizer,
            distribution,
            shared.settings(*_UNIMPORTANT),
        )
        if not distribution.is_chief:
            return
    else:
        run = Run(FLAGS.output_dir, (), settings=shared.settings(*_UNIMPORTANT))
        model = build_classifier(folder, task.label_names)
        outcome = GridOutcome(model, run)
    model, results, exported, notes = outcome.model, {}, {}, {}
    predict = Predictor(model, FLAGS.eval_batch_size, tuning.bucket_lengths())
    if FLAGS.do_eval:
        results = task.metrics(predict, "dev") | task.metrics(predict, "test")
    if FLAGS.do_predict:
        task.write_predictions(predict, FLAGS.output_dir)
    if FLAGS.export:
        length = export.export_length(task.max_seq_length)
        shipped = shipped_classifier(task.of_length(length))
        batch_size = (outcome.point or points[0]).batch_size
        exported, notes = export.ship(model, shipped, tokenizer, batch_size)
    outcome.run.finish(results | exported)
    write_model_folder(
        FLAGS.output_dir,
        model,
        tokenizer,
        title="Text classifier",
        command=shared.command_line(),
        results=results,
        notes={
            "Classes": ", ".join(task.label_names),
            "Started from": FLAGS.model,
            "Training examples": task.num_train_examples,
        }
        | outcome.notes()
        | notes,
    )
    write_problem_type(FLAGS.output_dir, task.kind)


if __name__ == "__main__":
    shared.run_script(main)
