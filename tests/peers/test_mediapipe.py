"""MediaPipe opens our files as they are and says what we say.

Needs a Python with `mediapipe` in it, named by MOBILEBERT_TF_MEDIAPIPE_PYTHON.
"""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.mobile.calibration import calibrate
from mobilebert_tf.mobile.export import export
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.quantization import Quantized
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.tflite_file import ANSWERER_LENGTH, TextMetadata
from mobilebert_tf.pipeline import TextClassifier
from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples
from mobilebert_tf.text.normalization import normalize
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

pytestmark = pytest.mark.peers
PYTHON = "MOBILEBERT_TF_MEDIAPIPE_PYTHON"
LABELS = ("bad", "good", "so so")
LENGTH = 32
# What rounding may turn.
MARGINS = {"float32": 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.1}
TEXTS = [
    "Hello world, a gripping film!",
    "The worst: twice as long as it should be, and half as funny (really).",
    "It is what it is.",
    "Charming and often affecting -- a journey of 3,000 miles",
    "résumé café naïve",
    "日本 is far, ÅSE says",
    "word " * 60,
]


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """Returns a function from requests to MediaPipe's answers."""
    python = os.environ.get(PYTHON)
    if not python:
        pytest.skip(f"{PYTHON} names no Python with mediapipe")
    script = Path(__file__).with_name("mediapipe_answers.py")
    folder = tmp_path_factory.mktemp("mediapipe")

    def ask(*requests):
        (folder / "requests.json").write_text(
            json.dumps(
                [(verb, str(path), TEXTS_OF[verb]) for verb, path in requests]
            )
        )
        files = [folder / "requests.json", folder / "answers.json"]
        subprocess.run(
            [python, script, *files], check=True, stderr=subprocess.PIPE
        )
        return json.loads(files[1].read_text())

    return ask


# The tasks lower-case ASCII only and leave accents and controls in place.
TEXTS_OF = {
    "classify": [normalize(text) for text in TEXTS],
    "embed": [normalize(text) for text in TEXTS],
    "describe": None,
}


@pytest.fixture(scope="module")
def tokenizer(shared_data) -> WordpieceTokenizer:
    path = shared_data / "vocab" / "bert-base-uncased-vocab.txt"
    return WordpieceTokenizer.from_vocab_file(path)


@pytest.fixture(scope="module")
def config(tokenizer):
    return mb.MobileBertConfig.from_preset(
        "mobilebert_small",
        vocab_size=tokenizer.vocab_size,
        num_hidden_layers=2,
        max_position_embeddings=512,
    )


