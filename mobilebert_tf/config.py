"""The architecture as a frozen dataclass, and both dialects of its JSON.

Field names are those of the published `bert_config.json` files. Two dialects
of that JSON exist and differ in what an *absent* key means:

* google-research: an absent key means plain BERT (no bottleneck, layer norm,
  tanh pooler); `"gelu"` is the tanh approximation;
* Hugging Face (`"model_type": "mobilebert"`): an absent key means MobileBERT
  with a pooler; `"gelu"` is exact, `"gelu_pytorch_tanh"` the approximation.

Reading resolves the difference, so that the rest of the package sees only this
dataclass. Where paper and release differ, or the release is wrong, there is a
field, whose default is what the published weights need.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mobilebert_tf.errors import InputError, listed, shortened
from mobilebert_tf.files import atomic_file, read_json_object
from mobilebert_tf.presets import PRESETS

# Inputs of every model, dataset and .tflite file, int32 [B, S] each.
INPUT_NAMES = ("input_ids", "input_mask", "segment_ids")
# Hugging Face's names of the same, which models accept as well.
OTHER_INPUT_NAMES = {
    "attention_mask": "input_mask",
    "token_type_ids": "segment_ids",
}

ACTIVATIONS = ("relu", "relu6", "gelu", "gelu_erf", "tanh", "linear")
NORMALIZATION_TYPES = ("no_norm", "layer_norm")
ATTENTION_MASK_FORMS = ("additive", "multiply_add")
_LARGEST_FLOAT = 3.4028234e38
_MAX_UNNAMED = 100_000
TRIGRAM_ORDERS = ("next_current_previous", "previous_current_next")


def inputs_of(
    batch: Mapping[str, Any], further: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns a model's inputs without the labels that a batch holds besides.

    Args:
        batch: all of `INPUT_NAMES`, and anything else.
        further: other names to keep.
    """
    return {name: batch[name] for name in (*INPUT_NAMES, *further)}


@dataclasses.dataclass(frozen=True)
class MobileBertConfig:
    """Shape and arithmetic of an encoder, by default of the released student.

    Attributes:
        vocab_size: V, number of word pieces.
        embedding_size: E, width of the word embedding table.
        hidden_size: D, width of the feature maps between blocks (the paper's
            inter-block hidden size).
        intra_bottleneck_size: I, width inside a block.
        intermediate_size: M, inner width of one feed-forward network.
        num_hidden_layers: L, number of blocks.
        num_attention_heads: N; heads are I / N wide.
        num_feedforward_networks: feed-forward networks stacked in a block.
        hidden_act: `relu`, `relu6`, `gelu` (tanh approximation, what the
            release computes), `gelu_erf` (exact), `tanh` or `linear`.
        normalization_type: `no_norm` (an element-wise gamma * h + beta) or
            `layer_norm`.
        layer_norm_eps: epsilon of every layer norm, the MLM head's included.
        use_bottleneck: False gives plain BERT blocks, D wide throughout.
        key_query_shared_bottleneck: query and key read one bottleneck of
            their own; value reads the block input (released student).
        use_bottleneck_attention: query, key and value all read the input
            bottleneck (MobileBERT_TINY); wins over the flag above.
        trigram_input: concatenate each word embedding with its neighbours'.
        trigram_order: the order of that concatenation. The release has the
            next token first, and trained weights depend on it.
        zero_pad_embedding: read row 0 of the word table as zeros, as the
            Hugging Face hub weights do. The TF1 checkpoint does not.
        classifier_activation: True adds the tanh pooler; False makes
            `pooled_output` the raw [CLS] vector.
        attention_mask_form: `additive` adds (1 - mask) * value to the logits
            (the weights were trained so); `multiply_add` first multiplies the
            logits by the mask (the release since its quantisation change).
        attention_mask_value: the value, -10000 in the first release, -6 in
            its later form.
        hidden_dropout_prob, attention_probs_dropout_prob: dropout rates.
        classifier_dropout_prob: dropout before a task head.
        max_position_embeddings: longest sequence.
        type_vocab_size: number of segments.
        initializer_range: standard deviation of the truncated normal.
    """

    vocab_size: int = 30522
    embedding_size: int = 128
    hidden_size: int = 512
    intra_bottleneck_size: int = 128
    intermediate_size: int = 512
    num_hidden_layers: int = 24
    num_attention_heads: int = 4
    num_feedforward_networks: int = 4
    hidden_act: str = "relu"
    normalization_type: str = "no_norm"
    layer_norm_eps: float = 1e-12
    use_bottleneck: bool = True
    key_query_shared_bottleneck: bool = True
    use_bottleneck_attention: bool = False
    trigram_input: bool = True
    trigram_order: str = "next_current_previous"
    zero_pad_embedding: bool = False
    classifier_activation: bool = False
    attention_mask_form: str = "additive"
    attention_mask_value: float = -10000.0
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        _check_choices(self)
        _check_ranges(self)
        _require(
            self.intra_bottleneck_size % self.num_attention_heads == 0,
            "num_attention_heads must divide intra_bottleneck_size "
            f"{self.intra_bottleneck_size}",
            self.num_attention_heads,
        )
        _require(
            self.use_bottleneck
            or self.intra_bottleneck_size == self.hidden_size,
            "without use_bottleneck, intra_bottleneck_size must equal "
            f"hidden_size {self.hidden_size}",
            self.intra_bottleneck_size,
        )
        _require(
            self.embedding_size <= self.hidden_size,
            "embedding_size must not exceed hidden_size "
            f"{self.hidden_size}, whose MLM head shares the word table",
            self.embedding_size,
        )

    @property
    def attention_source(self) -> str:
        """What query and key read: `shared`, `bottleneck` or `input`."""
        if self.use_bottleneck and self.use_bottleneck_attention:
            return "bottleneck"
        if self.use_bottleneck and self.key_query_shared_bottleneck:
            return "shared"
        return "input"

    @classmethod
    def from_preset(cls, name: str, **changes) -> "MobileBertConfig":
        """Returns the preset `name` with `changes` applied.

        Raises:
            ValueError: there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(
                f"no preset of that name; there are {', '.join(PRESETS)}. "
                f"Received: {name}"
            )
        return cls(**{**PRESETS[name], **changes})

    @classmethod
    def from_json(cls, path: str | os.PathLike) -> "MobileBertConfig":
        """Reads a `config.json` of either dialect (see above).

        Raises:
            InputError: the file is missing or not a JSON object, has an
                unknown key, or describes an impossible architecture.
        """
        values = read_json_object(path)
        hugging_face = values.get("model_type") == "mobilebert" or (
            "model_type" not in values and _HUGGING_FACE_ONLY & values.keys()
        )
        read = _from_hugging_face if hugging_face else _from_google
        try:
            return cls(**read(values))
        except KeyError as error:
            known = sorted(field.name for field in dataclasses.fields(cls))
            raise InputError(
                path, f"keys among {', '.join(known)}", error.args[0]
            ) from error
        except (TypeError, ValueError) as error:
            raise InputError(path, "a possible architecture", error) from error

    def to_dict(self) -> dict:
        """Returns the fields as JSON has them."""
        return dataclasses.asdict(self)

    def to_json(self, path: str | os.PathLike, **extra) -> None:
        """Writes Hugging Face's dialect with `extra` keys, atomically."""
        values = to_hugging_face(self) | extra
        with atomic_file(path) as temporary:
            temporary.write_text(
                json.dumps(values, indent=2, sort_keys=True) + "\n"
            )


