"""What the deployment graph promises beside its numbers."""

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.rounding import Exact
from tests.mobile.networks import (
    LABELS,
    classifier,
    random_batch,
    relative_error,
    small_config,
)


def test_masks_are_the_models_unless_bounded(rng):
    config = small_config(attention_mask_value=-10000.0)
    model = classifier(config, rng)
    # Logits far apart, some padded keys' above all real ones'.
    for block in model.encoder.blocks:
        for dense in (block.attention.query, block.attention.key):
            dense.kernel.assign(dense.kernel.numpy() * 60.0)
    batch = random_batch(config, rng)
    found = deployment_model(model)
    assert found.mask_value == -10000.0
    assert relative_error(found(**batch), model(batch)) < 1e-5
    found = deployment_model(model, mask_value=-20.0)
    assert found.mask_value == -20.0
    assert relative_error(found(**batch), model(batch)) > 1e-2
    config = small_config(
        attention_mask_form="multiply_add", attention_mask_value=-6.0
    )
    model = classifier(config, rng)
    assert deployment_model(model).mask_value == -6.0
    assert deployment_model(model, mask_value=-9.0).mask_value == -6.0


def test_masked_positions_change_nothing(rng):
    config = small_config()
    deployment = deployment_model(classifier(config, rng))
    batch = random_batch(config, rng, length=20)
    batch["input_mask"][:, 12:] = 0
    changed = {name: rows.copy() for name, rows in batch.items()}
    # The last real token sees its right neighbour, masked or not.
    changed["input_ids"][:, 13:] = 7
    changed["segment_ids"][:, 12:] = 1
    assert relative_error(deployment(**changed), deployment(**batch)) < 1e-6
    changed["input_ids"][:, 11] = 7
    assert relative_error(deployment(**changed), deployment(**batch)) > 1e-3


def test_variables_are_trainable_and_each_matters(rng):
    config = small_config(num_hidden_layers=1)
    deployment = deployment_model(classifier(config, rng))
    batch = random_batch(config, rng)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.square(deployment(**batch)))
    variables = deployment.trainable_variables
    assert len(variables) == len(deployment.weights)
    gradients = tape.gradient(total, variables)
    idle = {
        variable.name
        for variable, gradient in zip(variables, gradients, strict=True)
        if np.abs(tf.convert_to_tensor(gradient).numpy()).max() < 1e-7
    }
    # A constant added to every key vanishes in the softmax.
    assert idle == {"block_00/attention/key/bias:0"}


class _CountedRows(Exact):
    """Computes exactly and notes how many rows each dense layer gave."""

    def __init__(self):
        self.counts = {}

    def activation(self, name, tensor):
        self.counts[name] = len(tensor)
        return tensor


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key_query_shared_bottleneck": False},
        {"use_bottleneck_attention": True},
        {"use_bottleneck": False, "intra_bottleneck_size": 64},
    ],
)
def test_the_last_block_computes_only_the_row_that_answers(rng, changes):
    config = small_config(**changes)
    tagger = mb.MobileBertForTokenClassification(config, LABELS)
    answers = {}
    for model in (classifier(config, rng), tagger):
        rows = _CountedRows()
        deployment_model(model)(
            **random_batch(config, rng, size=2, length=20), rounding=rows
        )
        answers[type(model)] = rows.counts
    cut, whole = answers.values()
    assert cut["block_01/feed_forward_0/output"] == 40
    assert cut["block_02/attention/query"] == 2
    assert cut["block_02/feed_forward_0/output"] == 2
    assert whole["block_02/feed_forward_0/output"] == 40


def test_impossible_requests_are_refused(rng):
    config = small_config()
    with pytest.raises(ValueError, match="deployment needs one of"):
        deployment_model(mb.MobileBertForPretraining(config))
    model = classifier(config, rng)
    with pytest.raises(ValueError, match="mask_value must be negative"):
        deployment_model(model, mask_value=0.0)
    with pytest.raises(ValueError, match="at most 40"):
        deployment_model(model)(**random_batch(config, rng, length=41))
