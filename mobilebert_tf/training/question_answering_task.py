"""A question answering task: its questions, as windows, and its model.

Owns `question_answering.json`, in which a model folder says how its windows
are cut and when a question is left unanswered.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mobilebert_tf.atomic import atomic_file
from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.builtin import argument_questions
from mobilebert_tf.data.squad import (
    Questions,
    read_squad,
    squad_questions,
    tfds_questions,
)
from mobilebert_tf.data.squad_labels import label_windows
from mobilebert_tf.data.squad_windows import NUM_SPECIAL, Windows, make_windows
from mobilebert_tf.data.wordpiece import WordpieceTokenizer
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.model_folder import CONFIG_FILE
from mobilebert_tf.modeling.models import MobileBertForQuestionAnswering
from mobilebert_tf.modeling.pretrained import load, load_encoder_weights

SETTINGS_FILE = "question_answering.json"


@dataclasses.dataclass(frozen=True)
class SquadSettings:
    """How contexts are cut and answers chosen; defaults are the original's.

    Attributes:
        max_seq_length: columns of the longest window.
        doc_stride: pieces from one window to the next.
        max_query_length: pieces that are kept of a question.
        n_best_size: answers that are listed of a question.
        max_answer_length: most pieces of an answer.
        version_2_with_negative: whether a question may have no answer.
        null_score_diff_threshold: null odds above which it then has none.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64
    n_best_size: int = 20
    max_answer_length: int = 30
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0

    def check(self, config: MobileBertConfig) -> None:
        """Checks that windows fit a model, and questions into windows.

        Raises:
            InputError: naming the flag, if they do not.
        """
        positions = config.max_position_embeddings
        if self.max_seq_length > positions:
            raise InputError(
                "--max_seq_length", f"at most {positions}", self.max_seq_length
            )
        # A window has at least one piece of the context.
        longest = self.max_seq_length - NUM_SPECIAL - 1
        if self.max_query_length > longest:
            expected = f"at most {longest} in {self.max_seq_length} columns"
            raise InputError(
                "--max_query_length", expected, self.max_query_length
            )


