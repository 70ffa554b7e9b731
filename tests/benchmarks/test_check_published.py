"""The check of the published weights, on made ones."""

import json

import numpy as np
import pytest

import mobilebert_tf as mb
from benchmarks import check_published
from benchmarks.check_published import CheckOptions, main
from tests import tiny


@pytest.fixture
def weights(tmp_path):
    """Weights with both heads and as many rows as the published ones."""
    config = tiny.student_config(vocab_size=30522)
    model = mb.MobileBertForPretraining(config)
    return tiny.write_folder(tmp_path / "weights", model), model


def test_outputs_are_compared(weights, monkeypatch, capsys, tmp_path):
    folder, model = weights
    options = CheckOptions(model=str(folder), squad_model="")
    main(options)
    shown = capsys.readouterr().out
    assert shown.count(": DIFFER") == 2
    assert "model.safetensors" in shown
    ids = np.array(check_published.SEQUENCE_IDS, "int32")
    sequence = model.encoder({"input_ids": ids}).sequence_output
    ids = np.array(check_published.MASKED_LM_IDS, "int32")
    logits = model({"input_ids": ids})["masked_lm_logits"]
    for name, found in (
        ("SEQUENCE_OUTPUT", sequence),
        ("MASKED_LM_LOGITS", logits),
    ):
        monkeypatch.setattr(
            check_published, name, tiny.numpy(found)[0, :3, :3].tolist()
        )
    main(options)
    assert capsys.readouterr().out.count(": agree") == 2


def test_what_cannot_be_checked_is_said(tmp_path, capsys):
    main(CheckOptions(model=str(tmp_path / "none"), squad_model=""))
    assert "not checked: " in capsys.readouterr().out


def test_squad_is_scored_in_keras_and_in_files(weights, tmp_path, capsys):
    """Of a model that has learnt nothing: the files score as the model does."""
    context = "the cat sat. the mat sat not."
    answers = [{"text": "cat", "answer_start": 4}]
    questions = [
        {"id": str(index), "question": "the good?", "answers": answers}
        for index in range(8)
    ]
    paragraphs = [{"context": context, "qas": questions}]
    data = {"version": "1.1", "data": [{"paragraphs": paragraphs}]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(data))
    model = mb.MobileBertForQuestionAnswering(
        tiny.student_config(max_position_embeddings=48)
    )
    folder = tiny.write_folder(tmp_path / "answers", model)
    main(
        CheckOptions(
            model=str(weights[0]),
            squad_model=str(folder),
            train_file=str(file),
            dev_file=str(file),
            max_seq_length=48,
            output_dir=str(tmp_path / "out"),
        )
    )
    block = capsys.readouterr().out.partition("--- paste")[2]
    for name in ("Keras", "float32", "int8"):
        assert f"{name}: exact match " in block
