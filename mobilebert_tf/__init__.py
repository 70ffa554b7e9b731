"""MobileBERT in Keras: from raw text to an int8 model on a phone.

Rooms, each importing only from those before it:

    config presets hub          the architecture, its JSON, its names; where
                                models lie
    data/ evaluation/           text to batches; predictions to metrics
    modeling/                   layers, encoder, heads, models, model folders
    distillation/               teacher and student
    training/ mobile/           the loop and its state; the phone
    tools/, run_*.py            the doors
"""

import importlib

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.encoder import EncoderOutput, MobileBertEncoder
from mobilebert_tf.modeling.load import load
from mobilebert_tf.modeling.models import (
    MobileBertForMaskedLM,
    MobileBertForMultipleChoice,
    MobileBertForNextSentencePrediction,
    MobileBertForPretraining,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)

__version__ = "0.1.0"
__all__ = [
    "EncoderOutput",
    "InputError",
    "MobileBertConfig",
    "MobileBertEncoder",
    "MobileBertForMaskedLM",
    "MobileBertForMultipleChoice",
    "MobileBertForNextSentencePrediction",
    "MobileBertForPretraining",
    "MobileBertForQuestionAnswering",
    "MobileBertForSequenceClassification",
    "MobileBertForTokenClassification",
    "WordpieceTokenizer",
    "load",
    "load_tokenizer",
]

_OF_THE_TOKENIZER = ("WordpieceTokenizer", "load_tokenizer")


def __getattr__(name: str):
    # The tokenizer needs TensorFlow, whatever the model runs on: only who asks
    # for it waits for that.
    if name in _OF_THE_TOKENIZER:
        module = importlib.import_module("mobilebert_tf.text.tokenizer")
        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
