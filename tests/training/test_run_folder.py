"""What a run leaves in its folder, and what of it is deleted."""

import json

import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.ownership import Identity, claim_folder
from mobilebert_tf.training.run_folder import (
    delete_run,
    delete_weights,
    read_metrics,
)

OURS = (
    "checkpoints/ckpt-7.index",
    "checkpoints/ckpt-7.data-00000-of-00001",
    "checkpoints/damaged-ckpt-3.index",
    "checkpoints/ckpt-9_temp/part-00000-of-00001.index",
    "checkpoints/best/model.safetensors",
    "checkpoints/best/config.json",
)
REST = (
    "run.json",
    "metrics.jsonl",
    "result.json",
    "runs.tsv",
    "config.json",
    "model.safetensors",
    "vocab.txt",
    "tensorboard/events.out.tfevents.1.host",
    "runs/rate0.1_batch8_epochs1_seed0/run.json",
    "runs/rate0.1_batch8_epochs1_seed0/checkpoints/ckpt-1.index",
    "int8_qat_training/run.json",
    "int8_qat_training/metrics.jsonl",
)
THEIRS = (
    "README.md",
    "notes.txt",
    "checkpoints/ckpt-7.pt",
    "checkpoints/ckpt-final.index",
    "checkpoints/ckpt-7.index.bak",
    "checkpoints/best/notes.txt",
    "tensorboard/notes.txt",
    "runs/rate0.1_batch8_epochs1_seed0/notes.txt",
    "runs/mine/run.json",
    "runs/mine/metrics.jsonl",
    "my_training/run.json",
    "my_training/metrics.jsonl",
    "data/run.json",
)


def files_in(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def folder(tmp_path):
    for name in (*OURS, *REST, *THEIRS, "int8.tflite"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    return tmp_path


def test_only_files_of_our_names_are_deleted(folder):
    delete_weights(folder)
    assert files_in(folder) == {*REST, *THEIRS, "int8.tflite"}
    delete_run(folder, ["int8.tflite", "int8_qat_training", "int8_training"])
    # Folders with files of others stay the project's.
    left = {"run.json", "runs/rate0.1_batch8_epochs1_seed0/run.json"}
    assert files_in(folder) == {*THEIRS, *left, "run.lock"}
    for name in left:
        claim_folder(folder / name, Identity({"seed": 1}))
    assert not (folder / "int8_qat_training").exists()


LINE = {"phase": "a", "step": 1, "global_step": 1, "loss": 0.5}


@pytest.mark.parametrize(
    "content",
    [
        "epoch 1: loss 0.5",
        "[]",
        '{"epoch": 1, "loss": 0.5}',
        json.dumps(LINE | {"global_step": "1"}),
        json.dumps(LINE | {"phase": 1}),
        json.dumps(LINE | {"loss": []}),
        json.dumps(LINE | {"phase": "evaluation"}),
        "[" * 100_000,
        "9" * 5000,
    ],
)
def test_a_record_of_another_program_is_refused_by_line(tmp_path, content):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{content}\n")
    with pytest.raises(InputError, match="metrics.jsonl, line 2: expected"):
        read_metrics(path)


def test_a_line_that_a_crash_cut_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{json.dumps(LINE)}\n{{"phase": "a", "st')
    assert read_metrics(path) == [LINE]
