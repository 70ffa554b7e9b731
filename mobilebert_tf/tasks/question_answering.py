"""Question answering: an answer is a span of the context, or there is none.

A model folder's `question_answering.json` keeps how its windows are cut and
when a question is left unanswered.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.builtin import argument_questions
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.options import option
from mobilebert_tf.tasks.squad import (
    TFDS_NAMES,
    Questions,
    read_squad,
    squad_questions,
    tfds_questions,
)
from mobilebert_tf.tasks.squad_answers import (
    PREDICTIONS_FILE,
    Answers,
    answer_questions,
)
from mobilebert_tf.tasks.squad_windows import (
    SquadSettings,
    Windows,
    bucket_lengths,
    label_windows,
    make_windows,
)
from mobilebert_tf.tasks.task import (
    CONFIG_FILE,
    Actions,
    Hyperparameters,
    Task,
    TaskOptions,
    check_length,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer

SETTINGS_FILE = "question_answering.json"

# Inputs of the files that the question answerer of phones opens.
_PHONE_LENGTH = 384


def write_settings(folder: str | os.PathLike, settings: SquadSettings) -> None:
    """Writes `question_answering.json` into a model folder."""
    values = dataclasses.asdict(settings)
    with atomic_file(Path(folder) / SETTINGS_FILE) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_settings(folder: str | os.PathLike) -> SquadSettings:
    """Returns the settings of a model folder.

    Without `question_answering.json`, or if the folder holds another kind of
    model, those that fit its model.

    Raises:
        InputError: the file has other keys or values out of range.
    """
    path = Path(folder) / SETTINGS_FILE
    if not (path.exists() and QuestionAnsweringTask.is_model_of(folder)):
        config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
        length = SquadSettings().max_seq_length
        length = min(length, config.max_position_embeddings)
        return SquadSettings(length, length // 3)
    values = read_json_object(path)
    defaults = dataclasses.asdict(SquadSettings())
    if values.keys() != defaults.keys():
        raise InputError(path, f"the keys {', '.join(defaults)}", list(values))
    for name, value in values.items():
        wanted = type(defaults[name])
        if wanted is float and type(value) is int:
            values[name] = float(value)
        elif type(value) is not wanted:
            expected = f"a value of type {wanted.__name__}"
            raise InputError(path, expected, repr(value), name)
        elif wanted is int and value < 1:
            raise InputError(path, "a number above 0", value, name)
    return SquadSettings(**values)


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringOptions(TaskOptions):
    """Which questions are learned, how contexts are cut and answers chosen.

    A model that answers questions already keeps its own value of an option
    that is None: windows of another length or stride would be new to it.
    """

    task: str | None = option(
        None,
        "Train and dev questions by name, through TensorFlow Datasets. Without "
        "a task and files: built-in questions.",
        choices=tuple(TFDS_NAMES),
        everyday=True,
    )
    train_file: str | None = option(
        None, "Questions to train on, SQuAD's JSON.", everyday=True
    )
    dev_file: str | None = option(
        None, "Questions to evaluate on, SQuAD's JSON.", everyday=True
    )
    predict_file: str | None = option(
        None,
        "Questions to answer; answers in it are ignored.",
        everyday=True,
        resumable=True,
    )
    max_train_examples: int | None = option(
        None, "Train on this many questions only, the first ones.", min=1
    )
    version_2_with_negative: bool | None = option(
        None,
        "Whether questions may have no answer. Default: whether any question "
        "of the training and dev files has none, or as the model was trained.",
    )
    max_seq_length: int | None = option(
        None,
        "Longest window, in word pieces. Default: as the model was trained, or "
        "384, capped at the model's positions.",
        min=8,
        everyday=True,
    )
    doc_stride: int | None = option(
        None,
        "Pieces from one window to the next. Default: as the model was "
        "trained, or a third of --max_seq_length.",
        min=1,
    )
    max_query_length: int | None = option(
        None,
        "Pieces kept of a question. Default: as the model was trained, or 64.",
        min=1,
    )
    n_best_size: int | None = option(
        None,
        "Answers listed for a question. Default: as the model was trained, or "
        "20.",
        min=1,
        resumable=True,
    )
    max_answer_length: int | None = option(
        None,
        "Longest answer, in pieces. Default: as the model was trained, or 30.",
        min=1,
        resumable=True,
    )
    null_score_diff_threshold: float | None = option(
        None,
        "Leave a question unanswered if its null odds are above this. Default: "
        "0 on dev; for --predict_file the best threshold for F1 on dev or, "
        "without dev questions, that of the model's folder.",
        resumable=True,
    )
    mlperf_order: bool = option(
        False,
        "Put end_logits before start_logits in .tflite files, as MLPerf does.",
        group="export",
        resumable=True,
    )

    @property
    def sources(self):
        return {} if self.task else super().sources

    def settings(self, folder: str | os.PathLike) -> SquadSettings:
        """Returns the settings given, otherwise those of a model folder.

        Raises:
            InputError: windows do not fit the model.
        """
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(SquadSettings)
        }
        if self.max_seq_length and not self.doc_stride:
            given["doc_stride"] = self.max_seq_length // 3
        settings = dataclasses.replace(
            read_settings(folder),
            **{name: each for name, each in given.items() if each is not None},
        )
        check_length(folder, settings.max_seq_length)
        return settings


class FoundAnswer(NamedTuple):
    """An answer: `context[start:end]`, or an empty text if there is none.

    `score` is its probability among the likeliest answers.
    """

    text: str
    score: float
    start: int
    end: int


class QuestionAnsweringTask(Task):
    """Answers questions with stretches of their contexts.

    An example is a window: a question and a part of its context. Labelled
    splits also have `start_positions` and `end_positions`, int32 [N].

    Args:
        questions: by split: `train`, `dev` and `predict`.
        tokenizer: the model's.
        settings: how contexts are cut and answers chosen.
        threshold: null odds above which a question has no answer, in all
            splits; None: 0.0 on `dev`, so that its scores are honest, and on
            `predict` the one that gives `dev` its best F1 (see `write`).
        mlperf_order: whether `.tflite` files return `end_logits` first.

    Attributes:
        settings: with the threshold for further questions.
    """

    model_class_name = "MobileBertForQuestionAnswering"
    title = "Question answerer"
    chosen_by = ("exact", "f1")
    floor_rule = "never an answer"
    hyperparameters = Hyperparameters(learning_rate=4e-5, num_epochs=5)
    points = 1.0

    def __init__(
        self,
        questions: Mapping[str, Questions],
        tokenizer: WordpieceTokenizer,
        settings: SquadSettings,
        threshold: float | None = None,
        mlperf_order: bool = False,
    ):
        self.settings = settings
        if threshold is not None:
            self.settings = dataclasses.replace(
                settings, null_score_diff_threshold=threshold
            )
        self._questions = dict(questions)
        self._tokenizer = tokenizer
        self._threshold = threshold
        self._mlperf_order = mlperf_order
        self.encode_splits(settings.max_seq_length)

    @classmethod
    def read(cls, options, tokenizer, folder, actions):
        if not actions.train:
            cls.check_model(folder)
        if options.task and (options.train_file or options.dev_file):
            raise InputError("--task", "either a task or files", "both")
        settings = options.settings(folder)
        questions = _read_questions(options, actions)
        actions.check_training(questions)
        if "train" in questions:
            train = questions["train"].first(options.max_train_examples)
            questions["train"] = train
        version_2 = _may_have_no_answer(
            questions,
            options.version_2_with_negative,
            # A model that is trained further may learn otherwise.
            read_settings(folder).version_2_with_negative and not actions.train,
        )
        return cls(
            questions,
            tokenizer,
            dataclasses.replace(settings, version_2_with_negative=version_2),
            options.null_score_diff_threshold,
            options.mlperf_order,
        )

    @classmethod
    def open(cls, folder, tokenizer):
        cls.check_model(folder)
        return cls({}, tokenizer, read_settings(folder))

    @property
    def max_seq_length(self):
        return self.settings.max_seq_length

    def encode_splits(self, max_seq_length):
        self.settings = self.settings.of_length(max_seq_length)
        self.bucket_lengths = bucket_lengths(max_seq_length)
        self.splits, self._windows, self._sizes = {}, {}, {}
        for split, some in self._questions.items():
            windows = make_windows(some, self._tokenizer, self.settings)
            size = f"{len(windows):,} windows of {len(some):,} questions"
            labels = {}
            if some.answers is not None:
                labels, counts = label_windows(
                    windows, some, self.settings.max_answer_length
                )
                cases = [f", {n:,} {case}" for case, n in counts.items() if n]
                size += "".join(cases)
            self.splits[split] = windows.inputs() | labels
            self._windows[split] = windows
            self._sizes[split] = size
            note = self.floor_note(split) if split != "train" else ""
            print(f"{split}: {size}{note}", flush=True)

    def encode(self, texts, max_seq_length):
        """Encodes (question, context) pairs, each as at least one window."""
        return self._encode(texts, max_seq_length)[1].inputs()

    def loss(self, outputs, batch):
        from mobilebert_tf.modeling import losses

        return losses.span_loss(
            outputs["start_logits"],
            outputs["end_logits"],
            batch["start_positions"],
            batch["end_positions"],
        )

    def distillation_loss(self, outputs, teacher_outputs, batch, temperature):
        from mobilebert_tf.modeling import losses

        start, end = (
            losses.kl_divergence(
                outputs[name], teacher_outputs[name], temperature
            )
            for name in ("start_logits", "end_logits")
        )
        return (losses.mean(start) + losses.mean(end)) / 2.0

    def metrics(self, outputs, split):
        """Official scores in percent; for v2.0 also the best thresholds."""
        return self._answers(outputs, split).scores(self._threshold or 0.0)

    def floor(self, split):
        """Scores leaving every question of v2.0 unanswered."""
        questions = self._questions[split]
        percent = 100.0 * questions.num_unanswerable / len(questions)
        return {"exact": percent, "f1": percent} if percent else {}

    def answers(self, outputs, texts):
        """Returns a `FoundAnswer` to each (question, context) pair."""
        from scipy.special import softmax

        length = outputs["start_logits"].shape[1]
        answers = answer_questions(
            outputs, *self._encode(texts, length), self.settings
        )
        threshold = self.settings.null_score_diff_threshold
        found = []
        for text, entries in zip(
            answers.predictions(threshold), answers.n_best, strict=True
        ):
            probs = softmax([entry.logit for entry in entries])
            index = [entry.text for entry in entries].index(text)
            start, end = entries[index].start, entries[index].end
            found.append(FoundAnswer(text, float(probs[index]), start, end))
        return found

    def write(self, outputs, split, folder):
        """Writes the files of the official scripts.

        Names for a labelled split start with its own. Unless a threshold was
        given, `dev` decides here when further questions have no answer.
        """
        answers = self._answers(outputs, split)
        prefix, threshold = "", self.settings.null_score_diff_threshold
        if self._questions[split].answers is not None:
            prefix, threshold = f"{split}_", self._threshold or 0.0
        answers.write(folder, prefix, threshold)
        path = Path(folder) / f"{prefix}{PREDICTIONS_FILE}"
        print(f"Wrote {path}", flush=True)
        if split == "dev" and answers.odds and self._threshold is None:
            best = answers.scores(threshold)["best_f1_thresh"]
            self.settings = dataclasses.replace(
                self.settings, null_score_diff_threshold=best
            )

    def file_options(self, tokenizer):
        options = {"mlperf_order": self._mlperf_order}
        if tokenizer is None:
            return options
        length = self.max_seq_length
        if length != _PHONE_LENGTH:
            expected = f"--export_seq_length={_PHONE_LENGTH}"
            raise InputError("--metadata", expected, length)
        return options | {"metadata": {"vocabulary": tokenizer.vocab}}

    def notes(self):
        return dict(self._sizes)

    def save(self, folder):
        super().save(folder)
        write_settings(folder, self.settings)

    def _answers(self, outputs, split: str) -> Answers:
        questions, windows = self._questions[split], self._windows[split]
        return answer_questions(outputs, questions, windows, self.settings)

    def _encode(self, texts, max_seq_length: int) -> tuple[Questions, Windows]:
        paragraphs = [
            {"context": context, "qas": [{"id": str(index), "question": text}]}
            for index, (text, context) in enumerate(texts)
        ]
        questions = squad_questions(
            {"data": [{"paragraphs": paragraphs}]},
            "question and context",
            has_answers=False,
        )
        settings = self.settings.of_length(max_seq_length)
        return questions, make_windows(questions, self._tokenizer, settings)


def _read_questions(
    options: QuestionAnsweringOptions, actions: Actions
) -> dict[str, Questions]:
    """Reads the splits that actions need; built-in ones without any file."""
    questions = {
        split: read_squad(path, split != "predict", options.encoding)
        for split, path in options.files.items()
        if split in actions.splits
    }
    labelled = [split for split in ("train", "dev") if split in actions.splits]
    if options.task:
        for split in labelled:
            questions[split] = tfds_questions(options.task, split)
    elif labelled and not options.files:
        built_in = argument_questions()
        for split in labelled:
            name = f"built-in {split} questions"
            questions[split] = squad_questions(built_in[split], name)
    return questions


def _may_have_no_answer(
    questions: Mapping[str, Questions], given: bool | None, known: bool
) -> bool:
    """Whether a question may have no answer: as given, or as they are."""
    found = sum(some.num_unanswerable for some in questions.values())
    if given is None:
        return known or found > 0
    if found and not given:
        raise InputError(
            "--noversion_2_with_negative",
            "questions that have an answer",
            f"{found} that have none",
        )
    return given
