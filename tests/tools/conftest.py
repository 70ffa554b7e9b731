"""A demo folder as the scripts leave it, with small untrained models."""

import json

import pytest

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.tasks.labelled_texts import Examples
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the file is opened in a mode . f <b>"
CARD = "# A model\n\n    python {command}\n\n| Parameters | {number:,} |\n"
SCORES = {
    "teacher": (0.30, 0.70, 0.72),
    "student": (0.25, 0.65, 0.66),
    "student_alone": (0.20, 0.61, 0.60),
}


def write_run(folder, command, number, lines, results, settings):
    """Writes what a finished script leaves, but for the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    end = {"phase": "results", "step": 0, "global_step": 9} | results
    (folder / "metrics.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, end])
    )
    (folder / "README.md").write_text(
        CARD.format(command=command, number=number)
    )
    (folder / "run.json").write_text(json.dumps(settings))


def loss_lines():
    """Three blocks' transfer, then steps with a masked-LM loss."""
    terms = (
        "normalized_feature_map_loss",
        "feature_mean_loss",
        "feature_variance_loss",
        "attention_transfer_loss",
    )
    lines = [
        {"phase": f"transfer_block_{block:02d}", "global_step": 2 * block + n}
        | {f"{term}_block_{block:02d}": 1.0 / n for term in terms}
        for block in range(2)
        for n in (1, 2)
    ]
    return lines + [
        {"phase": "distillation", "global_step": n, "masked_lm_loss": 9.0 - n}
        for n in (5, 6)
    ]


def write_demo(folder, shift=0.0):
    """Writes all six folders; test accuracies are `shift` higher."""
    tokenizer = WordpieceTokenizer(WORDS.split())
    config = MobileBertConfig.from_preset(
        "mobilebert_small",
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=2,
        max_position_embeddings=16,
    )
    settings = {
        "max_seq_length": 16,
        "num_transfer_steps": 4,
        "num_train_steps": 2,
    }
    for name, (masked_lm, dev, test) in SCORES.items():
        MobileBertForPretraining(config).save_pretrained(folder / name)
        tokenizer.write(folder / name)
        write_run(
            folder / name,
            f"run_{name}.py --output_dir=demo/{name}",
            5000,
            loss_lines(),
            {"masked_lm_accuracy": masked_lm, "masked_lm_loss": 4.0},
            settings,
        )
        results = {"dev_accuracy": dev, "test_accuracy": test + shift}
        if name == "student":
            for kind, loss in (("float32", 0), ("dynamic", 1), ("int8_qat", 4)):
                results |= {
                    f"{kind}_dev_accuracy": dev - 0.001 * loss,
                    f"{kind}_test_accuracy": test + shift - 0.002 * loss,
                    f"{kind}_megabytes": 0.5,
                    f"{kind}_latency_ms": 1.25,
                }
        classifier = folder / f"{name}_classifier"
        command = f"run_classifier.py --model='demo/{name} & co'"
        write_run(classifier, command, 4321, [], results, settings)
        (classifier / "model.safetensors").write_bytes(b"0" * 17_284)
    return folder


@pytest.fixture
def demo_dir(tmp_path):
    """A finished demo of one seed."""
    return write_demo(tmp_path / "demo")


@pytest.fixture
def splits():
    """A task of two held-out splits, labels 2 : 1."""
    texts = ["The file is opened. F is <b>.", "In a mode.", "The mode."]
    labels = ["io", "io", "ui"]
    return {"dev": Examples(texts[:2], None, labels[:2])} | {
        "test": Examples(texts, None, labels)
    }
