"""Models small enough to reason about, and a batch for them."""

import keras
import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.distillation.distiller import Distiller
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


def tiny_pair() -> Distiller:
    keras.utils.set_random_seed(3)
    return Distiller(
        student=tiny_pretraining("mobilebert_small"),
        teacher=tiny_pretraining("ib_bert_small"),
    )


def tiny_batch() -> dict[str, np.ndarray]:
    """Four sequences of up to twelve tokens, two of them masked."""
    rng = np.random.default_rng(0)
    lengths = np.array([12, 7, 9, 4])
    mask = (np.arange(12) < lengths[:, None]).astype("int32")
    return {
        "input_ids": rng.integers(5, 40, (4, 12)).astype("int32") * mask,
        "input_mask": mask,
        "segment_ids": (np.arange(12) > 3).astype("int32") * mask,
        "masked_lm_positions": rng.integers(0, 4, (4, 2)).astype("int32"),
        "masked_lm_ids": rng.integers(5, 40, (4, 2)).astype("int32"),
        "masked_lm_weights": np.ones((4, 2), "float32"),
        "next_sentence_labels": rng.integers(0, 2, (4, 1)).astype("int32"),
    }
