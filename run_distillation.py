r"""Teaches a student: progressive knowledge transfer, then distillation.

The student's embeddings and pre-training heads are copied from the teacher;
then, block by block from below, its feature maps and attention are fitted to
the teacher's; last, pre-training distillation trains all of it.

    python run_distillation.py --teacher=runs/teacher \
        --preset=mobilebert_small --output_dir=runs/student

Text defaults to the documentation of the installed Python packages; give the
teacher's own --input_files if it had others.
"""

import keras
from absl import flags

from mobilebert_tf import load_tokenizer
from mobilebert_tf.commands import flags as shared
from mobilebert_tf.commands import flags_devices as devices
from mobilebert_tf.commands import flags_pretraining as pretraining
from mobilebert_tf.commands import flags_transfer as transfer
from mobilebert_tf.distillation.initialization import match_embedding_norm
from mobilebert_tf.distillation.teachers import load_teacher
from mobilebert_tf.training.distillation import run_stages
from mobilebert_tf.training.loop import Run
from mobilebert_tf.training.optimizers import OPTIMIZERS
from mobilebert_tf.training.pretraining import HeldOutText, finish_pretraining

FLAGS = flags.FLAGS

shared.define_output_flags()
shared.define_config_flags("mobilebert_small")
pretraining.define_pretraining_data_flags()
pretraining.define_evaluation_flags()
shared.define_optimizer_flags("adamw", learning_rate=1e-3, warmup=0.1)
transfer.define_transfer_flags()
devices.define_device_flags()
# So that --help lists the shared flags too.
for module in (shared, pretraining, transfer, devices):
    flags.adopt_module_key_flags(module)


def main(_) -> None:
    """Reads, copies, transfers, distils, evaluates, writes."""
    pretraining.check_final_model()
    distribution = devices.open_devices()
    keras.utils.set_random_seed(FLAGS.seed)
    with distribution.scope():
        teacher = load_teacher(FLAGS.teacher, FLAGS.teacher_dtype)
        config = shared.config_from_flags(teacher.config.vocab_size)
        stages = transfer.transfer_stages(config)
        distiller = transfer.distiller_from_flags(config, teacher, stages)
    student = distiller.student
    devices.prepare_encoder(student.encoder)
    data = pretraining.open_input(load_tokenizer(FLAGS.teacher))

    def dataset_from(first_step, start_step):
        return data.batches(FLAGS.seed, first_step + start_step)

    held_out = HeldOutText(student, data)
    evaluation = pretraining.evaluation(held_out)
    # Made first, so that unfit text is refused before a folder is made for it.
    batches = dataset_from(0, 0)
    if FLAGS.match_embedding_norm:
        match_embedding_norm(student, distiller.teacher, next(iter(batches)))
    run = Run(
        FLAGS.output_dir,
        student.variables,
        settings=shared.settings("final_model", "attention_images_every"),
        num_steps=sum(stage.num_steps for stage in stages),
        **devices.run_settings(distribution),
    )
    run_stages(
        run,
        distiller,
        stages,
        dataset_from,
        evaluation=evaluation,
        every=transfer.attention_images(distiller, data),
        optimizer_class=OPTIMIZERS[FLAGS.optimizer],
        optimizer_settings=shared.optimizer_settings(),
        build_schedule=shared.warmup_schedule,
        step_options=devices.step_options(),
        **transfer.stage_settings(),
    )
    if not distribution.is_chief:
        return
    finish_pretraining(
        run,
        held_out,
        from_best=FLAGS.final_model == pretraining.BEST,
        title=f"Distilled student ({shared.architecture_name()})",
        command=shared.command_line(),
        notes={
            "Teacher": FLAGS.teacher,
            "Training text": pretraining.text_description(),
        },
    )


if __name__ == "__main__":
    shared.run_script(main)
