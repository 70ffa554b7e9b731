"""The journey at toy size: raw text, teacher, student, classifier, phone."""

import pytest

from mobilebert_tf.commands import distill, pretrain
from mobilebert_tf.commands.finetune import CLASSIFY
from mobilebert_tf.training.run_folder import read_metrics
from tests import tiny

DATA = [
    f"--max_seq_length={tiny.MAX_LENGTH}",
    "--train_batch_size=8",
    "--log_every=5",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A corpus of two topics, configs, and a task that tells them apart."""
    folder = tmp_path_factory.mktemp("files")
    documents = tiny.write_corpus(folder / "corpus.txt").read_text()
    rows = [
        f"{sentence}\t{('sea', 'land')[index % 2]}"
        for index, document in enumerate(documents.split("\n\n"))
        for sentence in document.splitlines()[:2]
    ]
    for split, part in (("train", rows[:80]), ("dev", rows[80:])):
        (folder / f"{split}.tsv").write_text("\n".join(["text\tlabel", *part]))
    (folder / "new.jsonl").write_text('{"text": "The fish sees the boat."}\n')
    tiny.teacher_config().to_json(folder / "teacher.json")
    tiny.student_config(num_feedforward_networks=1).to_json(
        folder / "student.json"
    )
    return folder


@pytest.fixture(scope="module")
def teacher(files):
    pretrain.COMMAND.run(
        [
            f"--config_file={files}/teacher.json",
            f"--input_files={files}/corpus.txt",
            f"--output_dir={files}/teacher",
            "--vocab_size=150",
            "--num_train_steps=10",
            *DATA,
        ]
    )
    return files / "teacher"


@pytest.fixture(scope="module")
def student(files, teacher):
    distill.COMMAND.run(
        [
            f"--teacher={teacher}",
            f"--config_file={files}/student.json",
            f"--input_files={files}/corpus.txt",
            f"--output_dir={files}/student",
            "--num_transfer_steps=10",
            "--num_train_steps=10",
            *DATA,
        ]
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
            "--num_train_epochs=20",
            "--learning_rate=3e-3",
            "--export=float32,dynamic,int8",
            *DATA,
        ]
    )
    return files / "classifier"


@pytest.mark.parametrize("name", ["teacher", "student", "classifier"])
def test_every_command_leaves_a_model_folder(name, request):
    folder = request.getfixturevalue(name)
    for file in ("config.json", "model.safetensors", "vocab.txt", "README.md"):
        assert (folder / file).stat().st_size, file
    assert list((folder / "tensorboard").iterdir())
    card = (folder / "README.md").read_text()
    assert "_accuracy" in card
    leftovers = [p.name for p in folder.parent.rglob(".*") if p.is_file()]
    assert leftovers == []


def test_the_classifier_learns_and_the_phone_agrees(classifier):
    values = read_metrics(classifier / "metrics.jsonl")[-1]
    assert values["phase"] == "results"
    # The topics share no noun: anything that learns is nearly perfect.
    assert values["dev_accuracy"] > 0.9
    for kind in ("float32", "dynamic", "int8"):
        assert (classifier / f"{kind}.tflite").exists()
        assert values[f"{kind}_dev_accuracy"] >= values["dev_accuracy"] - 0.07
    # At this size most of a file describes the graph.
    assert values["int8_megabytes"] < 0.8 * values["float32_megabytes"]
    header, row = (classifier / "predictions.tsv").read_text().splitlines()
    assert header.split("\t") == ["index", "prediction", "land", "sea", "text"]
    assert row.split("\t")[:2] == ["0", "sea"]
