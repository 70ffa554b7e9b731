"""Text in, answer out: a model, or a file for phones, as one call.

import mobilebert_tf as mb

classify = mb.TextClassifier("runs/sst2")  # or "runs/sst2/int8_qat.tflite"
classify("A charming journey.").label  # "positive"

answer = mb.QuestionAnswerer("runs/squad")
answer(question="Where does it rain?", context="It rains in Paris.").text

find = mb.TokenClassifier("runs/ner")
find("It rains in Paris.")[0].text  # "Paris"

fill = mb.FillMask("runs/student")
fill("It [MASK] in Paris.")[0].token  # "rains"
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from mobilebert_tf.errors import InputError
from mobilebert_tf.hub import model_folder
from mobilebert_tf.tasks.classification import Answer, ClassificationTask
from mobilebert_tf.tasks.labelled_texts import MULTI_LABEL, SINGLE_LABEL
from mobilebert_tf.tasks.question_answering import (
    FoundAnswer,
    QuestionAnsweringTask,
    SquadSettings,
)
from mobilebert_tf.tasks.tagging import FoundEntity, TaggingTask
from mobilebert_tf.tasks.task import CONFIG_FILE, Task
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.text.vocabulary import check_vocabulary

Text = str | tuple[str, str]

_BATCH_SIZE = 16
_TFLITE = ".tflite"
_PROBABILITIES = "probabilities"
_MASK = "[MASK]"


class _Pipeline:
    """A task, its model and its tokenizer.

    Args:
        name_or_path: a model folder, a model on the hub, or a .tflite file
            that lies in its model folder.
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
        if Path(name_or_path).suffix == _TFLITE:
            longest = self._open_file(Path(name_or_path))
        else:
            longest = self._open_folder(model_folder(name_or_path))
        self._max_seq_length = min(max_seq_length or longest, longest)

    def _open_folder(self, folder: Path) -> int:
        """Opens the Keras model and returns its longest length."""
        # Keras and TensorFlow take seconds to import: whoever only names a
        # pipeline, or has a file, does not wait for them.
        from mobilebert_tf.modeling.load import load
        from mobilebert_tf.training.inference import Predictor

        tokenizer = WordpieceTokenizer.from_folder(folder)
        self.task = self.task_class.open(folder, tokenizer)
        model = load(folder)
        self._predictor = functools.cache(functools.partial(Predictor, model))
        return model.config.max_position_embeddings

    def _open_file(self, path: Path) -> int:
        """Opens a .tflite file and returns its longest length."""
        from mobilebert_tf.mobile.runtime import TFLiteModel

        file = TFLiteModel(path)
        self.task = self._task_of(file)
        shape, *_ = file.output_shapes().values()
        number = len(self.task.label_names)
        if number not in (0, shape[-1]):
            expected = f"outputs for {number} labels"
            raise InputError(path, expected, f"{shape[-1]} outputs")
        predict = functools.partial(_predict_logits, file, self.task)
        self._predictor = lambda batch_size: predict
        return file.max_seq_length

    def _task_of(self, file) -> Task:
        """Returns the task of the model folder that a file lies in."""
        folder = file.path.parent
        if not (folder / CONFIG_FILE).exists():
            expected = "a file in its model folder, or with labels in metadata"
            raise InputError(file.path, expected, f"no {CONFIG_FILE} beside it")
        tokenizer = WordpieceTokenizer.from_folder(folder)
        return self.task_class.open(folder, tokenizer)

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


def _predict_logits(file, task: Task, arrays: dict[str, np.ndarray]):
    """Returns a file's outputs for arrays [N, S], probabilities as logits.

    The file runs at the shortest of its lengths that holds them.
    """
    if not len(arrays["input_ids"]):  # Texts without a word.
        one = {name: np.ones((1, 1), np.int32) for name in arrays}
        return _predict_logits(file, task, one)[:0]
    used = arrays["input_mask"].sum(axis=1).max()
    length = next(length for length in file.lengths if length >= used)
    outputs = file.predict(
        {name: _resized(array, length) for name, array in arrays.items()}
    )
    width = arrays["input_ids"].shape[1]
    if isinstance(outputs, dict):
        return {name: _resized(outputs[name], width) for name in outputs}
    if not isinstance(task, ClassificationTask):
        outputs = _resized(outputs, width)
    if file.output_names != (_PROBABILITIES,):
        return outputs
    # They may be rounded to 0 or 1.
    probs = np.clip(outputs.astype(np.float64), 1e-30, 1.0 - 1e-16)
    if getattr(task, "problem_type", SINGLE_LABEL) == MULTI_LABEL:
        return np.log(probs) - np.log1p(-probs)
    return np.log(probs)


