"""Model folders: what is written is read again, and nothing else is.

That the names and layouts are Hugging Face's is proved in `tests/peers`.
"""

import dataclasses
import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobilebert_tf as mb
from mobilebert_tf.modeling import model_folder
from mobilebert_tf.modeling.pretrained import load_encoder_weights
from mobilebert_tf.modeling.weight_names import match_weights
from tests.modeling.conftest import numpy

TASKS = {
    "encoder": mb.MobileBertEncoder,
    "pretraining": mb.MobileBertForPretraining,
    "classifier": lambda config, **kwargs: (
        mb.MobileBertForSequenceClassification(
            config, ["no", "maybe", "yes"], **kwargs
        )
    ),
    "regression": lambda config, **kwargs: (
        mb.MobileBertForSequenceClassification(config, ["score"], **kwargs)
    ),
    "tagger": lambda config, **kwargs: mb.MobileBertForTokenClassification(
        config, ["O", "B-PER", "I-PER"], **kwargs
    ),
    "question answering": mb.MobileBertForQuestionAnswering,
    "multiple choice": mb.MobileBertForMultipleChoice,
}


@pytest.fixture
def config(small_config):
    """One block of two unlike networks: all names, few tensors."""
    return dataclasses.replace(
        small_config, num_hidden_layers=1, classifier_activation=True
    )


@pytest.fixture
def folder(config, tmp_path):
    """A classifier's folder."""
    model = TASKS["classifier"](config)
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def values(model) -> list[np.ndarray]:
    return [numpy(variable.value) for variable in model.weights]


def weights_file(folder):
    return folder / model_folder.WEIGHTS_FILE


def rewrite(folder, change):
    """Lets `change` edit the dict of a folder's tensors."""
    tensors = load_file(weights_file(folder))
    change(tensors)
    save_file(tensors, weights_file(folder), metadata={"format": "pt"})


