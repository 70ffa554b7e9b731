"""Operations are counted as they are, and none of a norm is left."""

import dataclasses

import pytest
import tensorflow as tf

from mobilebert_tf.config import PRESETS, MobileBertConfig
from mobilebert_tf.tools import operations


@pytest.fixture(scope="module")
def config():
    config = MobileBertConfig.from_preset("mobilebert")
    return dataclasses.replace(operations.narrowed(config), num_hidden_layers=1)


@pytest.fixture(scope="module")
def counts(config):
    return operations.before_and_after(config, 16)


def test_no_operation_of_a_norm_is_left(config, counts):
    before, after = counts
    assert operations.norm_operations(config, after) == 0
    # Nine norms of a block; those of dense layers without residual may merge.
    assert operations.norm_operations(config, before) >= 7
    assert before["FULLY_CONNECTED"] == after["FULLY_CONNECTED"]
    assert sum(after.values()) < sum(before.values())


def test_the_table_adds_up(counts):
    before, after = counts
    lines = operations.table("mobilebert", before, after)
    cells = [line.split() for line in lines[1:]]
    for column in (1, 2):
        numbers = [int(row[column]) for row in cells]
        assert sum(numbers[:-1]) == numbers[-1]
    dense = [row for row in cells if row[0] == "fully_connected"]
    # 3 bottlenecks, 4 of attention, 4 x 2 feed-forward; projection, head.
    assert dense == [["fully_connected", *[str(15 + 2)] * 2]]


def test_operations_are_those_that_were_written():
    @tf.function(input_signature=[tf.TensorSpec((2, 3))])
    def function(x):
        return tf.tanh(tf.tanh(x)) * x

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function()], tf.Module()
    )
    found = operations.count_operations(converter.convert())
    assert found == {"TANH": 2, "MUL": 1}


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_narrowed(preset):
    config = MobileBertConfig.from_preset(preset)
    narrow = operations.narrowed(config)
    assert narrow.num_hidden_layers == config.num_hidden_layers
    assert narrow.attention_source == config.attention_source
    assert narrow.hidden_size * 4 == config.hidden_size
