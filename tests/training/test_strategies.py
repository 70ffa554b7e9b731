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
from mobilebert_tf.training.devices import open_distribution
from tests.training import toy_pretraining as toy

REPOSITORY = Path(__file__).resolve().parents[2]


def one_device(batch_size):
    model = toy.build_model()
    rows = toy.train(toy.build_step(model), batch_size)
    return {v.path: v.numpy() for v in model.trainable_variables}, rows


def start(path, kind, devices, options=None, batch_size=6, **environment):
    arguments = [kind, devices, json.dumps(options or {}), batch_size, path]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.toy_pretraining"]
        + [str(argument) for argument in arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def check(process, path, batch_size=6):
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output[-3000:]
    weights, rows = one_device(batch_size)
    with np.load(path) as found:
        np.testing.assert_allclose(found["rows"], rows, rtol=2e-6)
        # Clipping is active: what is clipped must be the whole gradient.
        assert (rows[:, -2] > 0.2).all()
        for name, weight in weights.items():
            np.testing.assert_allclose(
                found[name], weight, rtol=0, atol=1e-6, err_msg=name
            )


# Four devices share six examples unevenly, and three with one left out.
@pytest.mark.parametrize(
    "devices, batch_size, options",
    [
        (2, 6, {}),
        (4, 6, {}),
        (4, 3, {}),
        (2, 6, {"accumulation_steps": 3, "steps_per_execution": 4}),
    ],
)
def test_logical_devices_equal_one(tmp_path, devices, batch_size, options):
    path = tmp_path / "weights.npz"
    check(
        start(path, "mirrored", devices, options, batch_size), path, batch_size
    )


DROPOUT = """
import keras
import numpy as np
import tensorflow as tf
from mobilebert_tf.training.devices import open_distribution

[cpu] = tf.config.list_physical_devices("CPU")
device = tf.config.LogicalDeviceConfiguration()
tf.config.set_logical_device_configuration(cpu, [device] * 2)
distribution = open_distribution("mirrored")
with distribution.scope():
    dropout = keras.layers.Dropout(0.5, seed=3)

@tf.function(autograph=False)
def mask(ones):
    return distribution.run(lambda ones: dropout(ones, training=True), ones)

ones = distribution.distribute({"ones": np.ones((2, 64), "float32")})["ones"]
results = distribution.strategy.experimental_local_results
masks = [[part.numpy() for part in results(mask(ones))] for _ in range(8)]
states = [v.numpy() for v in results(dropout.variables[0].value)]
alone = keras.layers.Dropout(0.5, seed=3)
expected = [alone(np.ones((1, 64), "float32"), training=True) for _ in masks]
for (first, second), same in zip(masks, expected):
    np.testing.assert_array_equal(first, same)
    assert 10 < (first != second).sum() < 54, (first, second)
# Nor are those of other steps repeated.
assert len({part.tobytes() for pair in masks for part in pair}) == 16
np.testing.assert_array_equal(*states)
"""


def test_replicas_draw_dropout_masks_of_their_own():
    done = subprocess.run(
        [sys.executable, "-c", DROPOUT],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]


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
    paths = [tmp_path / f"{index}.npz" for index in range(2)]
    processes = [
        start(
            path,
            "multi_worker",
            1,
            TF_CONFIG=json.dumps(
                {
                    "cluster": {"worker": workers},
                    "task": {"type": "worker", "index": index},
                }
            ),
        )
        for index, path in enumerate(paths)
    ]
    try:
        for process, path in zip(processes, paths, strict=True):
            check(process, path)
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    "text", ["", "{}", '{"cluster": {"worker": ["a:1"]}, "task": {"index": 1}}']
)
def test_a_missing_cluster_is_bad_input(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(InputError, match="TF_CONFIG: expected"):
        open_distribution("multi_worker")


def test_missing_gpus_are_bad_input():
    with pytest.raises(InputError, match="--num_gpus: expected at most"):
        open_distribution("mirrored", num_gpus=64)
