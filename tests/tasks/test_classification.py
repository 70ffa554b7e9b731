"""Classification tasks: classes, losses, answers, metrics, refusals, files."""

import csv
import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import sklearn.utils

from mobilebert_tf.errors import InputError
from mobilebert_tf.tasks.classification import Answer, ClassificationTask
from mobilebert_tf.tasks.classification_examples import (
    ClassificationOptions,
    class_weights,
    hold_out,
)
from mobilebert_tf.tasks.labelled_texts import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    Examples,
)
from mobilebert_tf.tasks.task import Actions
from tests import tiny

EVERYTHING = Actions()
NO_TRAINING = Actions(train=False)
NLI = ("entailment", "neutral", "contradiction")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained")
    return tiny.write_folder(folder, tiny.pretraining_model())


@pytest.fixture
def files(tmp_path):
    """Writes a .tsv for each split; returns the options that name them."""

    def write(**contents):
        paths = {}
        for split, text in contents.items():
            path = tmp_path / f"{split}.tsv"
            path.write_text(text)
            paths[f"{split}_file"] = str(path)
        return paths

    return write


def read(folder, actions=EVERYTHING, max_seq_length=8, **options):
    return ClassificationTask.read(
        ClassificationOptions(max_seq_length=max_seq_length, **options),
        tiny.tokenizer(),
        folder,
        actions,
    )


def task_of(problem_type=SINGLE_LABEL, labels=tiny.LABELS, **splits):
    return ClassificationTask(labels, splits, problem_type)


LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [9.0, 0.0, -0.1]])


def test_one_label_is_a_softmax():
    task = task_of(dev={"labels": np.array([0, 1, 2])})
    probs = scipy.special.softmax(LOGITS, axis=1)
    np.testing.assert_allclose(task.probabilities(LOGITS), probs)
    assert task.decide(LOGITS).tolist() == [0, 1, 0]
    assert task.metrics(LOGITS, "dev")["accuracy"] == pytest.approx(2 / 3)
    (answer, *_) = task.answers(LOGITS, ["a", "b", "c"])
    assert answer.label == "no"
    assert answer.probabilities == pytest.approx(
        dict(zip(tiny.LABELS, probs[0], strict=True))
    )


def test_f1_is_that_of_all_classes_although_two_occur():
    # As class 1 against class 0 it would be 4 / 5.
    task = task_of(dev={"labels": np.array([0, 0, 1, 1])})
    logits = np.eye(3)[[0, 1, 1, 1]]
    f1 = task.metrics(logits, "dev")["f1"]
    assert f1 == pytest.approx((2 / 3 + 4 / 5) / 2)


