"""The Python of docs/mobile.md does what it says."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.tiny import randomise, student_config

PAGE = Path(__file__).parents[2] / "docs" / "mobile.md"
PIECES = (
    "[PAD] [UNK] [CLS] [SEP] [MASK] a gripping film nothing happens twice ,"
)


def snippets() -> list[str]:
    """The Python blocks of the page, those for MediaPipe left out."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [block for block in blocks if not block.startswith("# mediapipe")]


@pytest.fixture
def folder(tmp_path, monkeypatch, rng):
    """A working folder with a small classifier in runs/sst2."""
    config = student_config(
        vocab_size=len(PIECES.split()),
        num_hidden_layers=1,
        max_position_embeddings=128,
    )
    labels = ("negative", "positive")
    model = mb.MobileBertForSequenceClassification(config, labels)
    randomise(model, rng)
    model.save_pretrained(tmp_path / "runs" / "sst2")
    tokenizer = WordpieceTokenizer(PIECES.split())
    tokenizer.write(tmp_path / "runs" / "sst2")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_snippet_runs(folder, capsys):
    blocks = snippets()
    assert len(blocks) == 8
    for number, block in enumerate(blocks):
        names = {}
        if "found.bin" in block:
            # What a phone would bring back.
            shutil.copy("expected.bin", "found.bin")
        exec(compile(block, f"{PAGE.name}, snippet {number}", "exec"), names)
        if "labels" in names:
            assert names["labels"] == ["negative", "positive"]
        if "lengths)" in block:
            assert capsys.readouterr().out == "(32, 128)\n"
        if "expected" in names:
            assert np.isfinite(names["expected"]).all()
    assert "same label 100.00%" in capsys.readouterr().out
    for name in ("sst2", "int8", "classifier"):
        assert (folder / f"{name}.tflite").exists()
