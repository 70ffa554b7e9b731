"""The published weights give the published outputs.

The numbers are those of Hugging Face's own tests for its model
`google/mobilebert-uncased`. The weights are not part of the project: name a
model folder that has them, pre-training heads included, in
MOBILEBERT_TF_REAL_WEIGHTS. In that model the word embedding of [PAD] is zero,
and the second example begins with a [PAD]: a folder converted from TF1, where
it is not, needs `"zero_pad_embedding": true` in its `config.json`.
"""

import os

import numpy as np
import pytest

import mobilebert_tf as mb
from tests.tiny import numpy

VARIABLE = "MOBILEBERT_TF_REAL_WEIGHTS"
# Values span eight orders of magnitude: only their ratio can be compared.
RATIO_TOLERANCE = 1e-3
MASKED_LM_TOLERANCE = 1e-4

SEQUENCE_IDS = [[101, 7110, 1005, 1056, 2023, 11333, 17413, 1029, 102]]
SEQUENCE_OUTPUT = [
    [-2.4736526e7, 8.2691656e4, 1.6521838e5],
    [-0.57541704, 3.9056022, 4.4011507],
    [2.6047359, 1.5677652, -0.17324188],
]
MASKED_LM_IDS = [[0, 1, 2, 3, 4, 5]]
MASKED_LM_LOGITS = [
    [-4.5919547, -9.248295, -9.645256],
    [-6.7306175, -6.440284, -6.6052837],
    [-7.2743506, -6.7847915, -6.024673],
]


@pytest.fixture(scope="module")
def model():
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(
            f"set {VARIABLE} to a model folder with the published weights of "
            "mobilebert-uncased and their pre-training heads"
        )
    model = mb.load(folder)
    assert isinstance(model, mb.MobileBertForPretraining)
    return model


def test_sequence_output(model):
    ids = np.array(SEQUENCE_IDS, "int32")
    found = numpy(model.encoder({"input_ids": ids}).sequence_output)
    assert found.shape == (1, 9, 512)
    ratios = found[0, :3, :3] / np.array(SEQUENCE_OUTPUT)
    np.testing.assert_allclose(ratios, 1, rtol=0, atol=RATIO_TOLERANCE)


def test_masked_lm_logits(model):
    ids = np.array(MASKED_LM_IDS, "int32")
    found = numpy(model({"input_ids": ids})["masked_lm_logits"])
    assert found.shape == (1, 6, 30522)
    np.testing.assert_allclose(
        found[0, :3, :3], MASKED_LM_LOGITS, rtol=0, atol=MASKED_LM_TOLERANCE
    )
