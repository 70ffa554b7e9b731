"""A question answering task: its questions, as windows, and its model.

Owns `question_answering.json`, in which a model folder says how its windows
are cut and when a question is left unanswered.

Question answering: the loss, and from a model's logits to scored answers.

Owns how a model is run over windows of a few widths, what "no answer" is
weighed against, and which answers are written and scored.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import scipy.special
import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.builtin import argument_questions
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.modeling.load import load, load_encoder_weights
from mobilebert_tf.modeling.losses import span_loss
from mobilebert_tf.modeling.models import MobileBertForQuestionAnswering
from mobilebert_tf.options import Options, option
from mobilebert_tf.tasks import squad_answers
from mobilebert_tf.tasks import squad_answers as squad_metrics
from mobilebert_tf.tasks.squad import (
    TFDS_NAMES,
    Questions,
    read_squad,
    squad_questions,
    tfds_questions,
)
from mobilebert_tf.tasks.squad_windows import (
    NUM_SPECIAL,
    Windows,
    bucket_lengths,
    bucketed_rows,
    label_windows,
    make_windows,
)
from mobilebert_tf.tasks.task import (
    Hyperparameters,
    Task,
    model_architecture,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from mobilebert_tf.training.inference import inference_step

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


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a model answers, question by question.

    Attributes:
        ids: of the questions.
        texts: the likeliest answers, were every question to be answered.
        characters: where each text stands in its context: its first character
            and the one after its last. None for a context without a word.
        n_best: the lists they are from.
        odds: how much "no answer" is preferred; None in v1.1.
    """

    ids: list[str]
    texts: list[str]
    characters: list[tuple[int, int] | None]
    n_best: list[list[squad_answers.Candidate]]
    odds: list[float] | None

    def predictions(self, threshold: float) -> list[str]:
        """The answers, empty where the odds are above the threshold."""
        if self.odds is None:
            return self.texts
        return squad_answers.apply_threshold(self.texts, self.odds, threshold)

    def write(
        self, folder: str | os.PathLike, prefix: str, threshold: float
    ) -> None:
        """Writes the files of the official scripts (see `write_answers`)."""
        squad_answers.write_answers(
            folder,
            prefix,
            self.ids,
            self.predictions(threshold),
            self.n_best,
            self.odds,
        )


def question_answering_loss(
    model: MobileBertForQuestionAnswering,
) -> Callable[[dict], dict[str, tf.Tensor]]:
    """Returns a function from a batch with positions to `loss`."""

    def compute_loss(batch):
        return {"loss": answer_loss(model(batch, training=True), batch)}

    return compute_loss


def answer_loss(logits, batch):
    """The span loss of a model's logits, [B, S] by name, in nats."""
    return span_loss(
        logits["start_logits"],
        logits["end_logits"],
        batch["start_positions"],
        batch["end_positions"],
    )


