"""Models small enough to reason about."""

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.models import MobileBertForPretraining

TINY = {
    "vocab_size": 40,
    "embedding_size": 8,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "max_position_embeddings": 12,
    # Large enough that random models are far from each other.
    "initializer_range": 0.2,
}


def tiny_pretraining(preset: str, **changes) -> MobileBertForPretraining:
    intra = 32 if preset.startswith("ib_bert") else 8
    settings = TINY | {"intra_bottleneck_size": intra} | changes
    return MobileBertForPretraining(
        MobileBertConfig.from_preset(preset, **settings)
    )
