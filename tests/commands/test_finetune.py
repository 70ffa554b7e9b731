"""Fine-tuning commands: classify, tag and squad, in this process and as doors.

The words of each class are its own, so that models with random weights learn.
"""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mobilebert_tf.commands.finetune import CLASSIFY, SQUAD, TAG
from mobilebert_tf.errors import InputError
from mobilebert_tf.training.log import read_metrics
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[2]

WORDS = {"sea": ["cat", "sat"], "land": ["mat", "not"]}
# Enough for random weights to learn which words tell.
TRAINING = [
    "--max_seq_length=16",
    "--bucket_lengths=",
    "--train_batch_size=16",
    "--num_train_epochs=12",
    "--learning_rate=1e-2",
    "--log_every=5",
]
EXPORT = ["--export=float32,dynamic", "--export_seq_length=12"]


def table(rng, number):
    rows = [
        f"the {' the '.join(rng.choices(WORDS[name], k=3))}.\t{name}"
        for _ in range(number // 2)
        for name in WORDS
    ]
    return "\n".join(["text\tlabel", *rows])


def tagged(rng, number):
    """Every other word is a name, and its tag follows from the word."""
    lines = []
    for _ in range(number):
        for word in rng.choices(WORDS["sea"] + WORDS["land"], k=3):
            kind = "LOC" if word in WORDS["land"] else "PER"
            lines += ["the O", f"{word} B-{kind}"]
        lines += [". O", ""]
    return "\n".join(lines)


def questions(rng, number):
    """The answer follows the word "good"."""
    paragraphs = []
    for index in range(number):
        answer, *others = rng.sample(WORDS["sea"] + WORDS["land"], 3)
        context = f"the {others[0]} the {others[1]} good {answer} ."
        start = context.index(f"good {answer}") + len("good ")
        answers = [{"text": answer, "answer_start": start}]
        qas = [{"id": f"q{index}", "question": "good", "answers": answers}]
        paragraphs.append({"context": context, "qas": qas})
    return json.dumps({"version": "1.1", "data": [{"paragraphs": paragraphs}]})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model with random weights, and examples of three tasks."""
    folder = tmp_path_factory.mktemp("files")
    model = tiny.pretraining_model(tiny.student_config(num_hidden_layers=1))
    tiny.randomise(model, np.random.default_rng(0))
    tiny.write_folder(folder / "model", model)
    rng = random.Random(0)
    for split, number in (("train", 64), ("dev", 24), ("test", 8)):
        (folder / f"{split}.tsv").write_text(table(rng, number))
        (folder / f"{split}.conll").write_text(tagged(rng, number))
        (folder / f"{split}.json").write_text(questions(rng, number))
    (folder / "new.tsv").write_text(
        "text\nthe cat the sat the cat.\nthe mat the not the mat.\n"
    )
    return folder


def arguments(files, output, ending, *further, splits=("train", "dev", "test")):
    return [
        f"--model={files}/model",
        f"--output_dir={output}",
        *(f"--{split}_file={files}/{split}.{ending}" for split in splits),
        *TRAINING,
        *further,
    ]


def results(folder):
    last = read_metrics(folder / "metrics.jsonl")[-1]
    assert last["phase"] == "results"
    return last


@pytest.fixture(scope="module")
def classifier(files):
    folder = files / "classifier"
    predict = f"--predict_file={files}/new.tsv"
    CLASSIFY.run(arguments(files, folder, "tsv", predict, *EXPORT))
    return folder


def test_a_classifier_learns_and_its_folder_is_whole(classifier):
    values = results(classifier)
    assert values["dev_accuracy"] > 0.9 and values["test_accuracy"] > 0.9
    header, *rows = (classifier / "predictions.tsv").read_text().splitlines()
    assert header == "index\tprediction\tland\tsea"
    assert [row.split("\t")[1] for row in rows] == ["sea", "land"]
    config = json.loads((classifier / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    assert (classifier / "model.safetensors").exists()
    assert (classifier / "vocab.txt").exists()
    card = (classifier / "README.md").read_text()
    assert "# Text classifier" in card and "dev_accuracy" in card
    assert "- Classes: land, sea" in card and "Training examples: 64" in card
    assert [path for path in classifier.rglob(".*") if path.is_file()] == []


def test_files_are_scored_as_the_model_is(classifier):
    values = results(classifier)
    card = (classifier / "README.md").read_text()
    assert "Files for inputs of 12 pieces" in card
    for kind in ("float32", "dynamic"):
        assert (classifier / f"{kind}.tflite").exists()
        for split in ("dev", "test"):
            loss = values[f"{split}_accuracy"]
            loss -= values[f"{kind}_{split}_accuracy"]
            assert loss < (0.01 if kind == "float32" else 0.2)
        assert values[f"{kind}_latency_ms"] > 0
        assert f"\n      {kind}.tflite" in card


def test_a_folder_is_evaluated_without_training(files, classifier, tmp_path):
    CLASSIFY.run(
        [
            f"--model={classifier}",
            "--nodo_train",
            f"--dev_file={files}/dev.tsv",
            f"--output_dir={tmp_path}",
            "--max_seq_length=16",
            "--eval_batch_size=7",
        ]
    )
    for name in ("dev_accuracy", "dev_f1"):
        assert results(tmp_path)[name] == results(classifier)[name]


def test_a_finished_command_is_not_trained_again(files, classifier, capsys):
    before = (classifier / "metrics.jsonl").read_text()
    CLASSIFY.run(arguments(files, classifier, "tsv", "--nodo_predict"))
    after = (classifier / "metrics.jsonl").read_text()
    # Evaluations and results are repeated, steps are not.
    assert after.startswith(before.rpartition('{"phase": "results"')[0])
    assert "fine_tuning  step" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patience": 7}, "patience=7 then, None now"),
        # Recorded by an older version.
        ({"one_width": True}, "one_width=True then, None now"),
    ],
)
def test_a_run_with_other_settings_is_refused(
    files, classifier, tmp_path, change, message
):
    record = json.loads((classifier / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(InputError, match=message):
        CLASSIFY.run(arguments(files, tmp_path, "tsv"))


def test_a_grid_learns_from_a_teacher(files, classifier, tmp_path, capsys):
    grid = arguments(
        files,
        tmp_path,
        "tsv",
        f"--teacher={classifier}",
        "--feature_map_transfer_weight=0.1",
        "--learning_rate=1e-2,1e-3",
        "--num_train_epochs=2",
        "--patience=1",
        "--eval_every_steps=3",
    )
    CLASSIFY.run(grid)
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == [
        "rate0.001_batch16_epochs2_seed1",
        "rate0.01_batch16_epochs2_seed1",
    ]
    lines = read_metrics(tmp_path / "runs" / runs[1] / "metrics.jsonl")
    assert {"task_loss", "distillation_loss", "feature_map_transfer_loss"} <= (
        lines[0].keys()
    )
    assert len((tmp_path / "runs.tsv").read_text().splitlines()) == 3
    capsys.readouterr()
    CLASSIFY.run(grid)
    assert capsys.readouterr().out.count("done before") == 2


def test_a_tagger_has_seeds_patience_and_the_best_weights(files, tmp_path):
    TAG.run(
        arguments(
            files,
            tmp_path,
            "conll",
            "--num_seeds=2",
            "--patience=4",
        )
    )
    values = results(tmp_path)
    assert values["dev_f1"] > 0.9 and values["test_f1"] > 0.9
    assert len((tmp_path / "runs.tsv").read_text().splitlines()) == 3
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["MobileBertForTokenClassification"]
    assert (tmp_path / "test_predictions.conll").exists()
    card = (tmp_path / "README.md").read_text()
    assert "- Tags: O, B-LOC, B-PER" in card and "Chosen on dev" in card


def test_a_question_answerer_keeps_its_best_weights(files, tmp_path):
    further = [
        "--max_query_length=4",
        "--doc_stride=4",
        "--learning_rate=1e-2,1e-30",
        "--eval_every_steps=4",
        f"--predict_file={files}/test.json",
    ]
    SQUAD.run(
        arguments(files, tmp_path, "json", *further, splits=("train", "dev"))
    )
    values = results(tmp_path)
    # One of three names at random scores 33.
    assert values["dev_exact"] > 60
    best = json.loads(
        (
            tmp_path / "runs/rate0.01_batch16_epochs12_seed1/result.json"
        ).read_text()
    )
    assert best["metrics"]["dev_exact"] == values["dev_exact"]
    settings = json.loads((tmp_path / "question_answering.json").read_text())
    assert settings["max_seq_length"] == 16
    assert len(json.loads((tmp_path / "predictions.json").read_text())) == 8
    assert (tmp_path / "dev_predictions.json").exists()


BAD_INPUT = {
    "a row without a label": (
        CLASSIFY,
        "--train_file={files}/short.tsv --max_seq_length=16",
        "short.tsv, line 2: expected 2 columns",
    ),
    "a sequence beyond the positions": (
        CLASSIFY,
        "--train_file={files}/train.tsv --max_seq_length=25",
        "--max_seq_length: expected at most 24, found 25",
    ),
    "files beyond the positions": (
        SQUAD,
        "--train_file={files}/train.json --export=int8 --export_seq_length=25",
        "--export_seq_length: expected at most 24, found 25",
    ),
    "an unknown file": (
        CLASSIFY,
        "--train_file={files}/train.tsv --export=int3",
        "--export: expected one of float32",
    ),
    "ranges without examples": (
        CLASSIFY,
        "--model={files}/trained --nodo_train --dev_file={files}/dev.tsv "
        "--max_seq_length=16 --export=int8",
        "--export: expected training examples for int8, found none",
    ),
    "metadata of a tagger": (
        TAG,
        "--train_file={files}/train.conll --export=int8 --metadata "
        "--max_seq_length=16",
        "--metadata: expected a classifier, found",
    ),
    "no classifier": (
        CLASSIFY,
        "--nodo_train --dev_file={files}/dev.tsv --max_seq_length=16",
        "model: expected a classifier, found another kind of model",
    ),
    "a grid in several processes": (
        TAG,
        "--distribution=multi_worker --num_seeds=2",
        "--distribution: expected none, mirrored or tpu for 2 runs",
    ),
    "GPUs of one device": (
        TAG,
        "--num_gpus=2",
        "--num_gpus: expected --distribution=mirrored with it, found none",
    ),
    "float16": (SQUAD, "--mixed_precision=float16", "bfloat16 (float16 ends"),
    "no number": (
        CLASSIFY,
        "--learning_rate=1e-3,high",
        "--learning_rate: expected numbers, found 'high'",
    ),
    "several runs without dev": (
        CLASSIFY,
        "--train_file={files}/train.tsv --num_seeds=2 --max_seq_length=16",
        "--dev_file: expected labelled examples to choose among 2 runs",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_anything_is_written(
    case, files, tmp_path, classifier
):
    (files / "short.tsv").write_text("text\tlabel\nonly a text\n")
    if not (files / "trained").exists():
        (files / "trained").symlink_to(classifier)
    command, line, message = BAD_INPUT[case]
    out = tmp_path / "out"
    words = line.format(files=files).split()
    with pytest.raises(InputError) as error:
        command.run([f"--model={files}/model", f"--output_dir={out}", *words])
    assert message in str(error.value)
    assert not out.exists()


@pytest.mark.parametrize(
    ("script", "command"),
    [
        (["run_classifier.py"], CLASSIFY),
        (["run_squad.py"], SQUAD),
        (["-m", "mobilebert_tf.commands.tag"], TAG),
    ],
)
def test_scripts_are_doors_to_the_commands(script, command, files, tmp_path):
    def run(*words):
        return subprocess.run(
            [sys.executable, *script, *words],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
        )

    done = run(f"--model={files}", f"--output_dir={tmp_path}/out")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if str(files) in line]
    assert "expected" in line and "Traceback" not in done.stderr
    name = script[-1].rpartition(".")[0] if len(script) == 1 else "tag"
    help_text = command.help(name)
    listed = [
        line for line in help_text.splitlines() if line.startswith("  --")
    ]
    assert 12 <= len(listed) <= 18
    assert f"python {' '.join(script)}" in help_text
    for group in ("data:", "model:", "training:", "export:"):
        assert f"\n{group}\n" in help_text
