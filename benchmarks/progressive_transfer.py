r"""What progressive transfer saves, and the memory that distillation needs.

    python -m benchmarks.progressive_transfer --tables=transfer,memory

Transfer: a progressive schedule gives each block an equal number of steps, so
its cost is the mean step over all stages. Some stages are measured, the others
lie between them on a line. It is compared with what the release does at every
step: all blocks of teacher and student, the losses of all blocks but one
multiplied by 0, and back-propagation through everything; once with the
pre-training heads, once without. FLOP are those of the matrix products, with a
gradient counted as two forward passes.

Memory: the peak of a distillation step, its teacher read from a folder, against
the teacher's weights and the student's step alone.

Weights and ids are random, and each row is a process of its own. The smallest
run: `--student=mobilebert_small --teacher=ib_bert_small --blocks=1,3`.
"""

import dataclasses
import math
import os
import tempfile

import numpy as np

from benchmarks.instruments import (
    MEGABYTE,
    PeakMemory,
    apart,
    interleaved,
    print_header,
    print_row,
    random_batch,
    settings,
    start,
)
from mobilebert_tf.options import Options, option

TABLES = ("transfer", "memory")
EVERYTHING = {"everything": False, "everything_and_heads": True}
# Rates of the blocks below that of a stage, as a share of its own.
LOWER = {"soft": 0.1, "frozen": 0.0}
# Rows of the second table, and the dtype of their teachers.
MEMORY_ROWS = {
    "student_alone": None,
    "distillation_float32": "float32",
    "distillation_bfloat16": "bfloat16",
}


@dataclasses.dataclass(frozen=True)
class ProgressiveOptions(Options):
    """Which pair, and how large a step."""

    tables: tuple[str, ...] = option(TABLES, "Tables.", choices=TABLES)
    student: str = option("mobilebert", "Preset of the student.")
    teacher: str = option("ib_bert_large", "Preset of the teacher.")
    blocks: tuple[int, ...] = option(
        (1, 6, 12, 18, 24), "Stages to measure, from 1.", min=1
    )
    batch_size: int = option(8, "Sequences a step.", min=1)
    max_seq_length: int = option(128, "Length.", min=8)
    predictions: int = option(20, "Masked positions a sequence.", min=1)
    steps: int = option(3, "Steps after the first.", min=1)


def build_pair(student: str, teacher: str, teacher_model=None):
    """Returns a `Distiller` of two presets; weights are random, in float32."""
    import mobilebert_tf as mb
    from mobilebert_tf.distillation.schedule import TransferWeights
    from mobilebert_tf.distillation.teachers import build_teacher
    from mobilebert_tf.training.distillation import build_distiller

    from_preset = mb.MobileBertConfig.from_preset
    return build_distiller(
        from_preset(student),
        teacher_model or build_teacher(from_preset(teacher)),
        TransferWeights(),
        [],
    )


def stage_step(
    distiller, stage, lower_block_multiplier=LOWER["soft"], optimizer="lamb"
):
    """Returns the train step of a stage."""
    from mobilebert_tf.distillation.schedule import TransferOptions
    from mobilebert_tf.training.distillation import build_stage
    from mobilebert_tf.training.options import OptimizerOptions

    return build_stage(
        distiller,
        stage,
        learning_rate=1e-3,
        optimizer=OptimizerOptions(optimizer, warmup_proportion=0.0),
        transfer=TransferOptions(lower_block_multiplier=lower_block_multiplier),
    )


def lamb_step(compute_loss, model):
    """Returns a train step of all weights."""
    from mobilebert_tf.training.optimizers import Lamb
    from mobilebert_tf.training.step import TrainStep

    optimizer = Lamb(1e-3, global_clipnorm=1.0)
    return TrainStep(compute_loss, model.trainable_variables, optimizer)


