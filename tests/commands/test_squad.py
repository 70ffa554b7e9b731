"""Question answering from files to phone files, and bad input."""

import contextlib
import io
import json
import random

import pytest

import mobilebert_tf as mb
from mobilebert_tf.commands.finetune import SQUAD
from mobilebert_tf.errors import InputError
from tests import tiny

NAMES = "fish wave boat shell crab anchor tree stone horse field".split()
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] who is it ? . was".split()
LENGTHS = ["--max_seq_length=20", "--max_query_length=6", "--doc_stride=6"]


def squad(rng, number, impossible=0):
    """Sentences that say who it is, among others, or for v2.0 do not."""
    paragraphs = []
    for index in range(number):
        sentences = [f"It was {name}." for name in rng.sample(NAMES, 3)]
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


def run(*arguments):
    """Runs the command in this process; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        SQUAD.run([str(argument) for argument in arguments])
    return output.getvalue()


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A model folder with random weights, and questions."""
    folder = tmp_path_factory.mktemp("files")
    tokenizer = mb.WordpieceTokenizer([*WORDS, *NAMES])
    config = tiny.student_config(vocab_size=tokenizer.vocab_size)
    mb.MobileBertEncoder(config).save_pretrained(folder / "encoder")
    tokenizer.write(folder / "encoder", 24)
    rng = random.Random(1)
    for name, values in (
        ("train", squad(rng, 200)),
        ("dev", squad(rng, 40)),
        ("v2", squad(rng, 40, impossible=15)),
    ):
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="session")
def trained(files):
    """What the command printed, and the folder it wrote."""
    output = run(
        f"--model={files}/encoder",
        f"--train_file={files}/train.json",
        f"--dev_file={files}/dev.json",
        f"--output_dir={files}/answers",
        "--num_train_epochs=12",
        "--eval_every_steps=36",
        "--learning_rate=5e-3",
        "--train_batch_size=16",
        "--log_every=1",
        "--export=float32,int8,int8_qat",
        "--num_qat_steps=5",
        *LENGTHS,
    )
    return output, files / "answers"


def records(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def results(folder):
    values = records(folder)[-1]
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
    # The weights are those of the best evaluation.
    evaluated = [row["dev_exact"] for row in records(folder) if "score" in row]
    assert values["dev_exact"] >= max(evaluated, default=0.0)
    for name in ("config.json", "model.safetensors", "vocab.txt", "README.md"):
        assert (folder / name).stat().st_size, name
    card = (folder / "README.md").read_text()
    assert "dev_exact" in card and "windows of 200 questions" in card
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
    run(
        f"--model={folder}",
        "--nodo_train",
        f"--dev_file={files}/v2.json",
        f"--predict_file={files}/v2.json",
        f"--output_dir={evaluated}",
        "--eval_batch_size=7",
    )
    values = results(evaluated)
    assert values["dev_HasAns_exact"] > 90
    assert values["dev_best_f1"] >= values["dev_f1"]
    settings = read(evaluated, "question_answering")
    # Windows as the model was trained; the threshold as dev decides.
    lengths = {
        name: settings[name] for name in ("max_seq_length", "doc_stride")
    }
    assert lengths == {"max_seq_length": 20, "doc_stride": 6}
    assert settings["version_2_with_negative"] is True
    threshold = settings["null_score_diff_threshold"]
    assert threshold == values["dev_best_f1_thresh"]
    odds, n_best = read(evaluated, "null_odds"), "nbest_predictions"
    texts, n_best = read(evaluated, "predictions"), read(evaluated, n_best)
    assert len(texts) == 40 and odds.keys() == texts.keys()
    for name, text in texts.items():
        assert (text == "") == (odds[name] > threshold)
        total = sum(entry["probability"] for entry in n_best[name])
        assert total == pytest.approx(1.0)
    # Without dev questions the folder's settings decide.
    run(
        f"--model={evaluated}",
        "--nodo_train",
        f"--predict_file={files}/v2.json",
        f"--output_dir={again}",
    )
    for name in ("predictions", "null_odds", "question_answering"):
        assert read(again, name) == read(evaluated, name), name


def test_files_are_scored_as_the_model_is(trained):
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


REFUSALS = [
    ("--nodo_train --dev_file={0}/dev.json", "a model that answers questions"),
    (
        "--export=int8 --export_seq_length=33",
        "--export_seq_length: expected at most 24, found 33",
    ),
    (
        "--task=squad_v1 --dev_file={0}/dev.json",
        "--task: expected either a task or files, found both",
    ),
    (
        "--train_file={0}/train.json --max_query_length=6 --export=int8 "
        "--metadata",
        "--metadata: expected --export_seq_length=384, found 24",
    ),
    ("--doc_stride=0", "--doc_stride: expected at least 1, found 0"),
]


@pytest.mark.parametrize("line, message", REFUSALS)
def test_refusals_write_nothing(line, message, files, tmp_path):
    out = tmp_path / "out"
    arguments = line.format(files).split()
    with pytest.raises(InputError, match=message):
        run(f"--model={files}/encoder", *arguments, f"--output_dir={out}")
    assert not out.exists()


def test_help_explains_the_command():
    text = SQUAD.help("run_squad.py", everything=True)
    assert "python run_squad.py" in text
    assert "--doc_stride" in text and "Pieces from one window to the" in text
