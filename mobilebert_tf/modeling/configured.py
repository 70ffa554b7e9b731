"""A layer made from a `MobileBertConfig`, which travels when it is saved."""

import keras

from mobilebert_tf.config import MobileBertConfig


class ConfiguredLayer(keras.layers.Layer):
    """Keeps the config it was constructed with.

    Args:
        config: a `MobileBertConfig`.
    """

    def __init__(self, config: MobileBertConfig, **kwargs):
        super().__init__(**kwargs)
        self.config = config

    def get_config(self):
        return super().get_config() | {"config": self.config.to_dict()}

    @classmethod
    def from_config(cls, config):
        config["config"] = MobileBertConfig(**config["config"])
        return cls(**config)
