r"""What a training step costs, and the wait before the first.

    python -m benchmarks.training_step --rows=plain,distillation

Each row is a process of its own that trains on made-up ids: `plain` and its
variants pre-train `--preset`; `distillation` teaches it by a `--teacher_preset`
(pre-training distillation), `transfer` fits its middle block to the teacher's.
Seconds from the process's start to its first finished step; the processor's
seconds until then, which other work on the machine disturbs less; the median of
the steps after; and the peak of memory.
"""

import dataclasses
import resource
import time

from benchmarks.instruments import (
    apart,
    interleaved,
    print_header,
    print_row,
    random_batch,
    settings,
    start,
)
from mobilebert_tf.options import Options, option
from mobilebert_tf.presets import PRESETS

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


@dataclasses.dataclass(frozen=True)
class TrainingStepOptions(Options):
    """What to train, and how large."""

    rows: tuple[str, ...] = option(tuple(ROWS), "Rows.", choices=tuple(ROWS))
    preset: str = option("mobilebert", "Architecture.", choices=list(PRESETS))
    teacher_preset: str = option(
        "ib_bert_large", "Its teacher's.", choices=list(PRESETS)
    )
    batch_size: int = option(8, "Sequences a step.", min=1)
    max_seq_length: int = option(128, "Length.", min=8)
    steps: int = option(8, "Steps after the first.", min=1)


def build_step(options: TrainingStepOptions, changes: dict):
    """Returns the vocabulary's size and the train step of a row."""
    import keras

    import mobilebert_tf as mb
    from mobilebert_tf.training import optimizers, step
    from mobilebert_tf.training.pretraining import pretraining_loss

    keras.config.set_dtype_policy(changes.pop("dtype", "float32"))
    config = mb.MobileBertConfig.from_preset(options.preset)
    kind = changes.pop("kind", None)
    if kind:
        return config.vocab_size, build_transfer(kind, config, options)
    model = mb.MobileBertForPretraining(config)
    if changes.pop("rematerialize", False):
        step.rematerialize(model.encoder.blocks)
    return config.vocab_size, step.TrainStep(
        pretraining_loss(model),
        model.trainable_variables,
        optimizers.OPTIMIZERS["adamw"](1e-3, global_clipnorm=1.0),
        step.StepOptions(**changes),
    )


def build_transfer(kind: str, config, options: TrainingStepOptions):
    """Returns the step of a stage of distillation."""
    from benchmarks.progressive_transfer import build_pair, stage_step
    from mobilebert_tf.distillation.schedule import TransferStage

    stage = TransferStage(kind, 100, pretraining_distillation=True)
    if kind == "transfer":
        middle = config.num_hidden_layers // 2 - 1
        stage = TransferStage(kind, 100, (middle,))
    distiller = build_pair(options.preset, options.teacher_preset)
    return stage_step(distiller, stage, optimizer="adamw")


def measure(row: str, started: float, options: dict) -> dict:
    """Measures a row in this process, which started at `started`."""
    options = TrainingStepOptions(**options)
    vocab_size, step = build_step(options, dict(ROWS[row]))
    length = options.max_seq_length
    batch = random_batch(
        vocab_size, options.batch_size, length, round(0.15 * length)
    )
    batches = [batch] * step.options.steps_per_execution

    def run() -> None:
        step.run(batches)[0].numpy()

    run()
    first, processor = time.time() - started, time.process_time()
    calls = max(1, options.steps // len(batches))
    times = interleaved({row: run}, calls, warm_up=0)[row]
    # Kilobytes on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {
        "first step, s": first,
        "processor, s": processor,
        "step, s": times["median_ms"] / 1e3 / len(batches),
        "peak, GB": peak,
    }


def main(options: TrainingStepOptions) -> None:
    """Prints a table, a process a row."""
    print(
        f"{options.preset}, {options.batch_size} x {options.max_seq_length}, "
        "float32 weights, AdamW"
    )
    for index, row in enumerate(options.rows):
        values = apart(measure, row, time.time(), settings(options))
        if not index:
            print_header("row", values)
        print_row(row, values)


if __name__ == "__main__":
    start(main, TrainingStepOptions, __doc__)
