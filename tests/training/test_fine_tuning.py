"""A fine-tuning run: its losses, its teacher, resuming, scores and patience."""

import dataclasses

import numpy as np
import pytest

from mobilebert_tf.config import inputs_of
from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForTokenClassification,
)
from mobilebert_tf.ownership import Identity
from mobilebert_tf.tasks.classification import ClassificationTask
from mobilebert_tf.tasks.question_answering import (
    QuestionAnsweringTask,
    SquadSettings,
)
from mobilebert_tf.tasks.tagging import TaggingTask
from mobilebert_tf.tasks.task import TeacherWeights
from mobilebert_tf.training import fine_tuning
from mobilebert_tf.training.evaluation import BEST_FOLDER
from mobilebert_tf.training.fine_tuning import (
    FineTuning,
    Point,
    batch_widths,
    load_task_teacher,
    training_loss,
)
from mobilebert_tf.training.log import read_metrics
from mobilebert_tf.training.options import (
    FineTuningOptions,
    OptimizerOptions,
    RunOptions,
    StepOptions,
)
from tests import tiny

pytestmark = pytest.mark.usefixtures("eagerly")

LABELS = ("no", "yes")
POINT = Point(0.01, 8, 2, 3)
TASK = ClassificationTask(
    LABELS,
    {
        "train": tiny.labelled_arrays(44, 1),
        "dev": tiny.labelled_arrays(20, 2),
    },
)
WITHOUT_DEV = ClassificationTask(LABELS, {"train": TASK.splits["train"]})
# A task, a model for it, and labels of five examples.
TASKS = {
    "classification": (TASK, lambda: tiny.classifier(LABELS), {}),
    "tagging": (
        TaggingTask(tuple("OBI"), {}, tiny.tokenizer(), 24),
        lambda: MobileBertForTokenClassification(tiny.student_config(), "OBI"),
        {
            "labels": np.tile(np.arange(24, dtype=np.int32) % 3, (5, 1)),
            "label_weights": np.eye(5, 24, dtype=np.float32),
        },
    ),
    "question answering": (
        QuestionAnsweringTask({}, tiny.tokenizer(), SquadSettings(24, 8, 6)),
        lambda: MobileBertForQuestionAnswering(tiny.student_config()),
        {
            "start_positions": np.array([1, 2, 1, 2, 1], np.int32),
            "end_positions": np.array([2, 2, 1, 2, 2], np.int32),
        },
    ),
}


@pytest.mark.parametrize("name", TASKS)
def test_terms_are_the_tasks_and_feature_maps_by_hand(name):
    task, build, labels = TASKS[name]
    student, teacher = build(), build()
    batch = tiny.labelled_arrays(5, 1) | labels
    weights = TeacherWeights(logits=0.3, temperature=2.0, feature_maps=4.0)
    terms = training_loss(task, student, teacher, weights)(batch)
    inputs = inputs_of(batch)
    ours, theirs = (model.encoder(inputs) for model in (student, teacher))
    real = batch["input_mask"].astype(bool)
    difference = np.mean(
        [
            np.square(tiny.numpy(a) - tiny.numpy(b))[real].mean()
            for a, b in zip(
                ours.feature_maps[1:], theirs.feature_maps[1:], strict=True
            )
        ]
    )
    expected = task.terms(student(inputs), batch, teacher(inputs), weights)
    expected["loss"] += 4.0 * difference
    expected["feature_map_transfer_loss"] = difference
    assert {key: float(value) for key, value in terms.items()} == pytest.approx(
        {key: float(value) for key, value in expected.items()}, rel=1e-4
    )
    alone = training_loss(task, student)(batch)
    expected = float(task.loss(student(inputs), batch))
    assert float(alone.pop("loss")) == pytest.approx(expected, rel=1e-4)
    assert not alone
    # Nothing is learned from an equal.
    terms = training_loss(task, student, student, weights)(batch)
    assert abs(float(terms["distillation_loss"])) < 1e-7
    assert float(terms["feature_map_transfer_loss"]) == 0.0


def test_teachers_that_cannot_teach(tmp_path):
    tokenizer = tiny.tokenizer()
    folder = tiny.write_folder(tmp_path / "teacher", tiny.classifier(LABELS))
    assert load_task_teacher(folder, TASK, tokenizer).label_names == LABELS
    turned = dataclasses.replace(TASK, label_names=LABELS[::-1])
    longer = ClassificationTask(LABELS, {"dev": tiny.batch(width=25)})
    cased = tiny.tokenizer(do_lower_case=False)
    for task, pieces, message in (
        (turned, tokenizer, "classes yes, no, found no, yes"),
        (longer, tokenizer, "of 25 pieces, found 24 at most"),
        (TASK, cased, "the student's vocabulary"),
    ):
        with pytest.raises(InputError, match=message):
            load_task_teacher(folder, task, pieces)
    tiny.write_folder(folder, tiny.pretraining_model())
    expected = "expected a MobileBertForSequenceClass.*, found MobileBertForPre"
    with pytest.raises(InputError, match=expected):
        load_task_teacher(folder, TASK, tokenizer)
    weights = TeacherWeights(feature_maps=1.0)
    with pytest.raises(InputError, match="2 blocks of width 32, or 0, found 1"):
        training_loss(
            TASK,
            tiny.classifier(),
            tiny.classifier(num_hidden_layers=1),
            weights,
        )


