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
        n_best: the lists they are from.
        odds: how much "no answer" is preferred; None in v1.1.
    """

    ids: list[str]
    texts: list[str]
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
        logits = model(batch, training=True)
        loss = span_loss(
            logits["start_logits"],
            logits["end_logits"],
            batch["start_positions"],
            batch["end_positions"],
        )
        return {"loss": loss}

    return compute_loss


def predict_span_logits(
    model: MobileBertForQuestionAnswering,
    windows: Windows,
    batch_size: int,
    max_seq_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns start and end logits, float32 [W, max_seq_length].

    Short windows run at a smaller width; columns beyond it stay 0.
    """
    signature = {
        name: tf.TensorSpec([batch_size, None], tf.int32)
        for name in ("input_ids", "input_mask", "segment_ids")
    }

    @tf.function(autograph=False, input_signature=[signature])
    def prediction_step(batch):
        return model(batch, training=False)

    logits = {
        name: np.zeros((len(windows), max_seq_length), np.float32)
        for name in ("start_logits", "end_logits")
    }
    for width, rows in bucketed_rows(windows, max_seq_length):
        for first in range(0, len(rows), batch_size):
            some = rows[first : first + batch_size]
            # Filled up from the start again, so that the shape stays.
            inputs = windows.inputs(np.resize(some, batch_size), width)
            outputs = prediction_step(
                {name: tf.constant(array) for name, array in inputs.items()}
            )
            for name, array in logits.items():
                array[some, :width] = outputs[name].numpy()[: len(some)]
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
    return Answers(
        questions.ids,
        squad_answers.best_answers(n_best),
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
) -> dict[str, float]:
    """Answers `dev` and `predict`, writes the answers and scores those of dev.

    Args:
        model: what answers.
        splits: as far as they are there.
        settings: how windows were made.
        batch_size: windows at once.
        folder: gets the official files of `predict`, and those of `dev` with
            `dev_` before their names.
        threshold: leaves questions unanswered whose null odds are above it.
            None: 0.0 for `dev`, so that its scores are honest, and for
            `predict` what gives `dev` its best F1.

    Returns:
        The scores by name, `dev_` before each.
    """
    results = {}
    for name, prefix in (("dev", "dev_"), ("predict", "")):
        if name not in splits:
            continue
        split = splits[name]
        logits = predict_span_logits(
            model, split.windows, batch_size, settings.max_seq_length
        )
        answers = answer_questions(*logits, split, settings)
        answers.write(folder, prefix, threshold or 0.0)
        if name == "dev":
            scores = score_answers(answers, split, threshold or 0.0)
            results = {f"dev_{key}": value for key, value in scores.items()}
            if threshold is None:
                threshold = scores.get("best_f1_thresh")
    return results
