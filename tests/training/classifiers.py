"""A toy task and a toy classifier for the tests of fine-tuning."""

import numpy as np

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.modeling.models import MobileBertForSequenceClassification

LABELS = ("no", "yes")


def toy_config(**changes) -> MobileBertConfig:
    values = {
        "vocab_size": 40,
        "num_hidden_layers": 1,
        "hidden_size": 16,
        "embedding_size": 8,
        "intra_bottleneck_size": 8,
        "intermediate_size": 16,
        "num_attention_heads": 2,
        "num_feedforward_networks": 1,
        "max_position_embeddings": 24,
        "hidden_dropout_prob": 0.1,
    }
    return MobileBertConfig(**values | changes)


def toy_classifier(labels=LABELS, **changes):
    return MobileBertForSequenceClassification(toy_config(**changes), labels)


def toy_arrays(number: int, seed: int, width: int = 24) -> dict:
    """Examples of 3 to 20 pieces; the first piece tells the class."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 21, number)
    mask = (np.arange(width) < lengths[:, None]).astype(np.int32)
    ids = rng.integers(5, 30, (number, width)).astype(np.int32)
    labels = rng.integers(0, 2, number).astype(np.int32)
    ids[:, 1] = 30 + labels
    ids[:, 0] = 2
    return {
        "input_ids": ids * mask,
        "input_mask": mask,
        "segment_ids": np.zeros_like(mask),
        "labels": labels,
    }
