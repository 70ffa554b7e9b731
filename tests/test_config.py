"""The config, its presets and both dialects of its JSON.

Published values are written out here as they were published.
"""

import dataclasses
import json

import pytest

from mobilebert_tf.config import (
    PRESETS,
    MobileBertConfig,
    to_google,
    to_hugging_face,
)
from mobilebert_tf.errors import InputError

# google-research/mobilebert/config: what all four files share, then each.
SHARED = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_size": 512,
    "initializer_range": 0.02,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 24,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "embedding_size": 128,
    "trigram_input": True,
    "use_bottleneck": True,
}
TEACHER = SHARED | {
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "intermediate_size": 4096,
    "intra_bottleneck_size": 1024,
}
STUDENT = SHARED | {
    "hidden_act": "relu",
    "hidden_dropout_prob": 0.0,
    "intermediate_size": 512,
    "intra_bottleneck_size": 128,
    "key_query_shared_bottleneck": True,
    "num_feedforward_networks": 4,
    "normalization_type": "no_norm",
    "classifier_activation": False,
}
QUANTISED = STUDENT | {"hidden_act": "relu6"}
TINY = {
    key: value
    for key, value in STUDENT.items()
    if key != "key_query_shared_bottleneck"
} | {"use_bottleneck_attention": True, "num_feedforward_networks": 2}

# huggingface.co/google/mobilebert-uncased, as its configs are saved today.
HUB = STUDENT | {
    "architectures": ["MobileBertForPreTraining"],
    "classifier_dropout": None,
    "layer_norm_eps": 1e-12,
    "model_type": "mobilebert",
    "pad_token_id": 0,
    "true_hidden_size": 128,
    "transformers_version": "5.23.0",
    "use_bottleneck_attention": False,
}


@pytest.fixture
def read(tmp_path):
    """Returns a function: JSON values to the config they are read as."""

    def write_and_read(values):
        path = tmp_path / "config.json"
        text = values if isinstance(values, str) else json.dumps(values)
        path.write_text(text)
        return MobileBertConfig.from_json(path)

    return write_and_read


@pytest.mark.parametrize(
    "published, preset, changes",
    [
        (TEACHER, "ib_bert_large", {}),
        (STUDENT, "mobilebert", {}),
        (QUANTISED, "mobilebert", {"hidden_act": "relu6"}),
        (TINY, "mobilebert_tiny", {}),
        (HUB, "mobilebert", {}),
    ],
    ids=["teacher", "student", "quantised", "tiny", "hub"],
)
def test_published_files_are_the_presets(read, published, preset, changes):
    assert read(published) == MobileBertConfig.from_preset(preset, **changes)


def test_absent_keys_mean_plain_bert_in_the_release(read):
    config = read({"vocab_size": 100})
    expected = {
        "vocab_size": 100,
        "hidden_size": 768,
        "embedding_size": 768,
        "intra_bottleneck_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 512,
        "type_vocab_size": 16,
        "initializer_range": 0.02,
        "trigram_input": False,
        "use_bottleneck": False,
        "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": False,
        "num_feedforward_networks": 1,
        "normalization_type": "layer_norm",
        "classifier_activation": True,
    }
    found = config.to_dict()
    assert {key: found[key] for key in expected} == expected
    assert config.layer_norm_eps == 1e-12
    assert config.attention_source == "input"


def test_widths_default_to_hidden_size_in_the_release(read):
    values = {"vocab_size": 9, "hidden_size": 24, "num_attention_heads": 3}
    config = read(values | {"embedding_size": None})
    assert config.embedding_size == config.intra_bottleneck_size == 24


def test_absent_keys_mean_mobilebert_in_hugging_face(read):
    """With a pooler, which its class has by default and the hub's file not."""
    assert read({"model_type": "mobilebert"}) == MobileBertConfig(
        classifier_activation=True
    )


