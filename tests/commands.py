"""The project's commands as a user runs them, and a model to run them on."""

import subprocess
import sys
from pathlib import Path

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.encoder import MobileBertEncoder
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

REPOSITORY = Path(__file__).resolve().parents[1]


def command(*arguments) -> list[str]:
    """The words of a Python command: a script, or -m and a module, first."""
    return [sys.executable, *map(str, arguments)]


def run(words, expect=0) -> str:
    """Runs a command; returns its stdout, or its stderr if it should fail."""
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=300, cwd=REPOSITORY
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


def write_encoder(folder, pieces, **sizes) -> None:
    """Writes a model folder with random weights and a vocabulary."""
    tokenizer = WordpieceTokenizer(pieces)
    config = MobileBertConfig(
        vocab_size=tokenizer.vocab_size,
        embedding_size=16,
        hidden_size=32,
        intra_bottleneck_size=16,
        intermediate_size=32,
        max_position_embeddings=32,
        **sizes,
    )
    MobileBertEncoder(config).save_pretrained(folder)
    tokenizer.write(folder, 32)
