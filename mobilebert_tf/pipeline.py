"""Text in, answer out: a fine-tuned model as one call.

from mobilebert_tf.pipeline import QuestionAnswerer
answer = QuestionAnswerer("runs/squad")
answer(question="Where does it rain?", context="It rains in Paris.").text

from mobilebert_tf.pipeline import TextClassifier, TokenClassifier
classify = TextClassifier("runs/sst2")
classify("A charming journey.").label  # "positive"
find = TokenClassifier("runs/ner")
find("It rains in Paris.")[0].text  # "Paris"
"""

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import scipy.special

from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import model_folder
from mobilebert_tf.modeling.load import load
from mobilebert_tf.tasks.classification import Answer, ClassificationTask
from mobilebert_tf.tasks.metrics import entities
from mobilebert_tf.tasks.question_answering import (
    Answers,
    QuestionSplit,
    SpanPredictor,
    answer_questions,
    is_question_answerer,
    known_settings,
)
from mobilebert_tf.tasks.squad import squad_questions
from mobilebert_tf.tasks.squad_windows import make_windows
from mobilebert_tf.tasks.tagging import (
    TokenPredictor,
    by_sentence,
    encode_sentences,
    saved_tags,
)
from mobilebert_tf.text.normalization import split_words
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.inference import Predictor

Text = str | tuple[str, str]

_BATCH_SIZE = 16


def _predictors(kind: type, model: keras.Model) -> Callable:
    """Returns a function from a number of inputs to the predictor for them.

    A few go one by one: a batch is computed whole.
    """
    of_batch = functools.cache(functools.partial(kind, model))
    return lambda number: of_batch(_BATCH_SIZE if number >= _BATCH_SIZE else 1)


def _length(model: keras.Model, max_seq_length: int | None) -> int:
    """The longest sequence that is asked for and that the model can take."""
    longest = model.config.max_position_embeddings
    return min(max_seq_length or longest, longest)


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
        self._tokenizer = WordpieceTokenizer.from_folder(folder)
        self.task = ClassificationTask.open(folder, self._tokenizer)
        self.label_names = self.task.label_names
        self._model = load(folder)
        self._max_seq_length = _length(self._model, max_seq_length)
        self._predictor_of = _predictors(Predictor, self._model)

    def __call__(self, texts: Text | Sequence[Text]) -> Answer | list[Answer]:
        """Answers for a text or a pair, or for each of a list of them."""
        if isinstance(texts, str | tuple):
            return self([texts])[0]
        if not texts:
            return []
        arrays = self.task.encode(texts, self._max_seq_length)
        outputs = self._predictor_of(len(texts))(arrays)
        return self.task.answers(outputs, texts)


class FoundEntity(NamedTuple):
    """A stretch of a text that a tagger has found.

    Attributes:
        kind: its type, such as PER; of a tagger without entities the tag.
        text: as it stands in the text.
        start: its first character.
        end: the character after its last one.
        probability: the smallest of its tokens' tags.
    """

    kind: str
    text: str
    start: int
    end: int
    probability: float


class TokenClassifier:
    """Finds entities in texts, and tags tokens.

    Args:
        name_or_path: a model folder, or a model on the hub.
        max_seq_length: longer texts are cut into windows of so many pieces;
            None: as long as the model can.

    Raises:
        InputError: if it is no tagger.
    """

    def __init__(
        self,
        name_or_path: str | os.PathLike,
        max_seq_length: int | None = None,
    ):
        folder = model_folder(name_or_path)
        self.label_names = saved_tags(folder)
        if self.label_names is None:
            raise InputError(folder, "a tagger", "another kind of model")
        self._model = load(folder)
        self._tokenizer = WordpieceTokenizer.from_folder(folder)
        self._max_seq_length = _length(self._model, max_seq_length)
        self._predictor_of = _predictors(TokenPredictor, self._model)

    def __call__(
        self, texts: str | Sequence[str]
    ) -> list[FoundEntity] | list[list[FoundEntity]]:
        """Entities of a text, or of each of a list of texts.

        Tokens are words and punctuation marks, as BERT splits them. Where the
        tagger was trained on others, give them to `tag`.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        tokens = [split_words(text) for text in texts]
        return [
            list(_found(text, *row))
            for text, *row in zip(texts, tokens, *self.tag(tokens), strict=True)
        ]

    def tag(
        self, sentences: Sequence[Sequence[str]]
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Tags tokens, by sentence; returns tags and their probabilities."""
        tokens = [token for some in sentences for token in some]
        if not tokens:
            return [[] for _ in sentences], [[] for _ in sentences]
        # There is no window without a token.
        encoded = encode_sentences(
            [some for some in sentences if some],
            None,
            self._tokenizer,
            self._max_seq_length,
        )
        predict = self._predictor_of(len(encoded.arrays["input_ids"]))
        probs = scipy.special.softmax(predict(encoded.arrays), axis=-1)
        tags = [self.label_names[index] for index in probs.argmax(axis=-1)]
        return (
            by_sentence(tags, sentences),
            by_sentence(probs.max(axis=-1).tolist(), sentences),
        )


