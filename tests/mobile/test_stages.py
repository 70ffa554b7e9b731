"""Any task is quantised, written and scored by the float model's own code."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import scipy.special

from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile import quantization, stages
from mobilebert_tf.mobile.comparison import comparison
from mobilebert_tf.mobile.folding import fold
from mobilebert_tf.mobile.options import ExportOptions, QuantizationOptions
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.mobile.stages import check_export, export_and_score
from tests import tiny
from tests.mobile.conftest import CountingTask, inputs_of, take

QUANTIZATION = QuantizationOptions(num_steps=8, batch_size=8, seed=3)
KINDS = ("float32", "int8", "int8_qat")


@pytest.fixture(scope="module")
def task(train_arrays, test_arrays):
    train = take(train_arrays, slice(24))
    # Labels that the model has not learned: a few steps lower the loss.
    train["labels"] = 1 - train["labels"]
    return CountingTask(train=train, dev=take(test_arrays, slice(100)))


@pytest.fixture(scope="module")
def exported(trained, task, tmp_path_factory):
    """A folder with files of three kinds, and their scores."""
    folder = tmp_path_factory.mktemp("stages")
    return folder, export(trained, task, folder, KINDS)


def export(model, task, folder, kinds, quantization=QUANTIZATION, **options):
    options = ExportOptions(kinds, **options)
    return export_and_score(
        model, task, tiny.tokenizer(), folder, options, quantization
    )


def test_files_get_the_metrics_of_the_float_model(exported, task, trained):
    folder, scores = exported
    dev = task.splits["dev"]
    inputs = inputs_of(dev)
    decisions = trained(inputs).numpy().argmax(1)
    wanted = float((decisions == dev["labels"]).mean())
    assert list(scores) == list(KINDS)
    assert 0.0 < scores["float32"]["fp16_error"] < 0.02
    assert scores["float32"]["dev_accuracy"] == wanted
    for kind, row in scores.items():
        path = folder / f"{kind}.tflite"
        found = TFLiteModel(path).predict(inputs).argmax(1) == dev["labels"]
        assert row["dev_accuracy"] == found.mean()
        assert row["megabytes"] == path.stat().st_size / 1e6
        assert row["latency_ms"] > 0.0
    lines = comparison(scores, {"dev_accuracy": wanted}, task)
    assert lines[0].split() == ["dev_accuracy", "fp16", "error", "MB", "ms"]
    assert lines[2].split() == [*("float", "model"), f"{wanted:.4f}", *"---"]
    assert lines[3].split()[:2] == ["float32.tflite", f"{wanted:.4f}"]
    (without, *_) = comparison({"int8": scores["int8"]}, {}, task)
    assert without.split() == ["dev_accuracy", "MB", "ms"]


def test_training_moves_the_weights_and_only_there(exported, task):
    folder, _ = exported
    assert (folder / "int8_qat_training" / "metrics.jsonl").exists()
    assert not (folder / "int8_training").exists()
    inputs = inputs_of(task.splits["dev"])
    float32, int8, trained = (
        TFLiteModel(folder / f"{kind}.tflite").predict(inputs) for kind in KINDS
    )
    assert 0 < np.abs(int8 - trained).max() < 2.0 * np.abs(float32).max()
    assert np.abs(float32 - int8).max() < 0.2 * np.abs(float32).max()


def test_ranges_are_reported(exported):
    folder, _ = exported
    for kind in ("int8", "int8_qat"):
        header, *rows = (folder / f"{kind}_ranges.tsv").read_text().splitlines()
        assert header.split("\t")[:3] == ["name", "low", "high"]
        assert rows[0].startswith("embeddings/words\t")
        assert rows[-1].startswith("head\t")


def test_a_finished_training_is_not_repeated_and_other_options_are_refused(
    exported, trained, task, capsys
):
    folder, _ = exported
    before = (folder / "int8_qat.tflite").read_bytes()
    log = (folder / "int8_qat_training" / "metrics.jsonl").read_bytes()
    export(trained, task, folder, ("int8_qat",))
    assert (folder / "int8_qat.tflite").read_bytes() == before
    assert (folder / "int8_qat_training" / "metrics.jsonl").read_bytes() == log
    other = dataclasses.replace(QUANTIZATION, num_steps=4)
    with pytest.raises(InputError, match="num_steps=8 then, 4 now"):
        export(trained, task, folder, ("int8_qat",), other)
    # A training that began with other float weights is made again.
    record = folder / "int8_qat_training" / "run.json"
    values = json.loads(record.read_text())
    values["inputs"]["float_weights"][0]["sha256"] = "another"
    record.write_text(json.dumps(values))
    export(trained, task, folder, ("int8_qat",))
    assert "other float weights, training again" in capsys.readouterr().out
    assert (folder / "int8_qat.tflite").read_bytes() == before


def test_equalisation_may_be_left_out(trained, task, tmp_path, monkeypatch):
    networks = []
    monkeypatch.setattr(
        stages,
        "Quantized",
        lambda *arguments: (
            networks.append(quantization.Quantized(*arguments)) or networks[-1]
        ),
    )
    for equalize in (False, True):
        options = dataclasses.replace(QUANTIZATION, equalize=equalize)
        export(trained, task, tmp_path, ("int8",), options)
    arrays = fold(trained).arrays
    uneven, even = (network.weights for network in networks)
    for name, array in arrays.items():
        np.testing.assert_array_equal(uneven[name], array)
    assert not np.allclose(even["embeddings/words"], arrays["embeddings/words"])


class PackedTask(CountingTask):
    """The same task, ready for the text tasks of phones."""

    output = "probabilities"

    def file_options(self, tokenizer):
        if tokenizer is None:
            return {}
        vocabulary = tokenizer.vocab
        return {
            "output": self.output,
            "metadata": {"vocabulary": vocabulary, "label_names": ("b", "a")},
        }


@pytest.mark.parametrize(
    ("output", "wanted"),
    [
        ("probabilities", scipy.special.softmax),
        ("independent_probabilities", lambda x, axis: scipy.special.expit(x)),
    ],
)
def test_packed_files_are_scored_by_their_probabilities(
    output, wanted, trained, task, exported, tmp_path
):
    packed = PackedTask(**task.splits)
    packed.output = output
    scores = export(trained, packed, tmp_path, ("float32",), metadata=True)
    accuracy = exported[1]["float32"]["dev_accuracy"]
    assert scores["float32"]["dev_accuracy"] == accuracy
    dev = task.splits["dev"]
    inputs = inputs_of(dev)
    found = TFLiteModel(tmp_path / "float32.tflite").predict(inputs)
    logits = trained(inputs).numpy()
    np.testing.assert_allclose(found, wanted(logits, axis=-1), atol=1e-5)
    with zipfile.ZipFile(tmp_path / "float32.tflite") as archive:
        assert archive.read("labels.txt").split() == [b"b", b"a"]
        assert archive.read("vocab.txt").split()[:2] == [b"[PAD]", b"[UNK]"]


@pytest.mark.parametrize(
    ("options", "task_class", "do_lower_case", "message"),
    [
        ({"kinds": ("int8",)}, CountingTask, True, "training examples for int"),
        ({"metadata": True}, PackedTask, True, "--export, to have files"),
        (
            {"metadata": True, "kinds": ("float32",)},
            CountingTask,
            True,
            "a classifier, found counter",
        ),
        (
            {"metadata": True, "kinds": ("float32",)},
            PackedTask,
            False,
            "an uncased vocabulary",
        ),
    ],
)
def test_impossible_requests_are_one_line(
    options, task_class, do_lower_case, message
):
    options, tokenizer = ExportOptions(**options), tiny.tokenizer(do_lower_case)
    with pytest.raises(InputError, match=f"^--(export|metadata): .*{message}"):
        check_export(options, task_class(), tokenizer)


def test_unknown_kinds_are_one_line():
    with pytest.raises(InputError, match="--export: expected one of float32"):
        ExportOptions(("float32", "int3"))


def test_float_files_need_no_examples(trained, tmp_path):
    scores = export(trained, NoExamples(), tmp_path, ("float32",))
    assert scores["float32"].keys() == {"megabytes", "latency_ms"}


class NoExamples(CountingTask):
    """A task without splits; only its length is known."""

    max_seq_length = 12