def everything_step(distiller, heads: bool):
    """Returns a step that runs all blocks and trains by the middle one's."""
    import tensorflow as tf

    from mobilebert_tf.distillation.schedule import TransferStage

    number = len(distiller.student.encoder.blocks)
    blocks = tuple(range(number))
    distiller.set_stage(TransferStage("everything", 1, blocks, heads))
    # A variable, as in the release: a constant 0 would be optimised away.
    gates = tf.Variable(tf.one_hot(number // 2, number + 1), trainable=False)

    def gated_loss(batch):
        terms = distiller(batch, training=True)
        del terms["loss"]
        gated = [
            value * gates[int(name[-2:]) if "_block_" in name else number]
            for name, value in terms.items()
        ]
        return {"loss": tf.add_n(gated)} | terms

    return lamb_step(gated_loss, distiller.student)


def time_steps(step, vocab_size: int, options: ProgressiveOptions) -> dict:
    """Returns seconds of the first step and medians of those after it."""
    batch = random_batch(
        vocab_size,
        options.batch_size,
        options.max_seq_length,
        options.predictions,
    )
    first, later = (
        interleaved(
            {0: lambda: step(batch)["loss"].numpy()}, repeats, warm_up=0
        )[0]
        for repeats in (1, options.steps)
    )
    return {
        "first step, s": first["median_ms"] / 1e3,
        "step, s": later["median_ms"] / 1e3,
        "CPU, s": later["cpu_ms"] / 1e3,
    }


def forward_gflop(
    options: ProgressiveOptions, model, num_blocks: int | None, heads=False
) -> float:
    """GFLOP of the matrix products of a batch's forward pass."""
    encoder, config = model.encoder, model.config
    length = options.max_seq_length
    blocks = encoder.blocks[:num_blocks]
    per_token = _kernel_size([encoder.embeddings, *blocks])
    # Queries times keys, and probabilities times values.
    per_token += len(blocks) * 2 * length * config.intra_bottleneck_size
    per_sequence = length * per_token
    if heads:
        vocabulary = config.vocab_size * config.hidden_size
        head = vocabulary + _kernel_size([model.masked_lm])
        per_sequence += options.predictions * head
    return 2 * options.batch_size * per_sequence / 1e9


def _kernel_size(layers) -> int:
    return sum(
        math.prod(variable.shape)
        for layer in layers
        for variable in layer.variables
        if variable.path.endswith("kernel")
    )


def measure_everything(row: str, numbers: dict) -> dict:
    """Measures a step of the release's kind."""
    options, heads = ProgressiveOptions(**numbers), EVERYTHING[row]
    distiller = build_pair(options.student, options.teacher)
    student, teacher = distiller.student, distiller.teacher
    gflop = 3 * forward_gflop(options, student, None, heads)
    gflop += forward_gflop(options, teacher, None, heads)
    step = everything_step(distiller, heads)
    times = time_steps(step, student.config.vocab_size, options)
    return {"GFLOP": gflop} | times


def measure_stage(block: int, numbers: dict) -> dict:
    """Measures the stage of a block, numbered from 1, in both kinds."""
    from mobilebert_tf.distillation.schedule import TransferStage

    options = ProgressiveOptions(**numbers)
    distiller = build_pair(options.student, options.teacher)
    student, teacher = distiller.student, distiller.teacher
    stage = TransferStage(f"block {block}", 1000, (block - 1,))
    theirs = distiller.teacher_blocks[block - 1] + 1
    ours = forward_gflop(options, student, block)
    forward = ours + forward_gflop(options, teacher, theirs)
    rows = {}
    for kind, multiplier in LOWER.items():
        below = 0 if multiplier else block - 1
        trained = ours - forward_gflop(options, student, below)
        step = stage_step(distiller, stage, multiplier)
        rows[kind] = {"GFLOP": forward + 2 * trained} | time_steps(
            step, student.config.vocab_size, options
        )
    return rows


def write_teacher(folder: str, numbers: dict) -> None:
    """Writes a model folder with a random teacher."""
    options = ProgressiveOptions(**numbers)
    distiller = build_pair(options.student, options.teacher)
    distiller.teacher.save_pretrained(folder)


def measure_memory(row: str, folder: str, numbers: dict) -> dict:
    """Measures the peak of steps, in MB."""
    import keras

    # Imports everything that is needed, before the baseline.
    import mobilebert_tf.training.distillation  # noqa: F401

    options = ProgressiveOptions(**numbers)
    keras.ops.zeros((2,))
    memory = PeakMemory()
    step, vocab_size, teacher_size = build_memory_row(
        options, folder, MEMORY_ROWS[row]
    )
    memory.restart()
    time_steps(step, vocab_size, options)
    return {
        "teacher, MB": teacher_size,
        "step, MB": memory.megabytes(),
    }


def build_memory_row(
    options: ProgressiveOptions, folder: str, teacher_dtype: str | None
) -> tuple:
    """Returns a step, the vocabulary's size and the teacher's MB."""
    import mobilebert_tf as mb
    from mobilebert_tf.distillation.schedule import TransferStage
    from mobilebert_tf.distillation.teachers import load_teacher
    from mobilebert_tf.training.pretraining import pretraining_loss

    if teacher_dtype is None:
        # Without dropout, whose masks a distillation step does not hold.
        config = mb.MobileBertConfig.from_preset(
            options.student,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = mb.MobileBertForPretraining(config)
        step = lamb_step(pretraining_loss(model), model)
        return step, config.vocab_size, 0.0
    teacher = load_teacher(folder, teacher_dtype)
    distiller = build_pair(options.student, options.teacher, teacher)
    size = sum(
        variable.value.dtype.size * math.prod(variable.shape)
        for variable in distiller.teacher.variables
    )
    stage = TransferStage("distillation", 1000, (), True)
    step = stage_step(distiller, stage)
    return step, distiller.student.config.vocab_size, size / MEGABYTE


def print_transfer(options: ProgressiveOptions, numbers: dict) -> None:
    """Prints the table of steps, and what a schedule costs."""
    wholes, stages = {}, {kind: {} for kind in LOWER}
    for row in EVERYTHING:
        wholes[row] = apart(measure_everything, row, numbers)
        if len(wholes) == 1:
            print_header("step", wholes[row])
        print_row(row, wholes[row])
    for block in options.blocks:
        rows = apart(measure_stage, block, numbers)
        for kind, values in rows.items():
            stages[kind][block] = values
            print_row(f"stage of block {block}, lower {kind}", values)
    columns = ("GFLOP", "step, s", "CPU, s")
    print_header("schedule", columns)
    every_block = np.arange(1, max(options.blocks) + 1)
    for kind, by_block in stages.items():
        means = {
            key: np.interp(
                every_block,
                options.blocks,
                [by_block[block][key] for block in options.blocks],
            ).mean()
            for key in columns
        }
        print_row(f"mean stage, lower {kind}", means)
        for row, whole in wholes.items():
            ratios = {key: means[key] / whole[key] for key in means}
            print_row(f"  part of {row}", ratios, 3)


def print_memory(numbers: dict) -> None:
    """Prints the table of peaks."""
    alone = None
    with tempfile.TemporaryDirectory() as folder:
        apart(write_teacher, folder, numbers)
        for row in MEMORY_ROWS:
            values = apart(measure_memory, row, folder, numbers)
            if alone is None:
                alone = values["step, MB"]
                print_header("memory", [*values, "ratio"])
            ratio = values["step, MB"] / (values["teacher, MB"] + alone)
            print_row(row, values | {"ratio": ratio})


def main(options: ProgressiveOptions) -> None:
    """Prints the tables."""
    print(
        f"{options.student} from {options.teacher}, {options.batch_size} x "
        f"{options.max_seq_length}, float32, LAMB, {os.cpu_count()} CPU cores"
    )
    if "transfer" in options.tables:
        print_transfer(options, settings(options))
    if "memory" in options.tables:
        print_memory(settings(options))


if __name__ == "__main__":
    start(main, ProgressiveOptions, __doc__)