def _found(
    text: str, tokens: list[str], tags: list[str], probs: list[float]
) -> Iterator[FoundEntity]:
    """The entities of a text, with their places."""
    places, end = [], 0
    for token in tokens:
        start = text.index(token, end)
        end = start + len(token)
        places.append((start, end))
    for kind, first, last in entities(tags):
        start, end = places[first][0], places[last - 1][1]
        least = min(probs[first:last])
        yield FoundEntity(kind, text[start:end], start, end, least)


class FoundAnswer(NamedTuple):
    """An answer to a question; `context[start:end]` is its text.

    Attributes:
        text: as it stands in the context; empty where there is no answer.
        score: its probability among the likeliest answers.
        start: its first character.
        end: the character after its last one.
    """

    text: str
    score: float
    start: int
    end: int


class QuestionAnswerer:
    """Answers questions with stretches of their contexts.

    Windows, and from when on a question is left unanswered, are as the model's
    folder says.

    Args:
        name_or_path: a model folder, or a model on the hub.

    Raises:
        InputError: if it does not answer questions.
    """

    def __init__(self, name_or_path: str | os.PathLike):
        folder = model_folder(name_or_path)
        if not is_question_answerer(folder):
            raise InputError(
                folder, "a model that answers questions", "another kind"
            )
        self._model = load(folder)
        self._tokenizer = WordpieceTokenizer.from_folder(folder)
        self.settings = known_settings(folder, self._model.config)
        self._predictor_of = _predictors(SpanPredictor, self._model)

    def __call__(
        self, question: str | Sequence[str], context: str | Sequence[str]
    ) -> FoundAnswer | list[FoundAnswer]:
        """Answers a question, or each of a list with a context each.

        Raises:
            InputError: one is empty.
        """
        if isinstance(question, str):
            return self([question], [context])[0]
        if not question:
            return []
        paragraphs = [
            {"context": context, "qas": [{"id": str(index), "question": text}]}
            for index, (text, context) in enumerate(
                zip(question, context, strict=True)
            )
        ]
        questions = squad_questions(
            {"data": [{"paragraphs": paragraphs}]},
            "question and context",
            has_answers=False,
        )
        settings = self.settings
        windows = make_windows(
            questions,
            self._tokenizer,
            max_seq_length=settings.max_seq_length,
            doc_stride=settings.doc_stride,
            max_query_length=settings.max_query_length,
        )
        predict = self._predictor_of(len(windows))
        logits = predict(windows, settings.max_seq_length)
        split = QuestionSplit(questions, windows, None, "")
        answers = answer_questions(*logits, split, settings)
        return _found_answers(answers, settings.null_score_diff_threshold)


def _found_answers(answers: Answers, threshold: float) -> list[FoundAnswer]:
    """The answers with their scores and places."""
    found = []
    for text, place, entries in zip(
        answers.predictions(threshold),
        answers.characters,
        answers.n_best,
        strict=True,
    ):
        probs = scipy.special.softmax([entry.logit for entry in entries])
        texts = [entry.text for entry in entries]
        score = float(probs[texts.index(text)])
        start, end = place if text else (0, 0)
        found.append(FoundAnswer(text, score, start, end))
    return found
