"""Lengths, names, order and metadata; peers/ opens files with MediaPipe."""

import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

import mobilebert_tf as mb
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import TextMetadata
from tests import tiny
from tests.mobile.test_folding import random_classifier
from tests.tiny import LABELS, PIECES, relative_error

METADATA = TextMetadata(PIECES, LABELS, author="Ænne", version="v2")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(5)
    return random_classifier(rng, num_hidden_layers=1, vocab_size=1009)


@pytest.fixture(scope="module")
def several(model, tmp_path_factory):
    """A file of three lengths."""
    path = tmp_path_factory.mktemp("several") / "several.tflite"
    return export(fold(model), path, [12, 24, 8], "dynamic")


def test_each_length_has_a_signature_of_its_own(several, model, rng):
    runtime = TFLiteModel(several)
    assert runtime.lengths == (8, 12, 24)
    assert runtime.max_seq_length == 24
    assert set(runtime.interpreter.get_signature_list()) == {
        "serving_default",
        "serving_12",
        "serving_8",
    }
    for length in runtime.lengths:
        batch = tiny.batch(rng, (length, 5), vocab_size=1009)
        wanted = model(batch).numpy()
        assert relative_error(runtime.predict(batch), wanted) < 0.05, length
        # Inputs are taken by name, in any order.
        turned = dict(reversed(batch.items()))
        np.testing.assert_array_equal(
            runtime.predict(turned), runtime.predict(batch)
        )
    with pytest.raises(ValueError, match="8 or 12 or 24 long"):
        runtime.predict(tiny.batch(rng, (10,)))


def test_lengths_share_their_weights(several, model, rng, tmp_path):
    path = export(fold(model), tmp_path / "one.tflite", 24, "dynamic")
    table = model.config.vocab_size * model.config.embedding_size
    more = several.stat().st_size - path.stat().st_size
    # Two more graphs of 23 constants with scales, and no second table.
    assert more < 4 * table
    float32 = export(fold(model), tmp_path / "float32.tflite", 24)
    assert path.stat().st_size < float32.stat().st_size - 2 * table
    # The same outputs, to the bit, with or without other lengths beside it.
    batch = tiny.batch(rng, (24, 9), vocab_size=1009)
    np.testing.assert_array_equal(
        TFLiteModel(path).predict(batch), TFLiteModel(several).predict(batch)
    )


def test_programs_without_signatures_find_a_fixed_order(several):
    interpreter = Interpreter(str(several))
    inputs = interpreter.get_input_details()
    assert [detail["name"] for detail in inputs] == [
        "input_ids",
        "input_mask",
        "segment_ids",
    ]
    outputs = interpreter.get_output_details()
    assert [detail["name"] for detail in outputs] == ["logits"]
    # The longest sequences are the graph that they run.
    assert inputs[0]["shape"].tolist() == [1, 24]


def test_arrays_begin_at_multiples_of_16_bytes(several):
    content = np.fromfile(several, np.uint8)
    flatbuffer = schema.Model.GetRootAs(content)
    begin = content.__array_interface__["data"][0]
    places = []
    for index in range(flatbuffer.BuffersLength()):
        data = flatbuffer.Buffers(index).DataAsNumpy()
        if isinstance(data, np.ndarray):
            places.append(data.__array_interface__["data"][0] - begin)
    assert len(places) > 20
    assert not np.any(np.array(places) % 16)


@pytest.fixture(scope="module")
def classifier():
    return random_classifier(np.random.default_rng(10), num_hidden_layers=1)


def export_packed(model, path):
    return export(
        fold(model),
        path,
        20,
        "dynamic",
        output="probabilities",
        metadata=METADATA,
    )


@pytest.fixture(scope="module")
def packed(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("metadata") / "classifier.tflite"
    return export_packed(classifier, path)


def test_vocabulary_and_labels_are_in_the_archive(packed):
    with zipfile.ZipFile(packed) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["labels.txt", "vocab.txt"]
        vocabulary = archive.read("vocab.txt").decode().split("\n")
        assert tuple(vocabulary[:-1]) == PIECES
        assert archive.read("labels.txt") == b"no\nmaybe\nyes\n"
        # Phones map the entries into memory as they are.
        kinds = {entry.compress_type for entry in archive.infolist()}
        assert kinds == {zipfile.ZIP_STORED}


def test_the_model_holds_a_metadata_flatbuffer(packed):
    model = schema.ModelT.InitFromPackedBuf(packed.read_bytes(), 0)
    entries = {entry.name: entry.buffer for entry in model.metadata}
    content = bytes(model.buffers[entries[b"TFLITE_METADATA"]].data)
    assert content[4:8] == b"M001"
    for text in (
        "ids",
        "mask",
        "segment_ids",
        "probability",
        "Ænne",
        "v2",
        "1.1.0",
    ):
        # Strings of a flatbuffer have their length before and a NUL behind.
        encoded = text.encode()
        stored = len(encoded).to_bytes(4, "little") + encoded + b"\0"
        assert stored in content, text


def test_the_file_still_runs_and_is_the_same_each_time(
    packed, classifier, rng, tmp_path
):
    batch = tiny.batch(rng, (20, 9, 4))
    logits = classifier(batch).numpy()
    wanted = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert relative_error(TFLiteModel(packed).predict(batch), wanted) < 0.05
    again = export_packed(classifier, tmp_path / "again.tflite")
    assert again.read_bytes() == packed.read_bytes()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"output": None}, "read output=probabilities"),
        ({"lengths": [8, 20]}, "one length"),
        ({"metadata": TextMetadata((*PIECES, "more"), LABELS)}, "64 pieces"),
        ({"metadata": TextMetadata(PIECES, "ab")}, "3 label names"),
    ],
)
def test_files_that_no_task_could_open_are_refused(
    request_, message, classifier, tmp_path
):
    request = {"lengths": 20, "output": "probabilities", "metadata": METADATA}
    with pytest.raises(ValueError, match=message):
        export(fold(classifier), tmp_path / "x.tflite", **request | request_)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model_class", "arguments", "message"),
    [
        ("TokenClassification", (LABELS,), "serves token_classification"),
        ("QuestionAnswering", (), "length 384 only"),
    ],
)
def test_tasks_without_a_reader_are_refused(
    model_class, arguments, message, tmp_path
):
    model_class = getattr(mb, f"MobileBertFor{model_class}")
    folded = fold(model_class(tiny.student_config(), *arguments))
    with pytest.raises(ValueError, match=message):
        export(folded, tmp_path / "x.tflite", 8, metadata=METADATA)


def test_cased_vocabularies_are_refused():
    with pytest.raises(ValueError, match="cased vocabulary"):
        TextMetadata(PIECES, LABELS, do_lower_case=False)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a\nb", "c"), r"line end or NUL\. Received: 'a\\nb', number 0"),
        (("a", "b\0"), "line end or NUL"),
        (("a", ""), "not be empty"),
        (("a", "b", "a"), "must differ. Received: 'a', number 2"),
    ],
)
def test_labels_that_no_list_of_lines_holds_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        TextMetadata(PIECES, labels)
