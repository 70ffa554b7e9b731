"""Fine-tuning in two processes of one machine ends where one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mobilebert_tf.modeling.encoder import MobileBertEncoder
from tests import tiny
from tests.training.test_devices import free_ports

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def files(tmp_path):
    """A model folder, and examples that its first word decides."""
    tiny.write_folder(
        tmp_path / "encoder", MobileBertEncoder(tiny.student_config())
    )
    rows = [
        f"{word} {other}\t{word}"
        for other in ("fish", "tree", "fish tree", "tree tree")
        for word in ("sea", "land")
    ]
    text = "\n".join(["text\tlabel", *rows, *rows])
    (tmp_path / "train.tsv").write_text(text)
    (tmp_path / "dev.tsv").write_text(text)
    return tmp_path


def start(files, output, **environment):
    kind = "multi_worker" if environment else "none"
    arguments = [
        f"--model={files}/encoder",
        f"--train_file={files}/train.tsv",
        f"--dev_file={files}/dev.tsv",
        f"--output_dir={output}",
        f"--distribution={kind}",
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
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    cluster = {"cluster": {"worker": workers}}
    # Only the chief's folder may be written to.
    folders = [files / "chief", files / "other"]
    processes = [
        start(
            files,
            folder,
            TF_CONFIG=json.dumps(
                cluster | {"task": {"type": "worker", "index": index}}
            ),
        )
        for index, folder in enumerate(folders)
    ]
    processes.append(start(files, files / "alone"))
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
    assert not folders[1].exists()
    found = load_file(files / "chief" / "model.safetensors")
    wanted = load_file(files / "alone" / "model.safetensors")
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        np.testing.assert_allclose(
            found[name], weight, rtol=0, atol=2e-6, err_msg=name
        )
    lines = [
        [
            json.loads(line)
            for line in (folder / "metrics.jsonl").read_text().splitlines()
        ]
        for folder in (files / "chief", files / "alone")
    ]
    scores = [
        [line["score"] for line in some if line["phase"] == "evaluation"]
        for some in lines
    ]
    assert len(scores[0]) == 3 and scores[0] == scores[1]
