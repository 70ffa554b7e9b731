"""Names of tensors, against those of a published model."""

import keras
import numpy as np

import mobilebert_tf as mb
from mobilebert_tf.modeling.weight_names import match_weights


def test_real_names_and_shapes(shared_data):
    """All 748 bias and norm vectors of a published model have their place."""
    real = np.load(shared_data / "mobilebert_real" / "vectors.npz")
    assert len(real.files) == 748
    config = mb.MobileBertConfig.from_preset("mobilebert", vocab_size=50)
    # Shapes are all that is asked for.
    with keras.StatelessScope(initialize_variables=False):
        model = mb.MobileBertForSequenceClassification(config, ["0", "1"])
    ours = {
        name: tuple(variable.shape)
        for variable, name, _ in match_weights(model)
        if len(variable.shape) == 1
    }
    theirs = {
        name.replace("bert.", "mobilebert.", 1): real[name].shape
        for name in real.files
    }
    assert ours == theirs
