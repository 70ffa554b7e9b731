"""Several devices, and several processes, end with one device's weights."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.training.devices import open_devices
from mobilebert_tf.training.options import DeviceOptions
from tests.training import toy_pretraining as toy

REPOSITORY = Path(__file__).resolve().parents[2]

# Devices -> batch sizes and step options. Four devices share six examples
# unevenly, and one of them gets none of three.
CASES = {
    2: [(6, {}), (12, {"accumulation_steps": 3, "steps_per_execution": 4})],
    4: [(6, {}), (3, {})],
}


def start(kind, folder, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.toy_pretraining"]
        + [kind, str(folder), *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-3000:]


def check(path, batch_size=6):
    """Compares what a process wrote with one device of this process."""
    model = toy.build_model()
    rows = toy.train(toy.build_step(model), batch_size)
    # Clipping is active: what is clipped must be the whole gradient.
    assert (rows[:, -2] > 0.2).all()
    with np.load(path) as found:
        np.testing.assert_allclose(found["rows"], rows, rtol=5e-6)
        for variable in model.trainable_variables:
            np.testing.assert_allclose(
                found[variable.path],
                variable.numpy(),
                rtol=0,
                atol=1e-6,
                err_msg=variable.path,
            )


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory):
    """A folder for each number of devices.

    The processes also check dropout, and that a NaN step changes nothing.
    """
    folders = {n: tmp_path_factory.mktemp(f"devices{n}") for n in CASES}
    processes = [
        start("mirrored", folder, str(devices), json.dumps(CASES[devices]))
        for devices, folder in folders.items()
    ]
    for process in processes:
        finish(process)
    return folders


@pytest.mark.parametrize(
    "devices, batch_size",
    [(devices, size) for devices in CASES for size, _ in CASES[devices]],
)
def test_logical_devices_equal_one(mirrored, devices, batch_size):
    check(mirrored[devices] / f"{batch_size}.npz", batch_size)


def free_ports(number):
    """Ports that were free a moment ago."""
    with_sockets = [socket.socket() for _ in range(number)]
    try:
        for a_socket in with_sockets:
            a_socket.bind(("127.0.0.1", 0))
        return [a_socket.getsockname()[1] for a_socket in with_sockets]
    finally:
        for a_socket in with_sockets:
            a_socket.close()


def test_two_processes_equal_one(tmp_path):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        (tmp_path / str(index)).mkdir()
        task = {"type": "worker", "index": index}
        cluster = {"cluster": {"worker": workers}, "task": task}
        processes.append(
            start(
                "multi_worker",
                tmp_path / str(index),
                TF_CONFIG=json.dumps(cluster),
            )
        )
    try:
        for process in processes:
            finish(process)
    finally:
        for process in processes:
            process.kill()
    for index in range(2):
        check(tmp_path / str(index) / "6.npz")


@pytest.mark.parametrize(
    "text", ["", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}']
)
def test_a_missing_cluster_is_bad_input(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG: expected"):
        open_devices(DeviceOptions("multi_worker"))


def test_missing_gpus_are_bad_input():
    with pytest.raises(InputError, match="--num_gpus: expected at most"):
        open_devices(DeviceOptions("mirrored", num_gpus=64))


def test_a_grid_in_several_processes_is_refused():
    with pytest.raises(InputError, match="none, mirrored or tpu for 2 runs"):
        open_devices(DeviceOptions("multi_worker"), num_runs=2)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_gpus": 2}, "--num_gpus: expected --distribution=mirrored"),
        ({"tpu": "local"}, "--tpu: expected --distribution=tpu"),
        ({"mixed_precision": "float16"}, "float32 or bfloat16"),
        ({"distribution": "cluster"}, "--distribution: expected one of none"),
    ],
)
def test_contradicting_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        DeviceOptions(**options)