def test_several_steps_in_a_call_have_one_width():
    def widths(bucket_lengths, number):
        options = FineTuningOptions(bucket_lengths=bucket_lengths)
        step = StepOptions(steps_per_execution=number)
        return batch_widths(options, step, TASK)

    assert widths(None, 1) == (16, 32, 64, 128, 256)
    assert widths(None, 2) == widths((), 2) == ()
    assert widths((8, 4), 1) == (4, 8)
    with pytest.raises(InputError, match="--steps_per_execution: expected 1"):
        widths((8,), 2)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder that runs start from; dropout, so that its state must resume."""
    config = tiny.student_config(num_hidden_layers=1, hidden_dropout_prob=0.1)
    folder = tmp_path_factory.mktemp("encoder")
    return tiny.write_folder(folder, tiny.classifier(LABELS, config))


@pytest.fixture
def start(encoder):
    def start_run(folder, task=TASK, every_step=False, **options):
        widths = options.pop("bucket_lengths", ())
        optimizer = options.pop("optimizer", OptimizerOptions())
        common = FineTuning(
            task,
            encoder,
            Identity({"task": "tiny"}),
            FineTuningOptions(eval_batch_size=8, **options),
            widths,
            optimizer,
            run=RunOptions(2, -1.0 if every_step else 1000.0),
        )
        return common.start(POINT, folder)

    return start_run


def evaluations(folder):
    return [
        line
        for line in read_metrics(folder / "metrics.jsonl")
        if line["phase"] == "evaluation"
    ]


class Killed(BaseException):
    """Stands for the end of a process."""


def kill_after(monkeypatch, number):
    """Makes the input end the process after so many batches."""
    whole = fine_tuning.training_batches
    left = iter(range(number))

    def dataset(*args, **kwargs):
        for batch in whole(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            yield batch

    monkeypatch.setattr(fine_tuning, "training_batches", dataset)


def test_a_run_resumes_to_the_same_weights_and_evaluations(
    start, tmp_path, monkeypatch
):
    options = {"eval_every_steps": 4, "bucket_lengths": (12,)}
    whole = start(tmp_path / "whole", **options)
    values = whole.train()
    lines = evaluations(tmp_path / "whole")
    # 44 // 8 steps an epoch, two epochs; the last stretch is shorter.
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert values["score"] == max(line["score"] for line in lines)
    for batches in (2, 4):  # Within a stretch, and again after its end.
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_after(patch, batches)
            start(tmp_path / "killed", every_step=True, **options).train()
    again = start(tmp_path / "killed", **options)
    assert 0 < again.run.global_step < 10
    assert again.train() == values
    for ours, theirs in zip(
        again.model.weights, whole.model.weights, strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert evaluations(tmp_path / "killed") == lines
    for name in ("model.safetensors", "config.json"):
        ours, theirs = (
            (tmp_path / folder / BEST_FOLDER / name).read_bytes()
            for folder in ("killed", "whole")
        )
        assert ours == theirs


@pytest.fixture
def kept(monkeypatch):
    """Gives evaluations their scores; lists the steps with kept weights."""

    def with_scores(run, scores):
        left, kept = iter(scores), []
        monkeypatch.setattr(
            ClassificationTask,
            "evaluate",
            lambda self, predict, prefix: {"dev_accuracy": next(left)},
        )
        save = type(run.model).save_pretrained

        def keep(model, folder):
            kept.append(run.run.global_step)
            save(model, folder)

        monkeypatch.setattr(type(run.model), "save_pretrained", keep)
        return kept

    return with_scores


NAN = float("nan")


@pytest.mark.parametrize(
    ("scores", "patience", "best", "kept_steps", "last_step"),
    [
        # Of equal scores the first is the best.
        ([0.25, 0.75, 0.75, 0.5, 0.5], None, 0.75, [2, 4], 10),
        # NaN is never the best.
        ([NAN, 0.25, NAN, 0.2, 0.1], None, 0.25, [2, 4], 10),
        ([0.25, 0.75, 0.75, 0.5, 0.9], 2, 0.75, [2, 4], 8),
    ],
)
def test_the_best_weights_are_kept_and_patience_ends(
    start, kept, tmp_path, scores, patience, best, kept_steps, last_step
):
    run = start(tmp_path, eval_every_steps=2, patience=patience)
    steps = kept(run, scores)
    metrics = {"dev_accuracy": best}
    expected = {"step": 4, "score": best, "metrics": metrics}
    assert run.train() == expected
    assert steps == kept_steps
    assert run.run.global_step == last_step
    # Started again, it knows without training on.
    again = start(tmp_path, eval_every_steps=2, patience=patience)
    assert again.train() == expected


def test_without_dev_the_last_weights_are_kept_and_the_schedule_ends(
    start, tmp_path
):
    optimizer = OptimizerOptions(
        warmup_proportion=0.0, end_learning_rate_factor=0.5, decay_power=2.0
    )
    run = start(tmp_path, WITHOUT_DEV, optimizer=optimizer)
    assert run.train() == {"step": 10}
    assert (tmp_path / BEST_FOLDER / "model.safetensors").exists()
    last = read_metrics(tmp_path / "metrics.jsonl")[-1]
    # The tenth of ten steps: a tenth is left, squared.
    expected = POINT.learning_rate * (0.5 + 0.5 * 0.1**2)
    assert last["learning_rate"] == pytest.approx(expected, rel=1e-6)
