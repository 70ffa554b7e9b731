"""The converter as a user runs it."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from mobilebert_tf.config import MobileBertConfig, to_google
from tests.conversion.checkpoints import (
    STUDENT,
    VOCAB,
    draw,
    encoder_shapes,
    head_shapes,
    read,
    write,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def convert(*arguments, expect=0):
    """Runs the tool; returns its stdout, or its last line if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "mobilebert_tf.commands.convert", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=REPOSITORY,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr.splitlines()[-1]


@pytest.fixture
def published(rng, tmp_path):
    """A folder laid out as the published archive; returns (folder, values)."""
    folder = tmp_path / "published"
    shapes = encoder_shapes(STUDENT) | head_shapes(STUDENT, "pretraining")
    values = draw(shapes, rng)
    write(folder / "mobilebert_variables.ckpt", values)
    (folder / "bert_config.json").write_text(json.dumps(to_google(STUDENT)))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCAB))
    return folder, values


def test_there_and_back(published, tmp_path):
    folder, values = published
    ours, back = tmp_path / "ours", tmp_path / "back"
    shown = convert(f"--input={folder}", f"--output={ours}")
    assert "TensorFlow 1 checkpoint, MobileBertForPreTraining" in shown
    assert {file.name for file in ours.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    }
    card = (ours / "README.md").read_text()
    for file in folder.glob("mobilebert_variables.ckpt.*"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    count = sum(value.size for value in values.values())
    assert f"| Parameters | {count:,} |" in card
    assert "Word embedding of [PAD]: not zero" in card
    assert "Padded keys: `additive` mask of -10000" in card
    assert "20 pieces, uncased" in card
    assert MobileBertConfig.from_json(ours / "config.json") == STUDENT
    tensors = load_file(ours / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["cls.predictions.dense.weight"],
        values["cls/predictions/extra_output_weights"].T,
    )

    convert(f"--input={ours}", f"--output={back}", "--format=tf1")
    found = read(back / "mobilebert_variables.ckpt")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].tobytes() == value.tobytes(), name
    assert (back / "vocab.txt").read_text() == (
        folder / "vocab.txt"
    ).read_text()
    # A second time it would overwrite.
    line = convert(f"--input={ours}", f"--output={back}", expect=2)
    assert "expected a folder that is new or empty" in line


@pytest.mark.parametrize("end", ["", ".index"])
def test_a_checkpoint_by_its_prefix_or_file(published, tmp_path, end):
    folder, _ = published
    path = folder / f"mobilebert_variables.ckpt{end}"
    shown = convert(f"--input={path}", f"--output={tmp_path}/out")
    assert "TensorFlow 1 checkpoint, MobileBertForPreTraining" in shown


def test_a_folder_that_cannot_be_made(published):
    folder, _ = published
    line = convert(f"--input={folder}", "--output=/proc/out", expect=2)
    assert "/proc/out: expected a folder that can be made" in line


def test_two_configs(published, tmp_path):
    folder, _ = published
    line = convert(
        f"--input={folder}",
        f"--output={tmp_path}/out",
        "--preset=mobilebert",
        f"--config_file={folder}/bert_config.json",
        expect=2,
    )
    assert "expected either this or --config_file" in line


def test_nothing_is_left_of_a_refused_conversion(published, tmp_path):
    folder, values = published
    name = "bert/encoder/layer_1/attention/self/key/kernel"
    values[name][3, 2] = np.nan
    values["bert/pooler/dense/bias"] = np.zeros(16, "float32")
    write(folder / "mobilebert_variables.ckpt", values)
    line = convert(f"--input={folder}", f"--output={tmp_path}/out", expect=2)
    assert "bert/pooler/dense/bias surplus" in line
    del values["bert/pooler/dense/bias"]
    for file in folder.glob("mobilebert_variables.ckpt.*"):
        file.unlink()
    write(folder / "mobilebert_variables.ckpt", values)
    line = convert(f"--input={folder}", f"--output={tmp_path}/out", expect=2)
    assert f"found {name} with non-finite values" in line
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_vocabulary_of_another_model(published, tmp_path):
    folder, _ = published
    (folder / "vocab.txt").write_text("\n".join([*VOCAB, "more"]))
    line = convert(f"--input={folder}", f"--output={tmp_path}/out", expect=2)
    assert "expected a vocabulary of 20 pieces, as the weights have" in line
    assert line.endswith("found 21")


def test_cased_vocabulary(published, tmp_path):
    folder, _ = published
    (folder / "vocab.txt").write_text("\n".join([*VOCAB[:-1], "A"]))
    convert(f"--input={folder}", f"--output={tmp_path}/out")
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["do_lower_case"] is False
