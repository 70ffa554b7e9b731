"""Tagging from files to phone files, and bad input."""

import contextlib
import io
import json
import random

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import mobilebert_tf as mb
from mobilebert_tf.commands.finetune import TAG
from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.conll import read_sentences
from mobilebert_tf.tasks.metrics import entity_metrics
from tests import tiny

NAMES = "fish wave boat shell crab anchor tree stone".split()
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] in mr the .".split()
LENGTHS = ["--max_seq_length=20", "--bucket_lengths="]


def sentences(rng, number):
    """Two names after "mr" are a person, one after "in" is a place."""
    lines = ["-DOCSTART- X O", ""]
    for _ in range(number):
        for _ in range(rng.randrange(1, 4)):
            kind = rng.choice("PLO")
            name, other = rng.sample(NAMES, 2)
            if kind == "P":
                lines += ["mr X O", f"{name} X B-PER", f"{other} X I-PER"]
            elif kind == "L":
                lines += ["in X O", f"{name} X B-LOC"]
            else:
                lines += ["the X O", f"{name} X O"]
        lines += [". X O", ""]
    return "\n".join(lines)


def run(*arguments):
    """Runs the command in this process; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        TAG.run([str(argument) for argument in arguments])
    return output.getvalue()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A model folder with random weights, and sentences."""
    folder = tmp_path_factory.mktemp("files")
    tokenizer = mb.WordpieceTokenizer([*WORDS, *NAMES])
    config = tiny.student_config(
        vocab_size=tokenizer.vocab_size, num_hidden_layers=1
    )
    mb.MobileBertEncoder(config).save_pretrained(folder / "encoder")
    tokenizer.write(folder / "encoder", 24)
    rng = random.Random(1)
    for name, number in (("train", 300), ("dev", 40), ("test", 30)):
        (folder / f"{name}.conll").write_text(sentences(rng, number))
    (folder / "new.txt").write_text("mr\nfish\ncrab\n.\n\nin\ntree\n.\n\n" * 9)
    (folder / "bad.conll").write_text("fish O\ncrab I-\n")
    return folder


def files_of(folder, *splits):
    return [f"--{split}_file={folder}/{split}.conll" for split in splits]


@pytest.fixture(scope="session")
def trained(files):
    """What the command printed, and the folder it wrote."""
    output = run(
        f"--model={files}/encoder",
        *files_of(files, "train", "dev", "test"),
        f"--predict_file={files}/new.txt",
        f"--output_dir={files}/tagger",
        "--num_train_epochs=12",
        "--eval_every_steps=36",
        "--learning_rate=5e-3",
        "--train_batch_size=16",
        "--log_every=1",
        *LENGTHS,
    )
    return output, files / "tagger"


def results(folder):
    values = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert values["phase"] == "results"
    return values


def test_the_model_learns_and_the_folder_is_whole(files, trained):
    """A name's tag follows from the word before: a list cannot know it."""
    output, folder = trained
    assert "train: 300 sentences" in output
    assert "dev, each token's usual tag: precision" in output
    values = results(folder)
    assert values["dev_f1"] > 0.9 and values["test_f1"] > 0.9
    for split in ("dev", "test"):
        # What conlleval would be given.
        path = folder / f"{split}_predictions.conll"
        right = read_sentences(path, tag_column=2)
        gold = read_sentences(files / f"{split}.conll")
        assert (right.tokens, right.tags) == (gold.tokens, gold.tags)
        scores = entity_metrics(right.tags, read_sentences(path).tags)
        for name, value in scores.items():
            assert values[f"{split}_{name}"] == pytest.approx(value)
    new = read_sentences(folder / "predictions.conll")
    assert new.tags[:2] == [["O", "B-PER", "I-PER", "O"], ["O", "B-LOC", "O"]]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["MobileBertForTokenClassification"]
    names = ["O", "B-LOC", "B-PER", "I-PER"]
    assert list(config["id2label"].values()) == names
    card = (folder / "README.md").read_text()
    assert "- Tags: O, B-LOC, B-PER, I-PER" in card and "test_f1" in card
    assert [path for path in folder.rglob(".*")] == []


def test_a_trained_tagger_is_scored_again_and_exported(
    files, trained, tmp_path
):
    _, folder = trained
    kinds = ("float32", "int8", "int8_qat")
    output = run(
        f"--model={folder}",
        "--nodo_train",
        "--nodo_predict",
        *files_of(files, "train", "dev", "test"),
        f"--output_dir={tmp_path}",
        "--eval_batch_size=7",
        f"--export={','.join(kinds)}",
        "--export_seq_length=24",
        "--num_qat_steps=8",
        *LENGTHS,
    )
    values = results(tmp_path)
    for name in ("dev_f1", "test_f1", "test_accuracy"):
        assert values[name] == results(folder)[name]
        assert values[f"float32_{name}"] == pytest.approx(values[name])
        for kind in kinds[1:]:
            assert values[f"{kind}_{name}"] == pytest.approx(
                values[name], abs=0.1
            )
    name = "dev_predictions.conll"
    assert (tmp_path / name).read_text() == (folder / name).read_text()
    for kind in kinds:
        assert f"\n{kind}.tflite" in output
        interpreter = Interpreter(str(tmp_path / f"{kind}.tflite"))
        (logits,) = interpreter.get_output_details()
        assert list(logits["shape"]) == [1, 24, 4]
        assert logits["dtype"] is np.float32
    assert (tmp_path / "int8_qat_training" / "metrics.jsonl").exists()
    card = (tmp_path / "README.md").read_text()
    assert "Files for inputs of 24 pieces" in card


REFUSALS = [
    (
        "--nodo_train --dev_file={0}/dev.conll --max_seq_length=20",
        "encoder: expected a tagger, found another kind of model",
    ),
    (
        "--train_file={0}/bad.conll --max_seq_length=20",
        "bad.conll, line 2: expected O or B-TYPE, I-TYPE",
    ),
    (
        "--train_file={0}/train.conll --max_seq_length=20 --export=int8 "
        "--metadata",
        "--metadata: expected a classifier, found tagger",
    ),
    (
        "--train_file={0}/train.conll --max_seq_length=64",
        "--max_seq_length: expected at most 24, found 64",
    ),
    (
        "--train_file={0}/train.conll --max_seq_length=20 --num_seeds=2",
        "--dev_file: expected labelled examples to choose among 2 runs by",
    ),
]


@pytest.mark.parametrize("line, message", REFUSALS)
def test_refusals_write_nothing(line, message, files, tmp_path):
    out = tmp_path / "out"
    arguments = line.format(files).split()
    with pytest.raises(InputError, match=message):
        run(f"--model={files}/encoder", *arguments, f"--output_dir={out}")
    assert not out.exists()


def test_help_explains_the_command():
    text = TAG.help("tag", everything=True)
    assert "mobilebert_tf.commands.tag" in text
    assert "One of iob1, iob2, bioes, bilou, none" in " ".join(text.split())
    assert "--patience" in text