@pytest.mark.parametrize(
    "google, hugging_face, ours",
    [
        ("gelu", "gelu_pytorch_tanh", "gelu"),
        ("gelu", "gelu_new", "gelu"),
        ("gelu_erf", "gelu", "gelu_erf"),
        ("relu6", "relu6", "relu6"),
        ("tanh", "tanh", "tanh"),
    ],
)
def test_activations(read, google, hugging_face, ours):
    assert read({"vocab_size": 9, "hidden_act": google}).hidden_act == ours
    values = {"model_type": "mobilebert", "hidden_act": hugging_face}
    assert read(values).hidden_act == ours


def test_written_gelu_is_the_tanh_form_there_too():
    config = MobileBertConfig(hidden_act="gelu")
    assert to_hugging_face(config)["hidden_act"] == "gelu_pytorch_tanh"
    config = MobileBertConfig(hidden_act="gelu_erf")
    assert to_hugging_face(config)["hidden_act"] == "gelu"


def test_manual_layer_norm_is_a_layer_norm_of_another_epsilon(read):
    config = read(STUDENT | {"normalization_type": "manual_layer_norm"})
    assert config.normalization_type == "layer_norm"
    assert config.layer_norm_eps == 1e-6


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_their_json(preset, tmp_path):
    config = MobileBertConfig.from_preset(preset)
    path = tmp_path / "config.json"
    config.to_json(path)
    assert MobileBertConfig.from_json(path) == config
    assert json.loads(path.read_text())["model_type"] == "mobilebert"


def test_every_field_survives_json(tmp_path):
    changes = {
        "layer_norm_eps": 1e-6,
        "trigram_order": "previous_current_next",
        "zero_pad_embedding": True,
        "attention_mask_form": "multiply_add",
        "attention_mask_value": -6.0,
        "classifier_dropout_prob": 0.3,
        "trigram_input": False,
    }
    config = MobileBertConfig(**changes)
    config.to_json(tmp_path / "config.json", architectures=["Other"])
    assert MobileBertConfig.from_json(tmp_path / "config.json") == config
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["Other"]
    assert written["classifier_dropout"] == 0.3


@pytest.mark.parametrize(
    "changes, source",
    [
        ({}, "shared"),
        ({"key_query_shared_bottleneck": False}, "input"),
        ({"use_bottleneck_attention": True}, "bottleneck"),
        (
            {
                "use_bottleneck_attention": True,
                "key_query_shared_bottleneck": False,
            },
            "bottleneck",
        ),
        ({"use_bottleneck": False, "intra_bottleneck_size": 512}, "input"),
    ],
)
def test_attention_source(changes, source):
    assert MobileBertConfig(**changes).attention_source == source


def test_config_is_frozen():
    config = MobileBertConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.hidden_size = 1
    assert hash(config) == hash(MobileBertConfig())


def test_unknown_preset():
    with pytest.raises(ValueError, match="mobilebert_tiny.*Received: base"):
        MobileBertConfig.from_preset("base")


