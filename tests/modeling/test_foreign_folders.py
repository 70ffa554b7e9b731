"""Folders as other people saved them: read, with a word, or refused.

Each is a folder of ours, changed. The names in `tf_model.h5` are those that
transformers 4.49 wrote for TFMobileBertForPreTraining.
"""

import dataclasses
import json
import os

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import mobilebert_tf as mb
from tests import tiny
from tests.modeling import numpy_block
from tests.modeling.folders import (
    edit_config,
    refusal,
    rewrite,
    values,
    weights_file,
)

TABLE = "mobilebert.embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder"
POOLER = "mobilebert.pooler.dense"
CODES = {"float16": "F16", "bfloat16": "BF16", "float64": "F64"}


def assert_equal(model, wanted):
    for found, value in zip(values(model), wanted, strict=True):
        np.testing.assert_array_equal(found, value)


def write_as(path, tensors, dtype):
    """Writes a safetensors file of a type that NumPy's writer may lack."""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, array in tensors.items():
        start, data = len(data), data + array.astype(dtype).tobytes()
        header[name] = {
            "dtype": CODES[dtype],
            "shape": list(array.shape),
            "data_offsets": [start, len(data)],
        }
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


@pytest.mark.parametrize("dtype", CODES)
def test_other_float_types_are_read(folder, dtype, capsys):
    as_saved = values(mb.load(folder))
    tensors = load_file(weights_file(folder))
    write_as(weights_file(folder), tensors, dtype)
    numpy_type = getattr(ml_dtypes, dtype, dtype)
    wanted = [value.astype(numpy_type).astype("float32") for value in as_saved]
    assert_equal(mb.load(folder), wanted)
    assert f"{folder}: {dtype} read as float32\n" == capsys.readouterr().out


def masked_lm(config, folder):
    mb.MobileBertForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("part, name", [(".weight", TABLE), (".bias", None)])
def test_tied_decoder(config, tmp_path, part, name):
    """A copy does not matter, also the only one; another matrix does."""
    folder = masked_lm(config, tmp_path)
    wanted = values(mb.load(folder))
    name = name or "cls.predictions.bias"
    copy = DECODER + part
    rewrite(folder, lambda tensors: tensors.update({copy: tensors[name]}))
    assert_equal(mb.load(folder), wanted)
    rewrite(folder, lambda tensors: tensors.pop(name))
    assert_equal(mb.load(folder), wanted)
    rewrite(folder, lambda tensors: tensors.update({name: tensors[copy] + 1}))
    assert f"{copy} that is not tied to {name}" in refusal(folder)
    # The encoder alone does not read it.
    mb.MobileBertEncoder.from_pretrained(folder)


def test_pooler_of_a_head_that_reads_none(config, tmp_path, capsys):
    """As early releases of transformers saved them."""
    mb.MobileBertForQuestionAnswering(config).save_pretrained(tmp_path)
    wanted = values(mb.load(tmp_path))
    width = config.hidden_size
    added = {
        f"{POOLER}.weight": np.eye(width, dtype="float32"),
        f"{POOLER}.bias": np.zeros(width, "float32"),
    }
    rewrite(tmp_path, lambda tensors: tensors.update(added))
    assert_equal(mb.load(tmp_path), wanted)
    assert "a pooler that this head ignores left" in capsys.readouterr().out


def test_base_model_without_a_pooler(config, tmp_path, capsys):
    """Its raw vector is the pooled output; a new head gets a new pooler."""
    mb.MobileBertEncoder(config).save_pretrained(tmp_path)
    for leaf in ("weight", "bias"):
        rewrite(tmp_path, lambda tensors: tensors.pop(f"{POOLER}.{leaf}"))
    encoder = mb.load(tmp_path)
    assert not encoder.config.classifier_activation
    assert "no pooler in the weights" in capsys.readouterr().out
    classifier = mb.MobileBertForSequenceClassification.from_pretrained(
        tmp_path, label_names=["no", "yes"]
    )
    assert "no pooler: a new one" in capsys.readouterr().out
    assert tiny.numpy(classifier.encoder.pooler.kernel).std() > 0
    assert_equal(
        classifier.encoder.embeddings,
        [tiny.numpy(weight) for weight in encoder.embeddings.weights],
    )


