r"""Teaches a student: progressive knowledge transfer, then distillation.

The student's embeddings and pre-training heads are copied from the teacher;
then, block by block from below, its feature maps and attention are fitted to
the teacher's; last, pre-training distillation trains all of it.

    python run_distillation.py --teacher=runs/teacher \
        --preset=mobilebert_small --output_dir=runs/student

Text defaults to the documentation of the installed Python packages. If the
teacher was trained on other text, name that with --input_files.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

from mobilebert_tf.commands.command import Command, command_line
from mobilebert_tf.data.options import TextOptions
from mobilebert_tf.distillation.schedule import TransferOptions, TransferWeights
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import files_of_model, model_folder
from mobilebert_tf.options import Options, option
from mobilebert_tf.training.options import (
    ArchitectureOptions,
    DeviceOptions,
    OptimizerOptions,
    OutputOptions,
    PretrainingOptions,
    RunOptions,
    StepOptions,
)
from mobilebert_tf.training.run_folder import delete_run, identify


@dataclasses.dataclass(frozen=True)
class PairOptions(Options):
    """The teacher, and how the student starts."""

    group = "model"

    teacher: str | None = option(
        None, "Model folder of the teacher.", required=True, everyday=True
    )
    teacher_dtype: str = option(
        "float32",
        "Precision in which the teacher computes and its blocks are held.",
        choices=("float32", "bfloat16"),
        everyday=True,
    )
    teacher_blocks: tuple[int, ...] | None = option(
        None,
        "For each block of the student, the number (from 0) of the teacher "
        "block it learns from, for example 1,3,5. By default, each learns from "
        "the last of an equal run of the teacher's blocks.",
        min=0,
    )
    match_embedding_norm: bool = option(
        True,
        "Start a NoNorm student's embedding norm on the teacher's scale (the "
        "release does not).",
    )
    attention_images_every: int = option(
        500,
        "Steps between two images, in TensorBoard, of the attention of student "
        "and teacher; 0 draws none.",
        group="training",
        min=0,
        resumable=True,
    )


def open_pair(
    pair: PairOptions,
    architecture: ArchitectureOptions,
    max_seq_length: int,
    transfer: TransferOptions,
    weights: TransferWeights,
):
    """Opens the teacher and makes its student.

    Returns:
        The `Distiller` and the stages that it will go through.

    Raises:
        InputError: the teacher cannot be opened, or does not fit the student.
    """
    from mobilebert_tf.distillation.teachers import load_teacher
    from mobilebert_tf.training.distillation import build_distiller

    teacher = load_teacher(pair.teacher, pair.teacher_dtype)
    config = architecture.config(teacher.config.vocab_size, max_seq_length)
    stages = transfer.stages(config.num_hidden_layers)
    try:
        distiller = build_distiller(
            config, teacher, weights, stages, pair.teacher_blocks
        )
    except ValueError as error:
        raise InputError(
            pair.teacher, "a teacher of this student", error
        ) from error
    return distiller, stages


class Given(NamedTuple):
    """The options of the command, in the order of their classes."""

    output: OutputOptions
    architecture: ArchitectureOptions
    pair: PairOptions
    text: TextOptions
    training: PretrainingOptions
    transfer: TransferOptions
    weights: TransferWeights
    optimizer: OptimizerOptions
    step: StepOptions
    run: RunOptions
    device: DeviceOptions


def main(*options: Options) -> None:
    """Copies, transfers, distils, evaluates, and writes a model folder."""
    from mobilebert_tf.text.tokenizer import load_tokenizer

    given = Given(*options)
    pair, text, training = given.pair, given.text, given.training
    tokenizer = load_tokenizer(pair.teacher)

    # TensorFlow is imported after what is wrong without it.
    import keras

    from mobilebert_tf.data.sources import text_sources
    from mobilebert_tf.data.stream import open_pretraining_input
    from mobilebert_tf.distillation.initialization import match_embedding_norm
    from mobilebert_tf.training import pretraining
    from mobilebert_tf.training.devices import open_devices
    from mobilebert_tf.training.loop import Run
    from mobilebert_tf.training.step import rematerialize

    devices = open_devices(given.device)
    keras.utils.set_random_seed(training.seed)
    teacher = model_folder(pair.teacher)
    sources = text_sources(text) | {
        "teacher": files_of_model(teacher),
        "config_file": given.architecture.config_file,
    }
    apart = {"--teacher": teacher}
    identity = identify(given.output, options, sources, devices.is_chief, apart)
    with devices.scope():
        distiller, stages = open_pair(
            pair,
            given.architecture,
            text.max_seq_length,
            given.transfer,
            given.weights,
        )
    student = distiller.student
    if given.device.rematerialize:
        rematerialize(student.encoder.blocks)
    data = open_pretraining_input(text, tokenizer, training.train_batch_size)
    print(data.summary(), flush=True)
    # Made first, so that unfit text is refused before a folder is made for it.
    first = data.batches(training.seed)
    if pair.match_embedding_norm:
        match_embedding_norm(student, distiller.teacher, next(first))
    if given.output.restart and devices.is_chief:
        delete_run(Path(given.output.output_dir))
    run = Run(
        given.output.output_dir,
        student.variables,
        given.run,
        identity,
        devices,
        num_steps=sum(stage.num_steps for stage in stages),
    )
    held_out = pretraining.HeldOutText(student, data)
    _train(given, run, distiller, stages, held_out)
    if devices.is_chief:
        pretraining.finish_pretraining(
            run,
            held_out,
            training.final_model,
            title=f"Distilled student ({given.architecture.name})",
            command=command_line(),
            notes={
                "Teacher": pair.teacher,
                "Training text": text.description(),
            },
        )


def _train(given: Given, run, distiller, stages, held_out) -> None:
    """Trains all stages."""
    from mobilebert_tf.training import distillation

    build = functools.partial(
        distillation.build_stage,
        distiller,
        learning_rate=given.training.learning_rate,
        optimizer=given.optimizer,
        transfer=given.transfer,
        options=given.step,
    )
    batches = functools.partial(held_out.data.batches, given.training.seed)
    every, number = [], given.pair.attention_images_every
    if number:
        draw = distillation.attention_drawer(distiller, held_out.first_batch())
        every = [(number, draw)]
    for phase in distillation.stage_phases(
        stages, build, batches, held_out.evaluation(given.training), every
    ):
        run.train(phase)


COMMAND = Command(
    main,
    tuple(Given.__annotations__.values()),
    defaults={"preset": "mobilebert_small"},
    description=__doc__,
)
