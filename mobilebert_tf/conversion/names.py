"""Variable names of TensorFlow 1's and Model Garden's checkpoints, as data.

TensorFlow 1's are those of the original code, confirmed on a published model
(1,114 names and shapes). Model Garden's are the names that its variables carry,
which an object checkpoint stores beside the paths of its objects. Hugging
Face's stand in `modeling/weight_names`.
"""

from collections.abc import Iterator

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.conversion.tensors import (
    HEADS_IN,
    HEADS_OUT,
    SAME,
    SLOTS,
    TRANSPOSED,
    Row,
)

# Rows: our table, dense layer or norm; TensorFlow 1's name; Model Garden's.
# {norm} is FakeLayerNorm where the norm is a NoNorm.
EMBEDDINGS = (
    ("word_embeddings", "word_embeddings", "word_embedding/embeddings"),
    (
        "segment_embeddings",
        "token_type_embeddings",
        "type_embedding/embeddings",
    ),
    (
        "position_embeddings",
        "position_embeddings",
        "position_embedding/embeddings",
    ),
    ("projection", "embedding_transformation", "embedding_projection"),
    ("norm", "{norm}", "embedding_norm"),
)
BLOCK = (
    (
        "input_bottleneck/dense",
        "bottleneck/input/dense",
        "bottleneck_input/dense",
    ),
    (
        "input_bottleneck/norm",
        "bottleneck/input/{norm}",
        "bottleneck_input/norm",
    ),
    (
        "shared_qk_bottleneck/dense",
        "bottleneck/attention/dense",
        "kq_shared_bottleneck/dense",
    ),
    (
        "shared_qk_bottleneck/norm",
        "bottleneck/attention/{norm}",
        "kq_shared_bottleneck/norm",
    ),
    ("attention/query", "attention/self/query", "attention/query"),
    ("attention/key", "attention/self/key", "attention/key"),
    ("attention/value", "attention/self/value", "attention/value"),
    (
        "attention/output_dense",
        "attention/output/dense",
        "attention/attention_output",
    ),
    ("attention_norm", "attention/output/{norm}", "attention/norm"),
    (
        "output_bottleneck/dense",
        "output/bottleneck/dense",
        "bottleneck_output/dense",
    ),
    (
        "output_bottleneck/norm",
        "output/bottleneck/{norm}",
        "bottleneck_output/norm",
    ),
)
FEED_FORWARD = (
    ("intermediate_dense", "intermediate/dense", "intermediate_dense"),
    ("output_dense", "output/dense", "output_dense"),
    ("norm", "output/{norm}", "norm"),
)

# Model Garden's attention keeps the heads on an axis of their own.
MODEL_GARDEN_RULES = {
    "attention/query/kernel": HEADS_OUT,
    "attention/query/bias": HEADS_OUT,
    "attention/key/kernel": HEADS_OUT,
    "attention/key/bias": HEADS_OUT,
    "attention/value/kernel": HEADS_OUT,
    "attention/value/bias": HEADS_OUT,
    "attention/output_dense/kernel": HEADS_IN,
}

# Outside the encoder, rows are (their name, our path, how they store it). The
# norm of this head is a layer norm in every model.
_CLS = "cls/predictions"
_MASKED_LM = (
    (f"{_CLS}/transform/dense/kernel", "masked_lm/transform/kernel", SAME),
    (f"{_CLS}/transform/dense/bias", "masked_lm/transform/bias", SAME),
    (f"{_CLS}/transform/LayerNorm/gamma", "masked_lm/norm/gamma", SAME),
    (f"{_CLS}/transform/LayerNorm/beta", "masked_lm/norm/beta", SAME),
    (f"{_CLS}/extra_output_weights", "masked_lm/extra_output_weights", SAME),
)
TF1_MASKED_LM = (*_MASKED_LM, (f"{_CLS}/output_bias", "masked_lm/bias", SAME))
NEXT_SENTENCE = (
    (
        "cls/seq_relationship/output_weights",
        "next_sentence/dense/kernel",
        TRANSPOSED,
    ),
    ("cls/seq_relationship/output_bias", "next_sentence/dense/bias", SAME),
)


def _tf1_head(scope: str) -> tuple[Row, ...]:
    return (
        (f"{scope}output_weights", "head/dense/kernel", TRANSPOSED),
        (f"{scope}output_bias", "head/dense/bias", SAME),
    )


def _model_garden_head(scope: str) -> tuple[Row, ...]:
    return (
        (f"{scope}/logits/kernel", "head/dense/kernel", SAME),
        (f"{scope}/logits/bias", "head/dense/bias", SAME),
    )


# By Hugging Face's name of the class. BERT's scripts for classes, of sequences
# or of tokens, use no scope.
TF1_HEADS: dict[str, tuple[Row, ...]] = {
    "MobileBertModel": (),
    "MobileBertForPreTraining": TF1_MASKED_LM + NEXT_SENTENCE,
    "MobileBertForMaskedLM": TF1_MASKED_LM,
    "MobileBertForNextSentencePrediction": NEXT_SENTENCE,
    "MobileBertForSequenceClassification": _tf1_head(""),
    "MobileBertForTokenClassification": _tf1_head(""),
    "MobileBertForQuestionAnswering": _tf1_head("cls/squad/"),
}
MODEL_GARDEN_HEADS: dict[str, tuple[Row, ...]] = {
    "MobileBertModel": (),
    "MobileBertForMaskedLM": (
        *_MASKED_LM,
        (f"{_CLS}/output_bias/bias", "masked_lm/bias", SAME),
    ),
    "MobileBertForSequenceClassification": _model_garden_head(
        "sentence_prediction"
    ),
    "MobileBertForTokenClassification": _model_garden_head(
        "predictions/transform"
    ),
    "MobileBertForQuestionAnswering": _model_garden_head(
        "span_labeling/predictions/transform"
    ),
}

