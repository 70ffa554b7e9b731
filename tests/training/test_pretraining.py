"""Held-out text: what is measured, when, and which weights come of it."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special

import mobilebert_tf as mb
from mobilebert_tf.config import inputs_of
from mobilebert_tf.training.loop import Phase, Run
from mobilebert_tf.training.optimizers import AdamW
from mobilebert_tf.training.options import (
    BEST,
    LAST,
    PretrainingOptions,
    RunOptions,
)
from mobilebert_tf.training.pretraining import (
    HeldOutText,
    finish_pretraining,
    pretraining_loss,
)
from mobilebert_tf.training.run_folder import BEST_FOLDER
from mobilebert_tf.training.step import TrainStep
from tests.training.toy_pretraining import batch, build_model

HELD_OUT = [100, 101, 102]


class Tokenizer:
    """Writes a file that shows it was asked."""

    do_lower_case = True

    def write(self, folder, model_max_length):
        (folder / "vocab.txt").write_text("[PAD]\n")


@dataclasses.dataclass
class Input:
    """Batches by number, as `PretrainingInput` gives them."""

    tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)

    def held_out_batches(self):
        return map(batch, HELD_OUT), len(HELD_OUT)


def by_hand(model, numbers):
    """The same means from logits, in NumPy and float64."""
    batches = list(map(batch, numbers))
    outputs = [
        model(inputs_of(inputs, model.further_inputs), training=False)
        for inputs in batches
    ]
    means = {}
    for kind, labels in (
        ("masked_lm", "masked_lm_ids"),
        ("next_sentence", "next_sentence_labels"),
    ):
        logits = np.concatenate([found[f"{kind}_logits"] for found in outputs])
        ids = np.concatenate([inputs[labels] for inputs in batches])
        weights = np.ones_like(ids)
        if kind == "masked_lm":
            weights = np.concatenate(
                [inputs["masked_lm_weights"] for inputs in batches]
            )
        rows = logits.reshape(ids.size, -1).astype("float64")
        log_probs = scipy.special.log_softmax(rows, axis=-1)
        losses = -log_probs[np.arange(ids.size), ids.ravel()]
        right = rows.argmax(-1) == ids.ravel()
        means |= {
            f"{kind}_loss": np.average(losses, weights=weights.ravel()),
            f"{kind}_accuracy": np.average(right, weights=weights.ravel()),
        }
    return means


def test_means_are_over_predictions_and_pairs_of_the_model_as_it_is():
    model = build_model(dropout=0.1)
    held_out = HeldOutText(model, Input())
    for most, numbers in ((None, HELD_OUT), (2, HELD_OUT[:2])):
        values = held_out.measure(most)
        assert values == pytest.approx(by_hand(model, numbers), rel=1e-5)
    model.masked_lm.bias.assign(np.arange(64.0) / 10)
    values = held_out.measure()
    assert values == pytest.approx(by_hand(model, HELD_OUT), rel=1e-5)


def train(folder, final_model, losses):
    """Takes four steps; returns the weights after each second."""
    keras.utils.set_random_seed(1)
    model = build_model(dropout=0.1)
    held_out = HeldOutText(model, Input())
    options = PretrainingOptions(evaluate_every=2, max_eval_batches=1)
    evaluation, seen = held_out.evaluation(options), []
    measured = evaluation.measure

    def measure():
        seen.append([weight.numpy() for weight in model.weights])
        values = measured()
        return values | {"held_out_masked_lm_loss": losses[len(seen) - 1]}

    run = Run(folder, model.variables, RunOptions(log_every=2))

    def build():
        optimizer = AdamW(1e-2)
        loss = pretraining_loss(model)
        return TrainStep(loss, model.trainable_variables, optimizer)

    evaluation = dataclasses.replace(evaluation, measure=measure)
    phase = Phase(
        "pretraining",
        4,
        build,
        lambda start: map(batch, range(start, 9)),
        evaluation=evaluation,
    )
    run.train(phase)
    card = {"title": "Toy", "command": "none", "notes": {"Text": "none"}}
    finish_pretraining(run, held_out, final_model, **card)
    return seen


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("final_model", [BEST, LAST])
def test_the_best_or_the_last_weights_are_written(tmp_path, final_model):
    after_two, after_four = train(tmp_path, final_model, [2.5, 2.75])
    expected = after_two if final_model == BEST else after_four
    assert_equal(mb.load(tmp_path).weights, expected)
    card = (tmp_path / "README.md").read_text()
    assert ("Weights: from step 2" in card) == (final_model == BEST)
    # What is kept beside the checkpoints opens like any model folder.
    best = tmp_path / BEST_FOLDER
    assert (best / "vocab.txt").exists()
    assert_equal(mb.load(best).weights, after_two)


def assert_equal(weights, expected):
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