def refusal(folder, load=mb.load) -> str:
    """The message of the error that loading the folder raises."""
    with pytest.raises(mb.InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize(
    "task, name",
    [*((task, "mine") for task in TASKS), ("classifier", "encoder")],
)
def test_round_trip(config, task, name, tmp_path):
    """Under any name: users call their models teacher, student, encoder."""
    model = TASKS[task](config, name=name)
    model.save_pretrained(tmp_path)
    again = mb.load(tmp_path)
    assert type(again) is type(model)
    assert again.config == config
    labels = getattr(model, "label_names", None)
    assert getattr(again, "label_names", None) == labels
    for found, expected in zip(values(again), values(model), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("task", TASKS)
def test_encoder_of_any_model(config, task, tmp_path):
    model = TASKS[task](config)
    model.save_pretrained(tmp_path)
    source = getattr(model, "encoder", model)
    encoder = mb.MobileBertEncoder(source.config)
    load_encoder_weights(encoder, tmp_path)
    for found, wanted in zip(values(encoder), values(source), strict=True):
        assert np.array_equal(found, wanted)


def test_encoder_leaves_an_unread_pooler_behind(config, folder):
    model = mb.MobileBertForQuestionAnswering(config)
    load_encoder_weights(model.encoder, folder)
    wanted = numpy(mb.load(folder).encoder.embeddings.word_embeddings)
    found = numpy(model.encoder.embeddings.word_embeddings)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "changes, expected",
    [
        (
            {"num_hidden_layers": 2},
            "mobilebert.encoder.layer.1.bottleneck.input.dense.weight missing",
        ),
        (
            {"num_feedforward_networks": 1},
            "mobilebert.encoder.layer.0.ffn.0.intermediate.dense.bias surplus",
        ),
        ({"vocab_size": 49}, "of shape (50, 12), not (49, 12)"),
    ],
)
def test_encoder_of_another_shape(config, folder, changes, expected):
    encoder = mb.MobileBertEncoder(dataclasses.replace(config, **changes))
    message = refusal(folder, lambda path: load_encoder_weights(encoder, path))
    assert expected in message


def test_files_of_a_folder(folder):
    found = sorted(path.name for path in folder.iterdir())
    assert found == ["config.json", "model.safetensors"]
    written = json.loads((folder / "config.json").read_text())
    assert written["architectures"] == ["MobileBertForSequenceClassification"]
    assert written["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert written["label2id"] == {"no": 0, "maybe": 1, "yes": 2}
    dtypes = {
        tensor.dtype for tensor in load_file(weights_file(folder)).values()
    }
    assert dtypes == {np.dtype("float32")}


def test_kernels_are_stored_transposed(config, tmp_path):
    model = mb.MobileBertEncoder(config)
    model.save_pretrained(tmp_path)
    tensors = load_file(weights_file(tmp_path))
    value = tensors["mobilebert.encoder.layer.0.attention.self.value.weight"]
    assert value.shape == (16, 32)
    kernel = numpy(model.blocks[0].attention.value.kernel)
    assert np.array_equal(value, kernel.T)
    # The last network has BERT's names, the one before it a number.
    last = tensors["mobilebert.encoder.layer.0.intermediate.dense.weight"]
    first = tensors[
        "mobilebert.encoder.layer.0.ffn.0.intermediate.dense.weight"
    ]
    for ffn, found in enumerate((first, last)):
        dense = model.blocks[0].feed_forwards[ffn].intermediate_dense
        assert np.array_equal(found, numpy(dense.kernel).T)


def test_extra_output_weights_are_stored_transposed(config, tmp_path):
    mb.MobileBertForPretraining(config).save_pretrained(tmp_path)
    tensors = load_file(weights_file(tmp_path))
    assert tensors["cls.predictions.dense.weight"].shape == (20, 50)
    assert tensors["cls.seq_relationship.weight"].shape == (2, 32)


def test_what_hugging_face_adds_is_let_by(config, tmp_path):
    """Tied copies, a constant buffer, and a bare encoder's missing prefix."""
    model = mb.MobileBertForPretraining(config)
    model.save_pretrained(tmp_path)

    def add(tensors):
        table = tensors["mobilebert.embeddings.word_embeddings.weight"]
        tensors["cls.predictions.decoder.weight"] = table
        tensors["cls.predictions.decoder.bias"] = tensors[
            "cls.predictions.bias"
        ]
        ids = np.arange(config.max_position_embeddings)[None]
        tensors["mobilebert.embeddings.position_ids"] = ids

    rewrite(tmp_path, add)
    assert isinstance(mb.load(tmp_path), mb.MobileBertForPretraining)

    model.encoder.save_pretrained(tmp_path)

    def strip(tensors):
        for name in list(tensors):
            tensors[name.removeprefix("mobilebert.")] = tensors.pop(name)

    rewrite(tmp_path, strip)
    again = mb.load(tmp_path)
    for found, expected in zip(
        values(again), values(model.encoder), strict=True
    ):
        assert np.array_equal(found, expected)


KEY = "mobilebert.encoder.layer.0.attention.self.key.weight"


def replace_by(convert):
    def change(tensors):
        tensors[KEY] = convert(tensors[KEY])

    return change


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda tensors: tensors.pop(KEY), f"{KEY} missing"),
        (
            lambda tensors: tensors.update(extra=np.ones(2, "float32")),
            "extra surplus",
        ),
        (
            replace_by(lambda tensor: tensor[:, :-1].copy()),
            f"{KEY} of shape (15, 16), not (16, 16)",
        ),
        (
            replace_by(lambda tensor: tensor.ravel()),
            f"{KEY} of shape (256,), not (16, 16)",
        ),
        (
            replace_by(lambda tensor: tensor.astype("float16")),
            f"{KEY} of type float16, not float32",
        ),
        (
            replace_by(lambda tensor: tensor * np.nan),
            f"{KEY} with non-finite values",
        ),
        (
            replace_by(lambda tensor: tensor + np.inf),
            f"{KEY} with non-finite values",
        ),
    ],
    ids=[
        "missing",
        "surplus",
        "misshapen",
        "flat",
        "float16",
        "nan",
        "infinite",
    ],
)
def test_wrong_tensors_are_named(config, folder, change, expected):
    rewrite(folder, change)
    assert expected in refusal(folder)
    # Nothing was assigned, not even the tensors that are right.
    model = TASKS["classifier"](config)
    before = values(model)
    refusal(folder, lambda path: model_folder.load_weights(model, path))
    for found, wanted in zip(values(model), before, strict=True):
        assert np.array_equal(found, wanted)


def test_all_problems_are_counted(config, folder):
    rewrite(folder, lambda tensors: tensors.clear())
    message = refusal(folder)
    assert message.count("missing") == 8
    others = len(TASKS["classifier"](config).weights) - 8
    assert f"; and {others} more" in message


