"""The demo's commands, how they run, and what their folders say."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.tools.demo import displayed, run_command
from mobilebert_tf.tools.demo_results import (
    HeldOut,
    Row,
    add_duration,
    read_rows,
    read_timings,
    seed_folder,
)
from mobilebert_tf.tools.demo_steps import (
    BUDGETS,
    DemoBudget,
    demo_steps,
    format_command,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def flags_of(step):
    return dict(word[2:].split("=", 1) for word in step.command[1:])


def steps_by_folder(budget, seed=1):
    return {step.folder: step for step in demo_steps("demo", budget, seed)}


@pytest.mark.parametrize("budget", BUDGETS)
def test_every_flag_is_one_of_its_script(budget):
    modules = (REPOSITORY / "mobilebert_tf/flags").glob("*.py")
    shared = "".join(module.read_text() for module in modules)
    for step in demo_steps("demo", BUDGETS[budget](), 1):
        source = (REPOSITORY / step.command[0]).read_text() + shared
        known = set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', source))
        assert flags_of(step).keys() <= known


def test_the_student_alone_gets_what_the_distilled_one_gets():
    budget = DemoBudget(transfer_steps=30, distillation_steps=12)
    steps = steps_by_folder(budget, seed=5)
    distilled = flags_of(steps["student"])
    alone = flags_of(steps["student_alone"])
    assert alone["num_train_steps"] == "42"
    assert alone["vocab_file"] == f"{distilled['teacher']}/vocab.txt"
    for name in ("preset", "max_seq_length", "train_batch_size", "seed"):
        assert alone[name] == distilled[name]


def test_fine_tuning_is_the_same_for_all():
    steps = steps_by_folder(DemoBudget())
    own = {"model", "output_dir", "export", "num_qat_steps"}
    own.add("qat_learning_rate")
    classifiers = [
        flags_of(steps[f"{name}_classifier"])
        for name in ("teacher", "student", "student_alone")
    ]
    settings = [
        {name: value for name, value in each.items() if name not in own}
        for each in classifiers
    ]
    assert settings[0] == settings[1] == settings[2]
    assert classifiers[1]["export"] == "float32,dynamic,int8_qat"
    for name, each in zip(
        ("teacher", "student", "student_alone"), classifiers, strict=True
    ):
        assert each["model"] == f"demo/{name}"
        assert each["output_dir"] == f"demo/{name}_classifier"


def test_no_limit_on_examples_is_no_flag():
    steps = steps_by_folder(DemoBudget(classifier_examples=None))
    assert "max_train_examples" not in flags_of(steps["teacher_classifier"])


def test_a_formatted_command_is_the_command():
    command = ["run_a.py", *[f"--name_{n}={n * 'ab '}" for n in range(12)]]
    text = format_command(command)
    assert all(len(line) <= 78 for line in text.splitlines())
    assert text.count("\\\n") == len(text.splitlines()) - 1 > 0
    shell = subprocess.run(
        ["sh", "-c", f"python() {{ printf '%s\\n' \"$@\"; }}\n{text}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shell.stdout.splitlines() == command


def test_folders_are_named_as_seen_from_the_repository():
    assert displayed(REPOSITORY / "demo" / "seed_2") == "demo/seed_2"
    assert displayed(Path("/elsewhere/demo")) == "/elsewhere/demo"


def test_a_command_ends_with_its_exit_code():
    assert run_command(["-c", "raise SystemExit(2)"]) == 2
    died = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run_command(["-c", died]) == 128 + signal.SIGKILL


COUNTING = """
import pathlib, signal, sys, time
received = []
signal.signal(signal.SIGINT, lambda *_: received.append(1))
pathlib.Path(sys.argv[1]).touch()
deadline = time.monotonic() + 60
while not received and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(130 if received == [1] else 3)
"""


def test_an_interrupt_reaches_the_command_once(tmp_path):
    ready = tmp_path / "ready"
    # In a shell's background job it is ignored.
    before = signal.getsignal(signal.SIGINT)

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert run_command(["-c", COUNTING, str(ready)]) == 130
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before


def test_times_add_up_until_a_step_has_finished(tmp_path):
    def add(seconds, finished, from_scratch=False):
        add_duration(
            tmp_path,
            "teacher",
            seconds,
            finished=finished,
            from_scratch=from_scratch,
        )
        return read_timings(tmp_path)["teacher"]

    assert add(60.0, finished=False) == {"seconds": 60.0, "finished": False}
    assert add(30.0, finished=True) == {"seconds": 90.0, "finished": True}
    assert add(5.0, finished=True) == {"seconds": 90.0, "finished": True}
    # A deleted folder is trained anew, and so is its time.
    again = add(70.0, finished=False, from_scratch=True)
    assert again == {"seconds": 70.0, "finished": False}


def test_broken_timings_are_named(tmp_path):
    (tmp_path / "timings.json").write_text('{"teacher": 3}')
    with pytest.raises(InputError, match="timings.json, teacher"):
        read_timings(tmp_path)


def test_rows_are_what_the_folders_say(demo_dir):
    add_duration(demo_dir, "student", 90.0, finished=True, from_scratch=True)
    add_duration(demo_dir, "teacher", 90.0, finished=False, from_scratch=True)
    teacher, distilled, alone, *files = read_rows(demo_dir)
    assert teacher.pretraining_minutes is None
    assert distilled == Row(
        "student, distilled",
        dev_accuracy=0.65,
        test_accuracy=0.66,
        megabytes=0.017284,
        parameters=4321,
        masked_lm_accuracy=0.25,
        pretraining_minutes=1.5,
    )
    assert alone.masked_lm_accuracy == 0.20
    assert files[-1] == Row(
        "distilled, int8_qat .tflite",
        dev_accuracy=pytest.approx(0.646),
        test_accuracy=pytest.approx(0.652),
        megabytes=0.5,
        latency_ms=1.25,
    )


def test_an_unfinished_run_is_named(demo_dir):
    path = demo_dir / "student_classifier" / "metrics.jsonl"
    path.write_text('{"phase": "fine_tuning", "global_step": 4}\n')
    with pytest.raises(InputError, match="student_classifier/metrics.jsonl"):
        read_rows(demo_dir)
    path.unlink()
    with pytest.raises(InputError, match="No such file"):
        read_rows(demo_dir)


def test_a_missing_result_is_named(demo_dir):
    path = demo_dir / "teacher" / "metrics.jsonl"
    path.write_text('{"phase": "results", "global_step": 4}\n')
    with pytest.raises(InputError, match="masked_lm_accuracy"):
        read_rows(demo_dir)


def test_folders_of_seeds(tmp_path):
    assert seed_folder(tmp_path, 1) == tmp_path
    assert seed_folder(tmp_path, 3) == tmp_path / "seed_3"


def test_held_out_examples_are_counted(splits):
    assert HeldOut.of(splits) == HeldOut(2, 3, 2, pytest.approx(2 / 3))


@pytest.mark.slow
def test_the_whole_journey(tmp_path):
    folder = tmp_path / "demo"

    def run(module, *arguments):
        return subprocess.run(
            [sys.executable, "-m", f"mobilebert_tf.tools.{module}", *arguments],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
        )

    finished = run("demo", f"--output_dir={folder}", "--budget=tiny")
    assert finished.returncode == 0, finished.stderr[-2000:]
    rows = json.loads((folder / "results.json").read_text())["seeds"][0]
    assert [row["name"] for row in rows] == [
        row.name for row in read_rows(folder)
    ]
    for step in demo_steps(folder.as_posix(), DemoBudget.tiny(), 1):
        assert format_command(step.command) in finished.stdout
        assert read_timings(folder)[step.folder]["finished"]
    page = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert run("report", f"--demo_dir={folder}").returncode == 0
    assert (folder / "report.html").read_text() == page

    # A step that fails ends the demo with its own code.
    other = json.loads((folder / "teacher" / "run.json").read_text())
    (folder / "teacher" / "run.json").write_text(
        json.dumps(other | {"seed": 9})
    )
    failed = run("demo", f"--output_dir={folder}", "--budget=tiny")
    assert failed.returncode == 2
    assert "run_distillation" not in failed.stdout
    assert "seed" in failed.stderr
