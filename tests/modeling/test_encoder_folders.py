"""An encoder taken from the folder of any model."""

import dataclasses

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.modeling.load import load_encoder_weights
from tests.modeling.conftest import numpy
from tests.modeling.folders import TASKS, refusal, values


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
