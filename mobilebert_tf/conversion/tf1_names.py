"""The variable names of the original TensorFlow 1 code, as data.

Confirmed on the variables of a published model (1,114 names and shapes). Rows:
their name, our variable's path and, outside the encoder, how they store it;
encoder variables are stored as ours. `{norm}` is `FakeLayerNorm` where the norm
is a NoNorm. Rows of a block stand below BLOCK_SCOPE, those of a feed-forward
network below FEED_FORWARD_SCOPE too, but for a block's last network, which has
the names of plain BERT's.
"""

from collections.abc import Iterator

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.conversion.tensors import SAME, TRANSPOSED, Row

EMBEDDINGS = (
    ("bert/embeddings/word_embeddings", "word_embeddings"),
    ("bert/embeddings/token_type_embeddings", "segment_embeddings"),
    ("bert/embeddings/position_embeddings", "position_embeddings"),
    ("bert/embeddings/embedding_transformation/kernel", "projection/kernel"),
    ("bert/embeddings/embedding_transformation/bias", "projection/bias"),
    ("bert/embeddings/{norm}/gamma", "norm/gamma"),
    ("bert/embeddings/{norm}/beta", "norm/beta"),
)
BLOCK_SCOPE = ("bert/encoder/layer_{block}", "encoder/block_{block:02d}")
FEED_FORWARD_SCOPE = ("ffn_layer_{ffn}", "feed_forward_{ffn}")
BLOCK = (
    ("bottleneck/input/dense/kernel", "input_bottleneck/dense/kernel"),
    ("bottleneck/input/dense/bias", "input_bottleneck/dense/bias"),
    ("bottleneck/input/{norm}/gamma", "input_bottleneck/norm/gamma"),
    ("bottleneck/input/{norm}/beta", "input_bottleneck/norm/beta"),
    ("bottleneck/attention/dense/kernel", "shared_qk_bottleneck/dense/kernel"),
    ("bottleneck/attention/dense/bias", "shared_qk_bottleneck/dense/bias"),
    ("bottleneck/attention/{norm}/gamma", "shared_qk_bottleneck/norm/gamma"),
    ("bottleneck/attention/{norm}/beta", "shared_qk_bottleneck/norm/beta"),
    ("attention/self/query/kernel", "attention/query/kernel"),
    ("attention/self/query/bias", "attention/query/bias"),
    ("attention/self/key/kernel", "attention/key/kernel"),
    ("attention/self/key/bias", "attention/key/bias"),
    ("attention/self/value/kernel", "attention/value/kernel"),
    ("attention/self/value/bias", "attention/value/bias"),
    ("attention/output/dense/kernel", "attention/output_dense/kernel"),
    ("attention/output/dense/bias", "attention/output_dense/bias"),
    ("attention/output/{norm}/gamma", "attention_norm/gamma"),
    ("attention/output/{norm}/beta", "attention_norm/beta"),
    ("output/bottleneck/dense/kernel", "output_bottleneck/dense/kernel"),
    ("output/bottleneck/dense/bias", "output_bottleneck/dense/bias"),
    ("output/bottleneck/{norm}/gamma", "output_bottleneck/norm/gamma"),
    ("output/bottleneck/{norm}/beta", "output_bottleneck/norm/beta"),
)
FEED_FORWARD = (
    ("intermediate/dense/kernel", "intermediate_dense/kernel"),
    ("intermediate/dense/bias", "intermediate_dense/bias"),
    ("output/dense/kernel", "output_dense/kernel"),
    ("output/dense/bias", "output_dense/bias"),
    ("output/{norm}/gamma", "norm/gamma"),
    ("output/{norm}/beta", "norm/beta"),
)
POOLER = (
    ("bert/pooler/dense/kernel", "encoder/pooler/kernel", SAME),
    ("bert/pooler/dense/bias", "encoder/pooler/bias", SAME),
)
# The norm of this head is a layer norm in every model.
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
    ("cls/predictions/output_bias", "masked_lm/bias", SAME),
)
NEXT_SENTENCE = (
    (
        "cls/seq_relationship/output_weights",
        "next_sentence/dense/kernel",
        TRANSPOSED,
    ),
    ("cls/seq_relationship/output_bias", "next_sentence/dense/bias", SAME),
)
SPANS = (
    ("cls/squad/output_weights", "head/dense/kernel", TRANSPOSED),
    ("cls/squad/output_bias", "head/dense/bias", SAME),
)
# BERT's scripts for classes, of sequences or tokens, use no scope.
CLASSES = (
    ("output_weights", "head/dense/kernel", TRANSPOSED),
    ("output_bias", "head/dense/bias", SAME),
)

# The tables outside the encoder, by Hugging Face's name of the class. The first
# row of each is the sign that a checkpoint has that head.
HEADS = {
    "MobileBertModel": (),
    "MobileBertForPreTraining": MASKED_LM + NEXT_SENTENCE,
    "MobileBertForMaskedLM": MASKED_LM,
    "MobileBertForNextSentencePrediction": NEXT_SENTENCE,
    "MobileBertForSequenceClassification": CLASSES,
    "MobileBertForTokenClassification": CLASSES,
    "MobileBertForQuestionAnswering": SPANS,
}

# What a checkpoint may hold beyond a model, and why it stays behind.
TRAINING_STATE = "training state"
DROPPED = (
    (r".*/(adam_[mv]|Adam(_1)?|LAMB(_1)?)", TRAINING_STATE),
    (r"(.*/)?beta[12]_power", TRAINING_STATE),
    (r"global_step", TRAINING_STATE),
    # The release's distillation holds student and teacher in one checkpoint.
    (r"teacher/.*", "the teacher"),
    (r"hidden_distill_\d+/.*", "norms of the transfer loss, not trained"),
    (
        r".*MobileBert(Act|Weight)FakeQuantWithMinMaxVars(_\d+)?/.*",
        "ranges of quantisers",
    ),
)


def tf1_names(config: MobileBertConfig, architecture: str) -> Iterator[Row]:
    """Yields (their name, our path, rule) for a whole model.

    Rows of parts that the config does not have are yielded too.
    """
    no_norm = config.normalization_type == "no_norm"
    norm = "FakeLayerNorm" if no_norm else "LayerNorm"
    for theirs, ours in EMBEDDINGS:
        yield theirs.format(norm=norm), f"encoder/embeddings/{ours}", SAME
    for block in range(config.num_hidden_layers):
        for theirs, ours in _block_names(config.num_feedforward_networks):
            scope, path = (part.format(block=block) for part in BLOCK_SCOPE)
            yield f"{scope}/{theirs}".format(norm=norm), f"{path}/{ours}", SAME
    yield from POOLER
    yield from HEADS[architecture]


def _block_names(num_feedforward_networks: int):
    yield from BLOCK
    for ffn in range(num_feedforward_networks):
        scope, path = (part.format(ffn=ffn) for part in FEED_FORWARD_SCOPE)
        is_last = ffn == num_feedforward_networks - 1
        for theirs, ours in FEED_FORWARD:
            yield theirs if is_last else f"{scope}/{theirs}", f"{path}/{ours}"
