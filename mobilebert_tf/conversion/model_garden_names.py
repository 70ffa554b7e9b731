"""Model Garden's variable names, as data.

The names that its variables carry, which an object checkpoint stores beside the
paths of its objects. Rows: their name, our variable's path, and how they store
it: their attention keeps the heads on an axis of their own. Rows of a block
stand below BLOCK_SCOPE, those of a feed-forward network below
FEED_FORWARD_SCOPE too.
"""

from collections.abc import Iterator

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.conversion.tensors import HEADS_IN, HEADS_OUT, SAME, Row

EMBEDDINGS_SCOPE = ("mobile_bert_embedding", "encoder/embeddings")
EMBEDDINGS = (
    ("word_embedding/embeddings", "word_embeddings", SAME),
    ("type_embedding/embeddings", "segment_embeddings", SAME),
    ("position_embedding/embeddings", "position_embeddings", SAME),
    ("embedding_projection/kernel", "projection/kernel", SAME),
    ("embedding_projection/bias", "projection/bias", SAME),
    ("embedding_norm/gamma", "norm/gamma", SAME),
    ("embedding_norm/beta", "norm/beta", SAME),
)
BLOCK_SCOPE = ("transformer_layer_{block}", "encoder/block_{block:02d}")
BLOCK = (
    ("bottleneck_input/dense/kernel", "input_bottleneck/dense/kernel", SAME),
    ("bottleneck_input/dense/bias", "input_bottleneck/dense/bias", SAME),
    ("bottleneck_input/norm/gamma", "input_bottleneck/norm/gamma", SAME),
    ("bottleneck_input/norm/beta", "input_bottleneck/norm/beta", SAME),
    (
        "kq_shared_bottleneck/dense/kernel",
        "shared_qk_bottleneck/dense/kernel",
        SAME,
    ),
    (
        "kq_shared_bottleneck/dense/bias",
        "shared_qk_bottleneck/dense/bias",
        SAME,
    ),
    (
        "kq_shared_bottleneck/norm/gamma",
        "shared_qk_bottleneck/norm/gamma",
        SAME,
    ),
    ("kq_shared_bottleneck/norm/beta", "shared_qk_bottleneck/norm/beta", SAME),
    ("attention/query/kernel", "attention/query/kernel", HEADS_OUT),
    ("attention/query/bias", "attention/query/bias", HEADS_OUT),
    ("attention/key/kernel", "attention/key/kernel", HEADS_OUT),
    ("attention/key/bias", "attention/key/bias", HEADS_OUT),
    ("attention/value/kernel", "attention/value/kernel", HEADS_OUT),
    ("attention/value/bias", "attention/value/bias", HEADS_OUT),
    (
        "attention/attention_output/kernel",
        "attention/output_dense/kernel",
        HEADS_IN,
    ),
    ("attention/attention_output/bias", "attention/output_dense/bias", SAME),
    ("attention/norm/gamma", "attention_norm/gamma", SAME),
    ("attention/norm/beta", "attention_norm/beta", SAME),
    ("bottleneck_output/dense/kernel", "output_bottleneck/dense/kernel", SAME),
    ("bottleneck_output/dense/bias", "output_bottleneck/dense/bias", SAME),
    ("bottleneck_output/norm/gamma", "output_bottleneck/norm/gamma", SAME),
    ("bottleneck_output/norm/beta", "output_bottleneck/norm/beta", SAME),
)
FEED_FORWARD_SCOPE = ("ffn_layer_{ffn}", "feed_forward_{ffn}")
FEED_FORWARD = (
    ("intermediate_dense/kernel", "intermediate_dense/kernel", SAME),
    ("intermediate_dense/bias", "intermediate_dense/bias", SAME),
    ("output_dense/kernel", "output_dense/kernel", SAME),
    ("output_dense/bias", "output_dense/bias", SAME),
    ("norm/gamma", "norm/gamma", SAME),
    ("norm/beta", "norm/beta", SAME),
)
POOLER = (
    ("pooler/kernel", "encoder/pooler/kernel", SAME),
    ("pooler/bias", "encoder/pooler/bias", SAME),
)
MASKED_LM = (
    (
        "cls/predictions/transform/dense/kernel",
        "masked_lm/transform/kernel",
        SAME,
    ),
    ("cls/predictions/transform/dense/bias", "masked_lm/transform/bias", SAME),
    (
        "cls/predictions/transform/LayerNorm/gamma",
        "masked_lm/norm/gamma",
        SAME,
    ),
    ("cls/predictions/transform/LayerNorm/beta", "masked_lm/norm/beta", SAME),
    (
        "cls/predictions/extra_output_weights",
        "masked_lm/extra_output_weights",
        SAME,
    ),
    ("cls/predictions/output_bias/bias", "masked_lm/bias", SAME),
)
SENTENCES = (
    ("sentence_prediction/logits/kernel", "head/dense/kernel", SAME),
    ("sentence_prediction/logits/bias", "head/dense/bias", SAME),
)
TOKENS = (
    ("predictions/transform/logits/kernel", "head/dense/kernel", SAME),
    ("predictions/transform/logits/bias", "head/dense/bias", SAME),
)
SPANS = (
    (
        "span_labeling/predictions/transform/logits/kernel",
        "head/dense/kernel",
        SAME,
    ),
    (
        "span_labeling/predictions/transform/logits/bias",
        "head/dense/bias",
        SAME,
    ),
)

