"""The tagger's command as a user runs it, and bad input."""

import json
import os
import random
import signal
import subprocess

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from mobilebert_tf.tasks.conll import read_sentences
from mobilebert_tf.tasks.metrics import entity_metrics
from tests import commands

NAMES = "fish wave boat shell crab anchor tree stone".split()
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] in mr the .".split()
# Enough for a model without any pre-training to learn what "in" and "mr" mean.
TRAINING = [
    "--num_train_epochs=12",
    "--eval_every_steps=36",
    "--learning_rate=5e-3",
    "--train_batch_size=16",
    "--log_every=1",
    "--max_seq_length=20",
    "--bucket_lengths=",
]


def command(*arguments):
    module = "mobilebert_tf.commands.tag"
    return commands.command("-m", module, *arguments)


def run(*arguments, expect=0):
    return commands.run(command(*arguments), expect)


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


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model folder with random weights, and sentences."""
    folder = tmp_path_factory.mktemp("files")
    commands.write_encoder(
        folder / "encoder",
        [*WORDS, *NAMES],
        num_hidden_layers=1,
        num_feedforward_networks=1,
    )
    rng = random.Random(1)
    for name, number in (("train", 300), ("dev", 40), ("test", 30)):
        (folder / f"{name}.conll").write_text(sentences(rng, number))
    (folder / "new.txt").write_text("mr\nfish\ncrab\n.\n\nin\ntree\n.\n\n" * 9)
    return folder


def training_arguments(files, output):
    return [
        f"--model={files}/encoder",
        f"--train_file={files}/train.conll",
        f"--dev_file={files}/dev.conll",
        f"--test_file={files}/test.conll",
        f"--predict_file={files}/new.txt",
        f"--output_dir={output}",
        *TRAINING,
    ]


@pytest.fixture(scope="module")
def trained(files):
    """What the tool printed, and the folder it wrote."""
    arguments = training_arguments(files, files / "tagger")
    return run(*arguments), files / "tagger"


def results(folder):
    values = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert values["phase"] == "results"
    return values


def test_the_model_learns_and_the_folder_is_whole(files, trained):
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
    assert new.tags[:2] == [
        ["O", "B-PER", "I-PER", "O"],
        ["O", "B-LOC", "O"],
    ]
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["MobileBertForTokenClassification"]
    assert list(config["id2label"].values()) == [
        "O",
        "B-LOC",
        "B-PER",
        "I-PER",
    ]
    card = (folder / "README.md").read_text()
    assert "python -m mobilebert_tf.commands.tag" in card
    assert "- Tags: O, B-LOC, B-PER, I-PER" in card and "test_f1" in card
    assert [path for path in folder.rglob(".*")] == []


def test_a_trained_tagger_evaluates_and_tags(files, trained, tmp_path):
    _, folder = trained
    run(
        f"--model={folder}",
        "--nodo_train",
        f"--dev_file={files}/dev.conll",
        f"--output_dir={tmp_path}",
        "--eval_batch_size=7",
        *TRAINING[5:],
    )
    assert results(tmp_path)["dev_f1"] == results(folder)["dev_f1"]
    name = "dev_predictions.conll"
    assert (tmp_path / name).read_text() == (folder / name).read_text()


def test_files_tag_like_the_model(files, trained, tmp_path):
    _, folder = trained
    kinds = ("float32", "int8", "int8_qat")
    output = run(
        f"--model={folder}",
        "--nodo_train",
        "--nodo_predict",
        f"--train_file={files}/train.conll",
        f"--dev_file={files}/dev.conll",
        f"--test_file={files}/test.conll",
        f"--output_dir={tmp_path}",
        f"--export={','.join(kinds)}",
        "--export_seq_length=32",
        "--num_qat_steps=8",
        *TRAINING[3:],
    )
    values = results(tmp_path)
    for name in ("dev_f1", "test_f1", "test_accuracy"):
        assert values[name] == results(folder)[name]
        assert values[f"float32_{name}"] == pytest.approx(values[name])
        for kind in kinds[1:]:
            assert values[f"{kind}_{name}"] == pytest.approx(
                values[name], abs=0.1
            )
    for kind in kinds:
        assert f"\n{kind}.tflite" in output
        interpreter = Interpreter(str(tmp_path / f"{kind}.tflite"))
        (logits,) = interpreter.get_output_details()
        assert list(logits["shape"]) == [1, 32, 4]
        assert logits["dtype"] is np.float32
    assert (tmp_path / "int8_qat_training" / "metrics.jsonl").exists()
    assert (
        "Files for inputs of 32 pieces" in (tmp_path / "README.md").read_text()
    )


def test_an_interrupted_run_goes_on_to_the_same_weights(
    files, trained, tmp_path
):
    _, whole = trained
    arguments = training_arguments(files, tmp_path / "again")
    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        text=True,
        cwd=commands.REPOSITORY,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        for line in process.stdout:
            # In the third epoch, after an evaluation.
            if "fine_tuning" in line and " 40/" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=120) == 130, rest
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert "Resuming from" in run(*arguments)
    for name in ("model.safetensors", "predictions.conll"):
        again = (tmp_path / "again" / name).read_bytes()
        assert again == (whole / name).read_bytes()


BAD_INPUT = {
    "no tagger": (
        "--nodo_train --dev_file={files}/dev.conll",
        "encoder: expected a tagger, found another kind of model",
    ),
    "a tag without a type": (
        "--train_file={files}/bad.conll",
        "bad.conll, line 2: expected O or B-TYPE, I-TYPE",
    ),
    "metadata for a phone's task that there is not": (
        "--train_file={files}/train.conll --export=int8 --metadata",
        "--metadata: expected a classifier, found a tagger",
    ),
    "longer than the model": (
        "--train_file={files}/train.conll --max_seq_length=64",
        "--max_seq_length: expected at most 32, found 64",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(case, files, tmp_path):
    (files / "bad.conll").write_text("fish O\ncrab I-\n")
    line, message = BAD_INPUT[case]
    out = tmp_path / "out"
    arguments = line.format(files=files).split()
    if not any(argument.startswith("--max") for argument in arguments):
        arguments.append("--max_seq_length=20")
    error = run(
        f"--model={files}/encoder", *arguments, f"--output_dir={out}", expect=2
    )
    own = [text for text in error.splitlines() if text.startswith("token_")]
    assert len(own) == 1 and message in own[0], error
    assert "Traceback" not in error
    assert not out.exists()


def test_help_explains_the_tool():
    text = subprocess.run(
        command("--help"),
        capture_output=True,
        text=True,
        cwd=commands.REPOSITORY,
    ).stdout
    assert "python -m mobilebert_tf.commands.tag" in text
    assert "--scheme: <iob1|iob2|bioes|bilou|none>" in text
    assert "--output_dir: Model folder to write." in text
    assert "--patience:" in text
