"""MobileBERT in Keras: from raw text to an int8 model on a phone.

    import mobilebert_tf as mb

    tokenizer = mb.load_tokenizer("model_folder")
    model = mb.load("model_folder")

The public names below are imported when they are first used: importing the
package needs neither Keras nor TensorFlow. Keras can read a saved model of
ours once `mobilebert_tf.modeling.models` is imported.
"""

import importlib

from mobilebert_tf import compat

compat.mute_tensorflow()

__version__ = "0.1.0"

# Public name -> the module that defines it.
_MODULES = {
    "EncoderOutput": "modeling.encoder",
    "FillMask": "pipeline",
    "InputError": "errors",
    "MobileBertConfig": "config",
    "MobileBertEncoder": "modeling.encoder",
    "MobileBertForMaskedLM": "modeling.models",
    "MobileBertForMultipleChoice": "modeling.models",
    "MobileBertForNextSentencePrediction": "modeling.models",
    "MobileBertForPretraining": "modeling.models",
    "MobileBertForQuestionAnswering": "modeling.models",
    "MobileBertForSequenceClassification": "modeling.models",
    "MobileBertForTokenClassification": "modeling.models",
    "QuestionAnswerer": "pipeline",
    "TextClassifier": "pipeline",
    "TokenClassifier": "pipeline",
    "WordpieceTokenizer": "text.tokenizer",
    "load": "modeling.load",
    "load_tokenizer": "text.tokenizer",
}
_SUBMODULES = ("pipeline",)
__all__ = [*_MODULES, *_SUBMODULES]


def __getattr__(name: str):
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    # Found without this function from now on.
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
