"""A pair of models and a batch for it."""

import keras
import numpy as np
import pytest

from mobilebert_tf.distillation.distiller import Distiller
from tests.distillation.pairs import tiny_pretraining


@pytest.fixture
def pair():
    keras.utils.set_random_seed(3)
    return Distiller(
        student=tiny_pretraining("mobilebert_small"),
        teacher=tiny_pretraining("ib_bert_small"),
    )


@pytest.fixture
def batch():
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
