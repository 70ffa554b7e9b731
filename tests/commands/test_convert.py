"""The converter: folders in, folders out, and what it refuses."""

import hashlib
import json
import tarfile

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file

import mobilebert_tf as mb
from mobilebert_tf import hub
from mobilebert_tf.commands.convert import COMMAND, open_model_folder
from mobilebert_tf.config import MobileBertConfig, to_google
from mobilebert_tf.errors import InputError
from mobilebert_tf.presets import PRESETS
from tests.conversion.checkpoints import (
    STUDENT,
    VOCAB,
    draw,
    encoder_shapes,
    head_shapes,
    read,
    write,
)
from tests.web_server import serving


@pytest.fixture
def published(rng, tmp_path):
    """A folder laid out as the published archive; returns (folder, values)."""
    folder = tmp_path / "published"
    shapes = encoder_shapes(STUDENT) | head_shapes(STUDENT, "pretraining")
    values = draw(shapes, rng)
    write(folder / "mobilebert_variables.ckpt", values)
    (folder / "bert_config.json").write_text(json.dumps(to_google(STUDENT)))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCAB))
    return folder, values


def test_there_and_back(published, tmp_path, capsys):
    folder, values = published
    ours, back = tmp_path / "ours", tmp_path / "back"
    COMMAND.run([f"--input={folder}", f"--output={ours}"])
    shown = capsys.readouterr().out
    assert "TensorFlow 1 checkpoint, MobileBertForPreTraining" in shown
    assert {file.name for file in ours.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer_config.json",
        "vocab.txt",
    }
    card = (ours / "README.md").read_text()
    for file in folder.glob("mobilebert_variables.ckpt.*"):
        assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    count = sum(value.size for value in values.values())
    assert f"| Parameters | {count:,} |" in card
    assert "Word embedding of [PAD]: not zero" in card
    assert "Padded keys: `additive` mask of -10000" in card
    assert "64 pieces, uncased" in card
    assert MobileBertConfig.from_json(ours / "config.json") == STUDENT
    tensors = load_file(ours / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["cls.predictions.dense.weight"],
        values["cls/predictions/extra_output_weights"].T,
    )

    to_tf1 = [f"--input={ours}", f"--output={back}", "--format=tf1"]
    COMMAND.run(to_tf1)
    found = read(back / "mobilebert_variables.ckpt")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].tobytes() == value.tobytes(), name
    vocabulary = (folder / "vocab.txt").read_text()
    assert (back / "vocab.txt").read_text() == vocabulary
    # A second time it would overwrite.
    with pytest.raises(InputError, match="a folder that is new or empty"):
        COMMAND.run(to_tf1)


