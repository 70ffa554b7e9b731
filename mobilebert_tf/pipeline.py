"""Text in, answer out: a fine-tuned classifier as one call.

from mobilebert_tf.pipeline import TextClassifier
classify = TextClassifier("runs/sst2")
classify("A charming journey.").label  # "positive"
"""

import functools
import os
from collections.abc import Sequence
from typing import NamedTuple

from mobilebert_tf.data.classification_sources import MULTI_LABEL, REGRESSION
from mobilebert_tf.data.text_classification import Examples, encode_examples
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import model_folder
from mobilebert_tf.modeling.pretrained import load
from mobilebert_tf.training.classification_task import saved_labels
from mobilebert_tf.training.fine_tuning import (
    Predictor,
    decisions,
    probabilities,
)

Text = str | tuple[str, str]

_BATCH_SIZE = 16


class Answer(NamedTuple):
    """What a classifier says of a text.

    Attributes:
        label: the likeliest class; of a model for several labels at once a
            tuple of those with a probability of at least a half; of a
            regression the number.
        probabilities: by class; empty for a regression.
    """

    label: str | tuple[str, ...] | float
    probabilities: dict[str, float]


class TextClassifier:
    """Answers for texts or pairs of texts.

    Args:
        name_or_path: a model folder, or a model on the hub.
        max_seq_length: longer texts are cut; None: as long as the model can.

    Raises:
        InputError: if it is no classifier.
    """

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        max_seq_length: int | None = None,
    ):
        folder = model_folder(name_or_path)
        self.label_names, self.kind = saved_labels(folder)
        if self.label_names is None:
            raise InputError(folder, "a classifier", "another kind of model")
        self._model = load(folder)
        self._tokenizer = WordpieceTokenizer.from_folder(folder)
        longest = self._model.config.max_position_embeddings
        self._max_seq_length = min(max_seq_length or longest, longest)
        self._predictor = functools.cache(
            lambda batch_size: Predictor(self._model, batch_size)
        )

    def __call__(self, texts: Text | Sequence[Text]) -> Answer | list[Answer]:
        """Answers for a text or a pair, or for each of a list of them."""
        if isinstance(texts, str | tuple):
            return self([texts])[0]
        if not texts:
            return []
        first, second = list(texts), None
        if isinstance(first[0], tuple):
            first, second = (list(part) for part in zip(*texts, strict=True))
        arrays = encode_examples(
            Examples(first, second), self._tokenizer, self._max_seq_length
        )
        # A few texts one by one: a batch is computed whole.
        batch_size = _BATCH_SIZE if len(first) >= _BATCH_SIZE else 1
        logits = self._predictor(batch_size)(arrays)
        several = self.kind == MULTI_LABEL
        return [
            self._answer(choice, row)
            for choice, row in zip(
                decisions(logits, several).tolist(),
                probabilities(logits, several).tolist(),
                strict=True,
            )
        ]

    def _answer(self, choice, row: list[float]) -> Answer:
        if self.kind == REGRESSION:
            return Answer(choice, {})
        by_name = dict(zip(self.label_names, row, strict=True))
        if self.kind == MULTI_LABEL:
            chosen = zip(self.label_names, choice, strict=True)
            return Answer(tuple(name for name, yes in chosen if yes), by_name)
        return Answer(self.label_names[choice], by_name)
