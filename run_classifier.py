r"""Fine-tunes, evaluates and predicts with a sentence classifier.

    python run_classifier.py --model=runs/student --output_dir=runs/classifier

takes the built-in task: which library does a paragraph of documentation
describe? With your own files (.tsv, .csv or .jsonl, with a header):

    python run_classifier.py --model=runs/student --output_dir=runs/classifier \
        --train_file=train.tsv --dev_file=dev.tsv --predict_file=new.tsv \
        --text_column=sentence --label_column=label

`--export=float32,dynamic,int8` also writes `.tflite` files, the int8 one after
quantisation-aware training, and evaluates each on the same examples. Without
training (`--nodo_train`) the model must be a classifier already.
"""

from pathlib import Path

import keras
from absl import flags

from mobilebert_tf import flags as shared
from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.data.batching import array_dataset
from mobilebert_tf.data.builtin import library_task
from mobilebert_tf.data.text_classification import (
    label_names,
    write_predictions,
)
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.shipping import check_kinds, export_and_evaluate
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.training.classification_task import (
    REGRESSION_LABELS,
    ClassificationTask,
    build_classifier,
    encode_task,
    examples_from_files,
    saved_label_names,
)
from mobilebert_tf.training.fine_tuning import (
    fine_tuning_loss,
    predict_logits,
    probabilities,
    task_metrics,
)
from mobilebert_tf.training.model_card import write_model_folder
from mobilebert_tf.training.optimization import OPTIMIZERS, WarmupLinearDecay
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.step import build_train_step

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_optimizer_flags("adamw", learning_rate=5e-4, warmup=0.1)
shared.define_task_flags()
shared.define_export_flags()
flags.DEFINE_string("model", None, "Model folder to start from.", required=True)
flags.DEFINE_bool("do_train", True, "Fine-tune.")
flags.DEFINE_bool("do_eval", True, "Evaluate on dev and test examples.")
flags.DEFINE_bool("do_predict", True, "Predict --predict_file.")
flags.DEFINE_integer("num_train_epochs", 3, "Passes over the examples.", 1)
flags.DEFINE_integer("train_batch_size", 32, "Examples a step.", 1)
flags.DEFINE_integer("eval_batch_size", 64, "Examples at once.", 1)
# So that --help lists the shared flags too.
flags.adopt_module_key_flags(shared)


def read_task(tokenizer: WordpieceTokenizer) -> ClassificationTask:
    """Reads the examples that the flags name, and encodes them."""
    known_labels = saved_label_names(FLAGS.model)
    files = {
        split: FLAGS[f"{split}_file"].value
        for split in ("train", "dev", "test", "predict")
    }
    if not any(files.values()):
        splits = library_task()
    elif FLAGS.task:
        raise InputError("--task", "either a task or files", "both")
    else:
        splits = examples_from_files(
            files,
            text_column=FLAGS.text_column,
            text_b_column=FLAGS.text_b_column,
            label_column=FLAGS.label_column,
            regression=FLAGS.regression,
            known_labels=known_labels,
        )
    if FLAGS.do_train and "train" not in splits:
        raise InputError("--train_file", "a file, or --nodo_train", "none")
    if not FLAGS.do_train and known_labels is None:
        raise InputError(FLAGS.model, "a classifier", "another kind of model")
    if FLAGS.max_train_examples and "train" in splits:
        splits["train"] = splits["train"].first(FLAGS.max_train_examples)
    names = known_labels
    if FLAGS.do_train:
        names = REGRESSION_LABELS
        if not FLAGS.regression:
            names = tuple(label_names(splits["train"]))
    shared.check_max_seq_length(
        MobileBertConfig.from_json(Path(FLAGS.model) / CONFIG_FILE)
    )
    return encode_task(splits, names, tokenizer, FLAGS.max_seq_length)


def train(run: Run, model, task: ClassificationTask) -> None:
    """Fine-tunes `model`, or what is left of it."""
    batch_size = min(FLAGS.train_batch_size, task.num_train_examples)
    num_steps = FLAGS.num_train_epochs * (task.num_train_examples // batch_size)

    def build():
        schedule = WarmupLinearDecay(
            FLAGS.learning_rate,
            num_steps,
            round(FLAGS.warmup_proportion * num_steps),
        )
        optimizer = OPTIMIZERS[FLAGS.optimizer](
            schedule, **shared.optimizer_settings()
        )
        loss = fine_tuning_loss(model)
        variables = model.trainable_variables
        return build_train_step(loss, variables, optimizer), optimizer

    def dataset(start_step):
        return array_dataset(
            task.splits["train"],
            batch_size=batch_size,
            seed=FLAGS.seed,
            shuffle=True,
            repeat=True,
            start_step=start_step,
        )

    run.phase(
        "fine_tuning",
        num_steps,
        build,
        dataset,
        batch_size * FLAGS.max_seq_length,
    )


def evaluate(model, task: ClassificationTask) -> dict[str, float]:
    """Scores the splits that have labels, `dev_accuracy` and so on."""
    results = {}
    for split in ("dev", "test"):
        if split in task.splits:
            arrays = task.splits[split]
            logits = predict_logits(model, arrays, FLAGS.eval_batch_size)
            for name, value in task_metrics(logits, arrays["labels"]).items():
                results[f"{split}_{name}"] = value
    return results


def main(_) -> None:
    """Reads, trains, evaluates, predicts, writes, exports."""
    check_kinds(FLAGS.export)
    keras.utils.set_random_seed(FLAGS.seed)
    tokenizer = WordpieceTokenizer.from_folder(FLAGS.model)
    task = read_task(tokenizer)
    model = build_classifier(FLAGS.model, task.label_names)
    run = Run(
        FLAGS.output_dir,
        shared.settings("export", "do_predict", "predict_file"),
        model.variables,
        FLAGS.log_every,
        FLAGS.save_every_seconds,
    )
    if FLAGS.do_train:
        train(run, model, task)
    results = evaluate(model, task) if FLAGS.do_eval else {}
    if FLAGS.do_predict and "predict" in task.splits:
        arrays = task.splits["predict"]
        logits = predict_logits(model, arrays, FLAGS.eval_batch_size)
        write_predictions(
            Path(FLAGS.output_dir) / "predictions.tsv",
            task.label_names,
            probabilities(logits),
        )
    exported = {}
    if FLAGS.export:
        exported = export_and_evaluate(
            model,
            FLAGS.export,
            FLAGS.output_dir,
            task.splits,
            num_steps=FLAGS.num_qat_steps,
            learning_rate=FLAGS.qat_learning_rate,
            batch_size=FLAGS.train_batch_size,
            seed=FLAGS.seed,
        )
    results |= {
        f"{kind}_{name}": value
        for kind, row in exported.items()
        for name, value in row.items()
    }
    run.finish(results)
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
        },
    )


if __name__ == "__main__":
    shared.run_script(main)
