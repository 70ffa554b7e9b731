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


def start(kind, folder, **environment):
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.toy_pretraining", kind, folder],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(processes):
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()


def check(folder, batch_size):
    """Compares what a process wrote with one device of this process."""
    model = toy.build_model()
    with toy.eagerly():
        rows = toy.train(toy.build_step(model), batch_size)
    # Clipping is active: what is clipped must be the whole gradient.
    assert (rows[:, -2] > 0.2).all()
    with np.load(folder / f"{batch_size}.npz") as found:
        np.testing.assert_allclose(found["rows"], rows, rtol=5e-6)
        for variable in model.trainable_variables:
            np.testing.assert_allclose(
                found[variable.path],
                variable.numpy(),
                rtol=0,
                atol=1e-6,
                err_msg=variable.path,
            )


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


def cluster(num_workers):
    """A TF_CONFIG for each worker on this machine."""
    workers = [f"127.0.0.1:{port}" for port in free_ports(num_workers)]
    return [
        json.dumps(
            {
                "cluster": {"worker": workers},
                "task": {"type": "worker", "index": index},
            }
        )
        for index in range(num_workers)
    ]


def test_logical_devices_equal_one(tmp_path):
    """The process also checks dropout, and that a NaN step changes nothing."""
    finish([start("mirrored", tmp_path / "two")])
    for batch_size in toy.MIRRORED:
        check(tmp_path / "two", batch_size)


def test_two_processes_equal_one(tmp_path):
    folders = [tmp_path / "chief", tmp_path / "other"]
    finish(
        [
            start("multi_worker", folder, TF_CONFIG=config)
            for folder, config in zip(folders, cluster(2), strict=True)
        ]
    )
    for folder in folders:
        check(folder, *toy.MULTI_WORKER)


@pytest.mark.parametrize(
    "text", ["", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}']
)
def test_a_missing_cluster_is_bad_input(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG: expected"):
        open_devices(DeviceOptions("multi_worker"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_gpus": 2}, "--num_gpus: expected --distribution=mirrored"),
        ({"tpu": "local"}, "--tpu: expected --distribution=tpu"),
        ({"mixed_precision": "float16"}, "float32 or bfloat16"),
        ({"distribution": "cluster"}, "--distribution: expected one of none"),
        (
            {"distribution": "mirrored", "num_gpus": 64},
            "--num_gpus: expected at most",
        ),
        ({"distribution": "multi_worker"}, "mirrored or tpu for 2 runs"),
    ],
)
def test_impossible_devices_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        open_devices(DeviceOptions(**options), num_runs=2)
