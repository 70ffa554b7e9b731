"""A fine-tuning run: its losses, its teacher, resuming, scores and patience."""

import dataclasses

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForTokenClassification,
)
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

LABELS = ("no", "yes")
POINT = Point(0.01, 8, 2, 3)
TASK = ClassificationTask(
    LABELS,
    {"train": tiny.labelled_arrays(44, 1), "dev": tiny.labelled_arrays(20, 2)},
)
WITHOUT_DEV = ClassificationTask(LABELS, {"train": TASK.splits["train"]})


def classifier(labels=LABELS, **changes):
    return tiny.classifier(labels, **changes)


def outputs_of(model, batch):
    return keras.tree.map_structure(tiny.numpy, model(batch, training=False))


def test_terms_by_hand():
    student, teacher = opinionated(classifier()), opinionated(classifier())
    batch = tiny.labelled_arrays(5, 1)
    weights = TeacherWeights(logits=0.3, temperature=2.0, feature_maps=4.0)
    terms = training_loss(TASK, student, teacher, weights)(batch)
    ours, theirs = (
        [tiny.numpy(m) for m in model.encoder(batch).feature_maps[1:]]
        for model in (student, teacher)
    )
    real = batch["input_mask"].astype(bool)
    difference = np.mean(
        [
            np.square(a - b)[real].mean()
            for a, b in zip(ours, theirs, strict=True)
        ]
    )
    assert float(terms["feature_map_transfer_loss"]) == pytest.approx(
        difference, rel=1e-4
    )
    labelled = float(TASK.loss(outputs_of(student, batch), batch))
    taught = kl(outputs_of(student, batch), outputs_of(teacher, batch), 2.0)
    assert float(terms["task_loss"]) == pytest.approx(labelled, rel=1e-4)
    assert float(terms["distillation_loss"]) == pytest.approx(
        taught.mean(), rel=1e-3
    )
    assert float(terms["loss"]) == pytest.approx(
        0.7 * labelled + 0.3 * taught.mean() + 4.0 * difference, rel=1e-4
    )
    alone = training_loss(TASK, student)(batch)
    assert float(alone.pop("loss")) == pytest.approx(labelled, rel=1e-4)
    assert not alone


def opinionated(model):
    """Gives a new model logits that are not all near zero."""
    model.head.dense.kernel.assign(300.0 * model.head.dense.kernel)
    return model


def kl(ours, theirs, temperature):
    """KL(teacher || student) of rows of logits."""
    p, q = (
        scipy.special.softmax(logits.astype(np.float64) / temperature, axis=-1)
        for logits in (theirs, ours)
    )
    return temperature**2 * scipy.stats.entropy(p, q, axis=-1)


def test_a_tagger_learns_what_its_teacher_answers_for_tokens(rng):
    student, teacher = (
        opinionated(
            MobileBertForTokenClassification(tiny.student_config(), "OBI")
        )
        for _ in range(2)
    )
    task = TaggingTask(tuple("OBI"), {}, tiny.tokenizer(), 24)
    batch = tiny.labelled_arrays(5, 1)
    places = rng.random((5, 24)) < 0.3 * batch["input_mask"]
    batch |= {
        "labels": rng.integers(0, 3, (5, 24)).astype(np.int32),
        "label_weights": places.astype(np.float32),
    }
    logits, theirs = outputs_of(student, batch), outputs_of(teacher, batch)
    log_probs = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    rows, columns = np.nonzero(places)
    labelled = -log_probs[rows, columns, batch["labels"][places]].mean()
    taught = kl(logits[places], theirs[places], 2.0).mean()
    loss = training_loss(task, student, teacher, TeacherWeights(0.3, 2.0))
    # As the input pipeline has it: inputs are cut, labels are not.
    cut = {
        name: array if name.startswith("label") else array[:, :21]
        for name, array in batch.items()
    }
    for one in (batch, cut):
        terms = loss(one)
        assert float(terms["task_loss"]) == pytest.approx(labelled, rel=1e-4)
        assert float(terms["distillation_loss"]) == pytest.approx(
            taught, rel=1e-3
        )
        assert float(terms["loss"]) == pytest.approx(
            0.7 * labelled + 0.3 * taught, rel=1e-4
        )


