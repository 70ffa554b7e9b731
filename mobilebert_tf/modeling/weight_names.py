"""The names of tensors in a model folder, as data.

`model.safetensors` carries Hugging Face's names and layouts, so that a model
folder opens in both projects. Each row: our variable's path behind its model,
the name in the file, and whether the matrix is transposed there. `{block}` and
`{ffn}` are slots. Hugging Face calls the *last* feed-forward network
`intermediate` / `output` and numbers only those before it.
"""

from collections.abc import Iterator

import keras

from mobilebert_tf.config import MobileBertConfig

EMBEDDINGS = (
    ("word_embeddings", "word_embeddings.weight", False),
    ("segment_embeddings", "token_type_embeddings.weight", False),
    ("position_embeddings", "position_embeddings.weight", False),
    ("projection/kernel", "embedding_transformation.weight", True),
    ("projection/bias", "embedding_transformation.bias", False),
    ("norm/gamma", "LayerNorm.weight", False),
    ("norm/beta", "LayerNorm.bias", False),
)

# Dense layers (kernel and bias) of a block, then its norms (gamma and beta).
BLOCK_DENSE = (
    ("input_bottleneck/dense", "bottleneck.input.dense"),
    ("shared_qk_bottleneck/dense", "bottleneck.attention.dense"),
    ("attention/query", "attention.self.query"),
    ("attention/key", "attention.self.key"),
    ("attention/value", "attention.self.value"),
    ("attention/output_dense", "attention.output.dense"),
    ("output_bottleneck/dense", "output.bottleneck.dense"),
)
BLOCK_NORM = (
    ("input_bottleneck/norm", "bottleneck.input.LayerNorm"),
    ("shared_qk_bottleneck/norm", "bottleneck.attention.LayerNorm"),
    ("attention_norm", "attention.output.LayerNorm"),
    ("output_bottleneck/norm", "output.bottleneck.LayerNorm"),
)
FEED_FORWARD = (
    ("intermediate_dense", "intermediate.dense"),
    ("output_dense", "output.dense"),
    ("norm", "output.LayerNorm"),
)

MASKED_LM = (
    ("masked_lm/transform/kernel", "transform.dense.weight", True),
    ("masked_lm/transform/bias", "transform.dense.bias", False),
    ("masked_lm/norm/gamma", "transform.LayerNorm.weight", False),
    ("masked_lm/norm/beta", "transform.LayerNorm.bias", False),
    ("masked_lm/extra_output_weights", "dense.weight", True),
    ("masked_lm/bias", "bias", False),
)

# What Hugging Face's files may hold beyond our variables, and why it is left.
REDUNDANT = {
    "cls.predictions.decoder.weight": "tied to a tensor of another name",
    "cls.predictions.decoder.bias": "tied to a tensor of another name",
    "mobilebert.embeddings.position_ids": "the numbers 0, 1, 2, ...",
}

# Dense layers outside the encoder, by Hugging Face architecture: our path, and
# the name in the file.
HEADS = {
    "MobileBertModel": None,
    "MobileBertForPreTraining": ("next_sentence/dense", "cls.seq_relationship"),
    "MobileBertForMaskedLM": None,
    "MobileBertForNextSentencePrediction": (
        "next_sentence/dense",
        "cls.seq_relationship",
    ),
    "MobileBertForSequenceClassification": ("head/dense", "classifier"),
    "MobileBertForTokenClassification": ("head/dense", "classifier"),
    "MobileBertForMultipleChoice": ("head/dense", "classifier"),
    "MobileBertForQuestionAnswering": ("head/dense", "qa_outputs"),
}
WITH_MASKED_LM = ("MobileBertForPreTraining", "MobileBertForMaskedLM")


def weight_names(
    config: MobileBertConfig, architecture: str
) -> Iterator[tuple[str, str, bool]]:
    """Yields (our path, name in the file, transposed) for a whole model.

    Rows of parts that the config does not have (a shared bottleneck, a pooler)
    are yielded too; `match_weights` drops those without a variable.
    """
    for ours, theirs, transposed in EMBEDDINGS:
        yield (
            f"encoder/embeddings/{ours}",
            f"mobilebert.embeddings.{theirs}",
            transposed,
        )
    for block in range(config.num_hidden_layers):
        yield from _block_names(block, config.num_feedforward_networks)
    yield from _layer("encoder/pooler", "mobilebert.pooler.dense")
    if architecture in WITH_MASKED_LM:
        for ours, theirs, transposed in MASKED_LM:
            yield ours, f"cls.predictions.{theirs}", transposed
    if HEADS[architecture] is not None:
        yield from _layer(*HEADS[architecture])


def match_weights(
    model: keras.Model, config: MobileBertConfig, architecture: str
) -> list[tuple[keras.Variable, str, bool]]:
    """Pairs every variable of `model` with its name in the file.

    Returns:
        (variable, name in the file, transposed), one for each variable.

    Raises:
        ValueError: if a variable has no name; that is a defect of the tables.
    """
    by_path = variables_by_path(model)
    pairs = [
        (by_path.pop(ours), theirs, transposed)
        for ours, theirs, transposed in weight_names(config, architecture)
        if ours in by_path
    ]
    if by_path:
        raise ValueError(f"variables without a name: {sorted(by_path)}")
    return pairs


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables by their path without the names users choose."""
    encoder = getattr(model, "encoder", model)
    inside = {id(variable) for variable in encoder.weights}
    by_path = {}
    for variable in model.weights:
        owner, prefix = (
            (encoder, "encoder/") if id(variable) in inside else (model, "")
        )
        # A model may have been built inside other name scopes.
        behind = f"/{variable.path}".split(f"/{owner.name}/", 1)[1]
        by_path[prefix + behind] = variable
    return by_path


def _block_names(block: int, num_feedforward_networks: int):
    ours = f"encoder/block_{block:02d}"
    theirs = f"mobilebert.encoder.layer.{block}"
    for part, name in BLOCK_DENSE:
        yield from _layer(f"{ours}/{part}", f"{theirs}.{name}")
    for part, name in BLOCK_NORM:
        yield from _norm(f"{ours}/{part}", f"{theirs}.{name}")
    last = num_feedforward_networks - 1
    for ffn in range(num_feedforward_networks):
        prefix = theirs if ffn == last else f"{theirs}.ffn.{ffn}"
        for part, name in FEED_FORWARD:
            rows = _norm if part == "norm" else _layer
            yield from rows(
                f"{ours}/feed_forward_{ffn}/{part}", f"{prefix}.{name}"
            )


def _layer(ours: str, theirs: str):
    yield f"{ours}/kernel", f"{theirs}.weight", True
    yield f"{ours}/bias", f"{theirs}.bias", False


def _norm(ours: str, theirs: str):
    yield f"{ours}/gamma", f"{theirs}.weight", False
    yield f"{ours}/beta", f"{theirs}.bias", False
