"""`mobilebert distill`: the stages, a student's folder, and unfit teachers."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mobilebert_tf as mb
from mobilebert_tf.commands.distill import COMMAND
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.run_folder import read_metrics
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny.write_corpus(folder / "corpus.txt")
    teacher = tiny.pretraining_model(tiny.teacher_config())
    tiny.write_folder(folder / "teacher", teacher)
    student = tiny.student_config(num_feedforward_networks=1)
    student.to_json(folder / "student.json")
    return folder


def arguments(files, output):
    return [
        f"--teacher={files}/teacher",
        f"--config_file={files}/student.json",
        f"--input_files={files}/corpus.txt",
        f"--output_dir={output}",
        "--num_transfer_steps=4",
        "--num_train_steps=3",
        "--attention_images_every=5",
        "--max_seq_length=16",
        "--train_batch_size=8",
        "--log_every=1",
    ]


def test_the_stages_are_walked_and_a_student_written(files):
    """As a user runs it; the other tests run the command in this process."""
    folder = files / "student"
    script = str(REPOSITORY / "run_distillation.py")
    done = subprocess.run(
        [sys.executable, script, *arguments(files, folder)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Copied 13 variables from the teacher" in done.stdout
    phases = [line["phase"] for line in read_metrics(folder / "metrics.jsonl")]
    assert list(dict.fromkeys(phases)) == [
        "transfer_block_00",
        "transfer_block_01",
        "distillation",
        "evaluation",
        "results",
    ]
    model = mb.load(folder)
    assert model.config.normalization_type == "no_norm"
    card = (folder / "README.md").read_text()
    assert "run_distillation.py" in card and f"Teacher: {files}/teacher" in card
    (events,) = (folder / "tensorboard").iterdir()
    assert b"heads of the student's blocks 0, 1" in events.read_bytes()
    # The same command does nothing more.
    COMMAND.run(arguments(files, folder))
    again = [line["phase"] for line in read_metrics(folder / "metrics.jsonl")]
    assert again == phases
    # With another teacher it is refused.
    shutil.copytree(files / "teacher", files / "other")
    pieces = (files / "other" / "vocab.txt").read_text().split()
    pieces[-2:] = pieces[:-3:-1]
    (files / "other" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    with pytest.raises(InputError, match="vocab.txt: other content than then"):
        COMMAND.run([*arguments(files, folder), f"--teacher={files}/other"])
    with pytest.raises(InputError, match="another folder than --teacher"):
        COMMAND.run(arguments(files, files / "teacher"))


BAD_INPUT = {
    "nowhere: expected a model folder": ("--teacher=nowhere"),
    "model.safetensors: expected a weights file": "--teacher={files}/empty",
    "must have the same embedding_size": (
        "--config_file= --preset=mobilebert_small"
    ),
    "--teacher_blocks: expected whole numbers, found 'x'": (
        "--teacher_blocks=0,x"
    ),
    "--max_seq_length: expected at most 24, found 32": "--max_seq_length=32",
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_is_refused_before_a_folder_is_made(message, files, tmp_path):
    if not (files / "empty").exists():
        shutil.copytree(files / "teacher", files / "empty")
        (files / "empty" / "model.safetensors").unlink()
    changes = BAD_INPUT[message].format(files=files).split()
    with pytest.raises(InputError) as error:
        COMMAND.run([*arguments(files, tmp_path / "out"), *changes])
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_help_shows_everyday_flags():
    text = COMMAND.help("run_distillation.py")
    shown = [line for line in text.splitlines() if line.startswith("  --")]
    assert 12 <= len(shown) <= 18, shown
    assert "--teacher" in text and "(required)" in text
    assert "--pd_alpha" not in text
