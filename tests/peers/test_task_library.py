"""The Task Library opens question answerers as they are and reads their logits.

Needs a Python with `tflite-support` 0.4.4 and `libusb-package` in it (Python
3.11 at most, NumPy below 2), named by MOBILEBERT_TF_TASK_LIBRARY_PYTHON.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.equalization import equalize
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import ANSWERER_LENGTH, TextMetadata
from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.peers.test_mediapipe import drawn

pytestmark = pytest.mark.peers
PYTHON = "MOBILEBERT_TF_TASK_LIBRARY_PYTHON"
# The library's integer kernels are of 2023 and round otherwise, which a head
# fitted to noise, of logits from -10 to 3, makes the most of.
TOLERANCES = {"float32": 1e-3, "float16": 1e-3, "int8": 1.0}
CONTEXT = "The Normans gave their name to Normandy, a region in France."
QUESTIONS = [
    "In what country is Normandy located?",
    "Who gave their name?",
    "What is it to whom, and when?",
    "Where?",
]


@pytest.fixture(scope="module")
def tokenizer(shared_data) -> WordpieceTokenizer:
    path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
    return WordpieceTokenizer.from_vocab_file(path)


@pytest.fixture(scope="module")
def examples(tokenizer) -> dict[str, np.ndarray]:
    pairs = Examples(QUESTIONS, [CONTEXT] * len(QUESTIONS))
    return encode_examples(pairs, tokenizer, ANSWERER_LENGTH)


@pytest.fixture(scope="module")
def answerer(tokenizer, examples) -> mb.MobileBertForQuestionAnswering:
    """A random network with a head that looks for answers in the context.

    The library returns nothing where the best places are elsewhere.
    """
    config = mb.MobileBertConfig.from_preset(
        "mobilebert_small",
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=2,
        max_position_embeddings=ANSWERER_LENGTH,
    )
    model = drawn(mb.MobileBertForQuestionAnswering(config))
    features = model.encoder(examples).sequence_output.numpy()
    rng = np.random.default_rng(1)
    wanted = rng.normal(0.0, 1.0, (*features.shape[:2], 2))
    wanted[examples["segment_ids"] == 0] = -10.0
    rows = features.reshape(-1, features.shape[-1])
    rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
    weights, *_ = np.linalg.lstsq(rows, wanted.reshape(-1, 2))
    model.head.dense.kernel.assign(weights[:-1])
    model.head.dense.bias.assign(weights[-1])
    return model


def ask(folder: Path, path: Path, asked: list) -> list:
    """Returns the Task Library's answer to each text or question."""
    python = os.environ.get(PYTHON)
    if not python or not Path(python).exists():
        pytest.skip(f"{PYTHON} names no Python with tflite-support")
    questions, answers = folder / "questions.json", folder / "answers.json"
    questions.write_text(json.dumps(asked))
    script = Path(__file__).with_name("task_library_answers.py")
    subprocess.run(
        [python, script, path, questions, answers],
        check=True,
        stderr=subprocess.PIPE,
    )
    return json.loads(answers.read_text())


@pytest.mark.parametrize("mlperf_order", [False, True])
@pytest.mark.parametrize("kind", TOLERANCES)
def test_answers_have_the_logits_of_the_file(
    kind, mlperf_order, answerer, tokenizer, examples, tmp_path
):
    network = fold(answerer)
    if kind == "int8":
        network = equalize(network, [examples])
        network = Quantized(network, calibrate(network, [examples]))
    path = tmp_path / f"{kind}.tflite"
    export(
        network,
        path,
        ANSWERER_LENGTH,
        kind,
        mlperf_order=mlperf_order,
        metadata=TextMetadata(tokenizer.vocab),
    )
    asked = [(CONTEXT, question) for question in QUESTIONS]
    found = ask(tmp_path, path, asked)
    ours = TFLiteModel(path).predict(examples)
    assert all(found)
    for row, answers in enumerate(found):
        context = np.flatnonzero(examples["segment_ids"][row])
        for answer in answers:
            start, end = answer["start"], answer["end"]
            assert context[0] <= start <= end <= context[-1]
            wanted = ours["start_logits"][row, start]
            wanted += ours["end_logits"][row, end]
            assert answer["logit"] == pytest.approx(
                wanted, abs=TOLERANCES[kind]
            )
            assert answer["text"] in CONTEXT


def test_classifiers_have_the_probabilities_of_the_file(tokenizer, tmp_path):
    labels = ("bad", "good", "neither")
    config = mb.MobileBertConfig.from_preset(
        "mobilebert_small",
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=2,
        max_position_embeddings=64,
    )
    model = drawn(mb.MobileBertForSequenceClassification(config, labels))
    path = export(
        fold(model),
        tmp_path / "classifier.tflite",
        64,
        output="probabilities",
        metadata=TextMetadata(tokenizer.vocab, labels),
    )
    arrays = encode_examples(Examples(QUESTIONS), tokenizer, 64)
    wanted = TFLiteModel(path).predict(arrays)
    found = ask(tmp_path, path, QUESTIONS)
    for row, answer in zip(wanted, found, strict=True):
        given = [answer[label] for label in labels]
        np.testing.assert_allclose(given, row, atol=1e-3)
