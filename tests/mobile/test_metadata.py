"""What a file carries beside its weights; peers/ opens it with MediaPipe."""

import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import mobilebert_tf as mb
from mobilebert_tf.mobile.export import export_tflite
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import TextMetadata
from tests.mobile.networks import (
    LABELS,
    classifier,
    random_batch,
    relative_error,
    small_config,
)

CONFIG = small_config(num_hidden_layers=1, max_position_embeddings=400)
VOCABULARY = tuple(f"piece{index}" for index in range(CONFIG.vocab_size))
METADATA = TextMetadata(VOCABULARY, LABELS, author="Ænne", version="v2")


@pytest.fixture(scope="module")
def model():
    return classifier(CONFIG, np.random.default_rng(10))


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("metadata") / "classifier.tflite"
    export_tflite(
        model,
        "dynamic",
        path,
        max_seq_length=20,
        output="probabilities",
        metadata=METADATA,
    )
    return path


def test_vocabulary_and_labels_are_in_the_archive(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["labels.txt", "vocab.txt"]
        vocabulary = archive.read("vocab.txt").decode().split("\n")
        assert tuple(vocabulary[:-1]) == VOCABULARY
        assert archive.read("labels.txt") == b"a\nb\nc\n"
        # Phones map the entries into memory as they are.
        kinds = {entry.compress_type for entry in archive.infolist()}
        assert kinds == {zipfile.ZIP_STORED}


def test_the_model_holds_a_metadata_flatbuffer(path):
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    entries = {entry.name: entry.buffer for entry in model.metadata}
    content = bytes(model.buffers[entries[b"TFLITE_METADATA"]].data)
    assert content[4:8] == b"M001"
    for text in ("ids", "mask", "segment_ids", "score", "Ænne", "v2", "1.1.0"):
        # Strings of a flatbuffer have their length before and a NUL behind.
        encoded = text.encode()
        stored = len(encoded).to_bytes(4, "little") + encoded + b"\0"
        assert stored in content, text


def test_the_file_still_runs_and_is_the_same_each_time(path, model, tmp_path):
    batch = random_batch(CONFIG, np.random.default_rng(11))
    logits = model(batch).numpy()
    wanted = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert relative_error(TFLiteModel(path).predict(batch), wanted) < 0.05
    again = tmp_path / "again.tflite"
    export_tflite(
        model,
        "dynamic",
        again,
        max_seq_length=20,
        output="probabilities",
        metadata=METADATA,
    )
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "request_, message",
    [
        ({"output": None}, "read output=probabilities"),
        ({"max_seq_length": [8, 20]}, "one length"),
        ({"metadata": TextMetadata(VOCABULARY[1:], LABELS)}, "101 pieces"),
        ({"metadata": TextMetadata(VOCABULARY, "ab")}, "3 label names"),
    ],
)
def test_files_that_no_task_could_open_are_refused(
    request_, message, model, tmp_path
):
    request = {
        "max_seq_length": 20,
        "output": "probabilities",
        "metadata": METADATA,
    } | request_
    with pytest.raises(ValueError, match=message):
        export_tflite(model, "float32", tmp_path / "x.tflite", **request)
    assert not list(tmp_path.iterdir())


def test_tasks_without_a_reader_and_cased_models_are_refused(tmp_path):
    path = tmp_path / "x.tflite"
    tagger = mb.MobileBertForTokenClassification(CONFIG, LABELS)
    with pytest.raises(ValueError, match="serves token_classification"):
        export_tflite(
            tagger, "float32", path, max_seq_length=8, metadata=METADATA
        )
    answerer = mb.MobileBertForQuestionAnswering(CONFIG)
    with pytest.raises(ValueError, match="length 384 only"):
        export_tflite(
            answerer, "float32", path, max_seq_length=128, metadata=METADATA
        )
    with pytest.raises(ValueError, match="cased vocabulary"):
        TextMetadata(VOCABULARY, LABELS, do_lower_case=False)
