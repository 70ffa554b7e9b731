"""Embeddings, a block and the masked LM head in NumPy, from the paper.

The second author of the arithmetic: its arithmetic is NumPy's alone, in
float64; it follows the paper's figure 1 and sections 3.1 to 3.4, and where they
are silent the published checkpoint, whose variable names it uses.

`settings` is a dict of the published configs' keys, all present, plus
`trigram_order`, `attention_mask_form`, `attention_mask_value`,
`zero_pad_embedding` and `layer_norm_eps`.
"""

import math

import numpy as np

from tests import tiny

_erf = np.vectorize(math.erf, otypes=[float])

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0.0),
    "relu6": lambda x: np.clip(x, 0.0, 6.0),
    # The published cubic: 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))).
    "gelu": lambda x: (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "gelu_erf": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2.0))),
    "tanh": np.tanh,
    "linear": lambda x: x,
}


def draw_weights(settings, num_blocks, rng) -> dict[str, np.ndarray]:
    """Returns random weights under the checkpoint's names, float32.

    Kernels [in, out] keep activations near one, so that attention does not
    saturate; no gamma, beta or bias is
    left at its neutral value, so that each of them counts.
    """
    weights = {}
    for name, shape in shapes(settings, num_blocks).items():
        drawn = rng.standard_normal(shape)
        leaf = name.split("/")[-1]
        if leaf == "gamma":
            drawn = 1.0 + 0.2 * drawn
        elif len(shape) == 1:
            drawn = 0.3 * drawn
        elif leaf == "kernel":
            # Wide enough before the activation for relu6 to cut something.
            gain = 3.0 if "intermediate" in name else 0.6
            drawn = gain * drawn / math.sqrt(shape[0])
        weights[name] = drawn.astype("float32")
    return weights


