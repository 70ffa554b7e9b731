r"""Fine-tunes, evaluates and predicts with a tagger: a label for every token.

    python -m mobilebert_tf.commands.tag --model=runs/student \
        --output_dir=runs/tagger

takes the built-in task: which words of a documentation sentence are code?
With your own files, in columns as the CoNLL shared tasks have them (a token a
line, a blank line between sentences):

    python -m mobilebert_tf.commands.tag --model=runs/student \
        --train_file=eng.train --dev_file=eng.testa --test_file=eng.testb \
        --predict_file=new.txt --output_dir=runs/tagger

The token is in the first column and its tag in the last, unless
`--token_column` and `--tag_column` say otherwise. Tags are IOB1, IOB2, BIOES or
BILOU, which is seen from the training file, or, with `--scheme=none`, labels
that mark no entities, parts of speech say. Precision, recall and F1 are those
of whole entities, as `conlleval` has them; the weights that are best on dev are
kept. `dev_predictions.conll` and `test_predictions.conll` have token, tag and
predicted tag; `conlleval` reads them. `--teacher=FOLDER` learns from a better
tagger too. `--export=float32,dynamic,int8_qat` also writes `.tflite` files, the
last one after quantisation-aware training, and scores each on the same
sentences. Without training (`--nodo_train`) the model must be a tagger.
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
from mobilebert_tf.mobile.shipped_tasks import shipped_tagger
from mobilebert_tf.mobile.stages import needs_calibration
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.tasks.conll import SCHEMES
from mobilebert_tf.tasks.tagging import (
    SentenceSource,
    TokenPredictor,
    build_tagger,
    read_task,
    token_classification_loss,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.fine_tuning import GridOutcome
from mobilebert_tf.training.loop import Run
from mobilebert_tf.training.model_card import write_model_folder

FLAGS = flags.FLAGS

# What a resumed run may change.
_UNIMPORTANT = (
    *export.EXPORT_FLAGS,
    "do_eval",
    "do_predict",
    "predict_file",
    "eval_batch_size",
    *tuning.GRID_FLAGS,
)
_SPLITS = ("train", "dev", "test", "predict")


def define_flags() -> None:
    """Defines the tool's flags, when it is run and not when imported."""
    shared.define_output_flags()
    shared.define_optimizer_flags("adamw", learning_rate=5e-4, warmup=0.1)
    shared.define_model_flag()
    devices.define_device_flags()
    tuning.define_grid_flags()
    teaching.define_teacher_flags()
    export.define_export_flags()
    for split, verb in (
        ("train", "train on"),
        ("dev", "choose the best weights by"),
        ("test", "score the result on"),
        ("predict", "tag; only their tokens are read"),
    ):
        flags.DEFINE_string(
            f"{split}_file", None, f"Sentences to {verb}, in columns."
        )
    flags.DEFINE_integer(
        "token_column", 1, "Of the token; 1 is the first, -1 the last."
    )
    flags.DEFINE_integer("tag_column", -1, "Of the tag.")
    flags.DEFINE_enum(
        "scheme",
        None,
        SCHEMES,
        "How tags mark entities; none: they mark no entities. If not given, as "
        "the training file's tags are.",
    )
    flags.DEFINE_integer(
        "max_train_examples", None, "Train on the first so many only.", 1
    )
    flags.DEFINE_integer(
        "max_seq_length",
        128,
        "Longest window of pieces; a longer sentence becomes several.",
        8,
    )
    flags.DEFINE_bool("do_train", True, "Fine-tune.")
    flags.DEFINE_bool("do_eval", True, "Evaluate on dev and test sentences.")
    flags.DEFINE_bool("do_predict", True, "Tag --predict_file.")
    # So that --help lists the shared flags too.
    for module in (shared, devices, tuning, teaching, export):
        flags.adopt_module_key_flags(module)


def source() -> SentenceSource:
    """Returns where sentences come from."""
    files = {split: FLAGS[f"{split}_file"].value for split in _SPLITS}
    return SentenceSource(
        {split: path for split, path in files.items() if path},
        FLAGS.token_column,
        FLAGS.tag_column,
        FLAGS.scheme,
        FLAGS.max_train_examples,
    )


def main(_) -> None:
    """Reads, trains, evaluates, tags, writes, exports."""
    points = tuning.points_around()
    distribution = devices.open_devices(len(points))
    folder = model_folder(FLAGS.model)
    tokenizer = WordpieceTokenizer.from_folder(folder)
    config = MobileBertConfig.from_json(folder / CONFIG_FILE)
    export.check_files(config)
    shared.check_max_seq_length(config)
    verbs = (FLAGS.do_train, FLAGS.do_eval, FLAGS.do_predict)
    task = read_task(
        source(),
        verbs,
        folder,
        tokenizer,
        FLAGS.max_seq_length,
        needs_calibration(FLAGS.export),
    )
    export.check_task(shipped_tagger(task), tokenizer)
    if FLAGS.do_train:
        outcome = fine_tune(
            task,
            points,
            functools.partial(build_tagger, folder, task.label_names),
            token_classification_loss,
            TokenPredictor,
            tokenizer,
            distribution,
            shared.settings(*_UNIMPORTANT),
        )
        if not distribution.is_chief:
            return
    else:
        run = Run(FLAGS.output_dir, (), settings=shared.settings(*_UNIMPORTANT))
        outcome = GridOutcome(build_tagger(folder, task.label_names), run)
    predict = TokenPredictor(
        outcome.model, FLAGS.eval_batch_size, tuning.bucket_lengths()
    )
    results = task.finish(predict, FLAGS.output_dir, verbs)
    exported, notes = {}, {}
    if FLAGS.export:
        length = export.export_length(FLAGS.max_seq_length)
        shipped = shipped_tagger(task.of_length(length, tokenizer))
        batch_size = (outcome.point or points[0]).batch_size
        exported, notes = export.ship(
            outcome.model, shipped, tokenizer, batch_size
        )
    outcome.run.finish(results | exported)
    write_model_folder(
        FLAGS.output_dir,
        outcome.model,
        tokenizer,
        title="Tagger",
        command=shared.command_line(),
        results=results,
        notes={
            "Tags": ", ".join(task.label_names),
            **({"Scheme": task.scheme} if task.scheme else {}),
            "Started from": FLAGS.model,
            **{
                f"Sentences, {split}": f"{len(sentences):,}"
                for split, sentences in task.sentences.items()
            },
        }
        | outcome.notes()
        | notes,
    )


if __name__ == "__main__":
    define_flags()
    shared.run_script(main)
