"""run_distillation.py with teachers that are not what they should be."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.distillation.pairs import tiny_pretraining

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A teacher's folder with a vocabulary of the right size."""
    folder = tmp_path_factory.mktemp("teacher")
    model = tiny_pretraining("ib_bert_small", num_hidden_layers=4)
    model.save_pretrained(folder)
    model.save_config(folder)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [chr(ord("a") + index) for index in range(26)]
    rest = [f"##{piece}" for piece in pieces[: 40 - 31]]
    (folder / "vocab.txt").write_text("\n".join(special + pieces + rest) + "\n")
    return folder


def refused(teacher, output, *arguments):
    """Runs the script, which must fail as on bad input; its last line."""
    done = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "run_distillation.py"),
            f"--teacher={teacher}",
            f"--output_dir={output}",
            "--max_seq_length=12",
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not output.exists()
    (line,) = [
        line for line in done.stderr.splitlines() if line.startswith("run_")
    ]
    return line


def test_a_teacher_without_weights_is_an_error(teacher, tmp_path):
    weights = teacher / "model.safetensors"
    hidden = weights.rename(teacher / "elsewhere")
    try:
        line = refused(teacher, tmp_path / "out")
    finally:
        hidden.rename(weights)
    assert "model.safetensors: expected a weights file" in line


def test_a_block_map_that_does_not_fit_is_an_error(teacher, tmp_path):
    student = tmp_path / "student.json"
    tiny_pretraining("mobilebert_small").config.to_json(student)
    line = refused(
        teacher,
        tmp_path / "out",
        f"--config_file={student}",
        "--transfer_strategy=pkt",
    )
    assert "student of 3 blocks cannot divide the teacher's 4" in line
