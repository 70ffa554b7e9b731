"""The journey at small scale: raw text, teacher, student, int8 classifier.

    python -m mobilebert_tf.commands.demo --output_dir=demo

runs the commands of `STEPS` as a user would and prints each, so that it can be
repeated. It ends with a table, `report.html` and `demo.png`. A student without
a teacher gets the same steps, batches and text, and all models the same
fine-tuning, so that the table shows what the teacher is worth. If stopped, the
same command continues.
"""

import contextlib
import dataclasses
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mobilebert_tf.commands.command import Command
from mobilebert_tf.commands.demo_results import (
    TIMINGS_FILE,
    read_timings,
    seed_folder,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.options import Options, option
from mobilebert_tf.training.stopping import SIGNALS, Stopped

_SECONDS_BETWEEN_LOOKS = 0.1

# In the full demo, 10 to 20 minutes on two CPU cores, and in the tiny one,
# which runs every step once in about two minutes and teaches nothing.
_SIZES = {
    "vocab_size": (4000, 800),
    "max_seq_length": (64, 24),
    "train_batch_size": (32, 4),
    "teacher_steps": (2500, 6),
    "transfer_steps": (600, 8),
    "distillation_steps": (600, 4),
    "student_steps": (1200, 12),
    "epochs": (4, 1),
    "examples": (6000, 64),
    "classifier_batch_size": (32, 16),
    "qat_steps": (150, 2),
    "log_every": (50, 1),
}
BUDGETS = ("full", "tiny")
_FINE_TUNE = (
    "classify --task=library --num_train_epochs={epochs} "
    "--max_train_examples={examples} --learning_rate=0.002 "
    "--train_batch_size={classifier_batch_size} "
)
# Commands by the folder that each makes below the demo's (or its seed's); all
# also get the flags in `_EVERY_STEP`. `student_alone` gets the student's steps,
# batches and text, without a teacher.
STEPS = {
    "teacher": "pretrain --preset=ib_bert_small "
    "--vocab_size={vocab_size} --num_train_steps={teacher_steps} "
    "--learning_rate=0.0015 --train_batch_size={train_batch_size}",
    "student": "distill --teacher={demo}/teacher "
    "--preset=mobilebert_small "
    "--num_transfer_steps={transfer_steps} --transfer_learning_rate=0.003 "
    "--num_train_steps={distillation_steps} --learning_rate=0.0015 "
    "--train_batch_size={train_batch_size}",
    "student_alone": "pretrain --preset=mobilebert_small "
    "--vocab_file={demo}/teacher/vocab.txt "
    "--num_train_steps={student_steps} --learning_rate=0.0015 "
    "--train_batch_size={train_batch_size}",
    "teacher_classifier": _FINE_TUNE + "--model={demo}/teacher",
    "student_alone_classifier": _FINE_TUNE + "--model={demo}/student_alone",
    "student_classifier": _FINE_TUNE + "--model={demo}/student "
    "--export=float32,dynamic,int8_qat --num_qat_steps={qat_steps} "
    "--qat_learning_rate=0.001",
}
_EVERY_STEP = (
    " --max_seq_length={max_seq_length} --seed={seed} --log_every={log_every}"
    " --output_dir={demo}/{step}"
)


@dataclasses.dataclass(frozen=True)
class DemoOptions(Options):
    """Where and how much."""

    output_dir: str = option(
        "demo", "Folder of the demo's model folders.", everyday=True
    )
    seeds: int = option(
        1, "Repeat everything for this many seeds.", min=1, everyday=True
    )
    budget: str = option(
        "full",
        "full: 10 to 20 minutes on two cores. tiny: every step once, in about "
        "two minutes, teaches nothing.",
        choices=BUDGETS,
        everyday=True,
    )


def command_of(step: str, demo: str, budget: str, seed: int) -> list[str]:
    """Returns the words of a step's command after `mobilebert`, name first.

    Args:
        step: the folder of one of `STEPS`.
        demo: the folder of the seed, as the command names it.
        budget: one of `BUDGETS`.
        seed: seed of every command.
    """
    values = {
        name: sizes[BUDGETS.index(budget)] for name, sizes in _SIZES.items()
    } | {"demo": demo, "step": step, "seed": seed}
    words = (STEPS[step] + _EVERY_STEP).split()
    return [word.format(**values) for word in words]


def run_python(arguments: Sequence[str]) -> int:
    """Runs Python with these arguments and returns its exit code.

    It runs in a process group of its own and gets signals from here, each
    once: at a second Ctrl-C a command gives up what it is saving. This process
    waits for it to end.
    """
    received = []
    previous = {
        number: signal.signal(number, lambda sent, _: received.append(sent))
        for number in SIGNALS
    }
    try:
        child = subprocess.Popen([sys.executable, *arguments], process_group=0)
        code, num_sent = None, 0
        while code is None:
            for sent in received[num_sent:]:
                child.send_signal(sent)
                num_sent += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = child.wait(_SECONDS_BETWEEN_LOOKS)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received and code == 0:
        # It was finished before the signal came.
        code = -received[0]
    # The shell's convention for a process that a signal ended.
    return code if code >= 0 else 128 - code


def run_step(folder: Path, step: str, command: Sequence[str]) -> None:
    """Runs a step and records its time; ends the demo if it fails.

    The parts of an interrupted step add up. The time in which a finished one
    finds nothing left to do is not counted.
    """
    timings = read_timings(folder)
    entry = timings.get(step)
    if entry is None or not (folder / step / "run.json").exists():
        entry = {"seconds": 0.0, "finished": False}
    begin = time.monotonic()
    code = run_python(["-m", "mobilebert_tf", *command])
    seconds = round(entry["seconds"] + time.monotonic() - begin, 1)
    is_stopped = code - 128 in SIGNALS
    if code and not is_stopped:
        print(
            f"\nThe demo ends here: this command failed with exit code {code}.",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(code)
    if not entry["finished"]:
        timings[step] = {"seconds": seconds, "finished": code == 0}
        with atomic_file(folder / TIMINGS_FILE) as temporary:
            temporary.write_text(json.dumps(timings, indent=2) + "\n")
    if is_stopped:
        name = signal.Signals(code - 128).name
        raise Stopped(f"\n{name}: stopped. The same command continues.", name)


def main(options: DemoOptions) -> None:
    """Runs every step of every seed, then writes the report."""
    from mobilebert_tf.commands import report

    if not options.output_dir:
        raise InputError("--output_dir", "a name", "an empty text")
    demo_dir, begin = Path(options.output_dir), time.monotonic()
    print(f"Here mobilebert is {sys.executable} -m mobilebert_tf")
    for seed in range(1, options.seeds + 1):
        folder = seed_folder(demo_dir, seed)
        for number, step in enumerate(STEPS, start=1):
            minutes = (time.monotonic() - begin) / 60
            command = command_of(step, folder.as_posix(), options.budget, seed)
            print(
                f"\n== Seed {seed} of {options.seeds}, step {number} of "
                f"{len(STEPS)}: {step} == {minutes:.0f} minutes so far\n\n"
                f"{shlex.join(['mobilebert', *command])}\n",
                flush=True,
            )
            run_step(folder, step, command)
    print("\n== Results ==\n", flush=True)
    report.main(report.ReportOptions(str(demo_dir), options.seeds))


COMMAND = Command(main, (DemoOptions,), description=__doc__)

if __name__ == "__main__":
    COMMAND()
