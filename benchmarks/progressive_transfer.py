r"""What progressive transfer saves, and the memory that distillation needs.

    python benchmarks/progressive_transfer.py --tables=transfer,memory

Transfer: a progressive schedule gives each block an equal number of steps, so
its cost is the mean step over all stages. Some stages are measured, the others
lie between them on a line. It is compared with what the release does at every
step: all blocks of teacher and student, the losses of all blocks but one
multiplied by 0, and back-propagation through everything; once with the
pre-training heads, once without. FLOP are those of the matrix products, with a
gradient counted as two forward passes.

Memory: the peak of a distillation step, its teacher read from a folder, against
the teacher's weights and the student's step alone. The kernel's numbers
(VmHWM), above a baseline taken when everything is imported and TensorFlow has
run an operation.

Weights and ids are random, and each row is a process of its own.
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS

TABLES = ("transfer", "memory")
EVERYTHING = {"everything": False, "everything_and_heads": True}
# Rows of the second table, and the dtype of their teachers.
MEMORY_ROWS = {
    "student_alone": None,
    "distillation_float32": "float32",
    "distillation_bfloat16": "bfloat16",
}
SOFT, FROZEN = 0.1, 0.0
WRITE_TEACHER = "write_teacher"

flags.DEFINE_list("tables", list(TABLES), f"Among {', '.join(TABLES)}.")
flags.DEFINE_string("student", "mobilebert", "Preset of the student.")
flags.DEFINE_string("teacher", "ib_bert_large", "Preset of the teacher.")
flags.DEFINE_list("blocks", "1,6,12,18,24", "Stages to measure, from 1.")
flags.DEFINE_integer("batch_size", 8, "Sequences a step.", 1)
flags.DEFINE_integer("max_seq_length", 128, "Length.", 8)
flags.DEFINE_integer("predictions", 20, "Masked positions a sequence.", 1)
flags.DEFINE_integer("steps", 3, "Steps after the first, for the median.", 1)
flags.DEFINE_string("one", None, "Runs this row here; for the script itself.")
flags.DEFINE_string("folder", None, "Of a teacher; for the script itself.")


def train_batch(vocab_size: int) -> dict:
    """Returns a batch of the size that the flags say."""
    from random_batch import random_batch

    return random_batch(
        vocab_size,
        FLAGS.batch_size,
        FLAGS.max_seq_length,
        FLAGS.predictions,
    )


def build_pair(teacher):
    """Returns a `Distiller` of a teacher and the student's preset."""
    import mobilebert_tf as mb
    from mobilebert_tf.distillation.schedule import TransferWeights
    from mobilebert_tf.training.distillation import build_distiller

    student = mb.MobileBertConfig.from_preset(FLAGS.student)
    return build_distiller(student, teacher, TransferWeights(), [])


def random_teacher():
    """Returns a float32 teacher of the preset."""
    import mobilebert_tf as mb
    from mobilebert_tf.distillation.teachers import build_teacher

    return build_teacher(mb.MobileBertConfig.from_preset(FLAGS.teacher))


def stage_step(distiller, stage, lower_block_multiplier=SOFT):
    """Returns the train step of a stage."""
    from mobilebert_tf.distillation.schedule import TransferOptions
    from mobilebert_tf.training.distillation import build_stage
    from mobilebert_tf.training.options import OptimizerOptions

    return build_stage(
        distiller,
        stage,
        learning_rate=1e-3,
        optimizer=OptimizerOptions("lamb", warmup_proportion=0.0),
        transfer=TransferOptions(lower_block_multiplier=lower_block_multiplier),
    )


def everything_step(distiller, heads: bool):
    """Returns a step that runs all blocks and trains by the middle one's."""
    import tensorflow as tf

    from mobilebert_tf.distillation.schedule import TransferStage
    from mobilebert_tf.training.optimizers import Lamb
    from mobilebert_tf.training.step import TrainStep

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

    return TrainStep(
        gated_loss,
        distiller.student.trainable_variables,
        Lamb(1e-3, global_clipnorm=1.0),
    )


