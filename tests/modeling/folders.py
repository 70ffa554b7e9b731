"""A model of every task, and what tests do to their folders."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mobilebert_tf as mb
from mobilebert_tf.modeling import folder as model_folder
from tests.tiny import numpy

TASKS = {
    "encoder": mb.MobileBertEncoder,
    "pretraining": mb.MobileBertForPretraining,
    "masked LM": mb.MobileBertForMaskedLM,
    "next sentence": mb.MobileBertForNextSentencePrediction,
    "classifier": lambda config, **kwargs: (
        mb.MobileBertForSequenceClassification(
            config, ["no", "maybe", "yes"], **kwargs
        )
    ),
    "regression": lambda config, **kwargs: (
        mb.MobileBertForSequenceClassification(config, ["score"], **kwargs)
    ),
    "tagger": lambda config, **kwargs: mb.MobileBertForTokenClassification(
        config, ["O", "B-PER", "I-PER"], **kwargs
    ),
    "question answering": mb.MobileBertForQuestionAnswering,
    "multiple choice": mb.MobileBertForMultipleChoice,
}


def values(model) -> list[np.ndarray]:
    return [numpy(variable.value) for variable in model.weights]


def weights_file(folder):
    return folder / model_folder.WEIGHTS_FILE


def rewrite(folder, change):
    """Lets `change` edit the dict of a folder's tensors."""
    tensors = load_file(weights_file(folder))
    change(tensors)
    save_file(tensors, weights_file(folder), metadata={"format": "pt"})


def refusal(folder, load=mb.load) -> str:
    """The message of the error that loading the folder raises."""
    with pytest.raises(mb.InputError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def edit_config(folder, **changes):
    path = folder / "config.json"
    edited = json.loads(path.read_text()) | changes
    path.write_text(
        json.dumps({k: v for k, v in edited.items() if v is not None})
    )
