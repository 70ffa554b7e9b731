"""Any task is quantised, written and scored by the float model's own code."""

import dataclasses
import zipfile

import numpy as np
import pytest
import scipy.special
import scipy.stats

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.deployment import deployment_model
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.stages import (
    QuantizationOptions,
    calibrate,
    check_calibration,
    check_kinds,
    export_and_evaluate,
    shipped_classifier,
    shipped_question_answerer,
    table,
    train_quantized,
)
from mobilebert_tf.modeling.models import (
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
)
from mobilebert_tf.tasks.classification import ClassificationTask, Predictor
from mobilebert_tf.tasks.classification_sources import MULTI_LABEL, REGRESSION
from mobilebert_tf.tasks.question_answering import (
    SquadSettings,
    answer_splits,
    encode_split,
)
from mobilebert_tf.tasks.squad import Answer, Questions, read_squad
from mobilebert_tf.text.tokenizer import WordpieceTokenizer
from tests.mobile.networks import randomise, small_config
from tests.training.classifiers import toy_arrays

OPTIONS = QuantizationOptions(8, 1e-3, 8, 3)
KINDS = ("float32", "int8", "int8_qat")
VOCAB = "[PAD] [UNK] [CLS] [SEP] [MASK] who ? a b c d e f g h".split()


def classification_task(kind, labels, make_labels):
    splits = {
        split: toy_arrays(number, seed, 16)
        for seed, (split, number) in enumerate({"train": 20, "dev": 12}.items())
    }
    for arrays in splits.values():
        arrays["labels"] = make_labels(len(arrays["labels"]))
    return ClassificationTask(labels, splits, kind)


@pytest.fixture
def several_labels(rng):
    """A task of three labels at once, and a model of it."""

    def labels(number):
        # Of x, and of y, there is something to learn in a few steps.
        return np.stack(
            [np.ones(number), np.zeros(number), rng.integers(0, 2, number)], 1
        ).astype(np.int32)

    task = classification_task(MULTI_LABEL, ("x", "y", "z"), labels)
    config = small_config(num_hidden_layers=1)
    model = MobileBertForSequenceClassification(config, task.label_names)
    randomise(model, rng)
    return model, task


def test_files_get_the_metrics_of_the_float_model(several_labels, tmp_path):
    model, task = several_labels
    shipped = shipped_classifier(model, task)
    rows = export_and_evaluate(shipped, KINDS, tmp_path, OPTIONS)
    wanted = task.metrics(Predictor(model, 4), "dev")
    assert wanted.keys() < rows["float32"].keys()
    for name, value in wanted.items():
        assert rows["float32"][name] == pytest.approx(value), name
        assert rows["int8"][name] == pytest.approx(value, abs=0.1), name
    for kind, row in rows.items():
        path = tmp_path / f"{kind}.tflite"
        assert row["megabytes"] == path.stat().st_size / 1e6
        assert row["latency_ms"] > 0.0
    # Training moved the weights, and only there.
    assert (tmp_path / "int8_qat_training" / "metrics.jsonl").exists()
    assert not (tmp_path / "int8_training").exists()
    logits = [
        TFLiteModel(tmp_path / f"{kind}.tflite").predict(task.splits["dev"])
        for kind in KINDS
    ]
    assert 0 < np.abs(logits[1] - logits[2]).max() < 1.0
    assert np.abs(logits[0] - logits[1]).max() < 0.2 * np.abs(logits[0]).max()
    lines = table(rows, shipped.shown)
    assert lines[0].split() == ["file", "dev_micro_f1", "MB", "ms"]
    assert lines[2].split()[:2] == [
        "float32.tflite", f"{wanted['dev_micro_f1']:.4f}",
    ]  # fmt: skip


def test_several_labels_learn_from_both(several_labels):
    model, task = several_labels
    shipped = shipped_classifier(model, task)
    quantized = calibrate(shipped, OPTIONS)
    batch = next(iter(shipped.train_batches(8, 0, 0)))
    terms = shipped.quantized_loss(quantized)(batch)
    inputs = {name: batch[name] for name in batch if name != "labels"}
    logits = quantized(**inputs).numpy().astype(np.float64)
    labels = batch["labels"].numpy()
    ours = scipy.special.expit(logits)
    theirs = scipy.special.expit(model(inputs).numpy().astype(np.float64))
    labelled = -np.where(labels, np.log(ours), np.log1p(-ours)).mean()
    divergence = scipy.special.rel_entr(theirs, ours)
    divergence += scipy.special.rel_entr(1.0 - theirs, 1.0 - ours)
    found = {name: float(value) for name, value in terms.items()}
    assert found["task_loss"] == pytest.approx(labelled, rel=1e-5)
    assert found["distillation_loss"] == pytest.approx(
        divergence.mean(), rel=1e-3, abs=1e-7
    )
    assert found["loss"] == pytest.approx(
        (found["task_loss"] + found["distillation_loss"]) / 2.0
    )


