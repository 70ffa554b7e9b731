"""The question answering script as a user runs it, and bad input."""

import json
import os
import random
import signal
import subprocess

import pytest

from tests import commands

NAMES = "fish wave boat shell crab anchor tree stone horse field".split()
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] who is it ? . was".split()
# Enough for a model without any pre-training to find what follows "is".
TRAINING = [
    "--num_train_epochs=12",
    "--learning_rate=5e-3",
    "--train_batch_size=16",
    "--log_every=1",
    "--max_seq_length=20",
    "--max_query_length=6",
    "--doc_stride=6",
]


def command(*arguments):
    return commands.command(commands.REPOSITORY / "run_squad.py", *arguments)


def run(*arguments, expect=0):
    return commands.run(command(*arguments), expect)


def squad(rng, number, impossible=0):
    """Sentences that say who it is, among others, or for v2.0 do not."""
    paragraphs = []
    for index in range(number):
        others = rng.sample(NAMES, 3)
        sentences = [f"It was {name}." for name in others]
        answer = rng.choice(NAMES)
        said = f"It is {answer}."
        is_impossible = index < impossible
        if not is_impossible:
            sentences.insert(rng.randrange(4), said)
        context = " ".join(sentences)
        start = context.find(said) + len("It is ")
        question = {
            "id": f"q{index}",
            "question": "Who is it?",
            "answers": [{"text": answer, "answer_start": start}],
        }
        if impossible:
            question["is_impossible"] = is_impossible
        if is_impossible:
            question["answers"] = []
        paragraphs.append({"context": context, "qas": [question]})
    return {"version": "1.1", "data": [{"paragraphs": paragraphs}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model folder with random weights, and questions."""
    folder = tmp_path_factory.mktemp("files")
    commands.write_encoder(
        folder / "encoder",
        [*WORDS, *NAMES],
        num_hidden_layers=2,
        num_feedforward_networks=2,
    )
    rng = random.Random(1)
    for name, values in (
        ("train", squad(rng, 200)),
        ("dev", squad(rng, 40)),
        ("v2", squad(rng, 40, impossible=15)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def training_arguments(files, output):
    return [
        f"--model={files}/encoder",
        f"--train_file={files}/train.json",
        f"--dev_file={files}/dev.json",
        f"--output_dir={output}",
        *TRAINING,
    ]


@pytest.fixture(scope="module")
def trained(files):
    """What the script printed, and the folder it wrote."""
    arguments = training_arguments(files, files / "answers")
    export = ["--export=float32,int8,int8_qat", "--num_qat_steps=5"]
    return run(*arguments, *export), files / "answers"


def results(folder):
    last = (folder / "metrics.jsonl").read_text().splitlines()[-1]
    values = json.loads(last)
    assert values["phase"] == "results"
    return values


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_the_model_learns_and_the_folder_is_whole(files, trained):
    output, folder = trained
    assert "windows of 200 questions" in output
    values = results(folder)
    # Naming one of the four names at random scores 25.
    assert values["dev_exact"] > 90 and values["dev_f1"] > 90
    assert "dev_NoAns_f1" not in values
    for name in ("config.json", "model.safetensors", "vocab.txt", "README.md"):
        assert (folder / name).stat().st_size, name
    assert "dev_exact" in (folder / "README.md").read_text()
    predictions = read(folder, "dev_predictions")
    right = [
        predictions[qa["id"]] == qa["answers"][0]["text"]
        for article in read(files, "dev")["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    assert 100 * sum(right) / len(right) == pytest.approx(values["dev_exact"])
    assert not (folder / "dev_null_odds.json").exists()
    assert [path for path in folder.rglob(".*")] == []


def test_a_trained_model_evaluates_and_answers(files, trained, tmp_path):
    _, folder = trained
    evaluated, again = tmp_path / "evaluated", tmp_path / "again"
    output = run(
        f"--model={folder}",
        "--nodo_train",
        f"--dev_file={files}/v2.json",
        f"--predict_file={files}/v2.json",
        f"--output_dir={evaluated}",
    )
    assert "40 questions, 15 without an answer" in output
    values = results(evaluated)
    assert values["dev_NoAns_f1"] + values["dev_HasAns_f1"] > 0
    assert values["dev_best_f1"] >= values["dev_f1"]
    predictions = read(evaluated, "predictions")
    odds = read(evaluated, "null_odds")
    n_best = read(evaluated, "nbest_predictions")
    # The threshold that dev chose.
    threshold = values["dev_best_f1_thresh"]
    for name, text in predictions.items():
        best = next(entry for entry in n_best[name] if entry["text"])
        assert text == ("" if odds[name] > threshold else best["text"])
        total = sum(entry["probability"] for entry in n_best[name])
        assert total == pytest.approx(1.0)
    # The folder knows the windows, that questions may have no answer, and the
    # threshold.
    run(
        f"--model={evaluated}",
        "--nodo_train",
        f"--predict_file={files}/v2.json",
        f"--output_dir={again}",
    )
    for name in ("predictions", "null_odds", "question_answering"):
        assert read(again, name) == read(evaluated, name), name


def test_the_phone_is_scored_as_the_model_is(trained):
    output, folder = trained
    values = results(folder)
    for kind in ("float32", "int8", "int8_qat"):
        for name in ("dev_exact", "dev_f1"):
            loss = values[name] - values[f"{kind}_{name}"]
            assert abs(loss) < (0.01 if kind == "float32" else 8), kind
        assert values[f"{kind}_latency_ms"] > 0
    # The same table on the terminal and in the card.
    card = (folder / "README.md").read_text()
    for text in (output, card):
        (line,) = [
            line
            for line in text.splitlines()
            if line.strip().startswith("int8_qat.tflite")
        ]
        assert f"{values['int8_qat_dev_f1']:.4f}" in line
    assert "Files for inputs of 20 pieces" in card


def test_an_interrupted_run_goes_on_to_the_same_weights(
    files, trained, tmp_path
):
    _, whole = trained
    arguments = training_arguments(files, tmp_path / "again")
    with subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        for line in process.stdout:
            # In the second epoch, whose order is another.
            if "fine_tuning" in line and " 33/" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
        assert process.wait(timeout=120) == 130
    assert "same command to resume" in rest
    assert not (tmp_path / "again" / "model.safetensors").exists()
    assert "Resuming from" in run(*arguments)
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (whole / "model.safetensors").read_bytes()
    name = "dev_nbest_predictions"
    assert read(tmp_path / "again", name) == read(whole, name)


def test_other_batches_are_another_run(files, trained):
    _, whole = trained
    arguments = training_arguments(files, whole)
    error = run(*arguments, "--steps_per_execution=2", expect=2)
    assert "one_width=False then, True now" in error


BAD_INPUT = {
    "answer elsewhere": (
        "--model={files}/encoder --train_file={files}/moved.json",
        "moved.json, data[0].paragraphs[0].qas[0] (id 'q0').answers[0]: "
        "expected the answer",
    ),
    "no model that answers": (
        "--model={files}/encoder --nodo_train --dev_file={files}/dev.json",
        "encoder: expected a model that answers questions, found another kind",
    ),
    "files beyond the positions": (
        "--model={files}/encoder --export=int8 --export_seq_length=33",
        "--export_seq_length: expected at most 32, found 33",
    ),
    "task and files": (
        "--model={files}/encoder --task=squad_v1 --dev_file={files}/dev.json",
        "--task: expected either a task or files, found both",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_code_2(case, files, tmp_path):
    values = read(files, "train")
    answers = values["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    answers[0]["answer_start"] += 1
    (files / "moved.json").write_text(json.dumps(values))
    line, message = BAD_INPUT[case]
    out = tmp_path / "out"
    if case == "answer elsewhere":
        line += " --max_query_length=6"
    arguments = line.format(files=files).split()
    error = run(*arguments, f"--output_dir={out}", expect=2)
    own = [text for text in error.splitlines() if text.startswith("run_")]
    assert len(own) == 1 and message in own[0], error
    assert "Traceback" not in error
    assert not out.exists()


def test_help_explains_the_script():
    text = subprocess.run(
        command("--help"), capture_output=True, text=True
    ).stdout
    assert "python run_squad.py" in text
    assert "--output_dir: Model folder to write." in text
    assert "--doc_stride: Pieces from window to window." in text
