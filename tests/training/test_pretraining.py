"""Held-out text: what is measured, when, and which weights come of it."""

import dataclasses

import keras
import numpy as np
import pytest

import mobilebert_tf as mb
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
    rows = []
    for inputs in map(batch, numbers):
        outputs = model(inputs, training=False)
        for logits, ids, weights, kind in (
            (
                outputs["masked_lm_logits"],
                inputs["masked_lm_ids"],
                inputs["masked_lm_weights"],
                "masked_lm",
            ),
            (
                outputs["next_sentence_logits"],
                inputs["next_sentence_labels"][:, 0],
                np.ones(len(inputs["input_ids"])),
                "next_sentence",
            ),
        ):
            logits = logits.numpy().astype("float64")
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            log_prob = np.take_along_axis(log_probs, ids[..., None], -1)
            right = logits.argmax(-1) == ids
            rows += [
                (kind, w, -loss, is_right)
                for w, loss, is_right in zip(
                    weights.ravel(),
                    log_prob.ravel(),
                    right.ravel(),
                    strict=True,
                )
            ]
    means = {}
    for kind in ("masked_lm", "next_sentence"):
        weights, losses, right = np.array(
            [r[1:] for r in rows if r[0] == kind]
        ).T
        means[f"{kind}_loss"] = np.average(losses, weights=weights)
        means[f"{kind}_accuracy"] = np.average(right, weights=weights)
    return means


@pytest.fixture(scope="module")
def model():
    return build_model(dropout=0.1)


def test_means_are_over_predictions_and_pairs(model):
    held_out = HeldOutText(model, Input())
    for most, numbers in ((None, HELD_OUT), (2, HELD_OUT[:2])):
        values = held_out.measure(most)
        assert values == pytest.approx(by_hand(model, numbers), rel=1e-5)


def test_a_changed_model_is_measured_anew(model):
    held_out = HeldOutText(model, Input())
    before = held_out.measure()
    model.masked_lm.bias.assign(np.arange(64.0) / 10)
    after = held_out.measure()
    model.masked_lm.bias.assign(np.zeros(64))
    assert after["masked_lm_loss"] != before["masked_lm_loss"]
    assert held_out.measure() == before


def train(folder, final_model, losses):
    """Takes four steps; returns the weights after each second."""
    keras.utils.set_random_seed(1)
    model = build_model(dropout=0.1)
    held_out = HeldOutText(model, Input())
    options = PretrainingOptions(evaluate_every=2, max_eval_batches=1)
    evaluation, seen = held_out.evaluation(options), []

    def measure():
        seen.append([weight.numpy() for weight in model.weights])
        values = evaluation.measure()
        return values | {"held_out_masked_lm_loss": losses[len(seen) - 1]}

    run = Run(folder, model.variables, RunOptions(log_every=2))

    def build():
        optimizer = AdamW(1e-2)
        loss = pretraining_loss(model)
        return TrainStep(loss, model.trainable_variables, optimizer)

    run.train(
        Phase(
            "pretraining",
            4,
            build,
            lambda start: map(batch, range(start, 9)),
            evaluation=dataclasses.replace(evaluation, measure=measure),
        )
    )
    finish_pretraining(
        run,
        held_out,
        final_model,
        title="Toy",
        command="none",
        notes={"Text": "none"},
    )
    return seen


@pytest.mark.parametrize("final_model", [BEST, LAST])
def test_the_best_or_the_last_weights_are_written(tmp_path, final_model):
    after_two, after_four = train(tmp_path, final_model, [2.5, 2.75])
    written = [weight.numpy() for weight in mb.load(tmp_path).weights]
    for ours, theirs in zip(
        written, after_two if final_model == BEST else after_four, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    card = (tmp_path / "README.md").read_text()
    assert ("Weights: from step 2" in card) == (final_model == BEST)
    # What is kept beside the checkpoints opens like any model folder.
    best = tmp_path / BEST_FOLDER
    assert (best / "vocab.txt").exists()
    kept = [weight.numpy() for weight in mb.load(best).weights]
    for ours, theirs in zip(kept, after_two, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_evaluation_is_asked_for(model):
    options = PretrainingOptions(evaluate_every=0)
    assert HeldOutText(model, Input()).evaluation(options) is None