# Patterns of what a checkpoint may hold beyond a model, and why it is dropped.
# Slots and averages of variables are recognised in `tensors`.
TF1_DROPPED = (
    (
        r"(.*/)?(global_step|iter(ations)?|learning_rate|lr|decay|momentum|rho"
        r"|beta_?[12](_power)?(_\d+)?|\w*loss_scale\w*|num_\w*steps"
        r"|\w*(good|bad|local)_steps?|is_accumulation_step)",
        SLOTS,
    ),
    # The release's distillation holds student and teacher in one checkpoint.
    (r"teacher/.*", "the teacher"),
    (r"hidden_distill_\d+/.*", "norms of the transfer loss, not trained"),
    (
        r".*MobileBert(Act|Weight)FakeQuantWithMinMaxVars(_\d+)?/.*",
        "ranges of quantisers",
    ),
)
# Paths of objects: the names of these variables are those of what an optimizer
# updates.
MODEL_GARDEN_BOOKKEEPING = (
    (r"save_counter", SLOTS),
    (r"global_step|stage_id|volatiles/.*", SLOTS),
    # Moments and averages: of Keras's older optimizers, then of its newer ones.
    (r".*/\.OPTIMIZER_SLOT/.*", SLOTS),
    (r"(.*/)?_variables/\d+", SLOTS),
    (r"(.*/)?opt(imizer)?/.*", SLOTS),
    (r"(.*/)?keras_api/metrics/.*", "running metrics"),
)
MODEL_GARDEN_DROPPED = (
    *MODEL_GARDEN_BOOKKEEPING,
    (
        r"next_sentence/(pooler_dense|logits)/(kernel|bias)",
        "next sentence head with a hidden layer of its own",
    ),
    (
        r"unread_pooler/(kernel|bias)",
        "the encoder's pooler, which the classifier passes over",
    ),
)

# Model Garden's layers, wherever they are nested and however Keras numbered
# them in its process, and their names in these tables.
MODEL_GARDEN_LAYERS = (
    (r"mobile_bert_embedding(?:_\d+)?", "mobile_bert_embedding"),
    (r"transformer_layer_(\d+)(?:_\d+)?", r"transformer_layer_\1"),
    (r"pooler(?:_\d+)?", "pooler"),
    (r"(?:cls/predictions|mobile_bert_masked_lm)(?:_\d+)?", "cls/predictions"),
    (r"sentence_prediction(?:_\d+)?", "sentence_prediction"),
    (r"next_sentence(?:_\d+)?", "next_sentence"),
    (r"predictions/transform/logits(?:_\d+)?", "predictions/transform/logits"),
)


def tf1_names(config: MobileBertConfig, architecture: str) -> Iterator[Row]:
    """Yields (their name, our path, rule) for a whole model.

    Rows of parts that the config does not have are yielded too.
    """
    no_norm = config.normalization_type == "no_norm"
    norm = "FakeLayerNorm" if no_norm else "LayerNorm"
    last = config.num_feedforward_networks - 1
    for path, (name, _) in _layers(config):
        # The last network of a block has the names of plain BERT's only one.
        name = name.replace(f"/ffn_layer_{last}/", "/").format(norm=norm)
        for theirs, ours in _variables(name, path):
            yield theirs, ours, SAME
    for theirs, ours in _variables("bert/pooler/dense", "encoder/pooler"):
        yield theirs, ours, SAME
    yield from TF1_HEADS[architecture]


def model_garden_names(
    config: MobileBertConfig, architecture: str
) -> Iterator[Row]:
    """Yields (their name, our path, rule) for a whole model.

    Rows of parts that the config does not have are yielded too.
    """
    for path, (_, name) in _layers(config):
        for theirs, ours in _variables(name, path):
            in_block = ours.split("/", 2)[-1]
            yield theirs, ours, MODEL_GARDEN_RULES.get(in_block, SAME)
    for theirs, ours in _variables("pooler", "encoder/pooler"):
        yield theirs, ours, SAME
    yield from MODEL_GARDEN_HEADS[architecture]


def _layers(config: MobileBertConfig):
    """Yields (our path, (TensorFlow 1's name, Model Garden's)) by layer."""
    ours = "encoder/embeddings"
    theirs = "bert/embeddings", "mobile_bert_embedding"
    yield from _below(ours, theirs, EMBEDDINGS)
    for block in range(config.num_hidden_layers):
        ours = f"encoder/block_{block:02d}"
        theirs = f"bert/encoder/layer_{block}", f"transformer_layer_{block}"
        yield from _below(ours, theirs, BLOCK)
        for ffn in range(config.num_feedforward_networks):
            scopes = [f"{scope}/ffn_layer_{ffn}" for scope in theirs]
            path = f"{ours}/feed_forward_{ffn}"
            yield from _below(path, scopes, FEED_FORWARD)


def _below(path: str, scopes, rows):
    for ours, *theirs in rows:
        names = (f"{a}/{b}" for a, b in zip(scopes, theirs, strict=True))
        yield f"{path}/{ours}", tuple(names)


def _variables(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    """Yields (their name, our path) of the variables of a layer."""
    if ours.endswith("_embeddings"):
        yield theirs, ours
        return
    leaves = ("gamma", "beta") if ours.endswith("norm") else ("kernel", "bias")
    for leaf in leaves:
        yield f"{theirs}/{leaf}", f"{ours}/{leaf}"
