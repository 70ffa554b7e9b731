r"""Pre-trains a model on raw text: masked LM and next sentence prediction.

Any preset; with `--preset=ib_bert_large` (or `ib_bert_small`) it trains the
inverted-bottleneck teacher, whose recipe the paper's authors did not publish.

    python run_pretraining.py --preset=ib_bert_small --output_dir=runs/teacher

reads the documentation of the installed Python packages, learns a vocabulary
from it and writes a model folder. With your own text:

    python run_pretraining.py --preset=ib_bert_small \
        --input_files='corpus/*.txt' --output_dir=runs/teacher
"""

import functools

import keras
from absl import flags

from mobilebert_tf import MobileBertForPretraining
from mobilebert_tf.commands import flags as shared
from mobilebert_tf.commands import flags_devices as devices
from mobilebert_tf.commands import flags_pretraining as pretraining
from mobilebert_tf.data.records import are_tfrecords
from mobilebert_tf.data.sources import load_text
from mobilebert_tf.errors import InputError
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.text.vocabulary import learn_vocabulary
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import OPTIMIZERS, describe_parameters
from mobilebert_tf.training.pretraining import (
    HeldOutText,
    finish_pretraining,
    pretraining_loss,
)
from mobilebert_tf.training.step import TrainStep

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_config_flags("ib_bert_small")
pretraining.define_pretraining_data_flags()
pretraining.define_evaluation_flags()
shared.define_optimizer_flags("adamw", learning_rate=1e-3, warmup=0.1)
devices.define_device_flags()
flags.DEFINE_integer("num_train_steps", 2000, "Optimiser steps.", 1)
flags.DEFINE_string(
    "vocab_file",
    None,
    "Vocabulary, a piece a line. If not given: learned from text.",
)
flags.DEFINE_integer("vocab_size", 4000, "Of a learned vocabulary.", 100)
flags.DEFINE_bool("do_lower_case", True, "Uncased vocabulary.")
# So that --help lists the shared flags too.
for module in (shared, pretraining, devices):
    flags.adopt_module_key_flags(module)


def build_tokenizer() -> WordpieceTokenizer:
    """Reads the vocabulary, or learns one from the text."""
    if FLAGS.vocab_file:
        return WordpieceTokenizer.from_vocab_file(
            FLAGS.vocab_file, FLAGS.do_lower_case
        )
    if are_tfrecords(FLAGS.input_files):
        raise InputError(
            "--vocab_file", "the vocabulary the records were made with", "none"
        )
    print("Learning a vocabulary ...", flush=True)
    documents = load_text(
        FLAGS.input_files, FLAGS.tfds_name, FLAGS.tfds_data_dir
    )
    lines = (line for document in documents for line in document)
    return WordpieceTokenizer(
        learn_vocabulary(lines, FLAGS.vocab_size, FLAGS.do_lower_case),
        FLAGS.do_lower_case,
    )


def main(_) -> None:
    """Reads, trains, evaluates, writes."""
    pretraining.check_final_model()
    distribution = devices.open_devices()
    keras.utils.set_random_seed(FLAGS.seed)
    tokenizer = build_tokenizer()
    data = pretraining.open_input(tokenizer)
    config = shared.config_from_flags(tokenizer.vocab_size)
    with distribution.scope():
        model = MobileBertForPretraining(config)
    devices.prepare_encoder(model.encoder)
    print(describe_parameters(model.trainable_variables), flush=True)

    def build():
        schedule = shared.warmup_schedule(FLAGS.num_train_steps)
        optimizer = OPTIMIZERS[FLAGS.optimizer](
            schedule, **shared.optimizer_settings()
        )
        variables = model.trainable_variables
        loss = pretraining_loss(model)
        return TrainStep(loss, variables, optimizer, devices.step_options())

    held_out = HeldOutText(model, data)
    evaluation = pretraining.evaluation(held_out)
    # Made first, so that unfit text is refused before a folder is made for it.
    data.batches(FLAGS.seed)
    run = Run(
        FLAGS.output_dir,
        model.variables,
        settings=shared.settings("final_model"),
        num_steps=FLAGS.num_train_steps,
        **devices.run_settings(distribution),
    )
    run.train(
        Phase(
            "pretraining",
            FLAGS.num_train_steps,
            build,
            functools.partial(data.batches, FLAGS.seed),
            shown=("masked_lm_loss", "next_sentence_loss"),
            evaluation=evaluation,
        )
    )
    if not distribution.is_chief:
        return
    finish_pretraining(
        run,
        held_out,
        from_best=FLAGS.final_model == pretraining.BEST,
        title=f"Pre-trained from scratch ({shared.architecture_name()})",
        command=shared.command_line(),
        notes={"Training text": pretraining.text_description()},
    )


if __name__ == "__main__":
    shared.run_script(main)