def time_steps(step, batch: dict) -> dict:
    """Takes steps and returns seconds: the first, and medians after."""
    wall, cpu = [], []
    for _ in range(1 + FLAGS.steps):
        begin, cpu_begin = time.perf_counter(), time.process_time()
        step(batch)["loss"].numpy()
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - cpu_begin)
    return {
        "first step, s": wall[0],
        "step, s": statistics.median(wall[1:]),
        "CPU, s": statistics.median(cpu[1:]),
    }


def forward_gflop(model, num_blocks: int, heads: bool = False) -> float:
    """GFLOP of the matrix products of a batch's forward pass."""
    encoder, config = model.encoder, model.config
    length = FLAGS.max_seq_length
    blocks = encoder.blocks[:num_blocks]
    per_token = _kernel_size([encoder.embeddings, *blocks])
    # Queries times keys, and probabilities times values.
    per_token += len(blocks) * 2 * length * config.intra_bottleneck_size
    per_sequence = length * per_token
    if heads:
        vocabulary = config.vocab_size * config.hidden_size
        head = vocabulary + _kernel_size([model.masked_lm])
        per_sequence += FLAGS.predictions * head
    return 2 * FLAGS.batch_size * per_sequence / 1e9


def _kernel_size(layers) -> int:
    return sum(
        math.prod(variable.shape)
        for layer in layers
        for variable in layer.variables
        if variable.path.endswith("kernel")
    )


def measure_everything(row: str) -> dict:
    """Measures a step of the release's kind."""
    distiller, heads = build_pair(random_teacher()), EVERYTHING[row]
    student, teacher = distiller.student, distiller.teacher
    gflop = 3 * forward_gflop(student, None, heads)
    gflop += forward_gflop(teacher, None, heads)
    batch = train_batch(student.config.vocab_size)
    times = time_steps(everything_step(distiller, heads), batch)
    return {row: {"GFLOP": gflop} | times}


def measure_stage(block: int) -> dict:
    """Measures the stage of a block, numbered from 1, in both kinds."""
    from mobilebert_tf.distillation.schedule import TransferStage

    distiller = build_pair(random_teacher())
    student, teacher = distiller.student, distiller.teacher
    batch = train_batch(student.config.vocab_size)
    stage = TransferStage(f"block {block}", 1000, (block - 1,))
    theirs = distiller.teacher_blocks[block - 1] + 1
    forward = forward_gflop(student, block) + forward_gflop(teacher, theirs)
    rows = {}
    for kind, multiplier in (("soft", SOFT), ("frozen", FROZEN)):
        below = 0 if multiplier else block - 1
        trained = forward_gflop(student, block) - forward_gflop(student, below)
        rows[kind] = {"GFLOP": forward + 2 * trained} | time_steps(
            stage_step(distiller, stage, multiplier), batch
        )
    return rows


def measure_memory(row: str) -> dict:
    """Measures peaks, in MB, of making a step's parts and of the step."""
    import keras

    # Imports everything that is needed, before the baseline.
    import mobilebert_tf.training.distillation  # noqa: F401

    keras.ops.zeros((2,))
    baseline = _memory("VmRSS")
    _forget_peak()
    step, vocab_size, teacher_size = build_memory_row(MEMORY_ROWS[row])
    building = _memory("VmHWM") - baseline
    _forget_peak()
    time_steps(step, train_batch(vocab_size))
    return {
        "teacher, MB": teacher_size,
        "building, MB": building,
        "step, MB": _memory("VmHWM") - baseline,
    }