def test_old_names_of_norms(folder, capsys):
    wanted = values(mb.load(folder))

    def rename(tensors):
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            old = old.replace("LayerNorm.bias", "LayerNorm.beta")
            tensors[old] = tensors.pop(name)

    rewrite(folder, rename)
    assert_equal(mb.load(folder), wanted)
    assert "LayerNorm.gamma and .beta renamed" in capsys.readouterr().out


def test_surplus_rows_of_the_word_table(tmp_path):
    model = tiny.classifier(vocab_size=128)
    tiny.write_folder(tmp_path, model)
    assert mb.load_tokenizer(tmp_path).vocab_size == tiny.VOCAB_SIZE
    assert mb.load(tmp_path).config.vocab_size == 128


@pytest.mark.parametrize(
    "changes, names",
    [
        ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
        ({"num_labels": 0}, "num_labels: expected a number of classes"),
        ({"num_labels": True}, "num_labels: expected a number of classes"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "different texts"),
        (
            {"id2label": {"0": "a", "1": 1, "2": "c"}},
            "different texts, found 1",
        ),
    ],
)
def test_names_of_classes(folder, changes, names):
    edit_config(folder, **{"id2label": None, "label2id": None} | changes)
    if isinstance(names, tuple):
        assert mb.load(folder).label_names == names
    else:
        assert names in refusal(folder)


@pytest.mark.parametrize("change", [{}, {"num_labels": 2}])
def test_two_classes_may_go_unnamed(config, tmp_path, change):
    tiny.classifier(("a", "b"), config).save_pretrained(tmp_path)
    edit_config(tmp_path, id2label=None, label2id=None, **change)
    assert mb.load(tmp_path).label_names == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize(
    "build",
    [
        mb.MobileBertEncoder,
        mb.MobileBertForPretraining,
        mb.MobileBertForMaskedLM,
        mb.MobileBertForNextSentencePrediction,
        mb.MobileBertForQuestionAnswering,
    ],
)
def test_the_heads_tell_the_class(config, build, tmp_path):
    """Early releases of transformers did not write it."""
    build(config).save_pretrained(tmp_path)
    edit_config(tmp_path, architectures=None)
    assert type(mb.load(tmp_path)) is build


def keras_names(name: str) -> tuple[str, bool]:
    """Hugging Face's Keras 2 name of a TensorFlow 1 variable; is it turned?"""
    model = "tf_mobile_bert_for_pre_training"
    if name.startswith("cls/predictions/"):
        layer = "predictions___cls"
        rest = name.removeprefix("cls/predictions/")
        turned = rest == "extra_output_weights"
        rest = {
            "extra_output_weights": "dense/weight",
            "output_bias": "bias",
        }.get(rest, rest)
        return f"{layer}/{model}/{layer}/predictions/{rest}:0", turned
    rest = name.removeprefix("bert/").replace("layer_", "layer_._")
    rest = rest.replace("ffn_layer_._", "ffn.")
    for old, new in (
        ("FakeLayerNorm/gamma", "LayerNorm/weight"),
        ("FakeLayerNorm/beta", "LayerNorm/bias"),
        ("word_embeddings", "word_embeddings/weight"),
        ("position_embeddings", "position_embeddings/embeddings"),
        ("token_type_embeddings", "token_type_embeddings/embeddings"),
    ):
        rest = rest.replace(old, new)
    return f"mobilebert/{model}/mobilebert/{rest}:0", False


