r"""What a training step costs, and the wait before the first.

Each row is a process of its own that trains on made-up ids: `plain` and its
variants pre-train `--preset`; `distillation` teaches it by a `--teacher_preset`
(pre-training distillation), `transfer` fits its middle block to the teacher's.
Seconds from the process's start to its first finished step, and what they went
into; the processor's seconds until then, which other work on the machine
disturbs less; the median of the steps after; and the peak of memory.

    python benchmarks/training_step.py --rows=plain,distillation
"""

import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import time

from absl import app, flags

FLAGS = flags.FLAGS

# Of StepOptions, and `dtype`, `rematerialize` and `kind`.
ROWS = {
    "plain": {},
    "accumulation": {"accumulation_steps": 4},
    "bfloat16": {"dtype": "mixed_bfloat16"},
    "rematerialization": {"rematerialize": True},
    "steps_per_execution": {"steps_per_execution": 4},
    "xla": {"jit_compile": True},
    "distillation": {"kind": "distillation"},
    "transfer": {"kind": "transfer"},
}

flags.DEFINE_list("rows", list(ROWS), f"Among {', '.join(ROWS)}.")
flags.DEFINE_string("preset", "mobilebert", "Architecture.")
flags.DEFINE_string("teacher_preset", "ib_bert_large", "Of its teacher.")
flags.DEFINE_integer("batch_size", 8, "Sequences a step.", 1)
flags.DEFINE_integer("max_seq_length", 128, "Length.", 8)
flags.DEFINE_integer("steps", 8, "Steps after the first.", 1)
flags.DEFINE_string("one", None, "Runs this row here; for the script itself.")


def train_batch(vocab_size: int) -> dict:
    """Returns a batch of the size that the flags say."""
    from random_batch import random_batch

    return random_batch(
        vocab_size,
        FLAGS.batch_size,
        FLAGS.max_seq_length,
        round(0.15 * FLAGS.max_seq_length),
    )


class Laps:
    """Seconds since the last lap, by name."""

    def __init__(self, started: float):
        self.started = self._last = started
        self.seconds = {}

    def lap(self, name: str) -> None:
        """Ends a lap."""
        now = time.time()
        self.seconds[name] = now - self._last
        self._last = now


def build_step(options: dict, laps: Laps):
    """Returns the vocabulary's size and a train step."""
    import keras

    import mobilebert_tf as mb
    from mobilebert_tf.training import optimizers as optimization
    from mobilebert_tf.training import step
    from mobilebert_tf.training.pretraining import pretraining_loss
    from mobilebert_tf.training.step import rematerialize

    keras.config.set_dtype_policy(options.pop("dtype", "float32"))
    config = mb.MobileBertConfig.from_preset(FLAGS.preset)
    kind = options.pop("kind", None)
    if kind:
        return config.vocab_size, build_transfer(kind, config, laps)
    laps.lap("import, s")
    model = mb.MobileBertForPretraining(config)
    laps.lap("models, s")
    if options.pop("rematerialize", False):
        rematerialize(model.encoder.blocks)
    return config.vocab_size, step.TrainStep(
        pretraining_loss(model),
        model.trainable_variables,
        optimization.OPTIMIZERS["adamw"](1e-3, global_clipnorm=1.0),
        step.StepOptions(**options),
    )


def build_transfer(kind: str, config, laps: Laps):
    """Returns the step of a stage of distillation."""
    import mobilebert_tf as mb
    from mobilebert_tf.distillation.schedule import (
        TransferStage,
        TransferWeights,
    )
    from mobilebert_tf.training import distillation
    from mobilebert_tf.training.options import OptimizerOptions

    laps.lap("import, s")
    middle = config.num_hidden_layers // 2 - 1
    stage = TransferStage(f"transfer_block_{middle:02d}", 100, (middle,))
    if kind == "distillation":
        stage = TransferStage(kind, 100, pretraining_distillation=True)
    # Its random weights cost what those of a file would, and a bit more.
    teacher = mb.MobileBertForPretraining(
        mb.MobileBertConfig.from_preset(FLAGS.teacher_preset)
    )
    # The list of what was copied is no news here.
    with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
        distiller = distillation.build_distiller(
            config, teacher, TransferWeights(), [stage]
        )
    laps.lap("models, s")
    return distillation.build_stage(
        distiller,
        stage,
        learning_rate=1e-3,
        optimizer=OptimizerOptions(warmup_proportion=0.0),
    )


def measure(row: str, started: float) -> dict:
    """Measures a row in this process, which started at `started`."""
    laps = Laps(started)
    vocab_size, step = build_step(dict(ROWS[row]), laps)
    laps.lap("optimizer, s")
    batches = [train_batch(vocab_size)] * step.options.steps_per_execution
    step.run(batches)[0].numpy()
    laps.lap("trace, run, s")
    first, processor = time.time() - started, time.process_time()
    seconds = []
    for _ in range(max(1, FLAGS.steps // len(batches))):
        begin = time.perf_counter()
        step.run(batches)[0].numpy()
        seconds.append((time.perf_counter() - begin) / len(batches))
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return laps.seconds | {
        "first step, s": first,
        "processor, s": processor,
        "step, s": statistics.median(seconds),
        "peak, GB": peak,
    }


def main(_) -> None:
    """Prints a table, a process a row."""
    if FLAGS.one:
        row, started = FLAGS.one.split("@")
        print(json.dumps(measure(row, float(started))))
        return
    print(
        f"{FLAGS.preset}, {FLAGS.batch_size} x {FLAGS.max_seq_length}, float32 "
        "weights, AdamW"
    )
    for index, row in enumerate(FLAGS.rows):
        command = [sys.executable, *sys.argv, f"--one={row}@{time.time()}"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True
        )
        values = json.loads(done.stdout.splitlines()[-1])
        if not index:
            print("row".ljust(20) + "".join(f"{key:>15}" for key in values))
        numbers = "".join(f"{value:15.2f}" for value in values.values())
        print(row.ljust(20) + numbers, flush=True)


if __name__ == "__main__":
    app.run(main)
