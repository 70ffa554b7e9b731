"""The published weights give the published outputs.

The numbers are those of Hugging Face's own tests for its model
`google/mobilebert-uncased`. The weights are not part of the project: name a
model folder that has them, pre-training heads included, in
MOBILEBERT_TF_REAL_WEIGHTS. In that model the word embedding of [PAD] is zero,
and the second example begins with a [PAD]: a folder converted from TF1, where
it is not, needs `"zero_pad_embedding": true` in its `config.json`.
"""

import os

import pytest

import mobilebert_tf as mb
from benchmarks.check_published import golden_outputs

VARIABLE = "MOBILEBERT_TF_REAL_WEIGHTS"


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


def test_golden_outputs(model):
    for what, (difference, limit) in golden_outputs(model).items():
        assert difference <= limit, what
