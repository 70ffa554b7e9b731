"""A full-size student with published vectors and random matrices.

Its gammas, betas and biases are those of a fine-tuned model of the released
architecture, so that scales, means and outlying channels are real; matrices are
drawn at a share of their published scale.
"""

import json
from pathlib import Path

import numpy as np

import mobilebert_tf as mb
from mobilebert_tf.modeling.weight_names import match_weights


def real_parameter_model(
    folder: Path, scale: float, seed: int = 0, num_blocks: int = 24
) -> mb.MobileBertForSequenceClassification:
    """Returns a classifier.

    Args:
        folder: holds `vectors.npz` and `matrix_scales.json`.
        scale: of the matrices, a share of what was published; 0.5 to 0.8
            keep activations of random matrices where trained ones are.
        seed: of the matrices.
        num_blocks: the first so many blocks.
    """
    rng = np.random.default_rng(seed)
    vectors = np.load(folder / "vectors.npz")
    deviations = json.loads((folder / "matrix_scales.json").read_text())
    config = mb.MobileBertConfig.from_preset(
        "mobilebert", num_hidden_layers=num_blocks
    )
    num_classes = len(vectors["classifier.bias"])
    model = mb.MobileBertForSequenceClassification(
        config, [str(index) for index in range(num_classes)]
    )
    for variable, name, _ in match_weights(model):
        name = name.replace("mobilebert.", "bert.", 1)
        if name in vectors:
            variable.assign(vectors[name])
        else:
            deviation = scale * deviations[name]["corner_std"]
            variable.assign(rng.normal(0.0, deviation, variable.shape))
    return model


def random_examples(seed: int, size: int = 16, length: int = 64) -> dict:
    """Returns examples of random pieces, lengths and segments."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(length // 4, length + 1, size)
    position = np.arange(length)
    mask = (position < lengths[:, None]).astype(np.int32)
    ids = rng.integers(1000, 30000, (size, length)) * mask
    segments = (position >= lengths[:, None] // 2) * mask
    return {
        "input_ids": ids.astype(np.int32),
        "input_mask": mask,
        "segment_ids": segments.astype(np.int32),
    }
