"""A TensorFlow 1 checkpoint, converted, computes the same in transformers.

The checkpoint is written without the code under test, with weights at the
scale of a trained model's; our model and the peer's open one folder. That the
names mean what we take them for is `test_model_garden_conversion`'s to show,
where Model Garden's own converter reads the same variables.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import mobilebert_tf as mb
from mobilebert_tf.config import to_google
from tests.conversion.checkpoints import (
    STUDENT,
    VOCAB,
    draw,
    encoder_shapes,
    head_shapes,
    write,
)
from tests.peers.weights import GAMMA_STDDEV, SHIFT_STDDEV

pytestmark = pytest.mark.peers

REPOSITORY = Path(__file__).resolve().parents[2]
LIMIT = 1e-5  # of the tensor's largest value
KERNEL_STDDEV = 0.2  # of small matrices


def trained_scale(name, value):
    leaf = name.rsplit("/", 1)[-1]
    if leaf == "gamma":
        return 1.0 + GAMMA_STDDEV * value
    shift = leaf in ("beta", "bias", "output_bias")
    return (SHIFT_STDDEV if shift else KERNEL_STDDEV) * value


@pytest.mark.parametrize(
    "head, name",
    [
        ("pretraining", "MobileBertForPreTraining"),
        ("squad", "MobileBertForQuestionAnswering"),
        ("classes", "MobileBertForSequenceClassification"),
    ],
)
def test_converted_folder_computes_the_same(
    head, name, rng, padded_batch, differences, tmp_path
):
    source, folder = tmp_path / "tf1", tmp_path / "ours"
    shapes = encoder_shapes(STUDENT) | head_shapes(STUDENT, head)
    values = {
        key: trained_scale(key, value).astype("float32")
        for key, value in draw(shapes, rng).items()
    }
    write(source / "model.ckpt-1", values)
    (source / "bert_config.json").write_text(json.dumps(to_google(STUDENT)))
    (source / "vocab.txt").write_text("".join(f"{piece}\n" for piece in VOCAB))
    subprocess.run(
        [
            *(sys.executable, "-m", "mobilebert_tf.commands.convert"),
            *(f"--input={source}/model.ckpt-1.index", f"--output={folder}"),
        ],
        cwd=REPOSITORY,
        check=True,
    )
    peer, report = getattr(transformers, name).from_pretrained(
        folder, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    for module in peer.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-12
    batch = padded_batch(len(VOCAB), lengths=(10, 7, 4))
    ours = mb.load(folder)(batch)
    ours = list(ours.values()) if isinstance(ours, dict) else [ours]
    with torch.no_grad():
        theirs = peer.eval()(
            input_ids=torch.tensor(batch["input_ids"]),
            attention_mask=torch.tensor(batch["input_mask"]),
            token_type_ids=torch.tensor(batch["segment_ids"]),
        ).to_tuple()
    assert len(ours) == len(theirs)
    for our_logits, their_logits in zip(ours, theirs, strict=True):
        found = differences(
            "Hugging Face, from TF1", name, "logits", our_logits, their_logits
        )
        assert found <= LIMIT

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    text = "a b zz"
    ids = mb.load_tokenizer(folder).tokenize([text]).to_list()[0]
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    assert np.all(np.asarray(ids) < len(VOCAB))
