"""Question answering: the loss, and from a model's logits to scored answers.

Owns how a model is run over windows of a few widths, what "no answer" is
weighed against, and which answers are written and scored.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from mobilebert_tf.data.squad_batches import bucketed_rows
from mobilebert_tf.data.squad_windows import Windows
from mobilebert_tf.evaluation import squad_answers, squad_metrics
from mobilebert_tf.modeling.losses import span_loss
from mobilebert_tf.modeling.models import MobileBertForQuestionAnswering
from mobilebert_tf.training.inference import inference_step
from mobilebert_tf.training.question_answering_task import (
    QuestionSplit,
    SquadSettings,
)


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