@pytest.mark.parametrize("end", ["", ".index"])
def test_a_checkpoint_by_its_prefix_or_file(published, tmp_path, capsys, end):
    path = published[0] / f"mobilebert_variables.ckpt{end}"
    COMMAND.run([f"--input={path}", f"--output={tmp_path}/out"])
    shown = capsys.readouterr().out
    assert "TensorFlow 1 checkpoint, MobileBertForPreTraining" in shown


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--output=/proc/out"], "/proc/out: expected a folder that can be"),
        (
            ["--preset=mobilebert", "--config_file=bert_config.json"],
            "expected either this or --config_file",
        ),
        (["--architecture=Bert"], "--architecture: expected one of Mobile"),
        (["--label_names=a,b"], "--label_names: expected a model that has"),
        (["--vocab_file=vocab.bin"], "vocab.bin"),
    ],
)
def test_flags_that_do_not_fit(published, tmp_path, arguments, expected):
    output = f"--output={tmp_path}/out"
    with pytest.raises(InputError, match=expected):
        COMMAND.run([f"--input={published[0]}", output, *arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_label_names_must_differ(rng, tmp_path):
    shapes = encoder_shapes(STUDENT) | head_shapes(STUDENT, "classes")
    write(tmp_path / "model.ckpt", draw(shapes, rng))
    (tmp_path / "bert_config.json").write_text(json.dumps(to_google(STUDENT)))
    arguments = [f"--input={tmp_path}", f"--output={tmp_path}/out"]
    with pytest.raises(InputError, match="different names, found a, b, b"):
        COMMAND.run([*arguments, "--label_names=a, b, b"])


def test_nothing_is_left_of_a_refused_conversion(published, tmp_path):
    folder, values = published
    name = "bert/encoder/layer_1/attention/self/key/kernel"
    values[name][3, 2] = np.nan
    values["bert/pooler/dense/bias"] = np.zeros(32, "float32")
    arguments = [f"--input={folder}", f"--output={tmp_path}/out"]
    write(folder / "mobilebert_variables.ckpt", values)
    with pytest.raises(InputError, match="bert/pooler/dense/bias surplus"):
        COMMAND.run(arguments)
    del values["bert/pooler/dense/bias"]
    for file in folder.glob("mobilebert_variables.ckpt.*"):
        file.unlink()
    write(folder / "mobilebert_variables.ckpt", values)
    with pytest.raises(InputError, match=f"{name} with non-finite values"):
        COMMAND.run(arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["published"]


def test_vocabulary_of_another_model(published, tmp_path):
    folder, _ = published
    (folder / "vocab.txt").write_text("\n".join([*VOCAB, "more"]))
    expected = "a vocabulary of 64 pieces, as the weights have, found 65"
    with pytest.raises(InputError, match=expected):
        COMMAND.run([f"--input={folder}", f"--output={tmp_path}/out"])


def test_published_weights_are_listed(capsys):
    COMMAND.run(["--list"])
    shown = capsys.readouterr().out
    for name, published in hub.PUBLISHED.items():
        assert f"| `{name}` |" in shown
        assert published.source in shown


@pytest.mark.parametrize("flag", ["input", "output"])
def test_a_flag_that_is_needed(flag):
    given = {"input", "output"} - {flag}
    with pytest.raises(InputError, match=f"--{flag}: expected a path"):
        COMMAND.run([f"--{name}=x" for name in given])


@pytest.mark.parametrize("has_config", [True, False])
def test_an_archive_by_its_name(has_config, published, tmp_path, monkeypatch):
    """From a web server to a model folder, with --input and --model."""
    folder, values = published
    if not has_config:
        (folder / "bert_config.json").unlink()
    monkeypatch.setitem(PRESETS, "tiny", STUDENT.to_dict())
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(folder, "uncased")
    with serving() as server:
        server.files["a.tar.gz"] = (tmp_path / "a.tar.gz").read_bytes()
        address = f"{server.address}/a.tar.gz"
        named = hub.Published("made here", address, "tiny", "cased", 1)
        monkeypatch.setitem(hub.PUBLISHED, "named", named)
        COMMAND.run(["--input=named", f"--output={tmp_path}/out"])
    tensors = load_file(tmp_path / "out/model.safetensors")
    np.testing.assert_array_equal(
        tensors["mobilebert.embeddings.word_embeddings.weight"],
        values["bert/embeddings/word_embeddings"],
    )
    # Without the server, too.
    with pytest.raises(InputError, match="first `mobilebert convert"):
        mb.load("named")
    opened = open_model_folder("named")
    assert opened.is_relative_to(tmp_path / "cache")
    for name in ("model.safetensors", "config.json", "vocab.txt"):
        wanted = (tmp_path / "out" / name).read_bytes()
        assert (opened / name).read_bytes() == wanted
    before = (opened / "README.md").stat().st_mtime_ns
    assert open_model_folder("named") == hub.model_folder("named") == opened
    assert (opened / "README.md").stat().st_mtime_ns == before
    assert mb.load("named").config == STUDENT
    # A folder of that name wins.
    (tmp_path / "named").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(open_model_folder("named")) == "named"


def test_what_is_changed_is_printed_and_in_the_card(
    published, tmp_path, capsys
):
    """Half precision, and more rows of the word table than pieces."""
    folder, values = published
    halves = {name: value.astype("float16") for name, value in values.items()}
    write(folder / "mobilebert_variables.ckpt", halves)
    (folder / "vocab.txt").write_text("\n".join(VOCAB[:-4]))
    COMMAND.run([f"--input={folder}", f"--output={tmp_path}/out"])
    shown = capsys.readouterr().out
    card = (tmp_path / "out/README.md").read_text()
    for words in (
        "Changed: float16 read as float32",
        "60 pieces, uncased; 4 rows of the word table have no piece",
    ):
        assert words in shown
        assert words in card


def test_a_surplus_tensor_is_named(published, tmp_path, capsys):
    folder, _ = published
    ours = tmp_path / "ours"
    COMMAND.run([f"--input={folder}", f"--output={ours}"])
    tensors = load_file(ours / "model.safetensors")
    tensors["loss_fct.weight"] = np.ones(2, "float32")
    save_file(tensors, ours / "model.safetensors", {"format": "pt"})
    words = [f"--input={ours}", f"--output={tmp_path}/out"]
    with pytest.raises(InputError, match="loss_fct.weight surplus"):
        COMMAND.run(words)
    COMMAND.run([*words, "--leave_behind=loss_fct.*"])
    assert "Changed: loss_fct.weight left behind" in capsys.readouterr().out


def test_cased_vocabulary(published, tmp_path):
    folder, _ = published
    (folder / "vocab.txt").write_text("\n".join([*VOCAB[:-1], "A"]))
    COMMAND.run([f"--input={folder}", f"--output={tmp_path}/out"])
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert config["do_lower_case"] is False