def test_a_regression_is_shipped(rng, tmp_path):
    task = classification_task(
        REGRESSION,
        ("value",),
        lambda number: rng.normal(size=number).astype(np.float32),
    )
    config = small_config(num_hidden_layers=1)
    model = MobileBertForSequenceClassification(config, task.label_names)
    randomise(model, rng)
    shipped = shipped_classifier(model, task)
    assert shipped.shown == ["dev_pearson", "dev_spearman"]
    rows = export_and_evaluate(shipped, ["int8_qat"], tmp_path, OPTIONS)
    dev = task.splits["dev"]
    values = TFLiteModel(tmp_path / "int8_qat.tflite").predict(dev)[:, 0]
    wanted = scipy.stats.pearsonr(values, dev["labels"]).statistic
    assert rows["int8_qat"]["dev_pearson"] == pytest.approx(wanted, rel=1e-5)


@pytest.fixture
def questions(rng):
    """A model that answers, splits, and settings with "no answer"."""
    contexts = [" ".join(rng.permutation(list("abcdefgh"))) for _ in range(12)]
    answers = [
        [Answer(context[4:7], 4)] if index % 3 else []
        for index, context in enumerate(contexts)
    ]
    ids = [f"q{index}" for index in range(len(contexts))]
    texts = ["who?"] * len(contexts)
    every = np.arange(len(contexts))
    questions = Questions(contexts, every, ids, texts, answers)
    settings = SquadSettings(
        max_seq_length=12,
        doc_stride=3,
        max_query_length=2,
        version_2_with_negative=True,
    )
    tokenizer = WordpieceTokenizer(VOCAB)
    splits = {
        name: encode_split(questions, tokenizer, settings, name)
        for name in ("train", "dev")
    }
    config = small_config(num_hidden_layers=1, vocab_size=len(VOCAB))
    model = MobileBertForQuestionAnswering(config)
    randomise(model, rng)
    return model, splits, settings


def test_question_answerers_are_scored_officially(questions, tmp_path):
    model, splits, settings = questions
    # Contexts of eight pieces in windows that show seven of them at most.
    assert len(splits["dev"].windows) > len(splits["dev"].questions)
    threshold = 0.25
    wanted, _ = answer_splits(
        model,
        splits,
        settings,
        batch_size=4,
        folder=tmp_path,
        threshold=threshold,
    )
    shipped = shipped_question_answerer(model, splits, settings, threshold)
    rows = export_and_evaluate(shipped, KINDS, tmp_path, OPTIONS)
    assert wanted["dev_f1"] != wanted["dev_best_f1"]
    for name, value in wanted.items():
        assert rows["float32"][name] == pytest.approx(value, rel=1e-4), name
    assert rows["int8"].keys() == rows["float32"].keys() > wanted.keys()
    assert shipped.shown == ("dev_exact", "dev_f1")
    found = TFLiteModel(tmp_path / "int8_qat.tflite").predict(
        splits["dev"].windows.inputs(np.arange(4), 12)
    )
    assert {name: a.shape for name, a in found.items()} == {
        "start_logits": (4, 12),
        "end_logits": (4, 12),
    }


def test_training_batches_have_the_one_width(questions):
    model, splits, settings = questions
    shipped = shipped_question_answerer(model, splits, settings)
    batches = iter(shipped.train_batches(4, 1, 0))
    for _ in range(5):
        assert next(batches)["input_ids"].shape == (4, 12)


def test_without_examples(questions, tmp_path):
    model, splits, settings = questions
    shipped = shipped_question_answerer(model, {}, settings)
    rows = export_and_evaluate(shipped, ["float32"], tmp_path, OPTIONS)
    assert rows["float32"].keys() == {"megabytes", "latency_ms"}
    with pytest.raises(InputError, match="training examples for int8, found"):
        export_and_evaluate(shipped, ["float32", "int8"], tmp_path, OPTIONS)