def label_names_of(config_file: str | os.PathLike, values: dict) -> list[str]:
    """Returns the class names in the values of a folder's `config.json`.

    Without names, Hugging Face numbers `num_labels` classes, by default two.

    Raises:
        InputError: they are not different texts numbered 0, 1, ...
    """
    names = values.get("id2label")
    if names is None:
        count = values.get("num_labels", 2)
        is_count = isinstance(count, int) and 1 <= count <= _MAX_UNNAMED
        if not is_count or isinstance(count, bool):
            raise InputError(
                config_file, "a number of classes", count, "num_labels"
            )
        return unnamed_labels(count)
    if not isinstance(names, dict) or not names:
        raise InputError(
            config_file,
            "the names of the classes",
            shortened(names),
            place="id2label",
        )
    wanted = [str(index) for index in range(len(names))]
    if sorted(names) != sorted(wanted):
        raise InputError(
            config_file, "keys 0, 1, ...", listed(names), place="id2label"
        )
    names = [names[index] for index in wanted]
    seen = set()
    for name in names:
        if not isinstance(name, str) or name in seen:
            raise InputError(
                config_file, "different texts", shortened(name), "id2label"
            )
        seen.add(name)
    return names


def unnamed_labels(number: int) -> list[str]:
    """Returns names for classes without names, as Hugging Face numbers them."""
    return [f"LABEL_{index}" for index in range(number)]


# Meaning of an absent key in google-research's dialect.
_GOOGLE_DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "type_vocab_size": 16,
    "trigram_input": False,
    "use_bottleneck": False,
    "key_query_shared_bottleneck": False,
    "num_feedforward_networks": 1,
    "normalization_type": "layer_norm",
    "classifier_activation": True,
}
# All keys of the dialect.
_GOOGLE_KEYS = {
    *_GOOGLE_DEFAULTS,
    "vocab_size",
    "embedding_size",
    "intra_bottleneck_size",
    "use_bottleneck_attention",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "initializer_range",
}
# In the configs of multilingual BERT, but never read by any code.
_GOOGLE_UNUSED = {
    "directionality",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
}

