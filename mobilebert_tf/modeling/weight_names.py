"""Names of tensors in a model folder, as data.

`model.safetensors` has Hugging Face's names and layouts, so that a model
folder opens in both projects. Hugging Face calls the *last* feed-forward
network of a block `intermediate` and `output`, and numbers only those before.
"""

from collections.abc import Iterator

import keras

from mobilebert_tf.config import MobileBertConfig

# Rows: path of our variable, name in the file, whether it is transposed there.
EMBEDDINGS = (
    ("word_embeddings", "word_embeddings.weight", False),
    ("segment_embeddings", "token_type_embeddings.weight", False),
    ("position_embeddings", "position_embeddings.weight", False),
    ("projection/kernel", "embedding_transformation.weight", True),
    ("projection/bias", "embedding_transformation.bias", False),
    ("norm/gamma", "LayerNorm.weight", False),
    ("norm/beta", "LayerNorm.bias", False),
)
MASKED_LM = (
    ("masked_lm/transform/kernel", "transform.dense.weight", True),
    ("masked_lm/transform/bias", "transform.dense.bias", False),
    ("masked_lm/norm/gamma", "transform.LayerNorm.weight", False),
    ("masked_lm/norm/beta", "transform.LayerNorm.bias", False),
    ("masked_lm/extra_output_weights", "dense.weight", True),
    ("masked_lm/bias", "bias", False),
)

# Rows: path of our dense layer or norm, its name in the file.
BLOCK = (
    ("input_bottleneck/dense", "bottleneck.input.dense"),
    ("shared_qk_bottleneck/dense", "bottleneck.attention.dense"),
    ("attention/query", "attention.self.query"),
    ("attention/key", "attention.self.key"),
    ("attention/value", "attention.self.value"),
    ("attention/output_dense", "attention.output.dense"),
    ("output_bottleneck/dense", "output.bottleneck.dense"),
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
_NEXT_SENTENCE = ("next_sentence/dense", "cls.seq_relationship")
_CLASSES = ("head/dense", "classifier")
# The dense layer outside the encoder, by Hugging Face's name of the class.
HEADS = {
    "MobileBertModel": None,
    "MobileBertForPreTraining": _NEXT_SENTENCE,
    "MobileBertForMaskedLM": None,
    "MobileBertForNextSentencePrediction": _NEXT_SENTENCE,
    "MobileBertForSequenceClassification": _CLASSES,
    "MobileBertForTokenClassification": _CLASSES,
    "MobileBertForMultipleChoice": _CLASSES,
    "MobileBertForQuestionAnswering": ("head/dense", "qa_outputs"),
}
WITH_MASKED_LM = ("MobileBertForPreTraining", "MobileBertForMaskedLM")

# Copies in Hugging Face's files, and the tensors that they are tied to.
TIED = {
    "cls.predictions.decoder.weight": (
        "mobilebert.embeddings.word_embeddings.weight"
    ),
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
# Tensors in Hugging Face's files that none of our variables needs.
REDUNDANT = (*TIED, "mobilebert.embeddings.position_ids")


def weight_names(
    config: MobileBertConfig, architecture: str
) -> Iterator[tuple[str, str, bool]]:
    """Yields (our path, name in the file, transposed) for a whole model.

    Rows of parts that the config does not have (a shared bottleneck, a pooler)
    are yielded too; `match_weights` drops those without a variable.
    """
    for ours, theirs, transposed in EMBEDDINGS:
        ours = f"encoder/embeddings/{ours}"
        yield ours, f"mobilebert.embeddings.{theirs}", transposed
    for block in range(config.num_hidden_layers):
        ours = f"encoder/block_{block:02d}"
        theirs = f"mobilebert.encoder.layer.{block}"
        for part, name in BLOCK:
            yield from _layer(f"{ours}/{part}", f"{theirs}.{name}")
        last = config.num_feedforward_networks - 1
        for ffn in range(config.num_feedforward_networks):
            scope = theirs if ffn == last else f"{theirs}.ffn.{ffn}"
            for part, name in FEED_FORWARD:
                path = f"{ours}/feed_forward_{ffn}/{part}"
                yield from _layer(path, f"{scope}.{name}")
    yield from _layer("encoder/pooler", "mobilebert.pooler.dense")
    if architecture in WITH_MASKED_LM:
        for ours, theirs, transposed in MASKED_LM:
            yield ours, f"cls.predictions.{theirs}", transposed
    if HEADS[architecture] is not None:
        yield from _layer(*HEADS[architecture])


def match_weights(model) -> list[tuple[keras.Variable, str, bool]]:
    """Returns (variable, name in the file, transposed) for every variable.

    Args:
        model: a `PretrainedModel`.

    Raises:
        ValueError: a variable has no name, which is a defect of the tables.
    """
    by_path = variables_by_path(model)
    rows = weight_names(model.config, model.architecture)
    pairs = [
        (by_path.pop(ours), theirs, transposed)
        for ours, theirs, transposed in rows
        if ours in by_path
    ]
    if by_path:
        raise ValueError(f"variables without a name: {sorted(by_path)}")
    return pairs


def variables_by_path(model: keras.Model) -> dict[str, keras.Variable]:
    """Returns the variables by path, without the names that users choose."""
    encoder = getattr(model, "encoder", model)
    in_encoder = {id(variable) for variable in encoder.weights}
    by_path = {}
    for variable in model.weights:
        owner, prefix = model, ""
        if id(variable) in in_encoder:
            owner, prefix = encoder, "encoder/"
        # A model may have been built inside other name scopes.
        path = f"/{variable.path}".split(f"/{owner.name}/", 1)[1]
        by_path[prefix + path] = variable
    return by_path


def _layer(ours: str, theirs: str) -> Iterator[tuple[str, str, bool]]:
    """Rows of a norm or a dense layer."""
    if theirs.endswith("LayerNorm"):
        yield f"{ours}/gamma", f"{theirs}.weight", False
        yield f"{ours}/beta", f"{theirs}.bias", False
    else:
        yield f"{ours}/kernel", f"{theirs}.weight", True
        yield f"{ours}/bias", f"{theirs}.bias", False