@pytest.fixture
def keras_folder(rng, tmp_path):
    """A `tf_model.h5` and the release's config; returns (folder, weights)."""
    config = tiny.student_config()
    weights = numpy_block.draw_weights(config.to_dict(), 2, rng)
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        for name, value in weights.items():
            path, turned = keras_names(name)
            file[path] = value.T if turned else value
        decoder, _ = keras_names("cls/predictions/decoder/weight")
        file[decoder] = weights["bert/embeddings/word_embeddings"]
    config.to_json(tmp_path / "config.json")
    return tmp_path, weights


def test_keras_file(keras_folder, rng):
    """By its outputs, against NumPy, which reads the weights by their names."""
    folder, weights = keras_folder
    model = mb.load(folder)
    assert isinstance(model, mb.MobileBertForMaskedLM)
    numpy_block.assert_computes(model, weights, rng)


def test_keras_files_that_are_refused(keras_folder, tmp_path):
    folder, weights = keras_folder
    path = folder / "tf_model.h5"
    name, _ = keras_names("bert/embeddings/word_embeddings")
    table = weights["bert/embeddings/word_embeddings"]
    whole = path.read_bytes()
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, data=table, compression="gzip")
    assert "expected tensors that are stored whole" in refusal(folder)
    table.tofile(tmp_path / "elsewhere")
    with h5py.File(path, "r+") as file:
        del file[name]
        outside = [(str(tmp_path / "elsewhere"), 0, table.nbytes)]
        file.create_dataset(name, table.shape, "f4", external=outside)
    assert "expected tensors that are stored whole" in refusal(folder)
    path.write_bytes(whole[: len(whole) // 2])
    refusal(folder)
    path.write_bytes(b"\x89HDF")
    assert "expected an HDF5 file of Keras 2" in refusal(folder)


def test_safetensors_win_over_a_keras_file(folder):
    (folder / "tf_model.h5").write_bytes(b"")
    mb.load(folder)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[" * 100_000 + "]" * 100_000, "expected JSON of usual size"),
        ("9" * 5000, "expected JSON of usual size"),
    ],
)
def test_json_of_unusual_size(folder, text, expected):
    path = folder / "config.json"
    rest = path.read_text().rstrip().removesuffix("}")
    path.write_text(f'{rest}, "extra": {text}}}')
    assert expected in refusal(folder)


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"attention_mask_value": -(10**400)}, "must be finite in float32"),
        ({"attention_mask_value": -1e39}, "must be finite in float32"),
        ({"hidden_size": 2**40}, "must be positive and below"),
        ({"num_hidden_layers": 10_000_000}, "found 10,000,000 and 2"),
        ({"num_feedforward_networks": 10**6}, "found 1 and 1,000,000"),
    ],
)
def test_numbers_of_unusual_size(folder, changes, expected):
    """At once, and also where a new head is made."""
    edit_config(folder, **changes)
    assert expected in refusal(folder)
    build = mb.MobileBertForQuestionAnswering.from_pretrained
    assert expected in refusal(folder, build)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_what_would_block(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "no ordinary file" in refusal(folder)


def test_a_huge_table_is_refused_before_it_is_made(config, folder):
    """A new head on a config that does not fit: the shapes are compared."""
    edit_config(folder, vocab_size=2**30)
    build = mb.MobileBertForQuestionAnswering.from_pretrained
    assert f"{TABLE} of shape (50, 12)" in refusal(folder, build)


def test_a_new_head_is_drawn_as_in_a_new_model(config, folder):
    """The encoder's values are not drawn, and change no other draw."""
    import keras

    other = dataclasses.replace(config, classifier_activation=True)
    keras.utils.set_random_seed(3)
    new = mb.MobileBertForQuestionAnswering(other)
    keras.utils.set_random_seed(3)
    found = mb.MobileBertForQuestionAnswering.from_pretrained(folder)
    np.testing.assert_array_equal(
        tiny.numpy(found.head.dense.kernel), tiny.numpy(new.head.dense.kernel)
    )
