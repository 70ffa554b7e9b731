r"""Pre-trains a model on raw text: masked LM and next sentence prediction.

Any preset; with `--preset=ib_bert_large` (or `ib_bert_small`) it trains the
inverted-bottleneck teacher, whose recipe the paper's authors did not publish.

    python run_pretraining.py --preset=ib_bert_small --output_dir=runs/teacher

reads the documentation of the installed Python packages, learns a vocabulary
from it and writes a model folder. With your own text:

    python run_pretraining.py --preset=ib_bert_small \
        --input_files='corpus/*.txt' --output_dir=runs/teacher
"""

import keras
from absl import flags

from mobilebert_tf import MobileBertForPretraining
from mobilebert_tf import flags as shared
from mobilebert_tf.data.batching import pretraining_dataset
from mobilebert_tf.data.sources import load_text, tokenize_split
from mobilebert_tf.data.vocabulary import learn_vocabulary
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.training.optimization import (
    OPTIMIZERS,
    WarmupLinearDecay,
    describe_parameters,
)
from mobilebert_tf.training.pretraining import (
    finish_pretraining,
    pretraining_loss,
)
from mobilebert_tf.training.run import Run
from mobilebert_tf.training.step import build_train_step

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_config_flags("ib_bert_small")
shared.define_pretraining_data_flags()
shared.define_optimizer_flags("adamw", learning_rate=1e-3, warmup=0.1)
flags.DEFINE_integer("num_train_steps", 2000, "Optimiser steps.", 1)
flags.DEFINE_string(
    "vocab_file", None, "Vocabulary, a piece a line. None: learned from text."
)
flags.DEFINE_integer("vocab_size", 4000, "Of a learned vocabulary.", 100)
flags.DEFINE_bool("do_lower_case", True, "Uncased vocabulary.")
# So that --help lists the shared flags too.
flags.adopt_module_key_flags(shared)


def build_tokenizer() -> WordpieceTokenizer:
    """Reads the vocabulary, or learns one from the text."""
    if FLAGS.vocab_file:
        return WordpieceTokenizer.from_vocab_file(
            FLAGS.vocab_file, FLAGS.do_lower_case
        )
    print("Learning a vocabulary ...", flush=True)
    documents = load_text(FLAGS.input_files)
    lines = (line for document in documents for line in document)
    return WordpieceTokenizer(
        learn_vocabulary(lines, FLAGS.vocab_size, FLAGS.do_lower_case),
        FLAGS.do_lower_case,
    )


def main(_) -> None:
    """Reads, trains, evaluates, writes."""
    keras.utils.set_random_seed(FLAGS.seed)
    tokenizer = build_tokenizer()
    corpus, held_out = tokenize_split(
        FLAGS.input_files,
        tokenizer,
        FLAGS.max_seq_length,
        FLAGS.held_out_fraction,
    )
    print(
        f"{corpus.num_documents:,} documents, {corpus.num_tokens:,} tokens "
        f"({held_out.num_tokens:,} held out), vocabulary "
        f"{tokenizer.vocab_size:,}",
        flush=True,
    )
    config = shared.config_from_flags(tokenizer.vocab_size)
    model = MobileBertForPretraining(config)
    print(describe_parameters(model.trainable_variables), flush=True)
    data_settings = shared.pretraining_data_settings()

    def build():
        schedule = WarmupLinearDecay(
            FLAGS.learning_rate,
            FLAGS.num_train_steps,
            round(FLAGS.warmup_proportion * FLAGS.num_train_steps),
        )
        optimizer = OPTIMIZERS[FLAGS.optimizer](
            schedule, **shared.optimizer_settings()
        )
        variables = model.trainable_variables
        loss = pretraining_loss(model)
        return build_train_step(loss, variables, optimizer), optimizer

    def dataset(start_step):
        return pretraining_dataset(
            corpus,
            tokenizer,
            batch_size=FLAGS.train_batch_size,
            seed=FLAGS.seed,
            start_step=start_step,
            **data_settings,
        )

    dataset(0)  # Unfit text is refused before a folder is made for it.
    run = Run(
        FLAGS.output_dir,
        shared.settings(),
        model.variables,
        FLAGS.log_every,
        FLAGS.save_every_seconds,
    )
    run.phase(
        "pretraining",
        FLAGS.num_train_steps,
        build,
        dataset,
        FLAGS.train_batch_size * FLAGS.max_seq_length,
        shown=("masked_lm_loss", "next_sentence_loss"),
    )
    finish_pretraining(
        run,
        model,
        tokenizer,
        held_out,
        batch_size=FLAGS.train_batch_size,
        data_settings=data_settings,
        title=f"Pre-trained from scratch ({shared.architecture_name()})",
        command=shared.command_line(),
        notes={"Training text": shared.text_description()},
    )


if __name__ == "__main__":
    shared.run_script(main)