def shapes(settings, num_blocks) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every variable by its checkpoint name."""
    wide, narrow = settings["hidden_size"], settings["intra_bottleneck_size"]
    vocab, embedding = settings["vocab_size"], settings["embedding_size"]
    inner = settings["intermediate_size"]
    found = {
        "bert/embeddings/word_embeddings": (vocab, embedding),
        "bert/embeddings/token_type_embeddings": (
            settings["type_vocab_size"],
            wide,
        ),
        "bert/embeddings/position_embeddings": (
            settings["max_position_embeddings"],
            wide,
        ),
        "cls/predictions/output_bias": (vocab,),
    }

    def dense(name, inputs, outputs):
        found[f"{name}/kernel"] = (inputs, outputs)
        found[f"{name}/bias"] = (outputs,)

    def norm(name, width, kind=None):
        kind = kind or _norm_scope(settings)
        found[f"{name}/{kind}/gamma"] = found[f"{name}/{kind}/beta"] = (width,)

    trigram = settings["trigram_input"]
    if trigram or embedding != wide:
        inputs = embedding * (3 if trigram else 1)
        dense("bert/embeddings/embedding_transformation", inputs, wide)
    norm("bert/embeddings", wide)
    if embedding != wide:
        found["cls/predictions/extra_output_weights"] = (
            vocab,
            wide - embedding,
        )
    dense("cls/predictions/transform/dense", wide, wide)
    norm("cls/predictions/transform", wide, "LayerNorm")
    for layer in range(num_blocks):
        prefix = f"bert/encoder/layer_{layer}"
        query_key = value = wide
        if settings["use_bottleneck"]:
            dense(f"{prefix}/bottleneck/input/dense", wide, narrow)
            norm(f"{prefix}/bottleneck/input", narrow)
            dense(f"{prefix}/output/bottleneck/dense", narrow, wide)
            norm(f"{prefix}/output/bottleneck", wide)
            if settings["use_bottleneck_attention"]:
                query_key = value = narrow
            elif settings["key_query_shared_bottleneck"]:
                dense(f"{prefix}/bottleneck/attention/dense", wide, narrow)
                norm(f"{prefix}/bottleneck/attention", narrow)
                query_key = narrow
        dense(f"{prefix}/attention/self/query", query_key, narrow)
        dense(f"{prefix}/attention/self/key", query_key, narrow)
        dense(f"{prefix}/attention/self/value", value, narrow)
        dense(f"{prefix}/attention/output/dense", narrow, narrow)
        norm(f"{prefix}/attention/output", narrow)
        for ffn in _feed_forward_scopes(settings):
            dense(f"{prefix}/{ffn}intermediate/dense", narrow, inner)
            dense(f"{prefix}/{ffn}output/dense", inner, narrow)
            norm(f"{prefix}/{ffn}output", narrow)
    return found


def embeddings(settings, weights, input_ids, segment_ids) -> np.ndarray:
    """Returns the embedding output, [B, S, D]."""
    prefix = "bert/embeddings"
    table = weights[f"{prefix}/word_embeddings"].astype(float)
    if settings["zero_pad_embedding"]:
        table = np.vstack([np.zeros_like(table[:1]), table[1:]])
    words = table[input_ids]
    if settings["trigram_input"]:
        previous, following = np.zeros_like(words), np.zeros_like(words)
        previous[:, 1:] = words[:, :-1]
        following[:, :-1] = words[:, 1:]
        views = [following, words, previous]
        if settings["trigram_order"] == "previous_current_next":
            views.reverse()
        words = np.concatenate(views, axis=-1)
    if f"{prefix}/embedding_transformation/kernel" in weights:
        words = _dense(weights, f"{prefix}/embedding_transformation", words)
    total = words + weights[f"{prefix}/token_type_embeddings"][segment_ids]
    positions = weights[f"{prefix}/position_embeddings"]
    total = total + positions[: input_ids.shape[1]]
    return _norm(settings, weights, prefix, total)


def block(settings, weights, layer, x, input_mask):
    """Returns the feature map [B, S, D], and logits and probs [B, N, S, S]."""
    prefix = f"bert/encoder/layer_{layer}"

    def bottleneck(name):
        outputs = _dense(weights, f"{prefix}/bottleneck/{name}/dense", x)
        return _norm(settings, weights, f"{prefix}/bottleneck/{name}", outputs)

    query_key = value = residual = x
    if settings["use_bottleneck"]:
        residual = bottleneck("input")
        if settings["use_bottleneck_attention"]:
            query_key = value = residual
        elif settings["key_query_shared_bottleneck"]:
            query_key = bottleneck("attention")
    attended, logits, probs = _attention(
        settings, weights, f"{prefix}/attention", query_key, value, input_mask
    )
    y = _norm(
        settings, weights, f"{prefix}/attention/output", attended + residual
    )
    activation = ACTIVATIONS[settings["hidden_act"]]
    for ffn in _feed_forward_scopes(settings):
        inner = _dense(weights, f"{prefix}/{ffn}intermediate/dense", y)
        outputs = _dense(
            weights, f"{prefix}/{ffn}output/dense", activation(inner)
        )
        y = _norm(settings, weights, f"{prefix}/{ffn}output", outputs + y)
    if settings["use_bottleneck"]:
        outputs = _dense(weights, f"{prefix}/output/bottleneck/dense", y)
        y = _norm(settings, weights, f"{prefix}/output/bottleneck", outputs + x)
    return y, logits, probs


def masked_lm_logits(settings, weights, features) -> np.ndarray:
    """Returns the masked LM logits of [..., D] features, [..., V]."""
    prefix = "cls/predictions"
    hidden = _dense(weights, f"{prefix}/transform/dense", features)
    hidden = ACTIVATIONS[settings["hidden_act"]](hidden)
    # A true layer norm, whatever the blocks have.
    hidden = _layer_norm(
        settings, weights, f"{prefix}/transform/LayerNorm", hidden
    )
    table = weights["bert/embeddings/word_embeddings"]
    if f"{prefix}/extra_output_weights" in weights:
        extra = weights[f"{prefix}/extra_output_weights"]
        table = np.concatenate([table, extra], axis=1)
    return hidden @ table.T.astype(float) + weights[f"{prefix}/output_bias"]


def assert_computes(model, weights, rng) -> None:
    """Compares a model with a masked LM head with these weights in NumPy."""
    settings = model.config.to_dict()
    inputs = tiny.batch(rng, vocab_size=settings["vocab_size"])
    inputs = {name: array[:, :7] for name, array in inputs.items()}
    features = embeddings(
        settings, weights, inputs["input_ids"], inputs["segment_ids"]
    )
    for layer in range(settings["num_hidden_layers"]):
        features, _, _ = block(
            settings, weights, layer, features, inputs["input_mask"]
        )
    expected = masked_lm_logits(settings, weights, features)
    assert tiny.relative_error(model(inputs), expected) < 1e-5


def _attention(settings, weights, prefix, query_key, value, input_mask):
    heads = settings["num_attention_heads"]

    def project(name, inputs):  # [B, N, S, H]
        outputs = _dense(weights, f"{prefix}/self/{name}", inputs)
        return np.stack(np.split(outputs, heads, axis=-1), axis=1)

    query = project("query", query_key)
    key = project("key", query_key)
    value = project("value", value)
    logits = np.einsum("bnfh,bnth->bnft", query, key)
    logits = logits / math.sqrt(query.shape[-1])
    keep = input_mask[:, None, None, :].astype(float)
    if settings["attention_mask_form"] == "multiply_add":
        logits = logits * keep
    logits = logits + (1.0 - keep) * settings["attention_mask_value"]
    odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probs = odds / odds.sum(axis=-1, keepdims=True)
    context = np.einsum("bnft,bnth->bnfh", probs, value)
    context = np.concatenate(list(np.moveaxis(context, 1, 0)), axis=-1)
    return _dense(weights, f"{prefix}/output/dense", context), logits, probs


def _feed_forward_scopes(settings) -> list[str]:
    """The last network of a block has the names that BERT's only one has."""
    earlier = range(settings["num_feedforward_networks"] - 1)
    return [f"ffn_layer_{index}/" for index in earlier] + [""]


def _dense(weights, name, inputs):
    kernel = weights[f"{name}/kernel"].astype(float)
    return inputs @ kernel + weights[f"{name}/bias"]


def _norm_scope(settings) -> str:
    no_norm = settings["normalization_type"] == "no_norm"
    return "FakeLayerNorm" if no_norm else "LayerNorm"


def _norm(settings, weights, name, inputs):
    name = f"{name}/{_norm_scope(settings)}"
    if settings["normalization_type"] == "no_norm":
        return weights[f"{name}/gamma"] * inputs + weights[f"{name}/beta"]
    return _layer_norm(settings, weights, name, inputs)


def _layer_norm(settings, weights, name, inputs):
    centred = inputs - inputs.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(variance + settings["layer_norm_eps"])
    return weights[f"{name}/gamma"] * normal + weights[f"{name}/beta"]
