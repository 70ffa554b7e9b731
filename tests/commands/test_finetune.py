"""Fine-tuning commands: classify, tag and squad, in this process and as doors.

The words of each class are its own, so that models with random weights learn.
"""

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mobilebert_tf.commands.finetune import (
    CLASSIFY,
    SQUAD,
    TAG,
    _closing,
    _not_above,
)
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.conll import read_sentences
from mobilebert_tf.tasks.metrics import entity_metrics
from mobilebert_tf.training.grid import points_to_train
from mobilebert_tf.training.log import read_metrics
from mobilebert_tf.training.options import FineTuningOptions
from tests import tiny

REPOSITORY = Path(__file__).resolve().parents[2]

WORDS = {"sea": ["cat", "sat"], "land": ["mat", "not"]}
NAMES = WORDS["sea"] + WORDS["land"]
# Enough for random weights to learn which words tell.
TRAINING = [
    "--max_seq_length=16",
    "--bucket_lengths=",
    "--train_batch_size=16",
    "--num_train_epochs=12",
    "--learning_rate=1e-2",
    "--log_every=5",
]
COMMANDS = {"tsv": CLASSIFY, "conll": TAG, "json": SQUAD}


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
        for word in rng.choices(NAMES, k=3):
            kind = "LOC" if word in WORDS["land"] else "PER"
            lines += ["the O", f"{word} B-{kind}"]
        lines += [". O", ""]
    return "\n".join(lines)


def questions(rng, number, impossible=0):
    """The answer follows the word "good", or in v2.0 nothing does."""
    paragraphs = []
    for index in range(number):
        answer, *others = rng.sample(NAMES, 3)
        context = f"the {others[0]} the {others[1]} good {answer} ."
        start = context.index(answer)
        question = {
            "id": f"q{index}",
            "question": "good",
            "answers": [{"text": answer, "answer_start": start}],
        }
        if index < impossible:
            context = context.replace("good", "the")
            question |= {"answers": [], "is_impossible": True}
        paragraphs.append({"context": context, "qas": [question]})
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
    (folder / "v2.json").write_text(questions(rng, 24, impossible=8))
    (folder / "new.tsv").write_text(
        "text\nthe cat the sat the cat.\nthe mat the not the mat.\n"
    )
    (folder / "new.conll").write_text("the\nmat\n.\n\nthe\ncat\n")
    (folder / "short.tsv").write_text("text\tlabel\nonly a text\n")
    return folder


def run(files, output, ending, *further, model="model", splits=None):
    """Runs the command that reads files of an ending."""
    splits = splits or ("train", "dev") + ("test",) * (ending != "json")
    COMMANDS[ending].run(
        [
            f"--model={files}/{model}",
            f"--output_dir={output}",
            *(f"--{split}_file={files}/{split}.{ending}" for split in splits),
            *TRAINING,
            *further,
        ]
    )
    return output


def results(folder):
    last = read_metrics(folder / "metrics.jsonl")[-1]
    assert last["phase"] == "results"
    return last