def test_another_tasks_head_is_refused(config, folder, tmp_path):
    other = tmp_path / "other"
    mb.MobileBertForQuestionAnswering(config).save_pretrained(other)
    weights_file(other).replace(weights_file(folder))
    message = refusal(folder)
    assert "classifier.weight missing" in message
    assert "qa_outputs.weight surplus" in message


@pytest.mark.parametrize("size", [0, 4, 100, -100])
def test_truncated_file(folder, size):
    content = weights_file(folder).read_bytes()
    weights_file(folder).write_bytes(content[:size])
    assert "expected a safetensors file" in refusal(folder)


def test_garbage(folder):
    weights_file(folder).write_bytes(b"PK\x03\x04" + bytes(range(256)) * 9)
    assert "expected a safetensors file" in refusal(folder)


def test_no_weights(folder):
    weights_file(folder).unlink()
    assert "expected a weights file" in refusal(folder)


def test_pickle_is_not_opened(folder):
    weights_file(folder).rename(folder / "pytorch_model.bin")
    message = refusal(folder)
    assert "pytorch_model.bin" in message
    assert "pickle" in message


def test_no_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "absent")


def test_no_config(folder):
    (folder / "config.json").unlink()
    assert "config.json: expected a config file" in refusal(folder)


def edit_config(folder, **changes):
    path = folder / "config.json"
    edited = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({k: v for k, v in edited.items() if v is not None})
    )


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"architectures": ["BertModel"]}, "architectures: expected one of"),
        ({"architectures": None}, "found (none)"),
        ({"architectures": []}, "found (none)"),
        ({"id2label": {}}, "id2label: expected the names of the classes"),
        ({"id2label": ["no"]}, "id2label: expected the names of the classes"),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label: expected keys 0, 1"),
        ({"id2label": {"0": "a", "1": "b"}}, "classifier.bias of shape (3,)"),
        ({"vocab_size": 49}, "of shape (50, 12), not (49, 12)"),
    ],
)
def test_config_that_does_not_fit(folder, changes, expected):
    edit_config(folder, **changes)
    assert expected in refusal(folder)


def test_two_classes_may_go_unnamed(config, tmp_path):
    """Hugging Face does not write its default, LABEL_0 and LABEL_1."""
    mb.MobileBertForSequenceClassification(config, ["a", "b"]).save_pretrained(
        tmp_path
    )
    edit_config(tmp_path, id2label=None, label2id=None)
    assert mb.load(tmp_path).label_names == ("LABEL_0", "LABEL_1")


@pytest.mark.parametrize("file", ["weights", "config"])
def test_failed_save_leaves_the_old_model(config, folder, file, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def write_half(tensors, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError("No space left on device")

    def dumps(*args, **kwargs):
        raise OSError("No space left on device")

    model = TASKS["classifier"](config)
    if file == "weights":
        monkeypatch.setattr(model_folder, "save_file", write_half)
    else:
        monkeypatch.setattr(json, "dumps", dumps)
    with pytest.raises(OSError, match="No space left"):
        model.save_pretrained(folder)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    assert after["config.json"] == before["config.json"]
    if file == "weights":
        assert after == before


def test_save_replaces_and_keeps_the_rest(config, folder):
    (folder / "vocab.txt").write_text("[PAD]\n")
    model = TASKS["classifier"](config)
    model.save_pretrained(folder)
    assert (folder / "vocab.txt").read_text() == "[PAD]\n"
    for found, expected in zip(
        values(mb.load(folder)), values(model), strict=True
    ):
        assert np.array_equal(found, expected)


def test_real_names_and_shapes(shared_data):
    """All 748 bias and norm vectors of a published model have their place."""
    real = np.load(shared_data / "mobilebert_real" / "vectors.npz")
    assert len(real.files) == 748
    config = mb.MobileBertConfig.from_preset("mobilebert", vocab_size=50)
    # Shapes are all that is asked for.
    with keras.StatelessScope(initialize_variables=False):
        model = mb.MobileBertForSequenceClassification(config, ["0", "1"])
    ours = {
        name: tuple(variable.shape)
        for variable, name, _ in match_weights(
            model, config, model.architecture
        )
        if len(variable.shape) == 1
    }
    theirs = {
        name.replace("bert.", "mobilebert.", 1): real[name].shape
        for name in real.files
    }
    assert ours == theirs
