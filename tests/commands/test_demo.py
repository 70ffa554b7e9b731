"""The demo's commands, and how they run."""

import contextlib
import json
import os
import shlex
import signal
import threading
import time
from pathlib import Path

import pytest
from absl import flags

from mobilebert_tf.commands import (
    demo,
    demo_results,
    distill,
    finetune,
    pretrain,
    report,
)
from mobilebert_tf.training.stopping import Stopped


def flags_of(step, budget="full", seed=1):
    words = demo.command_of(step, "demo", budget, seed)[1:]
    return dict(word.removeprefix("--").split("=", 1) for word in words)


def test_every_command_accepts_its_flags():
    commands = {
        "pretrain": pretrain.COMMAND,
        "distill": distill.COMMAND,
        "classify": finetune.CLASSIFY,
    }
    for step in demo.STEPS:
        name, *arguments = demo.command_of(step, "demo", "full", 1)
        values = flags.FlagValues()
        commands[name].define(values)
        assert values(["command", *arguments]) == ["command"], step
        commands[name].read(values)


@pytest.mark.parametrize("budget", demo.BUDGETS)
def test_the_student_alone_gets_what_the_distilled_one_gets(budget):
    distilled = flags_of("student", budget, seed=5)
    alone = flags_of("student_alone", budget, seed=5)
    steps = ("num_transfer_steps", "num_train_steps")
    assert int(alone["num_train_steps"]) == sum(
        int(distilled[name]) for name in steps
    )
    assert alone["vocab_file"] == f"{distilled['teacher']}/vocab.txt"
    for name in ("preset", "max_seq_length", "train_batch_size", "seed"):
        assert alone[name] == distilled[name]


@pytest.mark.parametrize("budget", demo.BUDGETS)
def test_fine_tuning_is_the_same_for_all(budget):
    exporting = {"export", "num_qat_steps", "qat_learning_rate"}
    found = []
    for model in demo_results.MODELS.values():
        flags = flags_of(f"{model}_classifier", budget)
        assert flags.pop("model") == f"demo/{model}"
        assert flags.pop("output_dir") == f"demo/{model}_classifier"
        if model == "student":
            assert flags["export"] == "float32,dynamic,int8_qat"
            flags = {k: v for k, v in flags.items() if k not in exporting}
        found.append(flags)
    assert found[0] == found[1] == found[2]


def test_a_command_ends_with_its_exit_code():
    assert demo.run_python(["-c", "raise SystemExit(2)"]) == 2
    died = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert demo.run_python(["-c", died]) == 128 + signal.SIGKILL


COUNTING = """
import pathlib, signal, sys, time
received = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, _: received.append(number))
pathlib.Path(sys.argv[1]).touch()
deadline = time.monotonic() + 60
while not received and time.monotonic() < deadline:
    time.sleep(0.01)
time.sleep(0.3)
sys.exit(128 + received[0] if len(received) == 1 else 3)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_reaches_the_command_once(tmp_path, name):
    number = signal.Signals[name]
    ready = tmp_path / "ready"
    # In a shell's background job it is ignored.
    before = signal.getsignal(number)

    def interrupt():
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    assert demo.run_python(["-c", COUNTING, str(ready)]) == 128 + number
    thread.join()
    assert signal.getsignal(number) is before


def test_a_signal_stops_the_demo_although_its_command_finishes(tmp_path):
    raising = "import os, signal; os.kill(os.getppid(), signal.SIGTERM)"
    assert demo.run_python(["-c", raising]) == 128 + signal.SIGTERM


def test_times_add_up_until_a_step_has_finished(tmp_path, monkeypatch):
    seconds, codes = iter([60, 30, 5, 70]), iter([130, 0, 0, 130])
    now = [0.0]

    def run_python(command):
        now[0] += next(seconds)
        return next(codes)

    monkeypatch.setattr(demo, "run_python", run_python)
    monkeypatch.setattr(demo.time, "monotonic", lambda: now[0])
    (tmp_path / "teacher").mkdir()
    settings = tmp_path / "teacher" / "run.json"
    settings.touch()

    def run():
        with contextlib.suppress(Stopped):
            demo.run_step(tmp_path, "teacher", [])
        return tuple(demo_results.read_timings(tmp_path)["teacher"].values())

    assert run() == (60.0, False)
    assert run() == (90.0, True)
    assert run() == (90.0, True)
    # A deleted folder is trained anew, and so is its time.
    settings.unlink()
    assert run() == (70.0, False)


@pytest.mark.parametrize("folder", ["demo", "/tmp/two words"])
def test_every_seed_runs_every_step(folder, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(demo, "run_step", lambda *step: ran.append(step))
    monkeypatch.setattr(report, "main", ran.append)
    demo.COMMAND.run([f"--output_dir={folder}", "--seeds=2", "--budget=tiny"])
    assert ran == [
        (
            Path(folder, below),
            step,
            demo.command_of(step, folder + tail, "tiny", n),
        )
        for n, below, tail in ((1, "", ""), (2, "seed_2", "/seed_2"))
        for step in demo.STEPS
    ] + [report.ReportOptions(folder, 2)]
    output = capsys.readouterr().out
    assert "Seed 2 of 2, step 6 of 6: student_classifier" in output
    assert shlex.join(["mobilebert", *ran[0][2]]) in output


def test_a_step_that_fails_ends_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "run_python", lambda command: 3)
    with pytest.raises(SystemExit) as end:
        demo.main(demo.DemoOptions(str(tmp_path)))
    assert end.value.code == 3
    assert "exit code 3" in capsys.readouterr().err
    assert demo_results.read_timings(tmp_path) == {}


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_step_that_is_stopped_stops_the_demo(tmp_path, monkeypatch, name):
    code = 128 + signal.Signals[name]
    monkeypatch.setattr(demo, "run_python", lambda command: code)
    with pytest.raises(Stopped, match="The same command continues") as stopped:
        demo.main(demo.DemoOptions(str(tmp_path)))
    assert stopped.value.exit_code == code
    # An interrupted part counts.
    assert list(demo_results.read_timings(tmp_path)) == ["teacher"]


@pytest.mark.slow
def test_the_whole_journey(tmp_path, capsys):
    folder = tmp_path / "demo"
    arguments = [f"--output_dir={folder}", "--budget=tiny"]
    demo.COMMAND.run(arguments)
    (rows,) = json.loads((folder / "results.json").read_text())["seeds"]
    assert rows == demo_results.read_rows(folder)
    assert all(row["latency_ms"] or row["fine_tuning_minutes"] for row in rows)
    page = (folder / "report.html").read_text()
    report.COMMAND.run([f"--demo_dir={folder}"])
    assert (folder / "report.html").read_text() == page

    # A step that fails ends the demo with its own code.
    settings = folder / "teacher" / "run.json"
    settings.write_text(settings.read_text().replace('"seed": 1', '"seed": 9'))
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        demo.COMMAND.run(arguments)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert "distill --teacher" not in printed.out
    assert "exit code 2" in printed.err
