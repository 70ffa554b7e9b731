"""`mobilebert pretrain`: a model folder, resumed runs, and bad input."""

import json
import shutil
import signal

import pytest

import mobilebert_tf as mb
from mobilebert_tf.commands.pretrain import COMMAND
from mobilebert_tf.data.stream import PretrainingInput
from mobilebert_tf.errors import InputError
from mobilebert_tf.text import vocabulary
from mobilebert_tf.training.run_folder import read_metrics
from mobilebert_tf.training.stopping import Stopped
from tests import tiny


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    tiny.write_corpus(folder / "corpus.txt")
    tiny.teacher_config(num_hidden_layers=1).to_json(folder / "teacher.json")
    return folder


def arguments(files, output):
    return [
        f"--config_file={files}/teacher.json",
        f"--input_files={files}/corpus.txt",
        f"--output_dir={output}",
        "--vocab_size=120",
        "--max_seq_length=16",
        "--train_batch_size=8",
        "--num_train_steps=6",
        "--evaluate_every=3",
        "--max_eval_batches=2",
        "--log_every=1",
    ]


@pytest.fixture(scope="module")
def trained(files):
    COMMAND.run(arguments(files, files / "trained"))
    return files / "trained"


def test_a_model_folder_is_written(trained, files):
    model = mb.load(trained)
    assert isinstance(model, mb.MobileBertForPretraining)
    vocab_size = mb.load_tokenizer(trained).vocab_size
    assert 40 < vocab_size <= 120
    assert model.config.vocab_size == vocab_size
    card = (trained / "README.md").read_text()
    assert "| masked_lm_accuracy |" in card and "corpus.txt" in card
    assert list((trained / "tensorboard").iterdir())
    lines = read_metrics(trained / "metrics.jsonl")
    phases = [line["phase"] for line in lines]
    assert phases == [
        *["pretraining"] * 3,
        "evaluation",
        *["pretraining"] * 3,
        "evaluation",
        "results",
    ]
    settings = json.loads((trained / "run.json").read_text())
    assert (
        settings["num_train_steps"] == 6 and settings["learning_rate"] == 1e-3
    )
    # What a resumed run may change is not part of it.
    assert not {"output_dir", "log_every", "jit_compile"} & set(settings)
    leftovers = [path for path in files.rglob(".*") if path.is_file()]
    assert leftovers == []


def test_an_interrupted_run_ends_with_the_same_weights(
    files, trained, tmp_path, monkeypatch
):
    """Ctrl-C in the middle, and the same command again."""
    again = tmp_path / "again"
    batches = PretrainingInput.batches

    def interrupted(self, seed, start_step=0):
        for number, batch in enumerate(batches(self, seed, start_step)):
            if number == 2:
                signal.raise_signal(signal.SIGINT)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(PretrainingInput, "batches", interrupted)
        with pytest.raises(Stopped, match="Run the same command to resume"):
            COMMAND.run(arguments(files, again))
    assert not (again / "model.safetensors").exists()
    # The vocabulary is not learned again, lest another version find another.
    with monkeypatch.context() as patch:
        patch.setattr(vocabulary, "learn_vocabulary", pytest.fail)
        COMMAND.run([*arguments(files, again), "--log_every=2"])
    ours, theirs = (
        (folder / "model.safetensors").read_bytes()
        for folder in (again, trained)
    )
    assert ours == theirs


BAD_INPUT = {
    "no_such.txt: expected a text file, or a pattern": (
        "--input_files=no_such.txt"
    ),
    "corpus.txt, line 1: expected JSON": "--config_file={files}/corpus.txt",
    "--max_seq_length: expected at most 24, found 64": "--max_seq_length=64",
    "expected a batch of 100000 pairs": "--train_batch_size=100000",
    "--seed: expected at least 0, found -1": "--seed=-1",
    "--learning_rate: expected a finite number": "--learning_rate=nan",
    "--final_model: expected last": "--final_model=best --evaluate_every=0",
    "--num_gpus: expected --distribution=mirrored": "--num_gpus=1",
    "arguments of the form --name=value": "corpus.txt",
    "Unknown command line flag 'legacy_release_losses'": (
        "--legacy_release_losses"
    ),
}


@pytest.mark.parametrize("message", BAD_INPUT)
def test_bad_input_is_refused_before_a_folder_is_made(message, files, tmp_path):
    changes = BAD_INPUT[message].format(files=files).split()
    with pytest.raises(InputError) as error:
        COMMAND.run([*arguments(files, tmp_path / "out"), *changes])
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_other_text_is_refused(files, trained, tmp_path):
    text = (files / "corpus.txt").read_text()
    (tmp_path / "corpus.txt").write_text(text + "\n\nThe fish sees.\n")
    before = {path: path.read_bytes() for path in trained.glob("*.*")}
    with pytest.raises(InputError, match=r"corpus.txt: [\d,]+ lines then"):
        COMMAND.run(
            [
                *arguments(files, trained),
                f"--input_files={tmp_path / 'corpus.txt'}",
            ]
        )
    with (trained / "vocab.txt").open("a") as file:
        file.write("more\n")
    with pytest.raises(InputError, match=r"vocab.txt: \d+ lines then"):
        COMMAND.run(arguments(files, trained))
    (trained / "vocab.txt").write_bytes(before[trained / "vocab.txt"])
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_is_restarted_beside_the_files_of_others(
    files, trained, tmp_path
):
    folder = tmp_path / "out"
    shutil.copytree(trained, folder)
    (folder / "notes.txt").write_text("mine")
    COMMAND.run([*arguments(files, folder), "--seed=2", "--restart"])
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "run.json").read_text())["seed"] == 2
    steps = [line["phase"] for line in read_metrics(folder / "metrics.jsonl")]
    assert steps.count("pretraining") == 6
    ours, theirs = (
        (place / "model.safetensors").read_bytes()
        for place in (folder, trained)
    )
    assert ours != theirs


def test_other_settings_are_refused(files, trained):
    with pytest.raises(InputError, match="seed=1 then, 2 now"):
        COMMAND.run([*arguments(files, trained), "--seed=2"])


def test_help_shows_everyday_flags():
    text = COMMAND.help("run_pretraining.py")
    assert "python run_pretraining.py --preset=ib_bert_small" in text
    shown = [line for line in text.splitlines() if line.startswith("  --")]
    assert 12 <= len(shown) <= 18, shown
    assert "--output_dir" in text and "--decay_power" not in text
    assert "--decay_power" in COMMAND.help(
        "run_pretraining.py", everything=True
    )