def read_json(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def check_folder(folder, architecture, *lines):
    """What every command leaves, with lines of the model card."""
    assert (folder / "model.safetensors").stat().st_size
    assert (folder / "vocab.txt").stat().st_size
    assert read_json(folder, "config")["architectures"] == [architecture]
    card = (folder / "README.md").read_text()
    for line in lines:
        assert line in card
    assert [path for path in folder.rglob(".*") if path.is_file()] == []


def check_files(folder, kinds, length, tolerance, chosen_by):
    """Files are scored as the model is, and shown in the card."""
    values = results(folder)
    card = (folder / "README.md").read_text()
    assert f"Files for inputs of {length} pieces" in card
    for kind in kinds:
        path = folder / f"{kind}.tflite"
        assert TFLiteModel(path).max_seq_length == length
        for name in chosen_by:
            loss = values[name] - values[f"{kind}_{name}"]
            assert abs(loss) <= (0.01 if kind == "float32" else tolerance)
            assert f"{values[f'{kind}_{name}']:.4f}" in card
        assert values[f"{kind}_latency_ms"] > 0
        assert f"\n      {kind}.tflite" in card


@pytest.fixture(scope="module")
def classifier(files):
    predict = f"--predict_file={files}/new.tsv"
    export = ["--export=float32,dynamic", "--export_seq_length=12"]
    return run(files, files / "classifier", "tsv", predict, *export)


def test_a_classifier_learns_and_is_exported(classifier):
    values = results(classifier)
    assert values["dev_accuracy"] > 0.9 and values["test_accuracy"] > 0.9
    # As many examples of each class.
    assert values["dev_accuracy_floor"] == values["test_accuracy_floor"] == 0.5
    card = (classifier / "README.md").read_text()
    row = f"| dev_accuracy | {values['dev_accuracy']:.4f} | 0.5000 |"
    assert (
        f"| Metric (held-out) | Value | Floor |\n|---|---|---|\n{row}" in card
    )
    assert (classifier / "test_confusion.png").stat().st_size
    header, *rows = (classifier / "predictions.tsv").read_text().splitlines()
    assert header == "index\tprediction\tland\tsea\ttext"
    assert [row.split("\t")[1] for row in rows] == ["sea", "land"]
    assert rows[0].endswith("\tthe cat the sat the cat.")
    problem_type = read_json(classifier, "config")["problem_type"]
    assert problem_type == "single_label_classification"
    check_folder(
        classifier,
        "MobileBertForSequenceClassification",
        "# Text classifier",
        "dev_accuracy",
        "- Classes: land, sea",
        "Training examples: 64",
    )
    names = ("dev_accuracy", "test_accuracy")
    check_files(classifier, ("float32", "dynamic"), 12, 0.2, names)


@pytest.fixture(scope="module")
def tagger(files):
    predict = f"--predict_file={files}/new.conll"
    grid = ["--num_seeds=2", "--patience=4"]
    return run(files, files / "tagger", "conll", predict, *grid)


def test_a_tagger_has_seeds_patience_and_the_best_weights(files, tagger):
    values = results(tagger)
    assert values["dev_f1"] > 0.9 and values["test_f1"] > 0.9
    assert len((tagger / "runs.tsv").read_text().splitlines()) == 3
    for split in ("dev", "test"):
        # What conlleval would be given.
        path = tagger / f"{split}_predictions.conll"
        right = read_sentences(path, tag_column=2)
        gold = read_sentences(files / f"{split}.conll")
        assert (right.tokens, right.tags) == (gold.tokens, gold.tags)
        scores = entity_metrics(right.tags, read_sentences(path).tags)
        for name, value in scores.items():
            assert values[f"{split}_{name}"] == pytest.approx(value)
    new = read_sentences(tagger / "predictions.conll")
    assert new.tags == [["O", "B-LOC", "O"], ["O", "B-PER"]]
    check_folder(
        tagger,
        "MobileBertForTokenClassification",
        "- Tags: O, B-LOC, B-PER",
        "Chosen on dev",
        "test_f1",
    )


def test_a_tagger_is_scored_again_and_exported(files, tagger, tmp_path, capsys):
    kinds = ("float32", "int8_qat")
    run(
        files,
        tmp_path,
        "conll",
        "--nodo_train",
        "--eval_batch_size=7",
        f"--export={','.join(kinds)}",
        "--export_seq_length=24",
        "--num_qat_steps=4",
        model="tagger",
    )
    for name in ("dev_f1", "test_f1", "test_accuracy"):
        assert results(tmp_path)[name] == results(tagger)[name]
    name = "dev_predictions.conll"
    assert (tmp_path / name).read_text() == (tagger / name).read_text()
    check_files(tmp_path, kinds, 24, 0.1, ("dev_f1", "test_f1"))
    assert (tmp_path / "int8_qat_training" / "metrics.jsonl").exists()
    assert "\nint8_qat.tflite" in capsys.readouterr().out


@pytest.fixture(scope="module")
def answerer(files):
    further = [
        "--max_query_length=4",
        "--doc_stride=4",
        "--learning_rate=1e-2,1e-30",
        "--eval_every_steps=16",
        "--export=int8",
        f"--predict_file={files}/test.json",
    ]
    return run(files, files / "answerer", "json", *further)


def test_an_answerer_keeps_its_best_weights(files, answerer):
    values = results(answerer)
    # One of three names at random scores 33.
    assert values["dev_exact"] > 60 and "dev_NoAns_f1" not in values
    best = answerer / "runs/rate0.01_batch16_epochs12_seed1"
    assert (
        read_json(best, "result")["metrics"]["dev_exact"]
        == (values["dev_exact"])
    )
    assert read_json(answerer, "question_answering")["max_seq_length"] == 16
    assert len(read_json(answerer, "predictions")) == 8
    predictions = read_json(answerer, "dev_predictions")
    (article,) = read_json(files, "dev")["data"]
    right = [
        predictions[qa["id"]] == qa["answers"][0]["text"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    assert 100 * np.mean(right) == pytest.approx(values["dev_exact"])
    assert not (answerer / "dev_null_odds.json").exists()
    check_folder(
        answerer,
        "MobileBertForQuestionAnswering",
        "dev_exact",
        "windows of 64 questions",
    )
    check_files(answerer, ("int8",), 16, 10, ("dev_exact", "dev_f1"))


def test_a_trained_answerer_evaluates_and_answers(files, answerer, tmp_path):
    def evaluate(model, name, *splits):
        folder = tmp_path / name
        words = [f"--{split}_file={files}/v2.json" for split in splits]
        words += [f"--output_dir={folder}", "--eval_batch_size=7"]
        SQUAD.run([f"--model={model}", "--nodo_train", *words])
        return folder

    folder = evaluate(answerer, "evaluated", "dev", "predict")
    values, settings = results(folder), read_json(folder, "question_answering")
    assert values["dev_best_f1"] >= values["dev_f1"]
    # Windows as the model was trained; the threshold as dev decides.
    assert (settings["max_seq_length"], settings["doc_stride"]) == (16, 4)
    assert settings["version_2_with_negative"] is True
    threshold = settings["null_score_diff_threshold"]
    assert threshold == values["dev_best_f1_thresh"]
    texts, odds = (
        read_json(folder, "predictions"),
        read_json(folder, "null_odds"),
    )
    assert len(texts) == 24 and odds.keys() == texts.keys()
    n_best = read_json(folder, "nbest_predictions")
    for name, text in texts.items():
        assert (text == "") == (odds[name] > threshold)
        total = sum(entry["probability"] for entry in n_best[name])
        assert total == pytest.approx(1.0)
    # Without dev questions the folder's settings decide.
    again = evaluate(folder, "again", "predict")
    for name in ("predictions", "null_odds", "question_answering"):
        assert read_json(again, name) == read_json(folder, name), name


def test_a_classifier_is_evaluated_without_training(
    files, classifier, tmp_path
):
    further = ["--nodo_train", "--eval_batch_size=7"]
    run(files, tmp_path, "tsv", *further, model="classifier", splits=("dev",))
    for name in ("dev_accuracy", "dev_f1"):
        assert results(tmp_path)[name] == results(classifier)[name]


def test_a_finished_command_is_not_trained_again(files, classifier, capsys):
    before = (classifier / "metrics.jsonl").read_text()
    run(files, classifier, "tsv", "--nodo_predict")
    after = (classifier / "metrics.jsonl").read_text()
    # Evaluations and results are repeated, steps are not.
    assert after.startswith(before.rpartition('{"phase": "results"')[0])
    assert "fine_tuning  step" not in capsys.readouterr().out


EDITS = {
    "added rows": lambda text: text + "\nthe cat.\tsea" * 4,
    "exchanged labels": lambda text: (
        text.replace("sea", "?").replace("land", "sea").replace("?", "land")
    ),
    "a renamed label": lambda text: text.replace("land", "dune"),
    "a third label": lambda text: text + "\nthe cat.\tsky",
}


@pytest.mark.parametrize("edit", EDITS)
def test_other_examples_of_the_same_name_are_refused(
    files, classifier, tmp_path, edit
):
    before = {path: path.read_bytes() for path in classifier.glob("*.*")}
    train = tmp_path / "train.tsv"
    train.write_text(EDITS[edit]((files / "train.tsv").read_text()))
    with pytest.raises(InputError, match=r"train.tsv: .* then.*") as error:
        run(files, classifier, "tsv", f"--train_file={train}")
    assert "or --restart to train again in this one" in str(error.value)
    assert {path: path.read_bytes() for path in before} == before


def test_other_classes_than_a_finished_run_has_are_refused(
    files, classifier, tmp_path
):
    """Although the record is of a version that knew neither."""
    record = read_json(classifier, "run")
    del record["inputs"], record["label_names"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    config = read_json(classifier, "config")
    config["id2label"] = {"0": "sea", "1": "land"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = r"label_names=\['sea', 'land'\] then, \['land', 'sea'\] now$"
    with pytest.raises(InputError, match=found):
        run(files, tmp_path, "tsv")


def test_a_model_is_not_written_over(files):
    with pytest.raises(InputError, match="another folder than --model"):
        run(files, files / "model", "tsv")
    assert not (files / "model" / "run.json").exists()


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
    record = read_json(classifier, "run")
    (tmp_path / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(InputError, match=message):
        run(files, tmp_path, "tsv")


def test_a_grid_learns_from_a_teacher(files, classifier, tmp_path, capsys):
    grid = [
        f"--teacher={classifier}",
        "--feature_map_transfer_weight=0.1",
        "--learning_rate=1e-2,1e-3",
        "--num_train_epochs=1",
        "--patience=1",
        "--eval_every_steps=3",
    ]
    run(files, tmp_path, "tsv", *grid)
    runs = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert runs == [
        "rate0.001_batch16_epochs1_seed1",
        "rate0.01_batch16_epochs1_seed1",
    ]
    lines = read_metrics(tmp_path / "runs" / runs[1] / "metrics.jsonl")
    assert {"task_loss", "distillation_loss", "feature_map_transfer_loss"} <= (
        lines[0].keys()
    )
    assert len((tmp_path / "runs.tsv").read_text().splitlines()) == 3
    capsys.readouterr()
    run(files, tmp_path, "tsv", *grid)
    assert capsys.readouterr().out.count("done before") == 2


def test_one_command_from_a_table_to_a_file(
    files, tmp_path, monkeypatch, capsys
):
    """Folder and length have defaults; the length is remembered."""
    monkeypatch.chdir(tmp_path)
    table = [f"--train_file={files}/train.tsv", "--dev_fraction=0.25"]
    # All but the length.
    training, model = TRAINING[1:], f"--model={files}/model"
    CLASSIFY.run([model, *table, *training, "--export=int8"])
    printed = capsys.readouterr().out
    assert "max_seq_length: 16, from the training examples; 0.0%" in printed
    assert "Training with learning rate 0.01, batch 16, 12 epochs" in printed
    output = Path("runs/classifier")
    assert TFLiteModel(output / "int8.tflite").max_seq_length == 16
    for name in ("run", "config"):
        assert read_json(output, name)["max_seq_length"] == 16
    score = results(output)["dev_accuracy"]
    for row in ("floor +0.5000", f"float model +{score:.4f}"):
        assert re.search(rf"^{row} +- +-$", printed, re.MULTILINE)
    further = ["--model=runs/classifier", "--nodo_train", "--output_dir=again"]
    CLASSIFY.run([*further, f"--dev_file={files}/dev.tsv"])
    assert read_json(Path("again"), "run")["max_seq_length"] == 16


OF_A_SMALL_TASK, OF_A_LARGE_TASK = (5e-5, 32, 10), (3e-5, 32, 4)
# Width of the model, number of examples, options and what is trained with.
DEFAULTS = [
    (96, 500, {}, (5e-4, 32, 3)),
    (512, 500, {}, OF_A_SMALL_TASK),
    (512, 19_999, {}, OF_A_SMALL_TASK),
    (512, 20_000, {}, OF_A_LARGE_TASK),
    (512, 500, {"num_train_epochs": (2,)}, (5e-5, 32, 2)),
    # A run that names a rate is what it was before models were told apart.
    (512, 500, {"learning_rate": (2e-5,)}, (2e-5, 32, 3)),
    (96, 500, {"glue_name": "rte"}, OF_A_SMALL_TASK),
    (512, 500, {"glue_name": "mnli"}, OF_A_LARGE_TASK),
]


@pytest.mark.parametrize(("width", "number", "options", "expected"), DEFAULTS)
def test_width_and_number_of_examples_decide_the_rate(
    width, number, options, expected, tmp_path
):
    tiny.student_config(hidden_size=width).to_json(tmp_path / "config.json")
    options, arrays = dict(options), {"input_ids": np.zeros((number, 8))}
    task = ClassificationTask(
        ("no", "yes"),
        {"train": arrays},
        glue_name=options.pop("glue_name", None),
    )
    (point,) = points_to_train(FineTuningOptions(**options), task, tmp_path)
    found = point.learning_rate, point.batch_size, point.num_epochs
    assert found == expected


# Command, flags and message; {0} is the folder of all files.
BAD_INPUT = {
    "a row without a label": (
        CLASSIFY,
        "--train_file={0}/short.tsv --max_seq_length=16",
        "short.tsv, line 2: expected 2 columns",
    ),
    "a sequence beyond the positions": (
        CLASSIFY,
        "--train_file={0}/train.tsv --max_seq_length=25",
        "--max_seq_length: expected at most 24, found 25",
    ),
    "files beyond the positions": (
        SQUAD,
        "--train_file={0}/train.json --export=int8 --export_seq_length=25",
        "--export_seq_length: expected at most 24, found 25",
    ),
    "an unknown file": (
        CLASSIFY,
        "--train_file={0}/train.tsv --export=int3",
        "--export: expected one of float32",
    ),
    "ranges without examples": (
        CLASSIFY,
        "--model={0}/classifier --nodo_train --dev_file={0}/dev.tsv "
        "--max_seq_length=16 --export=int8",
        "--export: expected training examples for int8, found none",
    ),
    "metadata of a tagger": (
        TAG,
        "--train_file={0}/train.conll --export=int8 --metadata "
        "--max_seq_length=16",
        "--metadata: expected a classifier, found tagger",
    ),
    "no classifier": (
        CLASSIFY,
        "--nodo_train --dev_file={0}/dev.tsv --max_seq_length=16",
        "model: expected a text classifier, found another kind of model",
    ),
    "no stride": (SQUAD, "--doc_stride=0", "--doc_stride: expected at least 1"),
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
    "several runs without dev": (
        CLASSIFY,
        "--train_file={0}/train.tsv --num_seeds=2 --max_seq_length=16",
        "--dev_file: expected labelled examples to choose among 2 runs",
    ),
    "patience without dev": (
        CLASSIFY,
        "--train_file={0}/train.tsv --patience=2 --max_seq_length=16",
        "--patience: expected labelled dev examples, found none",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_before_anything_is_written(
    case, files, tmp_path, classifier
):
    command, line, message = BAD_INPUT[case]
    out = tmp_path / "out"
    words = line.format(files).split()
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
def test_scripts_are_doors_to_the_commands(script, command):
    words = ["--model=x", "--output_dir=y", "--learning_rate=high"]
    done = subprocess.run(
        [sys.executable, *script, *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("--learning_rate: expected numbers, found 'high'")
    name = script[-1].rpartition(".")[0] if len(script) == 1 else "tag"
    help_text = command.help(name)
    listed = [
        line for line in help_text.splitlines() if line.startswith("  --")
    ]
    assert 12 <= len(listed) <= 19
    assert f"python {' '.join(script)}" in help_text
    for group in ("data:", "model:", "training:", "export:"):
        assert f"\n{group}\n" in help_text


def test_help_explains_every_flag():
    text = " ".join(SQUAD.help("name", everything=True).split())
    assert "--doc_stride" in text
    assert "Pieces from one window to the next" in text
    text = " ".join(TAG.help("name", everything=True).split())
    assert "One of iob1, iob2, bioes, bilou, none" in text


class TwoDevs:
    """A task with two dev splits, as MNLI."""

    chosen_by, floor_rule = ("accuracy",), "a rule"

    def labelled(self, prefix):
        return ["dev_a", "dev_b"] if prefix == "dev" else []

    def score(self, metrics):
        return (metrics["dev_a_accuracy"] + metrics["dev_b_accuracy"]) / 2


# Accuracies and megabytes by kind, and the kind to ship.
FILES = [
    ({"float32": (0.9, 90), "int8": (0.7, 24), "int8_qat": (0.895, 25)}, 2),
    ({"float32": (0.9, 90), "int8": (0.895, 24), "int8_qat": (0.9, 25)}, 1),
    ({"float32": (0.0, 90), "dynamic": (0.0, 25)}, 1),
]


@pytest.mark.parametrize(("files", "index"), FILES)
def test_the_last_line_names_the_file_to_ship(files, index):
    rows = {
        kind: {
            "dev_a_accuracy": accuracy,
            "dev_b_accuracy": accuracy,
            "megabytes": size,
        }
        for kind, (accuracy, size) in files.items()
    }
    given = SimpleNamespace(output=SimpleNamespace(output_dir="runs/x"))
    line = _closing(given, TwoDevs(), rows, {"dev_a_accuracy": 0.35})
    kind = list(files)[index]
    accuracy, size = files[kind]
    assert line.startswith(
        f"Ship runs/x/{kind}.tflite: {size}.00 MB, dev_a_accuracy "
        f"{accuracy:.4f} (floor 0.3500), dev_b_accuracy {accuracy:.4f}. Next: "
    )


def test_results_that_are_not_above_their_floors_are_warned_about():
    floors = {"dev_a_accuracy": 0.35, "dev_b_accuracy": 0.35, "dev_a_f1": 0.5}
    results = {"dev_a_accuracy": 0.35, "dev_b_accuracy": 0.36, "dev_a_f1": 0.1}
    assert list(_not_above(TwoDevs(), results, floors)) == [
        "warning: dev_a_accuracy 0.3500 is not above its floor 0.3500 (a rule)"
    ]