def test_an_answerer_learns_where_its_teacher_looks(rng):
    student, teacher = (
        opinionated(MobileBertForQuestionAnswering(tiny.student_config()))
        for _ in range(2)
    )
    task = QuestionAnsweringTask({}, tiny.tokenizer(), SquadSettings(24, 8, 6))
    batch = tiny.labelled_arrays(5, 1) | {
        name: rng.integers(1, 3, 5).astype(np.int32)
        for name in ("start_positions", "end_positions")
    }
    weights = TeacherWeights(1.0, 3.0, 2.0)
    terms = training_loss(task, student, teacher, weights)(batch)
    ours, theirs = outputs_of(student, batch), outputs_of(teacher, batch)
    taught = np.mean([kl(ours[name], theirs[name], 3.0) for name in ours])
    assert float(terms["distillation_loss"]) == pytest.approx(taught, rel=1e-3)
    assert float(terms["loss"]) == pytest.approx(
        taught + 2.0 * float(terms["feature_map_transfer_loss"]), rel=1e-3
    )
    log_probs = [
        scipy.special.log_softmax(ours[f"{end}_logits"], axis=-1)[
            np.arange(5), batch[f"{end}_positions"]
        ]
        for end in ("start", "end")
    ]
    assert float(terms["task_loss"]) == pytest.approx(
        -np.mean(log_probs), rel=1e-4
    )


def test_nothing_is_learned_from_an_equal(tmp_path):
    teacher = classifier()
    teacher.save_pretrained(tmp_path)
    weights = TeacherWeights(logits=1.0, feature_maps=1.0)
    student = TASK.build(tmp_path)
    terms = training_loss(TASK, student, teacher, weights)(
        tiny.labelled_arrays(5, 1)
    )
    assert abs(float(terms["distillation_loss"])) < 1e-7
    assert float(terms["feature_map_transfer_loss"]) < 1e-10


def test_teachers_that_cannot_teach(tmp_path):
    tokenizer = tiny.tokenizer()
    folder = tiny.write_folder(tmp_path / "teacher", classifier())
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
            TASK, classifier(), classifier(num_hidden_layers=1), weights
        )


@pytest.mark.parametrize(
    ("bucket_lengths", "steps", "widths"),
    [
        (None, 1, (16, 32, 64, 128, 256)),
        (None, 2, ()),
        ((), 2, ()),
        ((8, 4), 1, (4, 8)),
    ],
)
def test_several_steps_in_a_call_have_one_width(bucket_lengths, steps, widths):
    options = FineTuningOptions(bucket_lengths=bucket_lengths)
    step = StepOptions(steps_per_execution=steps)
    assert batch_widths(options, step, TASK) == widths
    options = FineTuningOptions(bucket_lengths=(8,))
    with pytest.raises(InputError, match="--steps_per_execution: expected 1"):
        batch_widths(options, StepOptions(steps_per_execution=2), TASK)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder that runs start from; dropout, so that its state must resume."""
    config = tiny.student_config(num_hidden_layers=1, hidden_dropout_prob=0.1)
    folder = tmp_path_factory.mktemp("encoder")
    return tiny.write_folder(folder, classifier(config=config))


@pytest.fixture
def start(encoder):
    def start_run(folder, task=TASK, every_step=False, **options):
        widths = options.pop("bucket_lengths", ())
        optimizer = options.pop("optimizer", OptimizerOptions())
        common = FineTuning(
            task,
            encoder,
            {"task": "tiny"},
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
    ("scores", "score"),
    [
        # Of equal scores the first is the best.
        ([0.25, 0.75, 0.75, 0.5, 0.5], 0.75),
        # NaN is never the best.
        ([NAN, 0.25, NAN, 0.2, 0.1], 0.25),
    ],
)
def test_the_best_weights_are_kept(start, kept, tmp_path, scores, score):
    run = start(tmp_path, eval_every_steps=2)
    steps = kept(run, scores)
    assert run.train() == {
        "step": 4,
        "score": score,
        "metrics": {"dev_accuracy": score},
    }
    assert steps == [2, 4]


def test_patience_ends_a_run(start, kept, tmp_path, capsys):
    run = start(tmp_path, eval_every_steps=2, patience=2)
    kept(run, [0.25, 0.75, 0.75, 0.5, 0.9])
    assert run.train()["step"] == 4
    assert run.run.global_step == 8
    assert "stopped at step 8" in capsys.readouterr().out
    # Started again, it knows without training on.
    again = start(tmp_path, eval_every_steps=2, patience=2)
    assert again.train()["step"] == 4


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
