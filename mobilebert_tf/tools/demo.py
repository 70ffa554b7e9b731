"""The whole journey: raw text, teacher, student, classifier, int8 file.

    python -m mobilebert_tf.tools.demo --output_dir=demo

runs the scripts of this repository as a user would, printing each command so
that it can be repeated, and ends with a table, `results.json` and
`report.html`. A student without a teacher gets the same steps, batches and
text, and every model the same fine-tuning, so that the table shows what the
teacher is worth. Stopped and started again, it goes on where it was.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from mobilebert_tf.commands.flags import EXIT_INTERRUPTED, run_script
from mobilebert_tf.errors import InputError
from mobilebert_tf.tools.demo_results import add_duration, seed_folder
from mobilebert_tf.tools.demo_steps import (
    BUDGETS,
    DemoStep,
    demo_steps,
    format_command,
)
from mobilebert_tf.tools.report import report
from mobilebert_tf.training.log import format_duration
from mobilebert_tf.training.loop import SETTINGS_FILE

FLAGS = flags.FLAGS

REPOSITORY = Path(__file__).resolve().parents[2]


def run_command(command: Sequence[str]) -> int:
    """Runs a script of the repository and returns its exit code.

    It runs in a process group of its own, so that Ctrl-C reaches it once, from
    here: a script saves at the first signal and gives up at the second.
    """
    child, pending = None, []

    def forward(number, frame):
        if child is None:
            pending.append(number)
        else:
            child.send_signal(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, forward) for number in numbers}
    try:
        child = subprocess.Popen(
            [sys.executable, *command],
            cwd=REPOSITORY,
            env={"TF_CPP_MIN_LOG_LEVEL": "2"} | os.environ,
            process_group=0,
        )
        while pending:
            child.send_signal(pending.pop())
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    # The shell's convention for a process that a signal ended.
    return code if code >= 0 else 128 - code


def run_step(step: DemoStep, folder: Path) -> None:
    """Runs a step and keeps its time; ends the demo if it fails."""
    print(f"\n{format_command(step.command)}\n", flush=True)
    from_scratch = not (folder / step.folder / SETTINGS_FILE).exists()
    begin = time.monotonic()
    code = run_command(step.command)
    if code in (0, EXIT_INTERRUPTED):
        add_duration(
            folder,
            step.folder,
            time.monotonic() - begin,
            finished=code == 0,
            from_scratch=from_scratch,
        )
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        print(
            f"\nThe command above failed with exit code {code}, and with it "
            "the demo.",
            file=sys.stderr,
            flush=True,
        )
        sys.exit(code)


def displayed(folder: Path) -> str:
    """Names a folder as the commands do, which run in the repository."""
    if folder.is_relative_to(REPOSITORY):
        return folder.relative_to(REPOSITORY).as_posix()
    return folder.as_posix()


def check_repository() -> None:
    """Checks that the scripts are there.

    Raises:
        InputError: in an installed package, which has none.
    """
    if not (REPOSITORY / "run_pretraining.py").exists():
        raise InputError(
            REPOSITORY, "the repository with its run_*.py scripts", "none"
        )


def resume_hint() -> str:
    """Says how to go on after Ctrl-C."""
    if FLAGS["output_dir"].using_default_value or FLAGS.output_dir == "demo":
        if FLAGS.budget == "full" and FLAGS.seeds in (1, 3):
            target = "demo" if FLAGS.seeds == 1 else "demo-seeds"
            return f"`make {target}` goes on from there."
    return "The same command goes on from there."


def run_seeds(demo_dir: Path) -> None:
    """Runs the steps of all seeds, under headings that count them."""
    begin = time.monotonic()
    planned = [
        (seed, step)
        for seed in range(1, FLAGS.seeds + 1)
        for step in demo_steps(
            displayed(seed_folder(demo_dir, seed)),
            BUDGETS[FLAGS.budget](),
            seed,
        )
    ]
    for number, (seed, step) in enumerate(planned, 1):
        elapsed = format_duration(time.monotonic() - begin)
        which = f", seed {seed}" if FLAGS.seeds > 1 else ""
        heading = f"[{number}/{len(planned)}{which}] {step.title}"
        print(f"\n== {heading} == {elapsed} so far", flush=True)
        run_step(step, seed_folder(demo_dir, seed))
    elapsed = format_duration(time.monotonic() - begin)
    print(f"\n== Results == {elapsed} so far\n", flush=True)


def main(_) -> None:
    """Runs every step, then prints the table and writes the report."""
    check_repository()
    demo_dir = Path(FLAGS.output_dir).resolve()
    print(f"In {REPOSITORY}, where python is {sys.executable}:")
    try:
        run_seeds(demo_dir)
        report(demo_dir, FLAGS.seeds)
    except KeyboardInterrupt:
        print(f"\nStopped. {resume_hint()}", flush=True)
        sys.exit(EXIT_INTERRUPTED)


def define_flags() -> None:
    """Defines the demo's flags, when it is run and not when imported."""
    flags.DEFINE_string("output_dir", "demo", "Folder of the demo's folders.")
    flags.DEFINE_integer(
        "seeds", 1, "Repeat everything for so many seeds.", lower_bound=1
    )
    flags.DEFINE_enum(
        "budget",
        "full",
        list(BUDGETS),
        "full: 15 minutes on two cores. tiny: every step once, in about two "
        "minutes, teaches nothing.",
    )


if __name__ == "__main__":
    define_flags()
    run_script(main)
