"""What a path is taken for, and what is refused with which words."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file, save_file

from mobilebert_tf import (
    MobileBertForPretraining,
    MobileBertForSequenceClassification,
)
from mobilebert_tf.config import to_google
from mobilebert_tf.conversion import reading as sources
from mobilebert_tf.conversion.reading import find_source, read_source
from mobilebert_tf.conversion.writing import write_folder
from mobilebert_tf.errors import InputError
from tests.conversion.checkpoints import (
    STUDENT,
    TEACHER,
    draw,
    encoder_shapes,
    head_shapes,
    write,
)


@pytest.fixture
def checkpoint(rng, tmp_path):
    """A folder with one TensorFlow 1 checkpoint, `model.ckpt-7`."""
    folder = tmp_path / "checkpoint"
    shapes = encoder_shapes(STUDENT) | head_shapes(STUDENT, "squad")
    write(folder / "model.ckpt-7", draw(shapes, rng))
    return folder


@pytest.fixture
def hugging_face(tmp_path):
    folder = tmp_path / "hugging_face"
    model = MobileBertForSequenceClassification(STUDENT, ["no", "yes"])
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "",
        "model.ckpt-7",
        "model.ckpt-7.index",
        "model.ckpt-7.meta",
        "model.ckpt-7.data-00000-of-00001",
    ],
)
def test_names_of_a_checkpoint(checkpoint, name):
    source = find_source(checkpoint / name)
    assert source.kind == sources.TF1
    assert source.path == checkpoint / "model.ckpt-7"
    assert source.folder == checkpoint
    assert [file.name for file in source.files()] == [
        "model.ckpt-7.data-00000-of-00001",
        "model.ckpt-7.index",
    ]


@pytest.mark.parametrize("name", ["", "variables"])
def test_saved_model(checkpoint, tmp_path, name):
    """The layout in which the float SQuAD model was published."""
    folder = tmp_path / "float"
    for file in checkpoint.iterdir():
        renamed = file.name.replace("model.ckpt-7", "variables")
        (folder / "variables").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / "variables" / renamed)
    (folder / "saved_model.pb").write_bytes(b"not read")
    source = find_source(folder / name)
    assert source.kind == sources.SAVED_MODEL
    conversion = read_source(folder / name, config=STUDENT)
    model = conversion.match.model
    assert model.architecture == "MobileBertForQuestionAnswering"


def test_object_checkpoint(tmp_path):
    tf.train.Checkpoint(v=tf.Variable(1.0)).write(str(tmp_path / "ckpt-1"))
    assert find_source(tmp_path / "ckpt-1").kind == sources.MODEL_GARDEN


@pytest.mark.parametrize("name", ["", "model.safetensors"])
def test_hugging_face_folder(hugging_face, name):
    source = find_source(hugging_face / name)
    assert source.kind == sources.HUGGING_FACE
    assert source.folder == hugging_face
    conversion = read_source(hugging_face / name)
    assert conversion.match.model.label_names == ("no", "yes")


def test_hugging_face_there_and_back_is_bit_identical(hugging_face, tmp_path):
    """Byte for byte, the whole file."""
    write_folder(read_source(hugging_face), tmp_path / "ours")
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "ours" / file).read_bytes() == (
            hugging_face / file
        ).read_bytes()


def test_empty_tensor_of_a_wide_word_table_there_and_back(tmp_path):
    """Hugging Face has it where the masked LM head needs no such weights."""
    config = dataclasses.replace(STUDENT, embedding_size=32)
    MobileBertForPretraining(config).save_pretrained(tmp_path / "theirs")
    write_folder(read_source(tmp_path / "theirs"), tmp_path / "ours")
    file = "model.safetensors"
    content = (tmp_path / "ours" / file).read_bytes()
    assert content == (tmp_path / "theirs" / file).read_bytes()
    tensors = load_file(tmp_path / "ours" / file)
    assert tensors["cls.predictions.dense.weight"].shape == (0, 64)


def test_scope_of_a_folder(hugging_face):
    with pytest.raises(InputError, match="expected no --scope"):
        read_source(hugging_face, scope="teacher")


def test_latest_of_several_checkpoints(checkpoint, rng):
    values = draw(encoder_shapes(STUDENT), rng)
    write(checkpoint / "model.ckpt-9", values)
    with pytest.raises(InputError, match="found model.ckpt-7, model.ckpt-9"):
        find_source(checkpoint)
    (checkpoint / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-9"\n'
    )
    assert find_source(checkpoint).path.name == "model.ckpt-9"


@pytest.mark.parametrize(
    "files, words",
    [
        (["pytorch_model.bin"], "expected model.safetensors .a pickle may run"),
        (["model.onnx"], "found model.onnx"),
        ([], "found an empty folder"),
    ],
)
def test_folders_without_weights(tmp_path, files, words):
    for file in files:
        (tmp_path / file).write_bytes(b"\x80\x02}")
    with pytest.raises(InputError, match=words):
        find_source(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_are_never_opened(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x80\x02}")
    with pytest.raises(InputError, match="found a PyTorch pickle"):
        find_source(tmp_path / name)


def test_nothing_there(tmp_path):
    with pytest.raises(InputError, match="found no such file or folder"):
        find_source(tmp_path / "model.ckpt")


def test_hub_name(hugging_face, monkeypatch, tmp_path):
    monkeypatch.setattr(sources, "source_folder", lambda name: hugging_face)
    source = find_source("user/model@v1")
    assert source.kind == sources.HUGGING_FACE
    assert source.folder == hugging_face


def test_relative_prefix_is_no_hub_name(checkpoint, monkeypatch):
    monkeypatch.setattr(sources, "source_folder", lambda name: 1 / 0)
    monkeypatch.chdir(checkpoint.parent)
    source = find_source(f"{checkpoint.name}/model.ckpt-7")
    assert source.kind == sources.TF1


def test_path_that_tensorflow_reads_as_a_pattern(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "run [2]")
    with pytest.raises(InputError, match="cannot take for a pattern"):
        find_source(tmp_path / "run [2]" / "model.ckpt-7")


def test_damaged_list_of_checkpoints(checkpoint):
    (checkpoint / "checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="expected a list of checkpoints"):
        find_source(checkpoint)


@pytest.mark.parametrize("names", [["a", "a"], ["a", ""]])
def test_unfit_label_names(hugging_face, names):
    with pytest.raises(InputError, match="different names"):
        read_source(hugging_face, label_names=names)


def test_label_names_of_a_model_without_classes(checkpoint):
    with pytest.raises(InputError, match="expected a model that has classes"):
        read_source(checkpoint, config=STUDENT, label_names=["a", "b"])


def test_teacher_given_as_student(rng, tmp_path):
    write(tmp_path / "model.ckpt", draw(encoder_shapes(TEACHER), rng))
    (tmp_path / "bert_config.json").write_text(json.dumps(to_google(STUDENT)))
    with pytest.raises(InputError) as caught:
        read_source(tmp_path)
    line = str(caught.value)
    scope = "bert/encoder/layer_0/bottleneck/input"
    for words in (
        "bert/embeddings/FakeLayerNorm/gamma missing",
        f"{scope}/dense/kernel of shape (32, 48), not (32, 16)",
    ):
        assert words in line
    assert line.count(";") == 8
    # Of the surplus ones, the last in the list.
    assert re.search("; and [0-9]{2} more$", line)


def test_all_non_finite_tensors_are_listed(hugging_face, tmp_path):
    file = hugging_face / "model.safetensors"
    values = load_file(file)
    values["classifier.bias"][1] = np.inf
    values["mobilebert.embeddings.LayerNorm.weight"][0] = np.nan
    save_file(values, file, {"format": "pt"})
    with pytest.raises(InputError) as caught:
        write_folder(read_source(hugging_face), tmp_path / "out")
    assert "classifier.bias with non-finite values" in str(caught.value)
    assert "LayerNorm.weight with non-finite values" in str(caught.value)


def test_zero_pad_row_is_noted(hugging_face):
    file = hugging_face / "model.safetensors"
    values = load_file(file)
    values["mobilebert.embeddings.word_embeddings.weight"][0] = 0.0
    save_file(values, file, {"format": "pt"})
    notes = read_source(hugging_face).notes
    assert notes["Word embedding of [PAD]"].startswith("zero, as in Hugging")