def test_unknown_kinds_are_named():
    check_kinds(["float32", "int8_qat"])
    with pytest.raises(InputError, match="--export: expected kinds among flo"):
        check_kinds(["float32", "int3"])
    check_calibration(["float32", "dynamic"], 0)
    check_calibration(["int8"], 1)
    with pytest.raises(InputError, match="for int8_qat, found none"):
        check_calibration(["dynamic", "int8_qat"], 0)


def test_other_options_are_another_run(several_labels, tmp_path):
    model, task = several_labels
    shipped = shipped_classifier(model, task)
    quantized = calibrate(shipped, OPTIONS)
    train_quantized(quantized, shipped, tmp_path, OPTIONS)
    trained = [weight.numpy() for weight in quantized.trainable_variables]
    # A run that is over is not taken again.
    again = calibrate(shipped, OPTIONS)
    train_quantized(again, shipped, tmp_path, OPTIONS)
    for weight, wanted in zip(again.trainable_variables, trained, strict=True):
        np.testing.assert_array_equal(weight.numpy(), wanted)
    np.testing.assert_array_equal(again.ranges, quantized.ranges)
    other = dataclasses.replace(OPTIONS, num_steps=4)
    with pytest.raises(InputError, match="num_steps=8 then, 4 now"):
        train_quantized(again, shipped, tmp_path, other)


def test_ranges_are_reported_and_may_be_left_uneven(several_labels, tmp_path):
    model, task = several_labels
    shipped = shipped_classifier(model, task)
    path = tmp_path / "ranges.tsv"
    quantized = calibrate(shipped, OPTIONS, path)
    header, *rows = path.read_text().splitlines()
    assert header.split("\t")[:3] == ["name", "low", "high"]
    assert len(rows) == len(quantized.ranges.numpy())
    options = dataclasses.replace(
        OPTIONS, equalize=False, calibration_method="percentile"
    )
    other = calibrate(shipped, options, path)
    assert "percentile" in path.read_text()
    for name, weight in deployment_model(model).weights.items():
        np.testing.assert_array_equal(other.deployment.weights[name], weight)
    assert not np.allclose(
        quantized.deployment.weights["embeddings/words"],
        other.deployment.weights["embeddings/words"],
    )


def test_packed_files_are_scored_by_their_probabilities(
    several_labels, tmp_path
):
    model, task = several_labels
    pieces = [*VOCAB, *map(str, range(model.config.vocab_size - len(VOCAB)))]
    shipped = shipped_classifier(model, task, WordpieceTokenizer(pieces))
    rows = export_and_evaluate(shipped, ["float32"], tmp_path, OPTIONS)
    for name, value in task.metrics(Predictor(model, 4), "dev").items():
        assert rows["float32"][name] == pytest.approx(value), name
    path = tmp_path / "float32.tflite"
    found = TFLiteModel(path).predict(task.splits["dev"])
    logits = Predictor(model, 4)(task.splits["dev"])
    np.testing.assert_allclose(found, scipy.special.expit(logits), atol=1e-5)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").split() == [b"x", b"y", b"z"]
        assert archive.read("vocab.txt").split()[:2] == [b"[PAD]", b"[UNK]"]


def test_real_questions_get_the_float_models_scores(shared_data, rng, tmp_path):
    tokenizer = WordpieceTokenizer.from_vocab_file(
        shared_data / "vocab/bert-base-uncased-vocab.txt"
    )
    settings = SquadSettings(96, 32, 24, version_2_with_negative=True)
    questions = read_squad(shared_data / "squad/dev-v2.0.json").first(24)
    split = encode_split(questions, tokenizer, settings, "dev")
    config = small_config(
        num_hidden_layers=1,
        vocab_size=tokenizer.vocab_size,
        max_position_embeddings=96,
    )
    model = MobileBertForQuestionAnswering(config)
    randomise(model, rng)
    wanted, _ = answer_splits(
        model,
        {"dev": split},
        settings,
        batch_size=8,
        folder=tmp_path,
        threshold=None,
    )
    shipped = shipped_question_answerer(model, {"dev": split}, settings)
    rows = export_and_evaluate(shipped, ["float32"], tmp_path, OPTIONS)
    assert wanted["dev_HasAns_f1"] > 0.0
    for name, value in wanted.items():
        assert rows["float32"][name] == pytest.approx(value, rel=1e-4), name
