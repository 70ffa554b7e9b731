"""The scripts as a user runs them: the journey at toy size."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from mobilebert_tf.commands.finetune import CLASSIFY

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "embedding_size": 16,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "vocab_size": 30522,
    "trigram_input": True,
    "use_bottleneck": True,
    "type_vocab_size": 2,
}
TEACHER = SHARED | {"intra_bottleneck_size": 48, "intermediate_size": 64}
STUDENT = SHARED | {
    "intra_bottleneck_size": 16,
    "intermediate_size": 32,
    "num_feedforward_networks": 2,
    "normalization_type": "no_norm",
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
    "key_query_shared_bottleneck": True,
    "classifier_activation": False,
}
DATA = ["--max_seq_length=32", "--train_batch_size=8", "--log_every=5"]


def command(script, *arguments):
    return [sys.executable, str(REPOSITORY / script), *map(str, arguments)]


def run(script, *arguments, expect=0):
    """Runs a script; returns its stdout, or its stderr if it should fail."""
    done = subprocess.run(
        command(script, *arguments), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout if expect == 0 else done.stderr


def sentences(rng, topic, number):
    verbs = "sees likes finds takes".split()
    return [
        f"The {rng.choice(topic)} {rng.choice(verbs)} the {rng.choice(topic)}."
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A corpus of two topics, configs, and a task that tells them apart."""
    folder = tmp_path_factory.mktemp("files")
    rng = random.Random(0)
    topics = {
        "sea": "fish wave boat shell crab anchor".split(),
        "land": "tree stone horse field bird fence".split(),
    }
    documents = [
        "\n".join(sentences(rng, topics[name], 12))
        for _ in range(40)
        for name in topics
    ]
    (folder / "corpus.txt").write_text("\n\n".join(documents))
    for split, number in (("train", 64), ("dev", 32)):
        rows = [
            f"{sentences(rng, topics[name], 1)[0]}\t{name}"
            for _ in range(number // 2)
            for name in topics
        ]
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *rows]))
    (folder / "new.jsonl").write_text('{"text": "The fish sees the boat."}\n')
    (folder / "teacher.json").write_text(json.dumps(TEACHER))
    (folder / "student.json").write_text(json.dumps(STUDENT))
    return folder


def teacher_arguments(files, output):
    return [
        f"--config_file={files}/teacher.json",
        f"--input_files={files}/corpus.txt",
        f"--output_dir={output}",
        "--vocab_size=150",
        "--num_train_steps=10",
        *DATA,
    ]


@pytest.fixture(scope="module")
def teacher(files):
    run("run_pretraining.py", *teacher_arguments(files, files / "teacher"))
    return files / "teacher"


@pytest.fixture(scope="module")
def student(files, teacher):
    run(
        "run_distillation.py",
        f"--teacher={teacher}",
        f"--config_file={files}/student.json",
        f"--input_files={files}/corpus.txt",
        f"--output_dir={files}/student",
        "--num_transfer_steps=10",
        "--num_train_steps=10",
        *DATA,
    )
    return files / "student"


@pytest.fixture(scope="module")
def classifier(files, student):
    CLASSIFY.run(
        [
            f"--model={student}",
            f"--train_file={files}/train.tsv",
            f"--dev_file={files}/dev.tsv",
            f"--predict_file={files}/new.jsonl",
            f"--output_dir={files}/classifier",
            "--num_train_epochs=30",
            "--learning_rate=3e-3",
            "--export=float32,dynamic,int8",
            *DATA,
        ]
    )
    return files / "classifier"


def results(folder):
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    values = json.loads(last)
    assert values["phase"] == "results"
    return values


@pytest.mark.parametrize("name", ["teacher", "student", "classifier"])
def test_every_script_leaves_a_model_folder(name, request):
    folder = request.getfixturevalue(name)
    for file in ("config.json", "model.safetensors", "vocab.txt", "README.md"):
        assert (folder / file).stat().st_size, file
    assert list((folder / "tensorboard").iterdir())
    card = (folder / "README.md").read_text()
    assert "_accuracy" in card
    leftovers = [p.name for p in folder.parent.rglob(".*") if p.is_file()]
    assert leftovers == []


def test_the_classifier_learns_and_the_phone_agrees(classifier):
    values = results(classifier)
    # The topics share no noun: anything that learns is nearly perfect.
    assert values["dev_accuracy"] > 0.9
    for kind in ("float32", "dynamic", "int8"):
        assert (classifier / f"{kind}.tflite").exists()
        assert values[f"{kind}_dev_accuracy"] >= values["dev_accuracy"] - 0.07
    # At this size most of a file describes the graph.
    assert values["int8_megabytes"] < 0.8 * values["float32_megabytes"]
    header, row = (classifier / "predictions.tsv").read_text().splitlines()
    assert header.split("\t") == ["index", "prediction", "land", "sea"]
    assert row.split("\t")[:2] == ["0", "sea"]
