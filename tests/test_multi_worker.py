"""Fine-tuning in two processes of one machine ends where one process does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.training.run_folder import read_metrics
from tests import tiny
from tests.training.test_devices import cluster, finish

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def files(tmp_path):
    """A model folder, and examples that its first word decides."""
    encoder = MobileBertEncoder(tiny.student_config())
    tiny.write_folder(tmp_path / "encoder", encoder)
    rows = [
        f"{word} {other}\t{word}"
        for other in ("fish", "tree", "fish tree", "tree tree")
        for word in ("sea", "land")
    ]
    for name in ("train", "dev"):
        text = "\n".join(["text\tlabel", *rows, *rows])
        (tmp_path / f"{name}.tsv").write_text(text)
    return tmp_path


def start(files, output, **environment):
    arguments = [
        f"--model={files}/encoder",
        f"--train_file={files}/train.tsv",
        f"--dev_file={files}/dev.tsv",
        f"--output_dir={output}",
        f"--distribution={'multi_worker' if environment else 'none'}",
        "--max_seq_length=8",
        "--bucket_lengths=",
        "--train_batch_size=4",
        "--num_train_epochs=3",
        "--learning_rate=1e-3",
        "--patience=3",
    ]
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "run_classifier.py"), *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_fine_tune_as_one(files):
    chief, other, alone = (files / name for name in ("chief", "other", "alone"))
    first, second = cluster(2)
    finish(
        [
            start(files, chief, TF_CONFIG=first),
            start(files, other, TF_CONFIG=second),
            start(files, alone),
        ]
    )
    # Only the chief's folder may be written to.
    assert not other.exists()
    found, wanted = (
        load_file(folder / "model.safetensors") for folder in (chief, alone)
    )
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        np.testing.assert_allclose(
            found[name], weight, rtol=0, atol=2e-6, err_msg=name
        )
    ours, theirs = (
        [
            line["score"]
            for line in read_metrics(folder / "metrics.jsonl")
            if line["phase"] == "evaluation"
        ]
        for folder in (chief, alone)
    )
    assert len(ours) == 3 and ours == theirs
