"""A model folder becomes .tflite files without training, or one line of why."""

import numpy as np
import pytest

import mobilebert_tf as mb
from mobilebert_tf.commands.export import COMMAND
from mobilebert_tf.errors import InputError
from mobilebert_tf.mobile.runtime import TFLiteModel
from mobilebert_tf.tasks.labelled_texts import Examples, encode_examples
from tests import tiny

TEXTS = "the cat sat.\nthe mat is not good\na dog, a log\n" * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = tiny.classifier(num_hidden_layers=1)
    tiny.randomise(model, np.random.default_rng(1))
    (folder / "texts.txt").write_text(TEXTS)
    (folder / "pairs.txt").write_text("a\tb\nc\td\n")
    (folder / "ragged.txt").write_text("a\tb\nc\n")
    return tiny.write_folder(folder, model)


def run(folder, output, *flags, model=None):
    COMMAND.run(
        [f"--model={model or folder}", f"--output_dir={output}", *flags]
    )


def test_files_of_several_kinds_and_lengths(folder, tmp_path, capsys):
    run(
        folder,
        tmp_path,
        "--export=dynamic,int8",
        "--export_seq_length=8,16",
        f"--calibration_file={folder / 'texts.txt'}",
    )
    printed = capsys.readouterr().out
    texts = Examples(TEXTS.splitlines()[:3])
    batch = encode_examples(texts, tiny.tokenizer(), 16)
    wanted = mb.load(folder)(batch).numpy()
    for kind in ("dynamic", "int8"):
        assert f"Wrote {tmp_path / kind}.tflite" in printed
        model = TFLiteModel(tmp_path / f"{kind}.tflite")
        assert model.lengths == (8, 16)
        assert tiny.relative_error(model.predict(batch), wanted) < 0.2, kind


def test_a_pretrained_model_is_exported_as_an_embedder(tmp_path):
    model = tiny.pretraining_model(tiny.student_config(num_hidden_layers=1))
    folder = tiny.write_folder(tmp_path / "pretrained", model)
    run(folder, tmp_path, "--output=mean", "--export_seq_length=16")
    batch = tiny.batch(3, (16, 9))
    keep = batch["input_mask"][:, :, None]
    rows = model.encoder(batch).sequence_output.numpy()
    wanted = (rows * keep).sum(1) / keep.sum(1)
    found = TFLiteModel(tmp_path / "float32.tflite").predict(batch)
    assert tiny.relative_error(found, wanted) < 1e-5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--export=int8_qat"], "--export: expected kinds among float32"),
        (["--export=int8"], "--calibration_file: expected a file of texts"),
        (["--export_seq_length=64"], "lengths must be at most 24"),
        (["--export_seq_length=8", "--output=mean"], "output must be one of"),
        (
            ["--export_seq_length=8", "--metadata"],
            "text tasks read output=probabilities",
        ),
        (["--export=int8", "--calibration_file=ragged.txt"], "ragged.txt: exp"),
        (["--export=int8", "--calibration_file=none.txt"], "none.txt: exp"),
    ],
)
def test_impossible_requests_are_one_line(
    flags, message, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        run(folder, tmp_path / "out", *flags)
    assert not list(tmp_path.glob("out/*"))


def test_pairs_are_calibrated_as_pairs(folder, tmp_path, monkeypatch):
    from mobilebert_tf.mobile import stages

    seen = []
    calibrate = stages.calibrate
    monkeypatch.setattr(
        stages, "calibrate", lambda f, b: seen.extend(b) or calibrate(f, b)
    )
    pairs = f"--calibration_file={folder / 'pairs.txt'}"
    run(folder, tmp_path, "--export=int8", pairs, "--export_seq_length=8")
    assert seen
    for batch in seen:
        assert batch["segment_ids"].sum(1).tolist() == [2, 2]