# Our field -> Hugging Face key, where they differ.
_HUGGING_FACE_KEYS = {"classifier_dropout_prob": "classifier_dropout"}
# Early configs on its hub have no model_type.
_HUGGING_FACE_ONLY = {"architectures", "pad_token_id", "true_hidden_size"}
_HUGGING_FACE_ACTIVATIONS = {"gelu": "gelu_pytorch_tanh", "gelu_erf": "gelu"}


def to_hugging_face(config: MobileBertConfig) -> dict:
    """Returns the Hugging Face `config.json` values of `config`."""
    values = {
        _HUGGING_FACE_KEYS.get(name, name): value
        for name, value in config.to_dict().items()
    }
    values["hidden_act"] = _HUGGING_FACE_ACTIVATIONS.get(
        config.hidden_act, config.hidden_act
    )
    return values | {"model_type": "mobilebert", "pad_token_id": 0}


def to_google(config: MobileBertConfig) -> dict:
    """Returns the google-research `bert_config.json` values of `config`.

    Fields unknown to the dialect are included unless they have their default;
    its own reader keeps such keys and ignores them.
    """
    defaults = {
        field.name: field.default for field in dataclasses.fields(config)
    }
    return {
        name: value
        for name, value in config.to_dict().items()
        if name in _GOOGLE_KEYS or value != defaults[name]
    }


def _from_hugging_face(values: dict) -> dict:
    """Returns the fields of `MobileBertConfig`.

    Keys that are not ours are ignored, since every release of transformers
    adds some, except for one that asks for another head.
    """
    # Untied weights would be read as if they were tied.
    tied = values.get("tie_word_embeddings")
    _require(tied in (None, True), "tie_word_embeddings must be true", tied)
    renamed = {key: name for name, key in _HUGGING_FACE_KEYS.items()}
    values = {renamed.get(key, key): value for key, value in values.items()}
    known = {field.name for field in dataclasses.fields(MobileBertConfig)}
    fields = {"classifier_activation": True} | {
        key: value
        for key, value in values.items()
        if key in known and value is not None
    }
    exact_or_tanh = {
        "gelu": "gelu_erf",
        "gelu_new": "gelu",
        "gelu_pytorch_tanh": "gelu",
    }
    activation = fields.get("hidden_act", "relu")
    fields["hidden_act"] = exact_or_tanh.get(activation, activation)
    return fields


def _from_google(values: dict) -> dict:
    known = {field.name for field in dataclasses.fields(MobileBertConfig)}
    values = {
        key: value for key, value in values.items() if key not in _GOOGLE_UNUSED
    }
    for key in values:
        if key not in known:
            raise KeyError(key)
    if "vocab_size" not in values:
        raise ValueError("vocab_size is required and absent")
    fields = _GOOGLE_DEFAULTS | {
        key: value for key, value in values.items() if value is not None
    }
    for width in ("embedding_size", "intra_bottleneck_size"):
        fields.setdefault(width, fields["hidden_size"])
    if fields["normalization_type"] == "manual_layer_norm":
        # The release's hand-written layer norm differs in its epsilon only.
        fields |= {"normalization_type": "layer_norm", "layer_norm_eps": 1e-6}
    return fields


def _require(condition: bool, constraint: str, received: object) -> None:
    if not condition:
        raise ValueError(f"{constraint}. Received: {received!r}")


def _check_type(field: dataclasses.Field, value: object) -> None:
    wanted = (int, float) if field.type is float else field.type
    # bool is an int to Python, but `hidden_size: true` is a mistake.
    is_flag = isinstance(value, bool)
    _require(
        isinstance(value, wanted) and (not is_flag or wanted is bool),
        f"{field.name} must be of type {field.type.__name__}",
        value,
    )


def _check_choices(config: MobileBertConfig) -> None:
    choices = {
        "hidden_act": ACTIVATIONS,
        "normalization_type": NORMALIZATION_TYPES,
        "attention_mask_form": ATTENTION_MASK_FORMS,
        "trigram_order": TRIGRAM_ORDERS,
    }
    for name, allowed in choices.items():
        value = getattr(config, name)
        constraint = f"{name} must be one of {', '.join(allowed)}"
        _require(value in allowed, constraint, value)


def _check_ranges(config: MobileBertConfig) -> None:
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(config, field.name)
        if field.type is int:
            constraint = f"{name} must be positive and below 2^31"
            _require(1 <= value < 2**31, constraint, value)
        if field.type is float:
            is_finite = abs(value) <= _LARGEST_FLOAT
            _require(is_finite, f"{name} must be finite in float32", value)
        if name.endswith("_prob"):
            _require(0 <= value < 1, f"{name} must be in [0, 1)", value)
    for name in ("layer_norm_eps", "initializer_range"):
        value = getattr(config, name)
        _require(value > 0, f"{name} must be positive", value)
    mask_value = config.attention_mask_value
    _require(
        mask_value < 0, "attention_mask_value must be negative", mask_value
    )
