"""A run whose terminal closes saves all the same."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Prints after the signal, as a training loop does, before it saves.
WORKING = """
import pathlib, signal, sys, time
from mobilebert_tf.training.stopping import SignalCatcher
# The tests themselves may run under nohup.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
with SignalCatcher(lambda: False) as signals:
    print("ready", flush=True)
    while not signals.received:
        time.sleep(0.01)
    time.sleep(0.3)
    print("a line of progress", flush=True)
    pathlib.Path(sys.argv[1]).write_text(signals.received)
"""


def test_a_closed_terminal_does_not_keep_a_run_from_saving(tmp_path):
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", WORKING, str(tmp_path / "saved")],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=REPOSITORY,
        start_new_session=True,
    )
    os.close(slave)
    printed = b""
    while b"\n" not in printed:
        printed += os.read(master, 100)
    os.close(master)
    # A closing terminal sends it, and so does its shell.
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"
