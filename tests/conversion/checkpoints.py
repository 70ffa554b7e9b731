"""Small TensorFlow 1 checkpoints, written without the code under test."""

import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmno"]
STUDENT = MobileBertConfig(
    vocab_size=len(VOCAB),
    embedding_size=8,
    hidden_size=16,
    intra_bottleneck_size=12,
    intermediate_size=20,
    num_hidden_layers=2,
    num_feedforward_networks=3,
    max_position_embeddings=10,
)
TEACHER = MobileBertConfig(
    vocab_size=len(VOCAB),
    embedding_size=8,
    hidden_size=16,
    intra_bottleneck_size=24,
    intermediate_size=28,
    num_hidden_layers=2,
    num_feedforward_networks=1,
    key_query_shared_bottleneck=False,
    normalization_type="layer_norm",
    hidden_act="gelu",
    classifier_activation=True,
    max_position_embeddings=10,
)


def encoder_shapes(config: MobileBertConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the original code's variables, from its scopes."""
    wide, narrow = config.hidden_size, config.intra_bottleneck_size
    inner, embedding = config.intermediate_size, config.embedding_size
    norm = "FakeLayerNorm"
    if config.normalization_type == "layer_norm":
        norm = "LayerNorm"
    shapes = {}

    def dense(scope, inputs, outputs):
        shapes[f"{scope}/kernel"] = (inputs, outputs)
        shapes[f"{scope}/bias"] = (outputs,)

    def normed(scope, width):
        shapes[f"{scope}/{norm}/beta"] = (width,)
        shapes[f"{scope}/{norm}/gamma"] = (width,)

    scope = "bert/embeddings"
    shapes[f"{scope}/word_embeddings"] = (config.vocab_size, embedding)
    shapes[f"{scope}/token_type_embeddings"] = (2, wide)
    shapes[f"{scope}/position_embeddings"] = (10, wide)
    dense(f"{scope}/embedding_transformation", 3 * embedding, wide)
    normed(scope, wide)
    for block in range(config.num_hidden_layers):
        scope = f"bert/encoder/layer_{block}"
        shared = config.key_query_shared_bottleneck
        dense(f"{scope}/bottleneck/input/dense", wide, narrow)
        normed(f"{scope}/bottleneck/input", narrow)
        if shared:
            dense(f"{scope}/bottleneck/attention/dense", wide, narrow)
            normed(f"{scope}/bottleneck/attention", narrow)
        for part in ("query", "key"):
            width = narrow if shared else wide
            dense(f"{scope}/attention/self/{part}", width, narrow)
        dense(f"{scope}/attention/self/value", wide, narrow)
        dense(f"{scope}/attention/output/dense", narrow, narrow)
        normed(f"{scope}/attention/output", narrow)
        for ffn in range(config.num_feedforward_networks):
            is_last = ffn == config.num_feedforward_networks - 1
            prefix = scope if is_last else f"{scope}/ffn_layer_{ffn}"
            dense(f"{prefix}/intermediate/dense", narrow, inner)
            dense(f"{prefix}/output/dense", inner, narrow)
            normed(f"{prefix}/output", narrow)
        dense(f"{scope}/output/bottleneck/dense", narrow, wide)
        normed(f"{scope}/output/bottleneck", wide)
    if config.classifier_activation:
        dense("bert/pooler/dense", wide, wide)
    return shapes


def head_shapes(config: MobileBertConfig, head: str) -> dict:
    """Names and shapes of a head: pretraining, masked_lm, squad, classes."""
    wide, vocab = config.hidden_size, config.vocab_size
    transform = "cls/predictions/transform"
    masked_lm = {
        f"{transform}/dense/kernel": (wide, wide),
        f"{transform}/dense/bias": (wide,),
        f"{transform}/LayerNorm/beta": (wide,),
        f"{transform}/LayerNorm/gamma": (wide,),
        "cls/predictions/extra_output_weights": (
            vocab,
            wide - config.embedding_size,
        ),
        "cls/predictions/output_bias": (vocab,),
    }
    next_sentence = {
        "cls/seq_relationship/output_weights": (2, wide),
        "cls/seq_relationship/output_bias": (2,),
    }
    return {
        "none": {},
        "pretraining": masked_lm | next_sentence,
        "masked_lm": masked_lm,
        "next_sentence": next_sentence,
        "squad": {
            "cls/squad/output_weights": (2, wide),
            "cls/squad/output_bias": (2,),
        },
        "classes": {"output_weights": (3, wide), "output_bias": (3,)},
    }[head]


def draw(shapes: dict, rng) -> dict:
    """Draws float32 values for every name."""
    return {
        name: rng.standard_normal(shape).astype("float32")
        for name, shape in shapes.items()
    }


def write(prefix, values: dict) -> None:
    """Writes a TensorFlow 1 checkpoint."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )


def read(prefix) -> dict:
    """Reads a TensorFlow 1 checkpoint whole."""
    reader = tf.train.load_checkpoint(str(prefix))
    return {
        name: reader.get_tensor(name)
        for name in reader.get_variable_to_shape_map()
    }
