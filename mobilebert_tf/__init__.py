"""MobileBERT in Keras: from raw text to an int8 model on a phone.

Rooms, each importing only from those before it:

    config                      the architecture, its presets, its JSON
    data/ evaluation/           text to batches; predictions to metrics
    modeling/                   layers, encoder, heads, models, model folders
    distillation/               teacher and student
    training/ mobile/           the loop and its state; the phone
    tools/, run_*.py            the doors
"""

from mobilebert_tf.config import MobileBertConfig
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.encoder import EncoderOutput, MobileBertEncoder
from mobilebert_tf.modeling.models import (
    MobileBertForMultipleChoice,
    MobileBertForPretraining,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
)
from mobilebert_tf.modeling.pretrained import load

__version__ = "0.1.0"
__all__ = [
    "EncoderOutput",
    "InputError",
    "MobileBertConfig",
    "MobileBertEncoder",
    "MobileBertForMultipleChoice",
    "MobileBertForPretraining",
    "MobileBertForQuestionAnswering",
    "MobileBertForSequenceClassification",
    "MobileBertForTokenClassification",
    "load",
]
