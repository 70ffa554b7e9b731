"""The demo's student in every kind of file, for each machine to answer with."""

import os
from pathlib import Path

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.mobile.runtime import TFLiteModel
from tests import tiny

LENGTH = 32
KINDS = ("float32", "float16", "dynamic", "int8")
# By machine and kind: the largest difference from this machine, of the largest
# value, for float kinds; the error beside float32 in terms of this machine's.
_FOUND: dict[str, dict[str, float]] = {}
TASKS = {
    "logits": "ForSequenceClassification",
    "probabilities": "ForTokenClassification",
    "spans": "ForQuestionAnswering",
    "mean": "Encoder",
}


@pytest.fixture(scope="session")
def machines() -> Path:
    """The folder that `set_up.sh` has filled."""
    named = os.environ.get("MOBILEBERT_TF_MACHINES")
    if not named:
        pytest.skip("needs MOBILEBERT_TF_MACHINES, a folder of set_up.sh")
    return Path(named)


def folded(task, config):
    labels = () if task in ("spans", "mean") else (tiny.LABELS,)
    model = getattr(mb, f"MobileBert{TASKS[task]}")(config, *labels)
    tiny.randomise(model, np.random.default_rng(3))
    return fold(model)


def batch(config, length) -> dict[str, np.ndarray]:
    lengths = (length, length // 2, length // 4, length - 3)
    return tiny.batch(5, lengths, vocab_size=config.vocab_size)


@pytest.fixture(scope="session")
def inputs():
    return batch(mb.MobileBertConfig.from_preset("mobilebert_small"), LENGTH)


@pytest.fixture(scope="session")
def files(inputs, tmp_path_factory) -> dict[tuple[str, str], Path]:
    """Files by task and kind; their inputs are beside them in inputs.npz."""
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "inputs.npz", **inputs)
    config = mb.MobileBertConfig.from_preset("mobilebert_small")
    paths = {}
    for task in TASKS:
        network = folded(task, config)
        quantized = Quantized(network, calibrate(network, [inputs]))
        for kind in KINDS:
            paths[task, kind] = export(
                quantized if kind == "int8" else network,
                folder / f"{task}_{kind}.tflite",
                LENGTH,
                kind,
                output=None if task == "spans" else task,
            )
    return paths


def answers_here(path, inputs) -> dict[str, np.ndarray]:
    """What the interpreter of this machine answers, by output."""
    model = TFLiteModel(path)
    found = model.predict(inputs)
    return found if isinstance(found, dict) else {model.output_names[0]: found}


@pytest.fixture(scope="session")
def wanted(files, inputs):
    """The answers of this machine's CPU, by task and kind."""
    return {key: answers_here(path, inputs) for key, path in files.items()}


def assert_alike(machine, found, wanted, key) -> None:
    """Compares a machine's answers to one file with those of this one.

    Args:
        machine: its name in the table at the end.
        found: arrays by output.
        wanted: what this machine answers, by task and kind.
        key: task and kind.
    """
    task, kind = key
    assert found.keys() == wanted[key].keys()
    for name, values in found.items():
        here, exact = wanted[key][name], wanted[task, "float32"][name]
        distance = np.abs(values - here) / np.abs(here).max()
        if kind in ("float32", "float16"):
            _note(machine, kind, distance.max())
            assert distance.max() < 1e-5, (key, name)
            continue
        # Other kernels round ties, and dynamic rows, to other sides.
        errors = [np.abs(one - exact).mean() for one in (values, here)]
        _note(machine, f"{kind} error", errors[0] / errors[1])
        assert errors[0] <= 1.5 * errors[1], (key, name)
        if kind == "int8":
            _note(machine, "int8 unequal", np.mean(distance > 1e-5))


def _note(machine, what, value):
    row = _FOUND.setdefault(machine, {})
    row[what] = max(row.get(what, 0.0), float(value))


def pytest_terminal_summary(terminalreporter):
    if _FOUND:
        terminalreporter.section("other machines beside this one's CPU")
    for machine, row in _FOUND.items():
        listed = "  ".join(f"{what} {value:.2g}" for what, value in row.items())
        terminalreporter.line(f"{machine}: {listed}")