IMPOSSIBLE = [
    ({"num_attention_heads": 3}, "num_attention_heads must divide"),
    ({"use_bottleneck": False}, "must equal hidden_size 512"),
    ({"embedding_size": 1024}, "embedding_size must not exceed"),
    ({"hidden_act": "swish"}, "hidden_act must be one of relu"),
    ({"normalization_type": "rms"}, "one of no_norm, layer_norm"),
    ({"attention_mask_form": "minus"}, "one of additive, multiply_add"),
    ({"trigram_order": "none"}, "trigram_order must be one of"),
    ({"num_hidden_layers": 0}, "num_hidden_layers must be positive"),
    ({"vocab_size": -1}, "vocab_size must be positive"),
    ({"hidden_size": 512.0}, "hidden_size must be of type int"),
    ({"hidden_size": "512"}, "hidden_size must be of type int"),
    ({"hidden_size": True}, "hidden_size must be of type int"),
    ({"use_bottleneck": 1}, "use_bottleneck must be of type bool"),
    ({"hidden_act": 3}, "hidden_act must be of type str"),
    ({"hidden_dropout_prob": 1.0}, r"must be in \[0, 1\)"),
    ({"attention_probs_dropout_prob": -0.1}, r"must be in \[0, 1\)"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps must be positive"),
    ({"layer_norm_eps": float("nan")}, "layer_norm_eps must be finite"),
    ({"initializer_range": -1.0}, "initializer_range must be positive"),
    ({"attention_mask_value": 0.0}, "attention_mask_value must be negative"),
    ({"attention_mask_value": float("-inf")}, "must be finite"),
]


@pytest.mark.parametrize("changes, message", IMPOSSIBLE)
def test_impossible_architectures(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        MobileBertConfig(**changes)
    (value,) = changes.values()
    assert f"Received: {value}" in str(caught.value).replace("'", "") or (
        # Where two fields disagree, the received one may be the other.
        "use_bottleneck" in changes
    )


@pytest.mark.parametrize("changes, message", IMPOSSIBLE)
@pytest.mark.parametrize("published", [STUDENT, HUB], ids=["google", "hub"])
def test_impossible_files(read, published, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        read(published | changes)
    assert_one_line(caught.value)


def assert_one_line(error):
    assert "\n" not in str(error)
    assert "config.json" in str(error)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "expected JSON"),
        ("{'vocab_size': 9}", "line 1: expected JSON"),
        ('{\n"vocab_size" 9\n}', "line 2: expected JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        ("null", "expected a JSON object, found NoneType"),
        ("{}", "vocab_size is required and absent"),
        ('{"vocab_size": 9, "hiden_size": 8}', "found hiden_size"),
        ('{"vocab_size": 9, "model_type": "bert"}', "found model_type"),
        ('{"vocab_size": 9, "type_vocab_size": [1]}', "type_vocab_size must"),
        ('{"vocab_size": 9, "hidden_act": {}}', "hidden_act must be"),
        ('{"model_type": "mobilebert", "hidden_act": {}}', "unhashable"),
    ],
)
def test_malformed_files(read, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read(text)
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda path: None, "expected a config file"),
        (lambda path: path.mkdir(), "expected a config file"),
        (lambda path: path.write_bytes(b"\x80\x04\xff"), "expected UTF-8"),
    ],
    ids=["missing", "folder", "binary"],
)
def test_files_that_are_no_text(tmp_path, make, message):
    make(tmp_path / "config.json")
    with pytest.raises(InputError, match=message) as caught:
        MobileBertConfig.from_json(tmp_path / "config.json")
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "preset, published",
    [
        ("mobilebert", STUDENT),
        ("mobilebert_tiny", TINY),
        ("ib_bert_large", TEACHER),
    ],
)
def test_google_dialect_is_written_as_it_was_published(preset, published):
    written = to_google(MobileBertConfig.from_preset(preset))
    assert published.items() <= written.items()
    # What was left out of the published file is written with its default.
    assert all(
        value in (False, 1, "layer_norm", True)
        for key, value in written.items()
        if key not in published
    )


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "changes",
    [{}, {"zero_pad_embedding": True, "attention_mask_value": -6.0}],
    ids=["plain", "with switches of ours"],
)
def test_google_dialect_comes_back(preset, changes, tmp_path):
    config = MobileBertConfig.from_preset(preset, **changes)
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(to_google(config)))
    assert MobileBertConfig.from_json(path) == config


def test_keys_of_multilingual_bert_that_nobody_reads(read):
    assert read(STUDENT | {"pooler_fc_size": 768}) == MobileBertConfig()


def test_untied_word_embeddings_are_refused(read):
    values = {"model_type": "mobilebert", "tie_word_embeddings": True}
    assert read(values).hidden_size == 512
    with pytest.raises(InputError, match="tie_word_embeddings must be true"):
        read(values | {"tie_word_embeddings": False})
