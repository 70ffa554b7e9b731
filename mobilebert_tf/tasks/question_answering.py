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

import numpy as np
import tensorflow as tf

from mobilebert_tf.config import MobileBertConfig, read_json_object
from mobilebert_tf.data.builtin import argument_questions
from mobilebert_tf.errors import InputError
from mobilebert_tf.files import atomic_file
from mobilebert_tf.modeling.folder import CONFIG_FILE
from mobilebert_tf.modeling.load import load, load_encoder_weights
from mobilebert_tf.modeling.losses import span_loss
from mobilebert_tf.modeling.models import MobileBertForQuestionAnswering
from mobilebert_tf.tasks import squad_answers
from mobilebert_tf.tasks import squad_answers as squad_metrics
from mobilebert_tf.tasks.squad import (
    Questions,
    read_squad,
    squad_questions,
    tfds_questions,
)
from mobilebert_tf.tasks.squad_windows import (
    NUM_SPECIAL,
    Windows,
    bucketed_rows,
    label_windows,
    make_windows,
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
