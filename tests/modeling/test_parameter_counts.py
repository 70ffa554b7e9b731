"""Every preset has exactly as many parameters as was published or derived.

Models are counted inside a `StatelessScope`, where variables have shapes but
no memory, so that even the teacher at full size takes a second.
"""

import math

import keras
import pytest

import mobilebert_tf as mb
from mobilebert_tf.config import PRESETS

# The pooler, where there is one, is counted in.
POOLER = 512 * 512 + 512
PUBLISHED = {
    "mobilebert": 24_581_888,
    "mobilebert_paper": 25_359_104,
    # A layer norm has a gamma and a beta too: the student's own count.
    "mobilebert_without_opt": 24_581_888,
    "mobilebert_tiny": 15_485_696,
    "mobilebert_multilingual": 35_977_088,
    "mobilebert_edgetpu_xxs": 9_416_960,
    "mobilebert_edgetpu_xs": 27_006_720,
    "mobilebert_edgetpu_s": 38_326_016,
    "mobilebert_edgetpu_m": 50_951_936,
    "ib_bert_large": 294_205_184 + POOLER,
}
# Ours to change, so that their sizes are read from the config and their
# counts derived by hand below.
SMALL_PAIR = {"ib_bert_small", "mobilebert_small"}

NUM_VARIABLES = {
    "mobilebert": 1111,
    "mobilebert_paper": 1015,
    "mobilebert_tiny": 727,
    "ib_bert_large": 585,
}


def dense(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def norm(width: int) -> int:
    return 2 * width


def block_count(config) -> int:
    """Table 1 of the paper, a row at a time, biases and norms included."""
    wide, narrow = config.hidden_size, config.intra_bottleneck_size
    reads = {"shared": narrow, "bottleneck": narrow, "input": wide}
    query_key = reads[config.attention_source]
    value = narrow if config.attention_source == "bottleneck" else wide
    count = dense(wide, narrow) + norm(narrow)
    if config.attention_source == "shared":
        count += dense(wide, narrow) + norm(narrow)
    count += 2 * dense(query_key, narrow) + dense(value, narrow)
    count += dense(narrow, narrow) + norm(narrow)
    feed_forward = dense(narrow, config.intermediate_size)
    feed_forward += dense(config.intermediate_size, narrow) + norm(narrow)
    count += config.num_feedforward_networks * feed_forward
    return count + dense(narrow, wide) + norm(wide)


def encoder_count(config) -> int:
    wide = config.hidden_size
    count = config.vocab_size * config.embedding_size
    count += (config.type_vocab_size + config.max_position_embeddings) * wide
    count += dense(3 * config.embedding_size, wide) + norm(wide)
    count += config.num_hidden_layers * block_count(config)
    return count + config.classifier_activation * dense(wide, wide)


def weights_of(build, config) -> list:
    with keras.StatelessScope(initialize_variables=False):
        return build(config).weights


def test_every_preset_is_pinned():
    assert PUBLISHED.keys() | SMALL_PAIR == PRESETS.keys()


@pytest.mark.parametrize("preset", PRESETS)
def test_encoder(preset):
    config = mb.MobileBertConfig.from_preset(preset)
    weights = weights_of(mb.MobileBertEncoder, config)
    found = sum(math.prod(weight.shape) for weight in weights)
    assert found == encoder_count(config)
    if preset not in SMALL_PAIR:
        assert found == PUBLISHED[preset]
    assert len(weights) == NUM_VARIABLES.get(preset, len(weights))


def test_parts_of_the_released_student():
    """Per block and for the embeddings, as derived from the release."""
    config = mb.MobileBertConfig.from_preset("mobilebert")
    weights = weights_of(mb.MobileBertEncoder, config)
    counts: dict[str, int] = {}
    for weight in weights:
        part = weight.path.split("/")[1]
        counts[part] = counts.get(part, 0) + math.prod(weight.shape)
    assert counts.pop("embeddings") == 4_368_128
    assert len(counts) == 24
    assert set(counts.values()) == {842_240}


def test_pretraining_heads():
    config = mb.MobileBertConfig.from_preset("mobilebert", num_hidden_layers=1)
    whole = weights_of(mb.MobileBertForPretraining, config)
    encoder = weights_of(mb.MobileBertEncoder, config)
    count = sum(math.prod(weight.shape) for weight in whole)
    count -= sum(math.prod(weight.shape) for weight in encoder)
    assert count == 12_015_676
    assert len(whole) - len(encoder) == 8


def test_built_without_the_scope(small_config):
    """The scope changes no shape: a model with real variables counts alike."""
    encoder = mb.MobileBertEncoder(small_config)
    assert encoder.count_params() == encoder_count(small_config)