def build_memory_row(teacher_dtype: str | None) -> tuple:
    """Returns a step, the vocabulary's size and the teacher's MB."""
    import mobilebert_tf as mb
    from mobilebert_tf.distillation.schedule import TransferStage
    from mobilebert_tf.distillation.teachers import load_teacher
    from mobilebert_tf.training.optimizers import Lamb
    from mobilebert_tf.training.pretraining import pretraining_loss
    from mobilebert_tf.training.step import TrainStep

    if teacher_dtype is None:
        # Without dropout, whose masks a distillation step does not hold.
        config = mb.MobileBertConfig.from_preset(
            FLAGS.student,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        model = mb.MobileBertForPretraining(config)
        step = TrainStep(
            pretraining_loss(model),
            model.trainable_variables,
            Lamb(1e-3, global_clipnorm=1.0),
        )
        return step, config.vocab_size, 0.0
    distiller = build_pair(load_teacher(FLAGS.folder, teacher_dtype))
    size = sum(
        variable.value.dtype.size * math.prod(variable.shape)
        for variable in distiller.teacher.variables
    )
    stage = TransferStage("distillation", 1000, (), True)
    step = stage_step(distiller, stage)
    return step, distiller.student.config.vocab_size, size / 1e6


def _memory(field: str) -> float:
    """Reads a field of this process' status, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024 / 1e6
    raise KeyError(field)


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def run_row(row: str, *arguments: str) -> dict:
    """Measures a row in a process of its own."""
    done = subprocess.run(
        [sys.executable, *sys.argv, f"--one={row}", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def print_row(name: str, values: dict, digits: int = 2) -> None:
    """Prints a row of a table."""
    numbers = "".join(f"{value:15.{digits}f}" for value in values.values())
    print(name.ljust(36) + numbers, flush=True)


def print_header(name: str, keys) -> None:
    """Prints the names of a table's columns."""
    print("\n" + name.ljust(36) + "".join(f"{key:>15}" for key in keys))


def print_transfer() -> None:
    """Prints the table of steps, and what a schedule costs."""
    import numpy as np

    wholes, stages = {}, {"soft": {}, "frozen": {}}
    for row in EVERYTHING:
        wholes |= run_row(row)
        if len(wholes) == 1:
            print_header("step", wholes[row])
        print_row(row, wholes[row])
    blocks = [int(block) for block in FLAGS.blocks]
    for block in blocks:
        for kind, values in run_row(f"block_{block}").items():
            stages[kind][block] = values
            print_row(f"stage of block {block}, lower {kind}", values)
    print_header("schedule", ("GFLOP", "step, s", "CPU, s"))
    every_block = np.arange(1, max(blocks) + 1)
    for kind, by_block in stages.items():
        means = {
            key: np.interp(
                every_block, blocks, [by_block[block][key] for block in blocks]
            ).mean()
            for key in ("GFLOP", "step, s", "CPU, s")
        }
        print_row(f"mean stage, lower {kind}", means)
        for row, whole in wholes.items():
            ratios = {key: means[key] / whole[key] for key in means}
            print_row(f"  part of {row}", ratios, 3)


def print_memory() -> None:
    """Prints the table of peaks."""
    alone = None
    with tempfile.TemporaryDirectory() as folder:
        run_row(WRITE_TEACHER, f"--folder={folder}")
        for row in MEMORY_ROWS:
            values = run_row(row, f"--folder={folder}")
            if alone is None:
                alone = values["step, MB"]
                print_header("memory", [*values, "ratio"])
            ratio = values["step, MB"] / (values["teacher, MB"] + alone)
            print_row(row, values | {"ratio": ratio})


def main(_) -> None:
    """Prints the tables, or measures one row."""
    if FLAGS.one:
        if FLAGS.one in EVERYTHING:
            values = measure_everything(FLAGS.one)
        elif FLAGS.one in MEMORY_ROWS:
            values = measure_memory(FLAGS.one)
        elif FLAGS.one == WRITE_TEACHER:
            random_teacher().save_pretrained(FLAGS.folder)
            values = {}
        else:
            values = measure_stage(int(FLAGS.one.removeprefix("block_")))
        print(json.dumps(values))
        return
    print(
        f"{FLAGS.student} from {FLAGS.teacher}, {FLAGS.batch_size} x "
        f"{FLAGS.max_seq_length}, float32, LAMB, {os.cpu_count()} CPU cores"
    )
    if "transfer" in FLAGS.tables:
        print_transfer()
    if "memory" in FLAGS.tables:
        print_memory()


if __name__ == "__main__":
    app.run(main)
