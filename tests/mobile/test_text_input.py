"""A file that takes text answers as the tokenizer and the plain file do."""

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.export import export_tflite
from mobilebert_tf.mobile.quantization import QuantizationAwareModel
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.text_input import TextInput, TextTFLiteModel
from mobilebert_tf.mobile.tflite_file import TextMetadata
from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples
from mobilebert_tf.text.normalization import normalize
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.mobile.networks import (
    classifier,
    relative_error,
    small_config,
)

LENGTH = 12
VOCABULARY = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    *("un", "##aff", "##able", "a", "film", "gripping", "resume", "!", ","),
    *("caf", "##e", "is", "it", "what", "##s", "電", "the", "cafe"),
]
TEXTS = [
    "Unaffable, a FILM!",
    "Résumé\tcafés",
    "",
    "it is what it is the the the the the the film film film film",
    "it 電電 zzz",
    "a [SEP] film",
]
PAIRS = [
    "a gripping film",
    "the " * 30,
    "the",
    "it is what it is it is",
    "",
    "a",
]


def encoded(texts, texts_b=None, do_lower_case=True) -> dict:
    """What training feeds, from the tokenizer that peers agree with."""
    return encode_examples(
        Examples(texts, texts_b),
        WordpieceTokenizer(VOCABULARY, do_lower_case),
        LENGTH,
    )


def rows_of(text_input, *texts) -> dict:
    rows = [
        text_input(LENGTH, *(tf.constant([text]) for text in row))
        for row in zip(*texts, strict=True)
    ]
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    names = ("input_ids", "input_mask", "segment_ids")
    return dict(zip(names, columns, strict=True))


def assert_same(found, wanted):
    for name, rows in found.items():
        np.testing.assert_array_equal(rows, wanted[name], err_msg=name)


def test_one_text_is_encoded_as_in_training():
    assert_same(rows_of(TextInput(VOCABULARY), TEXTS), encoded(TEXTS))


def test_pairs_are_encoded_and_cut_as_in_training():
    for first, second in ((TEXTS, PAIRS), (PAIRS, TEXTS)):
        found = rows_of(TextInput(VOCABULARY, num_texts=2), first, second)
        assert_same(found, encoded(first, second))


def test_cased_vocabularies_keep_case_and_accents():
    found = rows_of(TextInput(VOCABULARY, do_lower_case=False), TEXTS)
    assert_same(found, encoded(TEXTS, do_lower_case=False))


def test_normalised_text_needs_no_normaliser():
    # The kernels' own folds the circled letter and the superscript.
    texts = ["A FILM\u00b2 \u24d0 it", "Caf\u00e9\u2026 the"]
    wanted = encoded(texts)
    plain = TextInput(VOCABULARY, do_lower_case=False)
    assert_same(rows_of(plain, [normalize(text) for text in texts]), wanted)
    found = rows_of(TextInput(VOCABULARY), texts)
    assert (found["input_ids"] != wanted["input_ids"]).any()


@pytest.fixture(scope="module")
def model() -> mb.MobileBertForSequenceClassification:
    config = small_config(num_hidden_layers=1, vocab_size=len(VOCABULARY))
    return classifier(config, np.random.default_rng(9))


@pytest.mark.parametrize("kind", ["float32", "int8"])
@pytest.mark.parametrize("num_texts", [1, 2])
def test_the_file_answers_as_the_one_that_takes_ids(
    kind, num_texts, model, tmp_path
):
    quantized = QuantizationAwareModel(deployment_model(model))
    quantized.calibrate([encoded(TEXTS, PAIRS)])
    requests = {
        "text": {"text_input": TextInput(VOCABULARY, num_texts=num_texts)},
        "ids": {},
    }
    for name, request in requests.items():
        export_tflite(
            model,
            kind,
            tmp_path / f"{name}.tflite",
            max_seq_length=LENGTH,
            quantized=quantized,
            **request,
        )
    columns = (TEXTS, PAIRS)[:num_texts]
    wanted = TFLiteModel(tmp_path / "ids.tflite").predict(encoded(*columns))
    runtime = TextTFLiteModel(tmp_path / "text.tflite")
    found = runtime.predict(*columns)["logits"]
    assert relative_error(found, wanted) < (1e-6 if kind == "float32" else 0.01)
    # The accelerated kernels run the network behind the tokenizer.
    names = [one["op_name"] for one in runtime.interpreter._get_ops_details()]
    assert "DELEGATE" in names
    with pytest.raises(InputError, match="LiteRT's own operations"):
        TFLiteModel(tmp_path / "text.tflite")
    with pytest.raises(InputError, match="serving_default of text"):
        TextTFLiteModel(tmp_path / "ids.tflite")
    with pytest.raises(ValueError, match="Received: 3 list"):
        runtime.predict(TEXTS, PAIRS, TEXTS)
    with pytest.raises(ValueError, match="no text"):
        runtime.predict(*[[]] * num_texts)


def test_impossible_requests_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="1 or 2"):
        TextInput(VOCABULARY, num_texts=3)
    with pytest.raises(InputError, match="vocabulary"):
        TextInput(["a", "b"])
    text_input = TextInput(VOCABULARY)
    for request, message in (
        ({"max_seq_length": [8, 9]}, "one length"),
        ({"max_seq_length": 2}, "at least 3"),
        (
            {"max_seq_length": 8, "metadata": TextMetadata(VOCABULARY)},
            "no metadata",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            export_tflite(
                model,
                "float32",
                tmp_path / "x.tflite",
                text_input=text_input,
                **request,
            )
    assert not list(tmp_path.iterdir())
