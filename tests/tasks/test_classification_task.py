"""Tasks: which classes, which metrics, what is refused, what is written."""

import dataclasses
import json

import numpy as np
import pytest

from mobilebert_tf.errors import InputError
from mobilebert_tf.modeling.models import MobileBertForPretraining
from mobilebert_tf.tasks.classification import (
    ClassificationTask,
    build_classifier,
    read_task,
    saved_labels,
    write_problem_type,
)
from mobilebert_tf.tasks.classification_sources import (
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    TaskSource,
)
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.training.classifiers import (
    LABELS,
    toy_arrays,
    toy_classifier,
    toy_config,
)

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]
TRAIN = (True, True, True)
NO_TRAINING = (False, True, True)
NLI = ("entailment", "neutral", "contradiction")


@pytest.fixture
def tokenizer():
    return WordpieceTokenizer(VOCAB)


@pytest.fixture
def pretrained(tmp_path):
    MobileBertForPretraining(toy_config()).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def files(tmp_path):
    def write(**contents):
        paths = {}
        for split, text in contents.items():
            path = tmp_path / f"{split}.tsv"
            path.write_text(text)
            paths[split] = str(path)
        return paths

    return write


def test_several_labels_from_files(tokenizer, pretrained, files):
    source = TaskSource(
        files=files(
            train="text\tlabel\na b\tx,z\nc\t\n",
            dev="text\tlabel\nd\tz\n",
            predict="text\ne\n",
        ),
        kind=MULTI_LABEL,
    )
    task = read_task(source, TRAIN, pretrained, tokenizer, 8)
    assert task.label_names == ("x", "z") and task.kind == MULTI_LABEL
    assert task.splits["train"]["labels"].tolist() == [[1, 1], [0, 0]]
    assert task.splits["dev"]["labels"].tolist() == [[0, 1]]
    assert list(task.labelled("dev")) == ["dev"]
    assert not task.labelled("predict")
    metrics = task.metrics(lambda arrays: np.array([[-1.0, 2.0]]), "dev")
    assert metrics["dev_micro_f1"] == 1.0
    assert task.score(metrics | {"dev_macro_f1": 0.25}) == 1.0


def test_predictions_of_several_labels(tokenizer, pretrained, files, tmp_path):
    source = TaskSource(
        files=files(train="text\tlabel\na\tx|z\n", predict="text\ne\n"),
        kind=MULTI_LABEL,
        label_separator="|",
    )
    task = read_task(source, TRAIN, pretrained, tokenizer, 8)
    task.write_predictions(lambda arrays: np.array([[1.0, 2.0]]), tmp_path)
    lines = (tmp_path / "predictions.tsv").read_text().splitlines()
    assert lines[1].split("\t")[:2] == ["0", "x|z"]


def test_a_regression_is_chosen_by_both_correlations():
    task = ClassificationTask(("value",), {}, REGRESSION)
    metrics = {"dev_pearson": 0.5, "dev_spearman": 0.7}
    assert task.score(metrics) == pytest.approx(0.6)
    task = ClassificationTask(LABELS, {})
    metrics = {"dev_accuracy": 0.5, "dev_f1": 0.9, "dev_matthews": 0.1}
    assert task.score(metrics) == 0.5


def glue_rows(label):
    return (
        "index\tsentence1\tsentence2\tgold_label\n"
        f"0\ta\tb\t{label}\n1\tc\td\tneutral\n"
    )


@pytest.fixture
def mnli(tmp_path):
    folder = tmp_path / "MNLI"
    folder.mkdir()
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"{name}.tsv").write_text(glue_rows("entailment"))
    for name in ("test_matched", "test_mismatched", "diagnostic"):
        text = "index\tsentence1\tsentence2\n0\ta\tb\n1\tc\td\n"
        (folder / f"{name}.tsv").write_text(text)
    return TaskSource("mnli", str(folder))


def test_mnli_has_two_devs_and_two_submissions(
    mnli, tokenizer, pretrained, tmp_path, capsys
):
    task = read_task(mnli, TRAIN, pretrained, tokenizer, 12)
    assert "the official file has 392,702" in capsys.readouterr().out
    assert task.label_names == NLI and task.kind == SINGLE_LABEL

    def predict(arrays):
        return np.eye(3)[[0, 0]]

    metrics = task.metrics(predict, "dev")
    assert metrics == {
        "dev_matched_accuracy": 0.5,
        "dev_mismatched_accuracy": 0.5,
    }
    assert task.score({"a": 0.5, "b": 0.7}) == pytest.approx(0.6)
    assert task.metrics(predict, "test") == {}
    task.write_predictions(predict, tmp_path)
    for name in ("MNLI-m", "MNLI-mm"):
        assert (tmp_path / f"{name}.tsv").read_text() == (
            "index\tprediction\n0\tentailment\n1\tentailment\n"
        )
    assert task.chosen_by == ("accuracy",)
    assert task.of_length(12) is task
    shorter = task.of_length(6)
    assert shorter.max_seq_length == 6
    assert shorter.splits.keys() == task.splits.keys()
    ids = task.splits["dev_matched"]["input_ids"]
    np.testing.assert_array_equal(
        shorter.splits["dev_matched"]["input_ids"], ids[:, :6]
    )


