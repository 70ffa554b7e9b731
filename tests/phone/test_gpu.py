"""Files on LiteRT's GPU accelerator, on a Vulkan device in software.

The wheel for x86-64 has the accelerator, and Debian's chromium the device:
`apt-get install chromium libvulkan1`. It computes in float32, so that what a
phone's GPU loses in float16 is not seen here.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mobilebert_tf as mb
from benchmarks.tflite.files import narrowed
from mobilebert_tf.mobile.export import export
from mobilebert_tf.presets import PRESETS
from tests import tiny
from tests.conftest import REPOSITORY
from tests.phone.conftest import answers_here, assert_alike, batch, folded

pytestmark = pytest.mark.phone

DRIVER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")


@pytest.fixture(scope="module", autouse=True)
def driver():
    if not DRIVER.exists():
        pytest.skip("needs chromium's Vulkan driver: apt-get install chromium")


def gpu_answers(inputs: Path, paths) -> list[dict]:
    """What the GPU answers, by file, and `accelerated`."""
    script = Path(__file__).with_name("gpu_answers.py")
    done = subprocess.run(
        [sys.executable, script, inputs, *paths],
        env=os.environ
        | {"VK_DRIVER_FILES": str(DRIVER), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [dict(np.load(f"{path}.npz")) for path in paths]


def test_gpus_answer_as_cpus_do(files, wanted):
    paths = list(files.values())
    found = gpu_answers(paths[0].with_name("inputs.npz"), paths)
    for key, outputs in zip(files, found, strict=True):
        # Look-ups in tables of float16 stay on the CPU.
        assert outputs.pop("accelerated") == (key[1] != "float16"), key
        assert_alike("GPU", outputs, wanted, key)


@pytest.mark.parametrize("preset", PRESETS)
def test_gpus_compute_each_architecture(preset, tmp_path):
    config = mb.MobileBertConfig.from_preset(preset)
    config = dataclasses.replace(narrowed(config), num_hidden_layers=2)
    inputs = batch(config, 16)
    np.savez(tmp_path / "inputs.npz", **inputs)
    network = folded("logits", config)
    path = export(network, tmp_path / "x.tflite", 16, "float32")
    (found,) = gpu_answers(tmp_path / "inputs.npz", [path])
    assert found["accelerated"]
    wanted = answers_here(path, inputs)["logits"]
    assert tiny.relative_error(found["logits"], wanted) < 1e-5