def test_several_labels_are_sigmoids():
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    task = task_of(MULTI_LABEL, dev={"labels": labels})
    np.testing.assert_allclose(
        task.probabilities(LOGITS), 1 / (1 + np.exp(-LOGITS))
    )
    # 0.0 is a probability of a half, which counts.
    assert task.decide(LOGITS).tolist() == [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    metrics = task.metrics(LOGITS, "dev")
    assert metrics["micro_f1"] == pytest.approx(2 * 3 / (3 + 8))
    assert task.answers(LOGITS, "abc")[2].label == ("no", "maybe")


def test_a_regression_is_its_value():
    logits = np.array([[0.1], [0.9], [0.5]])
    task = task_of(
        REGRESSION, ("value",), dev={"labels": np.array([1.0, 3.0, 2.0])}
    )
    metrics = task.metrics(logits, "dev")
    errors = {"mean_absolute_error": 1.5}
    assert metrics == pytest.approx({"pearson": 1.0, "spearman": 1.0} | errors)
    np.testing.assert_array_equal(task.probabilities(logits), logits)
    assert task.answers(logits, "abc")[1] == Answer(0.9, {})


@pytest.mark.parametrize(
    ("problem_type", "metrics", "score"),
    [
        (SINGLE_LABEL, {"accuracy": 0.5, "f1": 0.9, "matthews": 0.1}, 0.5),
        (MULTI_LABEL, {"micro_f1": 0.5, "macro_f1": 0.25}, 0.5),
        (REGRESSION, {"pearson": 0.5, "spearman": 0.7}, 0.6),
    ],
)
def test_models_are_ranked_by(problem_type, metrics, score):
    task = task_of(problem_type, dev=tiny.labelled_arrays(2, 1))
    metrics = {f"dev_{name}": value for name, value in metrics.items()}
    assert task.score(metrics) == pytest.approx(score)


def test_losses_are_scikit_learns(rng):
    logits = rng.normal(0, 3, (6, 3)).astype(np.float32)
    classes = rng.integers(0, 3, 6)
    wide = logits.astype(np.float64)
    expected = sklearn.metrics.log_loss(
        classes, scipy.special.softmax(wide, axis=1), labels=[0, 1, 2]
    )
    loss = task_of().loss(logits, {"labels": classes})
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    marks = rng.integers(0, 2, (6, 3)).astype(np.float32)
    expected = sklearn.metrics.log_loss(
        marks.ravel(), scipy.special.expit(wide).ravel()
    )
    loss = task_of(MULTI_LABEL).loss(logits, {"labels": marks})
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    values = rng.normal(size=6).astype(np.float32)
    expected = sklearn.metrics.mean_squared_error(values, logits[:, 0])
    loss = task_of(REGRESSION).loss(logits[:, :1], {"labels": values})
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("weights", [None, (2.0, 0.5, 1.0)])
def test_weighted_and_focal_losses(rng, gamma, weights):
    """scikit-learn's weighted log loss, and the formula of Lin et al."""
    logits = rng.normal(0, 3, (9, 3)).astype(np.float32)
    given = {"class_weights": weights, "focal_gamma": gamma}
    factors = np.asarray(weights or [1.0] * 3)
    classes = rng.integers(0, 3, 9)
    probs = scipy.special.softmax(logits.astype(np.float64), axis=1)
    by_example = factors[classes]
    by_example *= (1.0 - probs[np.arange(9), classes]) ** gamma
    expected = by_example.mean() * sklearn.metrics.log_loss(
        classes, probs, sample_weight=by_example, labels=[0, 1, 2]
    )
    task = dataclasses.replace(task_of(), **given)
    loss = task.terms(logits, {"labels": classes})["loss"]
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    marks = rng.integers(0, 2, (9, 3)).astype(np.float32)
    probs = scipy.special.expit(logits.astype(np.float64))
    right = np.where(marks == 1, probs, 1 - probs)
    factors = np.where(marks == 1, factors, 1.0) * (1 - right) ** gamma
    task = dataclasses.replace(task_of(MULTI_LABEL), **given)
    loss = task.loss(logits, {"labels": marks})
    expected = np.mean(-factors * np.log(right))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_focal_loss_has_gradients_where_it_is_zero():
    tf = pytest.importorskip("tensorflow")
    task = dataclasses.replace(task_of(), focal_gamma=0.5)
    logits = tf.Variable([[200.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        loss = task.loss(logits, {"labels": np.array([0])})
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_balanced_weights_are_scikit_learns():
    labels = ["b"] * 6 + ["a"] * 3 + ["c"]
    expected = sklearn.utils.compute_class_weight(
        "balanced", classes=np.array(["a", "b", "c"]), y=labels
    )
    weights = class_weights(["balanced"], ("a", "b", "c"), labels)
    assert weights == pytest.approx(expected)
    several = [("a", "b"), ("b",), ("b",), ()]
    weights = class_weights(["balanced"], ("a", "b"), several)
    assert weights == pytest.approx([3.0, 1 / 3])
    weights = class_weights(["b=2", "a==.5"], ("a=", "b"), ["b"])
    assert weights == (0.5, 2.0)
    assert class_weights([], ("a", "b"), labels) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("Pos=2", "balanced, or NAME=WEIGHT of 'neg', 'pos', found 'Pos=2' .d"),
        ("balanced", "balanced, or NAME=WEIGHT of 'neg', 'pos', found"),
        ("pos", "balanced, or NAME=WEIGHT"),
        ("pos=x", "numbers above 0, found 'pos=x'"),
        ("pos=0", "numbers above 0, found 'pos=0'"),
        ("pos=inf", "numbers above 0"),
        ("pos=nan", "numbers above 0"),
    ],
)
def test_weights_of_classes_that_are_wrong(given, message):
    with pytest.raises(
        InputError, match=f"--class_weights: expected {message}"
    ):
        class_weights([given, "neg=1"], ("neg", "pos"), ["neg"])


# 2 true positives, 1 false positive, 1 false negative, 2 true negatives.
OFFICIAL = {
    "mrpc": {"accuracy": 4 / 6, "f1": 2 * 2 / (2 * 2 + 1 + 1)},
    "cola": {"matthews": (2 * 2 - 1 * 1) / 9},
    "rte": {"accuracy": 4 / 6},
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_tasks_of_glue_have_their_official_metrics(name):
    labels = {"labels": np.array([1, 1, 1, 0, 0, 0])}
    task = ClassificationTask(("a", "b"), {"dev": labels}, glue_name=name)
    metrics = task.metrics(np.eye(2)[[1, 1, 0, 1, 0, 0]], "dev")
    assert metrics == pytest.approx(OFFICIAL[name])


FORMULAS = Examples(
    ["=1+1", "-x", "a = b"], ['"Oh", a\tb', "+y", "\n@z".strip()]
)
PREDICTIONS = [
    (
        SINGLE_LABEL,
        np.log([[0.25, 0.75], [0.9, 0.1]]),
        "a\tb\n0\tb\t0.250000\t0.750000\n1\ta\t0.900000\t0.100000\n",
    ),
    (
        MULTI_LABEL,
        scipy.special.logit([[0.5, 0.9], [0.1, 0.2]]),
        "a\tb\n0\ta|b\t0.500000\t0.900000\n1\t\t0.100000\t0.200000\n",
    ),
    (REGRESSION, np.array([[2.5], [-1.0]]), "\n0\t2.500000\n1\t-1.000000\n"),
]


@pytest.mark.parametrize(("problem_type", "logits", "table"), PREDICTIONS)
def test_predictions_are_a_table(problem_type, logits, table, tmp_path):
    task = ClassificationTask(
        ("a", "b")[: logits.shape[1]],
        {"predict": {}},
        problem_type,
        label_separator="|",
    )
    task.write(logits, "predict", tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "predictions.tsv"
    header = "index\tprediction" + "\t" * (problem_type != REGRESSION)
    assert path.read_text() == header + table


def test_texts_and_labels_are_no_formulas_of_a_spreadsheet(tmp_path):
    task = ClassificationTask(
        ("=A1", "@b", "c"), {"predict": {}}, examples={"predict": FORMULAS}
    )
    task.write(np.eye(3), "predict", tmp_path)
    path = tmp_path / "predictions.tsv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, "excel-tab"))
    assert rows[0] == "index prediction '=A1 '@b c text text_b".split()
    assert [row[1] for row in rows[1:]] == ["'=A1", "'@b", "c"]
    assert [row[-2:] for row in rows[1:]] == [
        ["'=1+1", '"Oh", a b'],
        ["'-x", "'+y"],
        ["a = b", "'@z"],
    ]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_teachers_answers_against_scipy(rng, temperature):
    ours, theirs = rng.normal(0, 2, (2, 7, 4))

    def loss(problem_type):
        task = task_of(problem_type)
        return float(task.distillation_loss(ours, theirs, {}, temperature))

    p, q = (
        scipy.special.softmax(logits / temperature, axis=1)
        for logits in (theirs, ours)
    )
    divergence = scipy.stats.entropy(p, q, axis=1).mean()
    assert loss(SINGLE_LABEL) == pytest.approx(
        temperature**2 * divergence, rel=1e-5
    )
    p, q = (
        scipy.special.expit(logits / temperature) for logits in (theirs, ours)
    )
    divergence = scipy.stats.entropy([p, 1 - p], [q, 1 - q]).mean()
    assert loss(MULTI_LABEL) == pytest.approx(
        temperature**2 * divergence, rel=1e-5
    )
    assert loss(REGRESSION) == pytest.approx(np.square(ours - theirs).mean())


def test_several_labels_from_files(pretrained, files, tmp_path):
    options = files(
        train="text\tlabel\na b\tx|z\nc\t\n",
        dev="text\tlabel\nd\tz\n",
        predict="text\ne\n",
    )
    task = read(pretrained, multi_label=True, label_separator="|", **options)
    assert task.label_names == ("x", "z") and task.problem_type == MULTI_LABEL
    assert task.splits["train"]["labels"].tolist() == [[1, 1], [0, 0]]
    assert task.splits["dev"]["labels"].tolist() == [[0, 1]]
    assert task.labelled("dev") == ["dev"] and not task.labelled("predict")
    metrics = task.evaluate(lambda arrays: np.array([[-1.0, 2.0]]), "dev")
    assert metrics["dev_micro_f1"] == 1.0
    task.write(np.array([[1.0, 2.0]]), "predict", tmp_path)
    lines = (tmp_path / "predictions.tsv").read_text().splitlines()
    assert lines[1].split("\t")[:2] == ["0", "x|z"]


# Options, the classes of the training examples, and how many of each are held
# out.
HELD_OUT = [
    ({"a": 20, "b": 10, "c": 1}, 0.1, {"a": 2, "b": 1}),
    ({"a": 3, "b": 2}, 0.5, {"a": 2, "b": 1}),
    ({"a": 100, "b": 9}, 0.01, {"a": 1, "b": 1}),
]


@pytest.mark.parametrize(("counts", "fraction", "held_out"), HELD_OUT)
def test_every_class_gives_its_share_to_dev(counts, fraction, held_out):
    labels = [name for name in counts for _ in range(counts[name])]
    texts = [str(number) for number in range(len(labels))]
    examples = Examples(texts, labels=labels)
    train, dev = hold_out(examples, fraction, 3)
    assert Counter(dev.labels) == held_out
    assert sorted(train.texts_a + dev.texts_a, key=int) == texts
    # Pairs of text and label stay together, in their order.
    for part in (train, dev):
        numbers = [int(text) for text in part.texts_a]
        assert numbers == sorted(numbers)
        assert part.labels == [labels[number] for number in numbers]
    assert hold_out(examples, fraction, 3)[1] == dev
    others = [hold_out(examples, fraction, seed)[1] for seed in range(9)]
    assert any(other != dev for other in others)


def test_a_share_is_held_out_without_a_dev_file(pretrained, files):
    rows = "".join(f"{letter}\t{letter in 'aei'}\n" for letter in "abcdefghi")
    options = files(train="text\tlabel\n" + rows)
    task = read(pretrained, dev_fraction=0.3, **options)
    assert task.splits["dev"]["labels"].tolist().count(1) == 1
    assert len(task.splits["dev"]["labels"]) == 3
    assert task.num_train_examples == 6
    options = files(train="text\tlabel\na\tx\nb\ty\n")
    with pytest.raises(InputError, match="--dev_fraction: expected two train"):
        read(pretrained, dev_fraction=0.3, **options)


ROWS = ["a\tpos", "b\tpos", "c\tpos", "d\tneg"]
TABLE = "\n".join(["text\tlabel", *ROWS])
NUMBERS = "text\tlabel\na\t0\nb\t1\nc\t5\n"
# Files, options, and lines of the introductions.
INTRODUCTIONS = [
    (
        {"train": TABLE, "dev": TABLE},
        {},
        [
            "train: 4 examples (pos 75 %, neg 25 %)",
            "dev: 4 examples (pos 75 %, neg 25 %); always naming the largest "
            "class: accuracy 0.7500, f1 0.8571, matthews 0.0000",
        ],
    ),
    (
        {"train": TABLE, "dev": "label\ttext\nneg\ta\n", "predict": TABLE},
        {},
        ["warning: dev has no example of 'pos'", "predict: 4 examples"],
    ),
    (
        {"train": NUMBERS, "dev": NUMBERS},
        {"regression": True},
        [
            "train: 3 examples (0 to 5, median 1)",
            "dev: 3 examples (0 to 5, median 1); always the median: pearson "
            "0.0000, spearman 0.0000, mean_absolute_error 1.6667",
        ],
    ),
    (
        {"train": "text\tlabel\na\tx,y\nb\tx\nc\t\nd\tx\n"},
        {"multi_label": True, "empty_texts": "skip"},
        ["train: 4 examples (x 75 %, y 25 %)"],
    ),
    (
        {"train": "text;label\na;x\n;x\nb;y\n"},
        {"delimiter": ";", "empty_texts": "skip"},
        ["  separated by semicolons", "  1 of 3 rows left out, without a text"],
    ),
]


@pytest.mark.parametrize(("contents", "options", "lines"), INTRODUCTIONS)
def test_splits_introduce_themselves(
    pretrained, files, contents, options, lines, capsys
):
    read(pretrained, **files(**contents), **options)
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line not in shown] == []


def test_a_labelled_split_is_reported_by_class(tmp_path, capsys):
    labels = {"labels": np.array([0, 0, 0, 1])}
    task = dataclasses.replace(
        task_of(labels=("neg", "pos"), dev=labels), wanted={"recall": 0.9}
    )
    task.write(np.eye(2)[[0, 0, 0, 0]], "dev", tmp_path)
    shown = capsys.readouterr().out
    assert "warning: the same answer to all 4 dev examples" in shown
    assert "thresholds for recall 0.9:" in shown
    assert [path.name for path in tmp_path.iterdir()] == ["dev_confusion.png"]
    task.write(np.eye(2)[[0, 0, 0, 1]], "dev", tmp_path)
    assert "warning" not in capsys.readouterr().out


def test_tables_without_a_header_and_with_empty_texts(pretrained, files):
    options = files(train="x;a\ny;b\nx; \n", predict="x;\ny;c\n")
    options |= {"delimiter": ";", "column_names": ("label", "text")}
    with pytest.raises(InputError, match="line 3, column 'text'.*=skip leaves"):
        read(pretrained, **options)
    task = read(pretrained, empty_texts="skip", **options)
    assert task.num_train_examples == 2
    # Every row to predict has its line in predictions.tsv.
    assert len(task.splits["predict"]["input_ids"]) == 2


@pytest.fixture
def mnli(tmp_path):
    """The options that name small files of MNLI and the diagnostic set."""
    folder = tmp_path / "MNLI"
    folder.mkdir()
    header = "index\tsentence1\tsentence2"
    for name in ("train", "dev_matched", "dev_mismatched"):
        rows = "\tgold_label\n0\ta\tb\tentailment\n1\tc\td\tneutral\n"
        (folder / f"{name}.tsv").write_text(header + rows)
    for name in ("test_matched", "test_mismatched", "diagnostic"):
        (folder / f"{name}.tsv").write_text(header + "\n0\ta\tb\n1\tc\td\n")
    return {"task": "mnli", "data_dir": str(folder), "max_seq_length": 12}


def test_mnli_has_two_devs_and_two_submissions(
    mnli, pretrained, tmp_path, capsys
):
    task = read(pretrained, **mnli)
    output = capsys.readouterr().out
    assert "train: 2 examples (the official file has 392,702)" in output
    assert task.label_names == NLI and task.problem_type == SINGLE_LABEL
    assert task.hyperparameters.learning_rate == 3e-5
    outputs = np.eye(3)[[0, 0]]
    metrics = task.evaluate(lambda arrays: outputs, "dev")
    assert metrics == {
        "dev_matched_accuracy": 0.5,
        "dev_mismatched_accuracy": 0.5,
    }
    metrics["dev_mismatched_accuracy"] = 0.7
    assert task.score(metrics) == pytest.approx(0.6)
    assert task.evaluate(lambda arrays: outputs, "test") == {}
    for name in task.splits:
        task.write(outputs, name, tmp_path)
    for name in ("MNLI-m", "MNLI-mm"):
        assert (tmp_path / f"{name}.tsv").read_text() == (
            "index\tprediction\n0\tentailment\n1\tentailment\n"
        )
    assert len(list(tmp_path.glob("*.tsv"))) == 2


def test_calibration_reads_training_examples(mnli, tmp_path):
    folder = tiny.write_folder(tmp_path / "model", tiny.classifier(NLI))
    assert read(folder, NO_TRAINING, **mnli).num_train_examples == 0
    actions = Actions(train=False, calibrate=True)
    assert read(folder, actions, **mnli).num_train_examples == 2


def test_ax_is_for_models_of_mnli(mnli, tmp_path):
    folder = tiny.write_folder(tmp_path / "model", tiny.classifier(NLI))
    mnli["task"] = "ax"
    task = read(folder, NO_TRAINING, **mnli)
    task.write(np.eye(3)[[2, 1]], "test", tmp_path)
    assert (tmp_path / "AX.tsv").read_text() == (
        "index\tprediction\n0\tcontradiction\n1\tneutral\n"
    )
    with pytest.raises(InputError, match="--train_file: expected a file"):
        read(folder, EVERYTHING, **mnli)
    tiny.write_folder(folder)
    with pytest.raises(InputError, match="classes of ax: .* found no, maybe"):
        read(folder, NO_TRAINING, **mnli)


DEV_TWICE = {"train_file": "x", "dev_file": "y", "dev_fraction": 0.1}
REGRESSION_LOSS = {"regression": True, "loss": "focal"}
BOTH_WANTED = {"wanted_precision": 0.9, "wanted_recall": 0.9}
CONTRADICTIONS = [
    ({"regression": True, "multi_label": True}, "--multi_label: expected one"),
    ({"label_separator": ""}, "--label_separator: expected a character"),
    ({"label_column": ()}, "--label_column: expected a column"),
    ({"label_column": ("x", "y")}, "one column, or --multi_label, found x"),
    ({"task": "rte", "dev_file": "x"}, "either a task or files"),
    ({"data_dir": "x"}, "--data_dir: expected a --task of GLUE"),
    ({"delimiter": ""}, "--delimiter: expected one character, or tab"),
    ({"delimiter": '"'}, "--delimiter: expected one character, or tab"),
    (REGRESSION_LOSS, "--loss: expected a classifier, found --regression"),
    ({"loss": "hinge"}, "--loss: expected one of cross_entropy, focal"),
    (BOTH_WANTED, "--wanted_precision: expected one of the two"),
    ({"encoding": "latin-17"}, "--encoding: expected an encoding that Python"),
    ({"encoding": "rot13"}, "--encoding: expected an encoding that Python"),
    ({"dev_fraction": 0.1}, "--dev_fraction: expected a --train_file"),
    ({"dev_fraction": 0.6}, "--dev_fraction: expected at most 0.5"),
    (DEV_TWICE, "--dev_fraction: expected one of the two, found --dev_file"),
    ({"empty_texts": "drop"}, "--empty_texts: expected one of refuse, skip"),
    ({"task": "snli"}, "--task: expected one of library, cola"),
]


@pytest.mark.parametrize(("options", "message"), CONTRADICTIONS)
def test_options_that_contradict_each_other(options, message):
    with pytest.raises(InputError, match=message):
        ClassificationOptions(**options)


TRAIN = "text\tlabel\na\tx\nb\ty\n"
OTHER = "text\tlabel\na\tz\n"
SOURCES = [
    ({"train": TRAIN}, {}, NO_TRAINING, "expected a text classifier, found"),
    ({"dev": TRAIN}, {}, EVERYTHING, "--train_file: expected a file"),
    ({"train": OTHER}, {}, EVERYTHING, "at least 2 different labels, found z"),
    ({"train": TRAIN, "dev": OTHER}, {}, EVERYTHING, "dev.tsv, line 2.*'z'"),
    ({}, {"regression": True}, EVERYTHING, "task is not a regression"),
    ({}, {"multi_label": True}, EVERYTHING, "is not a multi_label_"),
    ({"train": TRAIN}, {"max_seq_length": 25}, EVERYTHING, "at most 24, found"),
]


@pytest.mark.parametrize(("contents", "options", "actions", "message"), SOURCES)
def test_sources_that_cannot_be_used(
    pretrained, files, contents, options, actions, message
):
    with pytest.raises(InputError, match=message):
        read(pretrained, actions, **files(**contents), **options)


def test_classes_are_those_of_all_training_examples(pretrained, files):
    paths = files(train=TRAIN, dev="text\tlabel\na\ty\n")
    task = read(pretrained, max_train_examples=1, **paths)
    assert task.label_names == ("x", "y") and task.num_train_examples == 1


def test_the_built_in_task_is_for_its_own_classes(tmp_path):
    folder = tiny.write_folder(tmp_path)
    with pytest.raises(InputError, match="built-in task .*found one of no"):
        read(folder, NO_TRAINING)


def test_a_classifier_keeps_its_head_or_learns_other_classes(tmp_path, files):
    model = tiny.classifier()
    folder = tiny.write_folder(tmp_path / "model", model)
    arrays = tiny.batch()
    same = ClassificationTask.open(folder, tiny.tokenizer()).build(folder)
    np.testing.assert_array_equal(
        same(arrays, training=False), model(arrays, training=False)
    )
    paths = files(train=TRAIN, dev="text\tlabel\na\ty\n")
    task = read(folder, **paths)
    assert task.label_names == ("x", "y")
    other = task.build(folder)
    assert other(arrays, training=False).shape == (3, 2)
    np.testing.assert_array_equal(
        other.encoder(arrays).pooled_output, model.encoder(arrays).pooled_output
    )
    # Without training its own classes are the only ones.
    del paths["train_file"]
    with pytest.raises(InputError, match="one of 'no', .*, found 'y'"):
        read(folder, NO_TRAINING, **paths)
    # They need not be in a training file.
    paths = files(train="text\tlabel\na\tno\n", dev="text\tlabel\na\tyes\n")
    task = read(folder, NO_TRAINING, **paths)
    assert task.splits["dev"]["labels"].tolist() == [2]


def test_a_folder_remembers_its_problem_type(tmp_path, files):
    folder = tiny.write_folder(tmp_path / "model")
    opened = ClassificationTask.open(folder, tiny.tokenizer())
    assert opened.label_names == tiny.LABELS
    assert opened.problem_type == SINGLE_LABEL
    task_of(MULTI_LABEL).save(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    # Evaluated without --multi_label.
    task = read(folder, NO_TRAINING, **files(dev="text\tlabel\na\tyes,no\n"))
    assert task.splits["dev"]["labels"].tolist() == [[1, 0, 1]]
    tiny.write_folder(folder, tiny.classifier(("value",)))
    opened = ClassificationTask.open(folder, tiny.tokenizer())
    assert opened.problem_type == REGRESSION


def test_metadata_is_for_classifiers_of_single_texts():
    tokenizer, arrays = tiny.tokenizer(), tiny.labelled_arrays(2, 1)
    task = task_of(dev=arrays)
    assert task.file_options(None) == {}
    options = task.file_options(tokenizer)
    assert options["output"] == "probabilities"
    assert options["metadata"] == {
        "vocabulary": tokenizer.vocab,
        "label_names": tiny.LABELS,
    }
    options = task_of(MULTI_LABEL, dev=arrays).file_options(tokenizer)
    assert options["output"] == "independent_probabilities"
    with pytest.raises(InputError, match="found a regression"):
        task_of(REGRESSION, dev=arrays).file_options(tokenizer)
    pairs = tiny.batch() | {"labels": np.array([0, 1, 2])}
    with pytest.raises(InputError, match="single texts, found pairs"):
        task_of(dev=pairs).file_options(tokenizer)


def test_texts_and_pairs_are_encoded():
    task = ClassificationTask(tiny.LABELS, tokenizer=tiny.tokenizer())
    assert task.encode(["the cat"], 6)["input_mask"].tolist() == [
        [1, 1, 1, 1, 0, 0]
    ]
    assert task.encode([("the", "cat")], 6)["segment_ids"].tolist() == [
        [0, 0, 0, 1, 1, 0]
    ]
