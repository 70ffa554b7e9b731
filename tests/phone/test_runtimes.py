"""Files in older runtimes, and on 64-bit ARM by emulation.

`set_up.sh` fetches the runtimes, QEMU and an ARM Python into the folder that
MOBILEBERT_TF_MACHINES names. Emulated time says nothing about a phone's.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.phone.conftest import KINDS, TASKS, assert_alike

pytestmark = pytest.mark.phone

# Kinds that a runtime refuses; docs/mobile.md has the same table.
REFUSED = {
    "tflite-runtime==2.14.0": ("dynamic",),
    "ai-edge-litert==1.0.1": (),
    "ai-edge-litert==1.4.0": (),
    "ai-edge-litert==2.0.3": (),
}


def run(command, files, environment):
    """Lets a runtime answer; returns why it refused each file, or None."""
    paths = list(files.values())
    for path in paths:
        Path(f"{path}.npz").unlink(missing_ok=True)
    done = subprocess.run(
        [
            *command,
            Path(__file__).with_name("answers.py"),
            paths[0].with_name("inputs.npz"),
            *paths,
        ],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("runtime", REFUSED)
def test_older_runtimes_open_what_the_table_says(
    runtime, machines, files, wanted
):
    folder = machines / "runtimes" / runtime
    if not folder.exists():
        pytest.skip(f"{runtime} has no wheel for this Python")
    # Without the packages of this interpreter.
    command = [sys.executable, "-S"]
    refusals = run(command, files, {"PYTHONPATH": str(folder)})
    for (task, kind), refusal in zip(files, refusals, strict=True):
        if kind in REFUSED[runtime]:
            assert "FULLY_CONNECTED" in refusal, (task, kind)
            continue
        assert refusal is None, (task, kind)
        outputs = dict(np.load(f"{files[task, kind]}.npz"))
        assert_alike(runtime, outputs, wanted, (task, kind))


@pytest.mark.parametrize("cpu", ["cortex-a53", "cortex-a76", "max"])
def test_arm_answers_as_x86_does(cpu, machines, files, wanted):
    folder = machines / "arm64"
    if not folder.exists():
        pytest.skip("needs QEMU and an ARM Python, see set_up.sh")
    root = folder / "root"
    (python,) = (root / "usr" / "bin").glob("python3.*")
    command = [folder / "qemu-aarch64", "-cpu", cpu, "-L", root]
    for name, value in {
        "PYTHONHOME": root / "usr",
        "PYTHONPATH": folder / "site",
        "PYTHONDONTWRITEBYTECODE": 1,
    }.items():
        command += ["-E", f"{name}={value}"]
    refusals = run([*command, python, "-s"], files, {})
    assert refusals == [None] * len(TASKS) * len(KINDS)
    for key, path in files.items():
        outputs = dict(np.load(f"{path}.npz"))
        if key[1] == "int8":
            for name, values in outputs.items():
                # The softmax behind the logits is float.
                atol = 1e-6 if name == "probabilities" else 0.0
                np.testing.assert_allclose(
                    values, wanted[key][name], rtol=0.0, atol=atol
                )
        assert_alike(cpu, outputs, wanted, key)