def test_glue_calibrates_a_trained_model(mnli, tokenizer, tmp_path):
    toy_classifier(NLI).save_pretrained(tmp_path / "model")
    arguments = (mnli, NO_TRAINING, tmp_path / "model", tokenizer, 12)
    assert read_task(*arguments).num_train_examples == 0
    assert read_task(*arguments, calibrates=True).num_train_examples == 2


def test_ax_is_for_models_of_mnli(mnli, tokenizer, tmp_path):
    folder = tmp_path / "classifier"
    toy_classifier(NLI).save_pretrained(folder)
    source = dataclasses.replace(mnli, task="ax")
    task = read_task(source, NO_TRAINING, folder, tokenizer, 12)
    task.write_predictions(lambda arrays: np.eye(3)[[2, 1]], tmp_path)
    assert (tmp_path / "AX.tsv").read_text() == (
        "index\tprediction\n0\tcontradiction\n1\tneutral\n"
    )
    toy_classifier(LABELS).save_pretrained(folder)
    with pytest.raises(InputError, match="classes of ax: .* found no, yes"):
        read_task(source, NO_TRAINING, folder, tokenizer, 12)
    with pytest.raises(InputError, match="--train_file: expected a file"):
        read_task(source, TRAIN, folder, tokenizer, 12)


def test_contradictory_sources(tokenizer, pretrained, files, mnli):
    paths = files(train="text\tlabel\na\tx\nb\ty\n")
    for source, message in (
        (dataclasses.replace(mnli, files=paths), "either a task or files"),
        (
            TaskSource(files=paths, data_dir="x"),
            "--data_dir: expected a --task",
        ),
    ):
        with pytest.raises(InputError, match=message):
            read_task(source, TRAIN, pretrained, tokenizer, 8)
    with pytest.raises(InputError, match="expected a classifier"):
        read_task(
            TaskSource(files=paths), NO_TRAINING, pretrained, tokenizer, 8
        )
    task = read_task(TaskSource(files=paths), TRAIN, pretrained, tokenizer, 8)
    with pytest.raises(InputError, match="choose among 2 runs"):
        task.check_choice(2)
    with pytest.raises(InputError, match="--patience: expected dev examples"):
        task.check_choice(1, patience=3)
    task.check_choice(1)


def test_a_classifier_may_learn_other_classes(tokenizer, tmp_path, files):
    toy_classifier(LABELS).save_pretrained(tmp_path)
    paths = files(
        train="text\tlabel\na\tx\nb\ty\nc\tz\n", dev="text\tlabel\na\tz\n"
    )
    task = read_task(TaskSource(files=paths), TRAIN, tmp_path, tokenizer, 8)
    assert task.label_names == ("x", "y", "z")
    model = build_classifier(tmp_path, task.label_names)
    assert model(toy_arrays(2, 1), training=False).shape == (2, 3)
    # Without training its own classes are the only ones.
    with pytest.raises(InputError, match="one of 'no', 'yes', found 'z'"):
        read_task(
            TaskSource(files={"dev": paths["dev"]}),
            NO_TRAINING,
            tmp_path,
            tokenizer,
            8,
        )


def test_dev_labels_need_not_be_in_a_training_file_of_a_trained_model(
    tokenizer, tmp_path, files
):
    toy_classifier(LABELS).save_pretrained(tmp_path)
    paths = files(train="text\tlabel\na\tno\n", dev="text\tlabel\na\tyes\n")
    source = TaskSource(files=paths)
    task = read_task(source, NO_TRAINING, tmp_path, tokenizer, 8)
    assert task.splits["dev"]["labels"].tolist() == [1]


def test_a_single_class_is_no_choice(tokenizer, pretrained, files):
    source = TaskSource(files=files(train="text\tlabel\na\tx\n"))
    with pytest.raises(InputError, match="at least 2 different labels.*x"):
        read_task(source, TRAIN, pretrained, tokenizer, 8)


def test_the_built_in_task_is_for_its_own_classes(
    tokenizer, pretrained, tmp_path
):
    for kind in (REGRESSION, MULTI_LABEL):
        with pytest.raises(InputError, match=f"built-in task is no {kind}"):
            read_task(TaskSource(kind=kind), TRAIN, pretrained, tokenizer, 8)
    folder = tmp_path / "classifier"
    toy_classifier(LABELS).save_pretrained(folder)
    with pytest.raises(InputError, match="built-in task .*found one of no"):
        read_task(TaskSource(), NO_TRAINING, folder, tokenizer, 8)


def test_a_folder_remembers_what_its_logits_mean(tmp_path, tokenizer, files):
    model = toy_classifier()
    model.save_pretrained(tmp_path)
    assert saved_labels(tmp_path) == (LABELS, SINGLE_LABEL)
    write_problem_type(tmp_path, MULTI_LABEL)
    assert saved_labels(tmp_path) == (LABELS, MULTI_LABEL)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification"
    # Evaluated without saying so again.
    source = TaskSource(files=files(dev="text\tlabel\na\tyes,no\n"))
    task = read_task(source, NO_TRAINING, tmp_path, tokenizer, 8)
    assert task.splits["dev"]["labels"].tolist() == [[1, 1]]
    again = build_classifier(tmp_path, LABELS)
    arrays = toy_arrays(3, 1)
    np.testing.assert_array_equal(
        again(arrays, training=False), model(arrays, training=False)
    )