def _resized(array: np.ndarray, length: int) -> np.ndarray:
    """Returns [N, length, ...]: cut, or padded with zeros."""
    missing = max(0, length - array.shape[1])
    widths = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths)[:, :length]


class TextClassifier(_Pipeline):
    """Classifies texts or pairs of texts; longer ones are truncated.

    A .tflite file with labels and vocabulary in its metadata may lie anywhere.
    None needs TensorFlow.

    Args:
        name_or_path: a model folder, a model on the hub, or a .tflite file.
        max_seq_length: longest sequence; None for the longest of the model.

    Attributes:
        label_names: the classes.

    Raises:
        InputError: it is not a classifier.
    """

    task_class = ClassificationTask

    def _task_of(self, file):
        from mobilebert_tf.mobile.runtime import LABELS_FILE, VOCAB_FILE

        packed = file.packed_lines()
        if not {LABELS_FILE, VOCAB_FILE} <= packed.keys():
            return super()._task_of(file)
        vocabulary, labels = packed[VOCAB_FILE], packed[LABELS_FILE]
        check_vocabulary(vocabulary, file.path)
        task = ClassificationTask(
            tuple(labels), tokenizer=WordpieceTokenizer(vocabulary)
        )
        if file.output_names == (_PROBABILITIES,):
            # The file does not say whether they exclude each other.
            arrays = task.encode(vocabulary[-3:], file.max_seq_length)
            sums = file.predict(arrays).sum(axis=-1)
            if not np.allclose(sums, 1.0, atol=0.02):
                task.problem_type = MULTI_LABEL
        return task

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
        name_or_path: a model folder, a model on the hub, or a .tflite file in
            its model folder.
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
        name_or_path: a model folder, a model on the hub, or a .tflite file in
            its model folder.

    Raises:
        InputError: the model does not answer questions.
    """

    task_class = QuestionAnsweringTask

    def __init__(self, name_or_path: str | os.PathLike):
        super().__init__(name_or_path)
        longest = self._max_seq_length
        self._max_seq_length = min(self.settings.max_seq_length, longest)

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


class Filled(NamedTuple):
    """A piece that may stand at a `[MASK]`, and its probability."""

    token: str
    score: float


class FillMask:
    """Guesses the pieces behind each `[MASK]` of a text.

    Args:
        name_or_path: a folder of a pre-trained model, or one on the hub.

    Raises:
        InputError: it has no masked LM head.
    """

    def __init__(self, name_or_path: str | os.PathLike):
        from mobilebert_tf.modeling.load import load

        folder = model_folder(name_or_path)
        self._tokenizer = WordpieceTokenizer.from_folder(folder)
        self._model = load(folder)
        if not self._model.further_inputs:
            expected = "a model with a masked LM head"
            raise InputError(folder, expected, self._model.architecture)

    def __call__(
        self, text: str, top_k: int = 5
    ) -> list[Filled] | list[list[Filled]]:
        """Returns the likeliest pieces, the likeliest first.

        Several masks get a list each, in their order.

        Raises:
            InputError: the text has no `[MASK]`.
        """
        from scipy.special import softmax

        ids, positions = [self._tokenizer.cls_id], []
        for number, part in enumerate(text.split(_MASK)):
            if number:
                positions.append(len(ids))
                ids.append(self._tokenizer.mask_id)
            ids += self._tokenizer.pieces([part])[0].tolist()
        if not positions:
            raise InputError("text", f"a text with {_MASK}", repr(text))
        outputs = self._model(
            {
                "input_ids": [[*ids, self._tokenizer.sep_id]],
                "masked_lm_positions": [positions],
            }
        )
        if isinstance(outputs, dict):
            outputs = outputs["masked_lm_logits"]
        found = [
            [
                Filled(self._tokenizer.vocab[index], float(probs[index]))
                for index in np.argsort(-probs)[:top_k]
            ]
            for probs in softmax(np.asarray(outputs[0], np.float64), axis=-1)
        ]
        return found if len(found) > 1 else found[0]
