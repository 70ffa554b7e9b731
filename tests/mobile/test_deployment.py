"""What the deployment graph promises besides its numbers."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import mobilebert_tf as mb
from mobilebert_tf.mobile.deployment import forward
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.rounding import Exact
from tests import tiny
from tests.mobile.test_folding import random_classifier
from tests.tiny import relative_error


def test_masked_positions_change_nothing(rng):
    folded = fold(random_classifier(rng))
    batch = tiny.batch(rng, (12, 9, 12), width=20)
    changed = {name: rows.copy() for name, rows in batch.items()}
    # The last real token sees its right neighbour, masked or not.
    changed["input_ids"][:, 13:] = 7
    changed["segment_ids"][:, 12:] = 1
    wanted = forward(folded, batch)
    assert relative_error(forward(folded, changed), wanted) < 1e-6
    changed["input_ids"][:, 11] = 8
    assert relative_error(forward(folded, changed), wanted) > 1e-3


def test_each_weight_matters(rng):
    folded = fold(random_classifier(rng, num_hidden_layers=1))
    variables = {n: tf.Variable(a) for n, a in folded.arrays.items()}
    trainable = dataclasses.replace(folded, arrays=variables)
    with tf.GradientTape() as tape:
        outputs = forward(trainable, tiny.batch(rng))
        total = tf.reduce_sum(tf.square(outputs))
    gradients = tape.gradient(total, variables)
    idle = {
        name
        for name, gradient in gradients.items()
        if np.abs(tf.convert_to_tensor(gradient).numpy()).max() < 1e-7
    }
    # A constant added to every key vanishes in the softmax.
    assert idle == {"block_00/attention/key/bias"}


class _CountedRows(Exact):
    """Computes exactly and counts the rows of each activation."""

    def __init__(self):
        self.counts = {}

    def activation(self, name, tensor):
        self.counts[name] = int(np.prod(tensor.shape[:-1]))
        return tensor


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"key_query_shared_bottleneck": False},
        {"use_bottleneck_attention": True},
        {"use_bottleneck": False, "intra_bottleneck_size": 32},
    ],
)
def test_the_last_block_computes_only_the_row_that_is_read(rng, changes):
    config = tiny.student_config(**changes)
    counts = []
    for model in (
        tiny.classifier(config=config),
        mb.MobileBertForTokenClassification(config, tiny.LABELS),
    ):
        rows = _CountedRows()
        forward(fold(model), tiny.batch(rng, (20, 9)), rows)
        counts.append(rows.counts)
    cut, whole = counts
    assert cut["block_00/feed_forward_0/output"] == 40
    assert cut["block_01/attention/query"] == 2
    assert cut["block_01/feed_forward_0/output"] == 2
    assert whole["block_01/feed_forward_0/output"] == 40


def test_sequences_beyond_the_position_table_are_refused(rng):
    batch = tiny.batch(rng, (tiny.MAX_LENGTH + 1, 3))
    with pytest.raises(ValueError, match=f"at most {tiny.MAX_LENGTH}"):
        forward(fold(tiny.classifier()), batch)