def drawn(model, seed=0):
    """Gives a model weights under which texts differ."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        part, shape = variable.path.split("/")[-1], variable.shape
        if part == "kernel":
            variable.assign(rng.normal(0.0, 1.0 / np.sqrt(shape[0]), shape))
        elif part != "gamma":
            variable.assign(rng.normal(0.0, 0.2, shape))
    return model


def test_text_classifier_reproduces_the_label(ask, tokenizer, config, tmp_path):
    model = drawn(mb.MobileBertForSequenceClassification(config, LABELS))
    examples = encode_examples(Examples(TEXTS, None), tokenizer, LENGTH)
    # No label is likelier than another on the whole.
    bias = model.head.dense.bias
    bias.assign(bias - model(examples).numpy().mean(0))
    model.save_pretrained(tmp_path / "model")
    tokenizer.write(tmp_path / "model")
    answers = TextClassifier(tmp_path / "model", LENGTH)(TEXTS)
    assert len({answer.label for answer in answers}) == len(LABELS)
    folded = fold(model)
    quantized = Quantized(folded, calibrate(folded, [examples]))
    metadata = TextMetadata(tokenizer.vocab, LABELS)
    kinds = tuple(MARGINS)
    for kind in kinds:
        export(
            quantized if kind == "int8" else folded,
            tmp_path / f"{kind}.tflite",
            LENGTH,
            kind,
            output="probabilities",
            metadata=metadata,
        )
    found = ask(*[("classify", tmp_path / f"{kind}.tflite") for kind in kinds])
    for kind, rows in zip(kinds, found, strict=True):
        ours = TFLiteModel(tmp_path / f"{kind}.tflite").predict(examples)
        for answer, probabilities, row in zip(answers, ours, rows, strict=True):
            wanted = dict(zip(LABELS, probabilities.tolist(), strict=True))
            assert row == pytest.approx(wanted, abs=1e-5), kind
            assert next(iter(row)) == LABELS[np.argmax(probabilities)], kind
            margin = np.diff(np.sort(list(answer.probabilities.values())))[-1]
            # A random network may be undecided.
            if margin > MARGINS[kind]:
                assert next(iter(row)) == answer.label, kind

    run_snippet(tmp_path, tmp_path / "float32.tflite")


def run_snippet(folder: Path, path: Path) -> None:
    """Runs the page's own example, as it stands there."""
    page = Path(__file__).parents[2] / "docs" / "mobile.md"
    snippet = re.search(
        r"^```python\n(# mediapipe\n.*?)^```", page.read_text(), re.M | re.S
    )
    path.rename(folder / "classifier.tflite")
    done = subprocess.run(
        [os.environ[PYTHON], "-c", snippet[1]],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() in LABELS


def test_text_embedder_reproduces_the_embedding(
    ask, tokenizer, config, tmp_path
):
    encoder = drawn(mb.MobileBertEncoder(config))
    batch = encode_examples(Examples(TEXTS, None), tokenizer, LENGTH)
    folded = fold(encoder)
    quantized = Quantized(folded, calibrate(folded, [batch]))
    paths = [tmp_path / f"{kind}.tflite" for kind in ("float32", "int8")]
    for path, network in zip(paths, (folded, quantized), strict=True):
        export(
            network,
            path,
            LENGTH,
            output="mean",
            metadata=TextMetadata(tokenizer.vocab),
        )
    rows = encoder(batch).sequence_output.numpy()
    wanted = [
        row[: mask.sum()].mean(0)
        for row, mask in zip(rows, batch["input_mask"], strict=True)
    ]
    found, rounded = ask(*[("embed", path) for path in paths])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    ours = TFLiteModel(paths[1]).predict(batch)
    np.testing.assert_allclose(rounded, ours, atol=1e-4)
    assert np.corrcoef(np.ravel(rounded), np.ravel(wanted))[0, 1] > 0.99


# What published files say, and the published schema finds in ours.
PUBLISHED = {
    "classifier": "mediapipe__bert_text_classifier_with_bert_tokenizer.json",
    "answerer": "tf_examples__bert_qa_metadata.json",
}


def tensor_names(metadata, key) -> list[str]:
    return [one["name"] for one in metadata["subgraph_metadata"][0][key]]


def test_metadata_is_what_published_files_have(
    ask, tokenizer, config, shared_data, tmp_path
):
    classifier = mb.MobileBertForSequenceClassification(config, LABELS)
    answerer = mb.MobileBertForQuestionAnswering(config)
    export(
        fold(classifier),
        tmp_path / "classifier.tflite",
        LENGTH,
        output="probabilities",
        metadata=TextMetadata(tokenizer.vocab, LABELS, license="Apache-2.0"),
    )
    export(
        fold(answerer),
        tmp_path / "answerer.tflite",
        ANSWERER_LENGTH,
        mlperf_order=True,
        metadata=TextMetadata(tokenizer.vocab),
    )
    answers = ask(
        *[("describe", tmp_path / f"{name}.tflite") for name in PUBLISHED]
    )
    data = shared_data / "tflite_metadata"
    for found, file in zip(answers, PUBLISHED.values(), strict=True):
        wanted = json.loads((data / file).read_text())
        graph = found["subgraphMetadata"][0]
        for ours, theirs in (
            ("inputTensorMetadata", "input_tensor_metadata"),
            ("outputTensorMetadata", "output_tensor_metadata"),
        ):
            names = [one["name"] for one in graph[ours]]
            # The order of inputs is each file's own.
            if ours.startswith("input"):
                assert sorted(names) == sorted(tensor_names(wanted, theirs))
                continue
            # The Task Library's BertNLClassifier looks for another name than
            # the published classifier has.
            wanted_names = tensor_names(wanted, theirs)
            assert names == [
                "probability" if name == "score" else name
                for name in wanted_names
            ]
        assert found["minParserVersion"] == wanted["min_parser_version"]
        (unit,) = graph["inputProcessUnits"]
        # BertTokenizerOptions; VOCABULARY.
        assert unit["optionsType"] == 4
        (vocab_file,) = unit["options"]["vocabFile"]
        assert (vocab_file["name"], vocab_file["type"]) == ("vocab.txt", 5)
    (score,) = answers[0]["subgraphMetadata"][0]["outputTensorMetadata"]
    assert score["stats"] == {"max": [1.0], "min": [0.0]}
    (labels,) = score["associatedFiles"]
    assert (labels["name"], labels["type"]) == ("labels.txt", 2)
    assert score["content"]["contentPropertiesType"] == 1
    assert answers[0]["license"] == "Apache-2.0"
