"""Text in, answer out: a fine-tuned model as one call.

from mobilebert_tf.pipeline import (
    QuestionAnswerer,
    TextClassifier,
    TokenClassifier,
)

classify = TextClassifier("runs/sst2")
classify("A charming journey.").label  # "positive"

answer = QuestionAnswerer("runs/squad")
answer(question="Where does it rain?", context="It rains in Paris.").text

find = TokenClassifier("runs/ner")
find("It rains in Paris.")[0].text  # "Paris"
"""

import functools
import os
from collections.abc import Sequence
from typing import ClassVar

from mobilebert_tf.hub import model_folder
from mobilebert_tf.tasks.classification import Answer, ClassificationTask
from mobilebert_tf.tasks.question_answering import (
    FoundAnswer,
    QuestionAnsweringTask,
    SquadSettings,
)
from mobilebert_tf.tasks.tagging import FoundEntity, TaggingTask
from mobilebert_tf.tasks.task import Task
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

Text = str | tuple[str, str]

_BATCH_SIZE = 16


class _Pipeline:
    """A task, its model and its tokenizer.

    Args:
        name_or_path: a model folder, or a model on the hub.
        max_seq_length: longest sequence; None for the longest of the model.

    Raises:
        InputError: it is not a model for the task.
    """

    task_class: ClassVar[type[Task]]

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        max_seq_length: int | None = None,
    ):
        # Keras and TensorFlow take seconds to import: whoever only names a
        # pipeline does not wait for them.
        from mobilebert_tf.modeling.load import load
        from mobilebert_tf.training.inference import Predictor

        folder = model_folder(name_or_path)
        tokenizer = WordpieceTokenizer.from_folder(folder)
        self.task = self.task_class.open(folder, tokenizer)
        self._model = load(folder)
        longest = self._model.config.max_position_embeddings
        self._max_seq_length = min(max_seq_length or longest, longest)
        self._predictor = functools.cache(
            functools.partial(Predictor, self._model)
        )

    def _outputs(self, texts: Sequence):
        """Outputs of the model for texts, as `Task.answers` takes them."""
        arrays = self.task.encode(texts, self._max_seq_length)
        is_batch = len(arrays["input_ids"]) >= _BATCH_SIZE
        # A batch is computed whole, so a few examples run one by one.
        predict = self._predictor(_BATCH_SIZE if is_batch else 1)
        return predict(arrays)

    def _answers(self, texts: Sequence) -> list:
        if not texts:
            return []
        return self.task.answers(self._outputs(texts), texts)


class TextClassifier(_Pipeline):
    """Classifies texts or pairs of texts; longer ones are truncated.

    Args:
        name_or_path: a model folder, or a model on the hub.
        max_seq_length: longest sequence; None for the longest of the model.

    Attributes:
        label_names: the classes.

    Raises:
        InputError: it is not a classifier.
    """

    task_class = ClassificationTask

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.task.label_names

    def __call__(self, texts: Text | Sequence[Text]) -> Answer | list[Answer]:
        """Answers a text or a pair, or each of a list of them."""
        if isinstance(texts, str | tuple):
            return self._answers([texts])[0]
        return self._answers(texts)


class TokenClassifier(_Pipeline):
    """Finds entities in texts, and tags tokens.

    Args:
        name_or_path: a model folder, or a model on the hub.
        max_seq_length: longest sequence; longer texts are cut into windows.
            None for the longest of the model.

    Attributes:
        label_names: the tags.

    Raises:
        InputError: it is not a tagger.
    """

    task_class = TaggingTask

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.task.label_names

    def __call__(
        self, texts: str | Sequence[str]
    ) -> list[FoundEntity] | list[list[FoundEntity]]:
        """Returns the entities of a text, or of each of a list of texts.

        Tokens are words and punctuation marks, as BERT splits them. If the
        tagger was trained on other tokens, use `tag`.
        """
        if isinstance(texts, str):
            return self._answers([texts])[0]
        return self._answers(texts)

    def tag(
        self, sentences: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Returns the tag of each token and its probability, by sentence."""
        return self.task.tags(self._outputs(sentences), sentences)


class QuestionAnswerer(_Pipeline):
    """Answers questions with stretches of their contexts.

    The model's folder says how contexts are cut into windows and when a
    question is left unanswered.

    Args:
        name_or_path: a model folder, or a model on the hub.

    Raises:
        InputError: the model does not answer questions.
    """

    task_class = QuestionAnsweringTask

    def __init__(self, name_or_path: str | os.PathLike):
        super().__init__(name_or_path)
        self._max_seq_length = self.settings.max_seq_length

    @property
    def settings(self) -> SquadSettings:
        """How contexts are cut and answers chosen."""
        return self.task.settings

    def __call__(
        self, question: str | Sequence[str], context: str | Sequence[str]
    ) -> FoundAnswer | list[FoundAnswer]:
        """Answers a question, or each of a list with a context each.

        Raises:
            InputError: a question or context is empty.
        """
        if isinstance(question, str):
            return self._answers([(question, context)])[0]
        return self._answers(list(zip(question, context, strict=True)))
