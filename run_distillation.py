r"""Teaches a student: progressive knowledge transfer, then distillation.

The student's embeddings and pre-training heads are copied from the teacher;
then, block by block from below, its feature maps and attention are fitted to
the teacher's; last, pre-training distillation trains all of it.

    python run_distillation.py --teacher=runs/teacher \
        --preset=mobilebert_small --output_dir=runs/student

Text defaults to the documentation of the installed Python packages; give the
teacher's own --input_files if it had others.
"""

import functools

import keras
from absl import flags

from mobilebert_tf import MobileBertForPretraining, load
from mobilebert_tf import flags as shared
from mobilebert_tf.data.batching import pretraining_dataset
from mobilebert_tf.data.sources import tokenize_split
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.distillation.distiller import Distiller, TransferWeights
from mobilebert_tf.distillation.initialization import (
    copy_from_teacher,
    match_embedding_norm,
)
from mobilebert_tf.distillation.schedule import STRATEGIES
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.distillation import build_stage
from mobilebert_tf.training.optimization import OPTIMIZERS
from mobilebert_tf.training.pretraining import (
    finish_pretraining,
)
from mobilebert_tf.training.run import Run

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_config_flags("mobilebert_small")
shared.define_pretraining_data_flags()
shared.define_optimizer_flags("adamw", learning_rate=1e-3, warmup=0.1)
flags.DEFINE_string(
    "teacher", None, "Model folder of the teacher.", required=True
)
flags.DEFINE_enum(
    "transfer_strategy",
    "progressive",
    list(STRATEGIES),
    "progressive (PKT): block by block, then distillation; joint (JKT): all "
    "blocks at once, then distillation; auxiliary (AKT): all in one.",
)
flags.DEFINE_integer(
    "num_transfer_steps", 1000, "Steps of knowledge transfer, over all blocks."
)
flags.DEFINE_integer(
    "num_train_steps", 1000, "Steps of pre-training distillation."
)
flags.DEFINE_float(
    "transfer_learning_rate", 3e-3, "Peak rate of the block in transfer."
)
flags.DEFINE_float(
    "lower_block_multiplier",
    0.1,
    "Learning rate of the blocks below, relative to it (soft freezing).",
)
flags.DEFINE_float("feature_map_weight", 100.0, "Of normalised feature maps.")
flags.DEFINE_float("feature_mean_weight", 5000.0, "Of feature means.")
flags.DEFINE_float("feature_variance_weight", 5.0, "Of feature variances.")
flags.DEFINE_float("attention_weight", 1.0, "Of attention transfer.")
flags.DEFINE_float("pd_alpha", 0.5, "Weight of the true label against soft.")
flags.DEFINE_float("temperature", 1.0, "Of the soft labels.")
flags.DEFINE_bool(
    "match_embedding_norm",
    True,
    "Start a NoNorm student's embedding norm on the teacher's scale (the "
    "release does not).",
)
# So that --help lists the shared flags too.
flags.adopt_module_key_flags(shared)


def load_teacher() -> MobileBertForPretraining:
    """Opens the teacher, which must have its pre-training heads."""
    teacher = load(FLAGS.teacher)
    if not isinstance(teacher, MobileBertForPretraining):
        raise InputError(
            FLAGS.teacher,
            "a pre-trained teacher (MobileBertForPreTraining)",
            teacher.architecture,
        )
    return teacher


def build_distiller(teacher: MobileBertForPretraining) -> Distiller:
    """Makes the student and pairs it with its teacher."""
    config = shared.config_from_flags(teacher.config.vocab_size)
    weights = TransferWeights(
        FLAGS.feature_map_weight,
        FLAGS.feature_mean_weight,
        FLAGS.feature_variance_weight,
        FLAGS.attention_weight,
        FLAGS.pd_alpha,
        FLAGS.temperature,
    )
    try:
        return Distiller(MobileBertForPretraining(config), teacher, weights)
    except ValueError as error:
        raise InputError(
            FLAGS.teacher, "a teacher of this student", error
        ) from error


def transfer(run: Run, distiller: Distiller, dataset_from) -> None:
    """Runs all stages, or what is left of them."""
    first_step = 0
    for stage in STRATEGIES[FLAGS.transfer_strategy](
        distiller.student.config.num_hidden_layers,
        FLAGS.num_transfer_steps,
        FLAGS.num_train_steps,
    ):
        run.phase(
            stage.name,
            stage.num_steps,
            functools.partial(
                build_stage,
                distiller,
                stage,
                optimizer_class=OPTIMIZERS[FLAGS.optimizer],
                optimizer_settings=shared.optimizer_settings(),
                learning_rate=FLAGS.learning_rate,
                warmup_proportion=FLAGS.warmup_proportion,
                transfer_learning_rate=FLAGS.transfer_learning_rate,
                lower_block_multiplier=FLAGS.lower_block_multiplier,
            ),
            functools.partial(dataset_from, first_step),
            FLAGS.train_batch_size * FLAGS.max_seq_length,
            shown=("loss", "masked_lm_loss", "masked_lm_distillation_loss"),
        )
        first_step += stage.num_steps


def main(_) -> None:
    """Reads, copies, transfers, distils, evaluates, writes."""
    keras.utils.set_random_seed(FLAGS.seed)
    teacher = load_teacher()
    tokenizer = WordpieceTokenizer.from_folder(FLAGS.teacher)
    distiller = build_distiller(teacher)
    student = distiller.student
    corpus, held_out = tokenize_split(
        FLAGS.input_files,
        tokenizer,
        FLAGS.max_seq_length,
        FLAGS.held_out_fraction,
    )
    data_settings = shared.pretraining_data_settings()

    def dataset_from(first_step, start_step):
        return pretraining_dataset(
            corpus,
            tokenizer,
            batch_size=FLAGS.train_batch_size,
            seed=FLAGS.seed,
            start_step=first_step + start_step,
            **data_settings,
        )

    copied = copy_from_teacher(student, teacher)
    print(f"Copied from the teacher: {', '.join(copied)}", flush=True)
    # Made first, so that unfit text is refused before a folder is made for it.
    batches = dataset_from(0, 0)
    if FLAGS.match_embedding_norm:
        match_embedding_norm(student, teacher, next(iter(batches)))
    run = Run(
        FLAGS.output_dir,
        shared.settings(),
        student.variables,
        FLAGS.log_every,
        FLAGS.save_every_seconds,
    )
    transfer(run, distiller, dataset_from)
    finish_pretraining(
        run,
        student,
        tokenizer,
        held_out,
        batch_size=FLAGS.train_batch_size,
        data_settings=data_settings,
        title=f"Distilled student ({shared.architecture_name()})",
        command=shared.command_line(),
        notes={
            "Teacher": FLAGS.teacher,
            "Training text": shared.text_description(),
        },
    )


if __name__ == "__main__":
    shared.run_script(main)