def write_settings(folder: str | os.PathLike, settings: SquadSettings) -> None:
    """Says in a model folder how it answers, atomically."""
    values = dataclasses.asdict(settings)
    with atomic_file(Path(folder) / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_settings(folder: str | os.PathLike) -> SquadSettings | None:
    """Returns how a model folder answers; None if it does not say.

    Raises:
        InputError: if it says what cannot be.
    """
    path = Path(folder) / SETTINGS_FILE
    if not path.exists():
        return None
    values = read_json_object(path)
    fields = {field.name: field for field in dataclasses.fields(SquadSettings)}
    if values.keys() != fields.keys():
        raise InputError(path, f"the keys {', '.join(fields)}", list(values))
    for name, value in values.items():
        kind = fields[name].type
        if kind is float and type(value) is int:
            values[name] = float(value)
        elif type(value) is not kind:
            expected = f"a value of type {kind.__name__}"
            raise InputError(path, expected, repr(value), name)
        elif kind is int and value < 1:
            raise InputError(path, "a number above 0", value, name)
    return SquadSettings(**values)


def known_settings(
    folder: str | os.PathLike, config: MobileBertConfig
) -> SquadSettings:
    """Returns how a model folder answers; else what fits its model.

    Raises:
        InputError: if the folder says what cannot be.
    """
    saved = read_settings(folder) if is_question_answerer(folder) else None
    if saved is not None:
        return saved
    length = SquadSettings().max_seq_length
    length = min(length, config.max_position_embeddings)
    return SquadSettings(length, length // 3)


@dataclasses.dataclass(frozen=True)
class QuestionSplit:
    """Questions and their windows; labels only where answers are known.

    Attributes:
        questions: as read.
        windows: of `questions`.
        labels: of `label_windows`, or None.
        description: how many, and what the windows cannot express.
    """

    questions: Questions
    windows: Windows
    labels: dict[str, np.ndarray] | None
    description: str

    @property
    def answer_texts(self) -> dict[str, list[str]]:
        """The right answers by question id."""
        questions = self.questions
        return {
            name: [answer.text for answer in answers]
            for name, answers in zip(
                questions.ids, questions.answers, strict=True
            )
        }


def read_splits(
    files: Mapping[str, str | None], task: str | None, wanted: Sequence[str]
) -> dict[str, Questions]:
    """Reads the questions of a task, by split.

    Args:
        files: by split, `train`, `dev` and `predict`, files in SQuAD's format
            or None. `predict` needs no answers.
        task: a name of `TFDS_NAMES` for `train` and `dev`. Without it and
            without any file, the questions about arguments of functions that
            are made from the installed packages' documentation.
        wanted: the splits to read; others are left alone.

    Raises:
        InputError: for a malformed file.
    """
    splits = {
        split: read_squad(files[split], has_answers=split != "predict")
        for split in wanted
        if files[split] is not None
    }
    labelled = [split for split in wanted if split != "predict"]
    if task:
        splits |= {split: tfds_questions(task, split) for split in labelled}
    elif not any(files.values()):
        built_in = argument_questions()
        for split in labelled:
            name = f"built-in {split} questions"
            splits[split] = squad_questions(built_in[split], name)
    return splits


def may_have_no_answer(
    splits: Mapping[str, Questions], given: bool | None, known: bool = False
) -> bool:
    """Whether a task is like v2.0: as given, else as its questions are.

    Args:
        splits: the questions.
        given: what the user says, if anything.
        known: whether the model is known to leave questions unanswered.

    Raises:
        InputError: if it should not be, but a question has no answer.
    """
    found = sum(questions.num_unanswerable for questions in splits.values())
    if given is None:
        return known or found > 0
    if found and not given:
        raise InputError(
            "--noversion_2_with_negative",
            "questions that have an answer",
            f"{found} that have none",
        )
    return given


def encode_split(
    questions: Questions,
    tokenizer: WordpieceTokenizer,
    settings: SquadSettings,
    name: str,
) -> QuestionSplit:
    """Makes windows and labels, and prints how many and what they miss."""
    windows = make_windows(
        questions,
        tokenizer,
        max_seq_length=settings.max_seq_length,
        doc_stride=settings.doc_stride,
        max_query_length=settings.max_query_length,
    )
    labels, counts = None, f"{len(questions):,} questions"
    if questions.answers is not None:
        labels, counts = label_windows(
            windows, questions, settings.max_answer_length
        )
    description = f"{len(windows):,} windows of {counts}"
    print(f"{name}: {description}", flush=True)
    return QuestionSplit(questions, windows, labels, description)


def windows_of_length(
    splits: Mapping[str, QuestionSplit],
    settings: SquadSettings,
    tokenizer: WordpieceTokenizer,
    length: int,
) -> tuple[dict[str, QuestionSplit], SquadSettings]:
    """Returns the same questions in windows of another length.

    Raises:
        InputError: if that is too short for a question.
    """
    if length == settings.max_seq_length:
        return dict(splits), settings
    shortest = settings.max_query_length + NUM_SPECIAL + 1
    if length < shortest:
        raise InputError(
            "--export_seq_length",
            f"at least {shortest} for questions of "
            f"{settings.max_query_length} pieces",
            length,
        )
    settings = dataclasses.replace(
        settings,
        max_seq_length=length,
        doc_stride=min(settings.doc_stride, length // 3),
    )
    return {
        name: encode_split(
            split.questions, tokenizer, settings, f"{name}, for export"
        )
        for name, split in splits.items()
    }, settings


def is_question_answerer(folder: str | Path) -> bool:
    """Whether a model folder holds a model that answers questions."""
    values = read_json_object(Path(folder) / CONFIG_FILE)
    wanted = [MobileBertForQuestionAnswering.architecture]
    return values.get("architectures") == wanted


def build_question_answerer(
    folder: str | Path,
) -> MobileBertForQuestionAnswering:
    """Returns a model that starts from a model folder.

    One that answers questions keeps its head; from any other model the encoder
    is taken and the head is new.
    """
    if is_question_answerer(folder):
        return load(folder)
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    model = MobileBertForQuestionAnswering(config)
    load_encoder_weights(model.encoder, folder)
    return model
