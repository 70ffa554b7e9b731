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
classifier too. `--export=float32,dynamic,int8` also writes `.tflite` files, the
int8 one after quantisation-aware training, and evaluates each on the same
examples. Without training (`--nodo_train`) the model must be a classifier.
"""

from pathlib import Path

import keras
from absl import flags

from mobilebert_tf import flags as shared
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.flags import devices
from mobilebert_tf.flags import fine_tuning as tuning
from mobilebert_tf.hub import model_folder
from mobilebert_tf.mobile.shipping import check_kinds, export_and_evaluate
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.training.classification_task import (
    ClassificationTask,
    build_classifier,
    read_task,
    write_problem_type,
)
from mobilebert_tf.training.fine_tuning import Predictor
from mobilebert_tf.training.fine_tuning_distillation import (
    load_task_teacher,
    taught_loss,
)
from mobilebert_tf.training.fine_tuning_grid import GridOutcome, run_grid
from mobilebert_tf.training.fine_tuning_run import (
    FineTuningOptions,
    FineTuningRun,
)
from mobilebert_tf.training.model_card import write_model_folder
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.strategies import Distribution

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_optimizer_flags("adamw", learning_rate=5e-4, warmup=0.1)
shared.define_task_flags()
shared.define_export_flags()
devices.define_device_flags()
tuning.define_grid_flags()
tuning.define_teacher_flags()
flags.DEFINE_string(
    "model",
    None,
    "Model folder, or model on the hub, to start from.",
    required=True,
)
flags.DEFINE_bool("do_train", True, "Fine-tune.")
flags.DEFINE_bool("do_eval", True, "Evaluate on dev and test examples.")
flags.DEFINE_bool(
    "do_predict", True, "Predict --predict_file, or the test set of GLUE."
)
# So that --help lists the shared flags too.
for module in (shared, devices, tuning):
    flags.adopt_module_key_flags(module)

# What a resumed run may change.
_UNIMPORTANT = (
    "export",
    "num_qat_steps",
    "qat_learning_rate",
    "do_eval",
    "do_predict",
    "predict_file",
    "eval_batch_size",
    *tuning.GRID_FLAGS,
)


def open_devices() -> Distribution:
    """Connects to the devices that the flags name, of one process."""
    if FLAGS.distribution == "multi_worker":
        # Evaluations decide which weights are kept and when a run ends, and
        # processes do not tell each other.
        raise InputError(
            "--distribution", "none, mirrored or tpu here", "multi_worker"
        )
    return devices.open_devices()


def options() -> FineTuningOptions:
    """Returns what all runs have in common."""
    return FineTuningOptions(
        optimizer=FLAGS.optimizer,
        optimizer_settings=shared.optimizer_settings(),
        warmup_proportion=FLAGS.warmup_proportion,
        end_factor=FLAGS.end_learning_rate_factor,
        decay_power=FLAGS.decay_power,
        eval_batch_size=FLAGS.eval_batch_size,
        eval_every=FLAGS.eval_every_steps,
        patience=FLAGS.patience,
        bucket_lengths=tuning.bucket_lengths(),
        step_options=devices.step_options(),
    )


def train(
    task: ClassificationTask,
    folder: Path,
    tokenizer: WordpieceTokenizer,
    distribution: Distribution,
) -> GridOutcome:
    """Fine-tunes at every point of the grid."""
    common, settings = options(), shared.settings(*_UNIMPORTANT)
    teacher = None
    if FLAGS.teacher:
        with distribution.scope():
            teacher = load_task_teacher(
                model_folder(FLAGS.teacher), tokenizer, task.label_names
            )

    def start(point, run_folder):
        keras.utils.set_random_seed(point.seed)
        with distribution.scope():
            model, loss = build_classifier(folder, task.label_names), None
            devices.prepare_encoder(model.encoder)
            if teacher is not None:
                loss = taught_loss(model, teacher, tuning.teacher_weights())
            return FineTuningRun(
                model,
                task,
                point,
                common,
                run_folder,
                settings,
                devices.run_settings(distribution),
                loss,
            )

    return run_grid(tuning.points(), FLAGS.output_dir, start, settings)


def export(model, task: ClassificationTask, batch_size: int) -> dict:
    """Writes .tflite files and returns their results, `KIND_NAME`."""
    exported = export_and_evaluate(
        model,
        FLAGS.export,
        FLAGS.output_dir,
        task.splits_for_export(),
        num_steps=FLAGS.num_qat_steps,
        learning_rate=FLAGS.qat_learning_rate,
        batch_size=batch_size,
        seed=FLAGS.seed,
    )
    return {
        f"{kind}_{name}": value
        for kind, row in exported.items()
        for name, value in row.items()
    }


def main(_) -> None:
    """Reads, trains, evaluates, predicts, writes, exports."""
    check_kinds(FLAGS.export)
    points, source = tuning.points(), tuning.task_source()
    distribution = open_devices()
    folder = model_folder(FLAGS.model)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    shared.check_max_seq_length(
        MobileBertConfig.from_json(folder / CONFIG_FILE)
    )
    verbs = (FLAGS.do_train, FLAGS.do_eval, FLAGS.do_predict)
    task = read_task(source, verbs, folder, tokenizer, FLAGS.max_seq_length)
    task.check_export(FLAGS.export)
    if FLAGS.do_train:
        task.check_choice(len(points), FLAGS.patience)
        outcome = train(task, folder, tokenizer, distribution)
    else:
        run = Run(FLAGS.output_dir, shared.settings(*_UNIMPORTANT), ())
        model = build_classifier(folder, task.label_names)
        outcome = GridOutcome(model, run)
    model, results = outcome.model, {}
    predict = Predictor(model, FLAGS.eval_batch_size, tuning.bucket_lengths())
    if FLAGS.do_eval:
        results = task.metrics(predict, "dev") | task.metrics(predict, "test")
    if FLAGS.do_predict:
        task.write_predictions(predict, FLAGS.output_dir)
    if FLAGS.export:
        batch_size = (outcome.point or points[0]).batch_size
        results |= export(model, task, batch_size)
    outcome.run.finish(results)
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
        | outcome.notes(),
    )
    write_problem_type(FLAGS.output_dir, task.kind)


if __name__ == "__main__":
    shared.run_script(main)