class SpanPredictor:
    """Runs a model over windows, in batches of a few widths.

    Traced once: it may be called again and again.

    Args:
        model: what answers.
        batch_size: windows at once.
    """

    def __init__(self, model: MobileBertForQuestionAnswering, batch_size: int):
        self._batch_size = batch_size
        self._step = inference_step(model, batch_size)

    def __call__(
        self, windows: Windows, max_seq_length: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns start and end logits, float32 [W, max_seq_length].

        Short windows run at a smaller width; columns beyond it stay 0.
        """
        logits = {
            name: np.zeros((len(windows), max_seq_length), np.float32)
            for name in ("start_logits", "end_logits")
        }
        for width, rows in bucketed_rows(windows, max_seq_length):
            for first in range(0, len(rows), self._batch_size):
                some = rows[first : first + self._batch_size]
                # Filled up from the start again, so that the shape stays.
                inputs = windows.inputs(
                    np.resize(some, self._batch_size), width
                )
                outputs = self._step(inputs)
                for name, array in logits.items():
                    array[some, :width] = outputs[name][: len(some)]
        return logits["start_logits"], logits["end_logits"]


def answer_questions(
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    split: QuestionSplit,
    settings: SquadSettings,
) -> Answers:
    """Turns the logits of a split's windows, [W, S], into answers."""
    questions, windows = split.questions, split.windows
    spans = squad_answers.best_spans(
        start_logits,
        end_logits,
        start_mask=windows.max_context_mask(settings.max_seq_length),
        end_mask=windows.context_mask(settings.max_seq_length),
        question_index=windows.question_index,
        n_best_size=settings.n_best_size,
        max_answer_length=settings.max_answer_length,
    )
    starts, ends = windows.characters(spans.windows, spans.starts, spans.ends)
    texts = [
        questions.context(question)[start:end]
        for question, start, end in zip(
            spans.questions.tolist(),
            starts.tolist(),
            ends.tolist(),
            strict=True,
        )
    ]
    nulls = None
    if settings.version_2_with_negative:
        nulls = squad_answers.null_candidates(
            start_logits, end_logits, windows.question_index, len(questions)
        )
    n_best = squad_answers.n_best_lists(
        spans, texts, len(questions), settings.n_best_size, nulls
    )
    # A question's first span is the likeliest; it has the likeliest text.
    best = dict(zip(*np.unique(spans.questions, return_index=True)))
    characters = [
        (int(starts[best[index]]), int(ends[best[index]]))
        if index in best
        else None
        for index in range(len(questions))
    ]
    return Answers(
        questions.ids,
        squad_answers.best_answers(n_best),
        characters,
        n_best,
        None if nulls is None else squad_answers.null_odds(n_best, nulls),
    )


def score_answers(
    answers: Answers, split: QuestionSplit, threshold: float
) -> dict[str, float]:
    """Returns the official scores; for v2.0 also the best thresholds.

    Numbers of questions are left out: they are no scores.
    """
    right = split.answer_texts
    version_2 = answers.odds is not None
    predictions = dict(
        zip(answers.ids, answers.predictions(threshold), strict=True)
    )
    scores = squad_metrics.squad_metrics(right, predictions, version_2)
    if version_2:
        scores |= squad_metrics.best_thresholds(
            right,
            dict(zip(answers.ids, answers.texts, strict=True)),
            dict(zip(answers.ids, answers.odds, strict=True)),
        )
    return {
        name: value
        for name, value in scores.items()
        if not name.endswith("total")
    }


def answer_splits(
    model: MobileBertForQuestionAnswering,
    splits: Mapping[str, QuestionSplit],
    settings: SquadSettings,
    *,
    batch_size: int,
    folder: str | os.PathLike,
    threshold: float | None,
) -> tuple[dict[str, float], SquadSettings]:
    """Answers `dev` and `predict`, writes the answers and scores those of dev.

    Args:
        model: what answers.
        splits: as far as they are there.
        settings: how windows were made. Their threshold is for `predict` where
            neither `threshold` nor `dev` says a better one.
        batch_size: windows at once.
        folder: gets the official files of `predict`, and those of `dev` with
            `dev_` before their names.
        threshold: leaves questions unanswered whose null odds are above it.
            None: 0.0 for `dev`, so that its scores are honest, and for
            `predict` what gives `dev` its best F1.

    Returns:
        The scores by name, `dev_` before each; and the settings with the
        threshold for further questions.
    """
    results, predict = {}, SpanPredictor(model, batch_size)
    further = settings.null_score_diff_threshold
    if threshold is not None:
        further = threshold

    def answer(name: str, prefix: str, its_threshold: float) -> Answers:
        logits = predict(splits[name].windows, settings.max_seq_length)
        answers = answer_questions(*logits, splits[name], settings)
        answers.write(folder, prefix, its_threshold)
        return answers

    if "dev" in splits:
        its_threshold = threshold or 0.0
        answers = answer("dev", "dev_", its_threshold)
        scores = score_answers(answers, splits["dev"], its_threshold)
        results = {f"dev_{key}": value for key, value in scores.items()}
        if threshold is None:
            further = scores.get("best_f1_thresh", further)
    if "predict" in splits:
        answer("predict", "", further)
    return results, dataclasses.replace(
        settings, null_score_diff_threshold=further
    )


@dataclasses.dataclass(frozen=True)
class QuestionAnsweringOptions(Options):
    """Which questions are learned, how contexts are cut and answers chosen.

    Where an option is None, a model that answers questions already keeps its
    own value: windows of another length or stride would be new to it.
    """

    group: ClassVar[str] = "data"

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


class FoundAnswer(NamedTuple):
    """An answer to a question; `context[start:end]` is its text.

    Attributes:
        text: as it stands in the context; empty if there is no answer.
        score: its probability among the likeliest answers.
        start: its first character.
        end: the character after its last one.
    """

    text: str
    score: float
    start: int
    end: int


# Of the inputs of a file that phones' question answerer opens.
_PHONE_LENGTH = 384


class QuestionAnsweringTask(Task):
    """Answers questions with stretches of their contexts.

    An example is a window: a question and a part of its context. Labelled
    splits also have `start_positions` and `end_positions`, int32 [N].

    Args:
        questions: by split: `train`, `dev` and `predict`.
        tokenizer: the model's.
        settings: how contexts are cut and answers chosen.
        threshold: null odds above which a question has no answer, on all
            splits; None: 0.0 on `dev`, so that its scores are honest, and on
            `predict` what gives `dev` its best F1 (see `write`).
        mlperf_order: whether `.tflite` files return `end_logits` first.

    Attributes:
        settings: with the threshold for further questions.
    """

    model_class_name = "MobileBertForQuestionAnswering"
    title = "Question answerer"
    chosen_by = ("exact", "f1")
    hyperparameters = Hyperparameters(learning_rate=4e-5, num_epochs=5)

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
        self.bucket_lengths = tuple(bucket_lengths(settings.max_seq_length))
        self._threshold = threshold
        self._mlperf_order = mlperf_order
        self._tokenizer = tokenizer
        self._splits = {
            split: encode_split(some, tokenizer, settings, split)
            for split, some in questions.items()
        }
        self.splits = {
            split: self._arrays(some.windows, settings) | (some.labels or {})
            for split, some in self._splits.items()
        }

    @classmethod
    def read(cls, options, tokenizer, folder, actions):
        """See `Task.read`; `options` are `QuestionAnsweringOptions`."""
        if not actions.train:
            _check_question_answerer(folder)
        if options.task and (options.train_file or options.dev_file):
            raise InputError("--task", "either a task or files", "both")
        settings = _settings(options, folder)
        needed = {
            "train": actions.train or actions.calibrate,
            # Training chooses the best weights by it.
            "dev": actions.evaluate or actions.train,
            "predict": actions.predict,
        }
        files = {split: getattr(options, f"{split}_file") for split in needed}
        wanted = [split for split in needed if needed[split]]
        questions = read_splits(files, options.task, wanted)
        if actions.train and "train" not in questions:
            raise InputError("--train_file", "a file, or --nodo_train", "none")
        if options.max_train_examples and "train" in questions:
            number = options.max_train_examples
            questions["train"] = questions["train"].first(number)
        version_2 = may_have_no_answer(
            questions,
            options.version_2_with_negative,
            # A model that is trained further may learn otherwise.
            settings.version_2_with_negative and not actions.train,
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
        """See `Task.open`."""
        _check_question_answerer(folder)
        config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
        return cls({}, tokenizer, known_settings(folder, config))

    @property
    def max_seq_length(self) -> int:
        """Length S of the windows."""
        return self.settings.max_seq_length

    def of_length(self, max_seq_length):
        """See `Task.of_length`; the stride is at most a third of the length.

        Raises:
            InputError: the length is too short for a question.
        """
        if max_seq_length == self.max_seq_length:
            return self
        return QuestionAnsweringTask(
            {split: some.questions for split, some in self._splits.items()},
            self._tokenizer,
            _settings_of_length(self.settings, max_seq_length),
            self._threshold,
            self._mlperf_order,
        )

    def encode(self, texts, max_seq_length):
        """Encodes (question, context) pairs, each as at least one window."""
        settings = _settings_of_length(self.settings, max_seq_length)
        split = self._unlabelled(texts, settings)
        return self._arrays(split.windows, settings)

    def loss(self, outputs, batch):
        """Mean cross-entropy of both ends over positions, in nats."""
        from mobilebert_tf.modeling import losses

        return losses.span_loss(
            outputs["start_logits"],
            outputs["end_logits"],
            batch["start_positions"],
            batch["end_positions"],
        )

    def distillation_loss(self, outputs, teacher_outputs, batch, temperature):
        """Mean KL(teacher || student) of both ends over positions, in nats."""
        from mobilebert_tf.modeling import losses

        start, end = (
            losses.mean(
                losses.kl_divergence(
                    outputs[name], teacher_outputs[name], temperature
                )
            )
            for name in ("start_logits", "end_logits")
        )
        return (start + end) / 2.0

    def metrics(self, outputs, split):
        """Official exact match and F1, in percent; for v2.0 thresholds too."""
        return score_answers(
            self._answers(outputs, split),
            self._splits[split],
            self._threshold or 0.0,
        )

    def answers(self, outputs, texts) -> list[FoundAnswer]:
        """Returns the answers to (question, context) pairs."""
        length = outputs["start_logits"].shape[1]
        settings = _settings_of_length(self.settings, length)
        answers = answer_questions(
            outputs["start_logits"],
            outputs["end_logits"],
            self._unlabelled(texts, settings),
            settings,
        )
        return _found_answers(answers, settings.null_score_diff_threshold)

    def write(self, outputs, split, folder):
        """Writes the files of the official scripts.

        Those of a labelled split have its name before theirs. Where questions
        may have no answer, and no threshold was given, `dev` then decides the
        threshold for further questions: that of its best F1.
        """
        answers = self._answers(outputs, split)
        name, threshold = "", self.settings.null_score_diff_threshold
        if self._splits[split].labels is not None:
            name, threshold = f"{split}_", self._threshold or 0.0
        answers.write(folder, name, threshold)
        path = Path(folder) / f"{name}{squad_answers.PREDICTIONS_FILE}"
        print(f"Wrote {path}", flush=True)
        if split == "dev" and answers.odds and self._threshold is None:
            scores = score_answers(answers, self._splits[split], threshold)
            self.settings = dataclasses.replace(
                self.settings,
                null_score_diff_threshold=scores["best_f1_thresh"],
            )

    def file_options(self, tokenizer):
        """See `Task.file_options`."""
        options = {"mlperf_order": self._mlperf_order}
        if tokenizer is None:
            return options
        if self.max_seq_length != _PHONE_LENGTH:
            raise InputError(
                "--metadata",
                f"--export_seq_length={_PHONE_LENGTH}",
                self.max_seq_length,
            )
        return options | {"metadata": {"vocabulary": tokenizer.vocab}}

    def notes(self):
        """See `Task.notes`."""
        return {split: some.description for split, some in self._splits.items()}

    def save(self, folder):
        """Writes how windows are cut and when a question has no answer."""
        write_settings(folder, self.settings)

    def _answers(self, outputs, split: str) -> Answers:
        return answer_questions(
            outputs["start_logits"],
            outputs["end_logits"],
            self._splits[split],
            self.settings,
        )

    def _arrays(self, windows: Windows, settings: SquadSettings):
        return windows.inputs(np.arange(len(windows)), settings.max_seq_length)

    def _unlabelled(self, texts, settings: SquadSettings) -> QuestionSplit:
        paragraphs = [
            {"context": context, "qas": [{"id": str(index), "question": text}]}
            for index, (text, context) in enumerate(texts)
        ]
        questions = squad_questions(
            {"data": [{"paragraphs": paragraphs}]},
            "question and context",
            has_answers=False,
        )
        windows = make_windows(
            questions,
            self._tokenizer,
            max_seq_length=settings.max_seq_length,
            doc_stride=settings.doc_stride,
            max_query_length=settings.max_query_length,
        )
        return QuestionSplit(questions, windows, None, "")


def _check_question_answerer(folder: str | os.PathLike) -> None:
    wanted = QuestionAnsweringTask.model_class_name
    if model_architecture(folder) != wanted:
        raise InputError(
            folder, "a model that answers questions", "another kind"
        )


def _settings(
    options: QuestionAnsweringOptions, folder: str | os.PathLike
) -> SquadSettings:
    """The given windows and answers; otherwise those of the folder."""
    config = MobileBertConfig.from_json(Path(folder) / CONFIG_FILE)
    names = (
        "max_seq_length",
        "doc_stride",
        "max_query_length",
        "n_best_size",
        "max_answer_length",
    )
    given = {name: getattr(options, name) for name in names}
    if options.max_seq_length and not options.doc_stride:
        given["doc_stride"] = options.max_seq_length // 3
    settings = dataclasses.replace(
        known_settings(folder, config),
        **{name: value for name, value in given.items() if value is not None},
    )
    settings.check(config)
    return settings


def _settings_of_length(settings: SquadSettings, length: int) -> SquadSettings:
    if length == settings.max_seq_length:
        return settings
    shortest = settings.max_query_length + NUM_SPECIAL + 1
    if length < shortest:
        raise InputError(
            "--export_seq_length",
            f"at least {shortest} for questions of "
            f"{settings.max_query_length} pieces",
            length,
        )
    return dataclasses.replace(
        settings,
        max_seq_length=length,
        doc_stride=min(settings.doc_stride, length // 3),
    )


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