# The tables outside the encoder, by Hugging Face's name of the class.
HEADS = {
    "MobileBertModel": (),
    "MobileBertForMaskedLM": MASKED_LM,
    "MobileBertForSequenceClassification": SENTENCES,
    "MobileBertForTokenClassification": TOKENS,
    "MobileBertForQuestionAnswering": SPANS,
}

# Layers, wherever they are nested and however Keras numbered them in its
# process, and the name that the tables have.
LAYERS = (
    (r"mobile_bert_embedding(?:_\d+)?", "mobile_bert_embedding"),
    (r"transformer_layer_(\d+)(?:_\d+)?", r"transformer_layer_\1"),
    (r"pooler(?:_\d+)?", "pooler"),
    (r"(?:cls/predictions|mobile_bert_masked_lm)(?:_\d+)?", "cls/predictions"),
    (r"sentence_prediction(?:_\d+)?", "sentence_prediction"),
    (r"next_sentence(?:_\d+)?", "next_sentence"),
    (r"predictions/transform/logits(?:_\d+)?", "predictions/transform/logits"),
)

# Paths of objects that are not the model's, and why they stay behind. Their
# variables' names say nothing: an optimizer's are those of what it moves.
TRAINING_STATE = "training state"
BOOKKEEPING = (
    (r"save_counter", TRAINING_STATE),
    (r"global_step|stage_id|volatiles/.*", TRAINING_STATE),
    # Moments and averages: of Keras's older optimizers, then of its newer ones.
    (r".*/\.OPTIMIZER_SLOT/.*", TRAINING_STATE),
    (r"(.*/)?_variables/\d+", TRAINING_STATE),
    (r"(.*/)?opt(imizer)?/.*", TRAINING_STATE),
    (r"(.*/)?keras_api/metrics/.*", "running metrics"),
)
DROPPED = (
    *BOOKKEEPING,
    (
        r"next_sentence/(pooler_dense|logits)/(kernel|bias)",
        "next sentence head with a hidden layer of its own",
    ),
    (
        r"unread_pooler/(kernel|bias)",
        "the encoder's pooler, which the classifier passes over",
    ),
)


def model_garden_names(
    config: MobileBertConfig, architecture: str
) -> Iterator[Row]:
    """Yields (their name, our path, rule) for a whole model.

    Rows of parts that the config does not have are yielded too.

    Args:
        config: the model's config.
        architecture: a key of `HEADS`.
    """
    yield from _below(EMBEDDINGS_SCOPE, EMBEDDINGS)
    for block in range(config.num_hidden_layers):
        scope = _numbered(BLOCK_SCOPE, block=block)
        yield from _below(scope, BLOCK)
        for ffn in range(config.num_feedforward_networks):
            inner = _numbered(FEED_FORWARD_SCOPE, ffn=ffn)
            yield from _below(scope, _below(inner, FEED_FORWARD))
    yield from POOLER
    yield from HEADS[architecture]


def _numbered(scope: tuple[str, str], **slots: int) -> tuple[str, str]:
    theirs, ours = scope
    return theirs.format(**slots), ours.format(**slots)


def _below(scope: tuple[str, str], rows) -> Iterator[Row]:
    for theirs, ours, rule in rows:
        yield f"{scope[0]}/{theirs}", f"{scope[1]}/{ours}", rule
